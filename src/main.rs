//! The `pitstop` program: arguments, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use pitstop::cli::{self, Cli, Command, Exit, Failure, console, run::Run};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.json;
    match perform(cli) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => fail(&failure, json),
    }
}

/// Help and version are answers; everything else clap objects to is exit code 64.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
}

fn perform(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Exec(exec) => cli::exec::run(cli.config.as_deref(), cli.json, exec),
        Command::Run(Run { child_of: None, .. }) => cli::run::keep(cli.config.as_deref()),
        _ => runtime().and_then(|runtime| dispatch(runtime, cli)),
    }
}

/// Two workers: the agent mostly waits, and volume work has threads of its own.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Failure::from)
}

/// The end waits for no thread that hangs on the volume.
fn dispatch(runtime: tokio::runtime::Runtime, cli: Cli) -> Result<Exit, Failure> {
    let result = runtime.block_on(cli::dispatch(cli));
    runtime.shutdown_background();
    result
}

fn fail(failure: &Failure, json: bool) -> ExitCode {
    if json {
        let reason = failure.reason.map(|reason| reason.code());
        eprintln!("{}", serde_json::json!({ "error": failure.message, "reason": reason }));
    } else {
        eprintln!("pitstop: {}", console::printable(&failure.to_string()));
    }
    ExitCode::from(failure.exit_code)
}
