//! `pitstop completions SHELL`: the script by which a shell completes commands and options.

use std::fmt;

use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;

use super::{Cli, Console, Exit};

#[derive(Debug, Serialize)]
struct Completions {
    shell: String,
    script: String,
}

impl fmt::Display for Completions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.script.trim_end())
    }
}

/// Prints it.
pub(super) fn run(shell: Shell, console: Console) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pitstop", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    console.print(&Completions { shell: shell.to_string(), script });
    Exit::Done
}
