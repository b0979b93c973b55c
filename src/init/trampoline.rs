//! Between fork and exec: `pitstop exec --child-of PID -- CMD` becomes CMD.
//!
//! What a child has to set for itself before it becomes another program needs unsafe code between
//! fork and exec; a program of one's own that then execs needs none.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::{CommandExt, parent_id},
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::{SigSet, Signal as MaskedSignal};
use rustix::{
    process::{Pid, Signal, getpgid, getpgrp, set_parent_process_death_signal},
    termios::{tcgetpgrp, tcsetpgrp},
};

use crate::{config::SLOT_VARIABLE, failpoint};

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
    let mut command = Command::new(program);
    if let Some(dir) = env::current_dir().ok().and_then(|dir| through_current(&dir)) {
        // What the container was started in may be an earlier release.
        command.current_dir(&dir).env("PWD", dir);
    }
    if env::var_os(SLOT_VARIABLE).is_some() && env::var_os("LISTEN_FDS").is_some() {
        command.env("LISTEN_PID", std::process::id().to_string());
    }
    failpoint::hit("parent.exec");
    // `exec` gives the signal mask and SIGPIPE their defaults back.
    let error = command.args(arguments).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
    tracing::error!(program = %program.display(), %error, "the command cannot be started");
    code
}

/// `X/current/REST` for a directory `X/releases/ID/REST`, where there is one.
fn through_current(dir: &Path) -> Option<PathBuf> {
    let release =
        dir.ancestors().find(|dir| dir.parent().is_some_and(|above| above.ends_with("releases")))?;
    let current = release.parent()?.parent()?.join("current");
    let through = current.join(dir.strip_prefix(release).ok()?);
    (current.is_symlink() && through.is_dir()).then_some(through)
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_directory_of_a_release_is_entered_through_current() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path();
        fs::create_dir_all(app.join("releases/v1/web")).unwrap();
        fs::create_dir_all(app.join("releases/v2/web")).unwrap();
        let v1 = app.join("releases/v1");
        assert_eq!(through_current(&v1), None, "there is no current");
        symlink("releases/v2", app.join("current")).unwrap();
        assert_eq!(through_current(&v1), Some(app.join("current")));
        assert_eq!(through_current(&v1.join("web")), Some(app.join("current/web")));
        assert_eq!(through_current(&app.join("releases")), None);
        assert_eq!(through_current(app), None);
        fs::create_dir(v1.join("gone")).unwrap();
        assert_eq!(through_current(&v1.join("gone")), None, "not in the other release");
    }
}
