//! The init's children: the command, the agent, and whatever orphans they leave.

use std::{
    ffi::OsString,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::PathBuf,
    process::Command,
};

use rustix::{
    io::Errno,
    process::{Signal, WaitOptions, WaitStatus, getpid, set_child_subreaper, wait},
};

use super::{
    Settings,
    agent::Starter,
    reach::{self, Tree},
    signals,
};
use crate::{
    config::{DRAIN_FILE, DRAIN_FILE_VARIABLE},
    procs::ProcessId,
};

/// This very binary, also after its file was replaced.
const OURSELVES: &str = "/proc/self/exe";
/// The exit code of what cannot be run, as shells have it.
const NOT_RUN: u8 = 126;

/// A process that was reaped, with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dead {
    Command(u8),
    Agent(u8),
    Orphan,
}

/// Orphans of the command's become children of ours, also when we are not the first process.
pub(crate) fn adopt_orphans() {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "orphaned processes of the command will not be reaped");
    }
}

#[derive(Debug)]
pub(crate) struct Children {
    command_line: Vec<OsString>,
    drain_file: PathBuf,
    starter: Starter,
    json_log: bool,
    command: Option<i32>,
    agent: Option<i32>,
    agent_told: bool,
    none_left: bool,
}

impl Children {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            command_line: settings.command.clone(),
            drain_file: settings.state_dir.join(DRAIN_FILE),
            starter: Starter::new(settings.agent.clone()),
            json_log: settings.json_log,
            command: None,
            agent: None,
            agent_told: false,
            none_left: false,
        }
    }

    /// Starts the command with our own standard streams.
    ///
    /// # Errors
    /// Its exit code, when there is no process to be had. Whether the program can be run shows in
    /// the exit code of the process.
    pub(crate) fn start_command(&mut self) -> Result<(), u8> {
        let pid = spawn(self.trampoline())?;
        tracing::info!(pid, "command started");
        self.command = Some(pid);
        self.none_left = false;
        Ok(())
    }

    /// Starts the agent. It reads nothing; its log goes where ours does.
    ///
    /// # Errors
    /// As [`Self::start_command`].
    pub(crate) fn start_agent(&mut self) -> Result<(), u8> {
        let pid = self.starter.start()?;
        self.agent = Some(pid);
        self.none_left = false;
        Ok(())
    }

    /// `pitstop exec --child-of US -- LINE`: see `trampoline`. Its group is its own, so that signals to the
    /// whole group of ours (`dumb-init`) reach nobody but us.
    fn trampoline(&self) -> Command {
        let mut command = Command::new(OURSELVES);
        command.arg0("pitstop").args(self.json_log.then_some("--json")).arg("exec");
        command.arg("--child-of").arg(own_pid().to_string()).arg("--").args(&self.command_line);
        command.env(DRAIN_FILE_VARIABLE, &self.drain_file).process_group(0);
        command
    }

    /// Takes one dead process away; `None` when there is none at the moment.
    pub(crate) fn reap(&mut self) -> Option<Dead> {
        let (pid, code) = match reaped() {
            Ok(found) => found?,
            Err(error) => {
                self.none_left = error == Errno::CHILD;
                return None;
            }
        };
        Some(if self.command == Some(pid) {
            self.command = None;
            Dead::Command(code)
        } else if self.agent == Some(pid) {
            self.agent = None;
            if !self.agent_told {
                tracing::error!(pid, code, "the agent exited unexpectedly; restarting it");
            }
            Dead::Agent(code)
        } else {
            tracing::debug!(pid, code, "reaped an orphan");
            Dead::Orphan
        })
    }

    /// Nobody was left at the last look.
    pub(crate) fn none_left(&self) -> bool {
        self.none_left
    }

    /// Gives a signal to the command: to the processes that handle it, past shells that it would
    /// kill.
    pub(crate) fn pass_on(&self, signal: Signal) {
        let Some(command) = self.command else { return };
        let reached = Tree::now().map_or(0, |tree| tree.send(command, signal));
        match reached {
            0 if reach::ends_by_default(signal) => send(command, signal),
            0 => tracing::warn!(
                signal = signals::name(signal),
                "signal not forwarded: no process of the command handles it"
            ),
            _ => {}
        }
    }

    /// SIGTERM to the agent.
    pub(crate) fn end_agent(&mut self) {
        self.agent_told = true;
        if let Some(agent) = self.agent {
            send(agent, Signal::TERM);
        }
    }

    /// SIGTERM to what the command has left behind.
    pub(crate) fn end_leftovers(&self) {
        let Ok(tree) = Tree::now() else { return };
        let ours = tree.children(own_pid()).into_iter().filter(|child| Some(*child) != self.agent);
        for orphan in ours {
            tracing::info!(pid = orphan, "sending SIGTERM to a process that the command left behind");
            if tree.send(orphan, Signal::TERM) == 0 {
                send(orphan, Signal::TERM);
            }
        }
    }

    pub(crate) fn kill_all(&self) {
        tracing::warn!("the grace period is over: sending SIGKILL to the remaining processes");
        let below = Tree::now().map(|tree| tree.below(own_pid())).unwrap_or_default();
        for pid in below {
            send(pid, Signal::KILL);
        }
    }
}

/// Takes any dead process away: its pid and its exit code.
pub(crate) fn reaped() -> Result<Option<(i32, u8)>, Errno> {
    let dead = wait(WaitOptions::NOHANG)?;
    Ok(dead.map(|(pid, status)| (pid.as_raw_nonzero().get(), exit_code(status))))
}

pub(crate) fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

/// To exactly the process that has the pid now. One that is gone needs no signal.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Err(error) = ProcessId::of(pid).and_then(|process| process.signal(signal)) {
        tracing::debug!(pid, %error, signal = signals::name(signal), "not sent");
    }
}

pub(crate) fn spawn(mut command: Command) -> Result<i32, u8> {
    match command.spawn() {
        Ok(child) => Ok(child.id().cast_signed()),
        Err(error) => {
            tracing::error!(%error, "no process can be started: check the limits of processes and memory");
            Err(NOT_RUN)
        }
    }
}

/// The path by which this binary was started, while it is still the same file: processes are named
/// after it.
pub(crate) fn named_path() -> PathBuf {
    let same = |path: &PathBuf| {
        let (named, ours) = (path.metadata().ok()?, std::fs::metadata(OURSELVES).ok()?);
        ((named.dev(), named.ino()) == (ours.dev(), ours.ino())).then_some(())
    };
    let named = std::env::current_exe().ok().filter(|path| same(path).is_some());
    named.unwrap_or_else(|| OURSELVES.into())
}

/// As shells have it: 128 and the signal's number for what a signal ended.
fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
