//! `make demo`: one pod with a real Puma under load, deployed to, broken, killed, ended and replaced,
//! and a count of what its clients noticed. With `beside` as its argument only the last act is played.

use std::{any::Any, panic, process::ExitCode};

use pitstop_rig::Interrupted;

mod acts;
mod beside;
mod birth;
mod end;
mod narrator;
mod pod;
mod report;

use report::Report;

fn main() -> ExitCode {
    watch_for_ctrl_c();
    let mut report = Report::default();
    let only_the_last = std::env::args().nth(1).as_deref() == Some("beside");
    let story = if only_the_last { beside::beside } else { acts::play };
    let played = panic::catch_unwind(panic::AssertUnwindSafe(|| story(&mut report)));
    let ended = match played {
        Ok(ended) => ended,
        Err(cause) => return broken_off(&*cause),
    };
    if let Err(stopped) = ended {
        narrator::say(&format!("The demo cannot go on: {stopped}"));
    }
    match report.conclude() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            narrator::say(&format!("The summary cannot be written: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn broken_off(cause: &(dyn Any + Send)) -> ExitCode {
    if cause.is::<Interrupted>() {
        narrator::say("Interrupted: everything that was started has ended.");
        return ExitCode::from(130);
    }
    ExitCode::FAILURE
}

/// The first signal ends every wait, so that all that runs is ended in order; a second one ends this
/// process at once, and the kernel ends its children.
fn watch_for_ctrl_c() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).expect("signal handlers can be set");
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if pitstop_rig::interrupted() {
                std::process::exit(128 + signal);
            }
            pitstop_rig::interrupt();
        }
    });
}
