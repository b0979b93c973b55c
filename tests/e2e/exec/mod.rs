//! `pitstop exec` in front of a real Puma: deploys, the drain, and releases that break it.

mod container;
mod deploys;
mod end;
