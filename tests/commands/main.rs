//! The program as a user meets it, without an app server.

mod command_line;
mod doctor_files;
mod exec;
mod run;
mod shipped;
