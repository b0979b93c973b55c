//! Between fork and exec: `pitstop exec --child-of PID -- CMD` becomes CMD.
//!
//! What a child has to set for itself before it becomes another program needs unsafe code between
//! fork and exec; a program of one's own that then execs needs none.

use std::{
    ffi::OsString,
    io,
    os::unix::process::{CommandExt, parent_id},
    process::Command,
};

use nix::sys::signal::{SigSet, Signal as MaskedSignal};
use rustix::{
    process::{Pid, Signal, getpgid, getpgrp, set_parent_process_death_signal},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// As shells have it: not found, and found but not to be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Becomes the command; returns only when that is not possible, with the exit code.
pub(crate) fn become_command(line: &[OsString], parent: i32) -> u8 {
    let Some((program, arguments)) = line.split_first() else { return NOT_RUN };
    // Should the init be killed where it is not the first process, its children end as well.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        tracing::warn!(%error, "the command will not end when its parent is killed");
    }
    if parent_id().cast_signed() != parent {
        tracing::error!("the parent process was killed: the command is not started");
        return NOT_RUN;
    }
    take_terminal(parent);
    // `exec` gives the signal mask and SIGPIPE their defaults back.
    let error = Command::new(program).args(arguments).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
    tracing::error!(program = %program.display(), %error, "the command cannot be started");
    code
}

/// At a terminal the command is in the foreground, as it would be without an init: it may read, and Ctrl-C
/// is for it.
fn take_terminal(parent: i32) {
    let terminal = io::stdin();
    let foreground = tcgetpgrp(&terminal);
    if foreground.is_err() || foreground != getpgid(Pid::from_raw(parent)) {
        return;
    }
    // Whoever is in the background is stopped for the attempt.
    let _ = SigSet::from(MaskedSignal::SIGTTOU).thread_block();
    let _ = tcsetpgrp(&terminal, getpgrp());
}
