//! `pitstop middleware`: the file by which an app counts its errors, for whoever puts it into the app.

use std::fmt;

use serde::Serialize;

use super::{Console, Exit};

#[derive(Debug, Serialize)]
struct Middleware {
    file: &'static str,
    text: &'static str,
}

impl fmt::Display for Middleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

/// Prints it.
pub(super) fn run(console: Console) -> Exit {
    console
        .print(&Middleware { file: "pitstop_counts.rb", text: include_str!("middleware/pitstop_counts.rb") });
    Exit::Done
}
