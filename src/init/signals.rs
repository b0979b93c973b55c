//! Which signals are caught, and what they are called.

use std::{io, sync::mpsc::Sender, thread};

use rustix::process::Signal;
use signal_hook::{consts::signal, iterator::Signals};

use super::Event;

/// Everything that platforms send, and everything that Puma understands (TTIN and TTOU add and remove
/// workers, URG reforks). Job control's TSTP keeps its meaning.
const CAUGHT: &[(Signal, &str)] = &[
    (Signal::CHILD, "SIGCHLD"),
    (Signal::TERM, "SIGTERM"),
    (Signal::INT, "SIGINT"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::HUP, "SIGHUP"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::TTIN, "SIGTTIN"),
    (Signal::TTOU, "SIGTTOU"),
    (Signal::URG, "SIGURG"),
    (Signal::WINCH, "SIGWINCH"),
    (Signal::CONT, "SIGCONT"),
];

/// All that `exec` catches.
pub(crate) fn all() -> Vec<Signal> {
    CAUGHT.iter().map(|(signal, _)| *signal).collect()
}

/// From now on each of these signals is an event.
pub(crate) fn catch(events: Sender<Event>, caught: &[Signal]) -> io::Result<()> {
    debug_assert_eq!(Signal::TERM.as_raw(), signal::SIGTERM);
    let mut signals = Signals::new(caught.iter().map(|signal| signal.as_raw()))?;
    let pass = move || {
        for number in signals.forever() {
            if events.send(Event::Signal(number)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(pass).map(drop)
}

/// One of those that are caught, by its number.
pub(crate) fn named(number: i32) -> Option<Signal> {
    CAUGHT.iter().map(|(signal, _)| *signal).find(|signal| signal.as_raw() == number)
}

/// As `kill -l` calls it.
pub(crate) fn name(signal: Signal) -> &'static str {
    CAUGHT.iter().find(|(known, _)| *known == signal).map_or("a signal", |(_, name)| name)
}
