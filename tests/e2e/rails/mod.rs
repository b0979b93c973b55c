//! A real Rails 7.2 as Debian 13 ships it: an app that `rails new` wrote, with the few lines that docs/rails.md
//! tells its users to add, started as they start it. Needs root.

mod app;
mod browser;
mod deploys;
mod pod;
mod server;
