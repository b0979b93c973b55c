//! The init's children: the command, the agent, and whatever orphans they leave.

use std::{io, os::unix::fs::MetadataExt, path::PathBuf, process::Command};

use rustix::{
    io::Errno,
    process::{Signal, WaitOptions, WaitStatus, getpid, set_child_subreaper, wait},
};

use super::{
    agent::{Agent, Starter},
    reach::Tree,
    signals,
};
use crate::{procs::ProcessId, slots::Ended};

/// This very binary, also after its file was replaced.
pub(crate) const OURSELVES: &str = "/proc/self/exe";
/// The exit code of what cannot be run, as shells have it.
pub(crate) const NOT_RUN: u8 = 126;

/// A process that was reaped, with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dead {
    Agent(u8),
    /// A server, or an orphan.
    Other(i32, Ended),
}

/// Orphans of the command's become children of ours, also when we are not the first process.
pub(crate) fn adopt_orphans() {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "orphaned processes of the command will not be reaped");
    }
}

#[derive(Debug)]
pub(crate) struct Children {
    /// `None`: the agent is not ours.
    starter: Option<Starter>,
    agent: Option<i32>,
    agent_told: bool,
    none_left: bool,
}

impl Children {
    pub(crate) fn new(agent: Option<Agent>) -> Self {
        Self { starter: agent.map(Starter::new), agent: None, agent_told: false, none_left: false }
    }

    /// Starts the agent. It reads nothing; its log goes where ours does.
    ///
    /// # Errors
    /// An exit code, when there is no process to be had.
    pub(crate) fn start_agent(&mut self) -> Result<(), u8> {
        let Some(starter) = &mut self.starter else { return Ok(()) };
        let pid = starter.start()?;
        self.agent = Some(pid);
        self.none_left = false;
        Ok(())
    }

    /// Takes one dead process away; `None` when there is none at the moment.
    pub(crate) fn reap(&mut self) -> Option<Dead> {
        let (pid, how) = match reaped() {
            Ok(found) => found?,
            Err(error) => {
                self.none_left = error == Errno::CHILD;
                return None;
            }
        };
        if self.agent != Some(pid) {
            return Some(Dead::Other(pid, how));
        }
        self.agent = None;
        let code = exit_code(how);
        if !self.agent_told {
            tracing::error!(pid, code, "the agent exited unexpectedly; restarting it");
        }
        Some(Dead::Agent(code))
    }

    /// Nobody was left at the last look.
    pub(crate) fn none_left(&self) -> bool {
        self.none_left
    }

    /// SIGTERM to the agent.
    pub(crate) fn end_agent(&mut self) {
        self.agent_told = true;
        if let Some(agent) = self.agent {
            send(agent, Signal::TERM);
        }
    }

    /// SIGTERM to what the command has left behind; the servers have been told.
    pub(crate) fn end_leftovers(&self, servers: &[i32]) {
        let Ok(tree) = Tree::now() else { return };
        let left = |child: &i32| Some(*child) != self.agent && !servers.contains(child);
        let ours = tree.children(own_pid()).into_iter().filter(left);
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

/// Takes any dead process away: its pid and how it ended.
pub(crate) fn reaped() -> Result<Option<(i32, Ended)>, Errno> {
    let dead = wait(WaitOptions::NOHANG)?;
    Ok(dead.map(|(pid, status)| (pid.as_raw_nonzero().get(), how_it_ended(status))))
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

/// # Errors
/// The system's: of memory, processes or descriptors there are not enough.
pub(crate) fn spawn(mut command: Command) -> io::Result<i32> {
    command.spawn().map(|child| child.id().cast_signed())
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

fn how_it_ended(status: WaitStatus) -> Ended {
    let signal = status.terminating_signal().map(Ended::Signal);
    signal.unwrap_or(Ended::Code(status.exit_status().unwrap_or(u8::MAX.into())))
}

/// As shells have it: 128 and the signal's number for what a signal ended.
pub(crate) fn exit_code(how: Ended) -> u8 {
    let code = match how {
        Ended::Code(code) => code,
        Ended::Signal(signal) => 128 + signal,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}
