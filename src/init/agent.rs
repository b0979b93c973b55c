//! The agent as a child: how it is started, and what it sets for itself before it begins.

use std::{
    ffi::OsString,
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, parent_id},
    },
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::process::{Signal, set_parent_process_death_signal};

use super::{children, limits};
use crate::{procs::memory::RETURN_FREED, server};

/// The agent's command line and its port.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) arguments: Vec<OsString>,
    /// Another than the configured `state_dir`.
    pub(crate) state_dir: Option<PathBuf>,
    /// Where its endpoints listen.
    pub(crate) listen: SocketAddr,
}

/// Starts agents, one after another, and keeps their port open in between: who asks meanwhile is answered by
/// the next one.
#[derive(Debug)]
pub(crate) struct Starter {
    agent: Agent,
    port: Option<TcpListener>,
    /// How many there were before the next one: all of them have died.
    started: u32,
}

impl Starter {
    pub(crate) fn new(agent: Agent) -> Self {
        Self { agent, port: None, started: 0 }
    }

    /// Its group is its own, so that signals to the whole group of ours reach nobody but us.
    ///
    /// # Errors
    /// An exit code, when there is no process to be had.
    pub(crate) fn start(&mut self) -> Result<i32, u8> {
        let mut command = Command::new(children::named_path());
        command.arg0("pitstop").args(&self.agent.arguments).arg("--child-of");
        command.arg(children::own_pid().to_string()).arg("--deaths").arg(self.started.to_string());
        command.process_group(0).stdin(self.port());
        if let Some(state_dir) = &self.agent.state_dir {
            command.env("PITSTOP_STATE_DIR", state_dir);
        }
        let (name, value) = RETURN_FREED;
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
        let pid = children::spawn(command).map_err(|error| {
            tracing::error!(%error, "the agent cannot be started: check the limits of processes, open files and memory");
            children::NOT_RUN
        })?;
        self.started = self.started.saturating_add(1);
        tracing::info!(pid, "agent started");
        Ok(pid)
    }

    /// The port as its standard input; nothing where it is taken: the agent tries again, and says so.
    fn port(&mut self) -> Stdio {
        if self.port.is_none() {
            self.port = server::listen_on(self.agent.listen).ok();
        }
        let port = self.port.as_ref().and_then(|port| port.try_clone().ok());
        port.map_or_else(Stdio::null, |port| Stdio::from(OwnedFd::from(port)))
    }
}

/// What an agent sets for itself: it ends with its parent, has descriptors enough, and dies of too much memory
/// before its container does.
///
/// # Errors
/// When the parent is gone already.
pub(crate) fn become_agent(parent: i32) -> Result<(), &'static str> {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::warn!(%error, "the agent will not end when its parent is killed");
    }
    if parent_id().cast_signed() != parent {
        return Err("the parent process has ended: start `pitstop run` without --child-of");
    }
    limits::raise_descriptors();
    limits::limit_memory();
    Ok(())
}
