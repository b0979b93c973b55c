//! Telling Passenger: an order over its core's socket, for exactly the generation that is meant.

use rustix::process::Signal;

use super::{KIND, NotFound, Passenger, snapshot::Snapshot};
use crate::{
    app_server::{
        not_found,
        signaller::{SendOnce, not_sent},
    },
    core::{Detection, GenerationKey, Problem, Reason, ServerCommand},
    procs::Image,
};

impl Passenger {
    pub(super) async fn act(&self, command: ServerCommand, on: GenerationKey) -> Result<(), Problem> {
        // One generation at a time gets requests: there is nothing to commit.
        if command == ServerCommand::Commit {
            return Ok(());
        }
        let snapshot = self.see().await.map_err(|not_found| not_seen(&not_found))?;
        if snapshot.key() != on {
            let message = format!("{} was restarted meanwhile: nothing was ordered", snapshot.group.name);
            return Err(Problem::new(Reason::MasterGone, message));
        }
        match command {
            ServerCommand::Commit => Ok(()),
            ServerCommand::Restart(_) | ServerCommand::Abort(_) => self.restart(&snapshot).await,
            ServerCommand::Recover => self.end_core(snapshot.core.image).await,
        }
    }

    async fn restart(&self, snapshot: &Snapshot) -> Result<(), Problem> {
        let Some(instance) = &snapshot.core.instance else {
            return Err(not_seen(&Detection::Unclear.into()));
        };
        let name = &snapshot.group.name;
        match self.api.restart(instance, name).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(Problem::new(Reason::MasterGone, format!("Passenger has no app {name} any more")))
            }
            Err(error) => {
                Err(Problem::new(Reason::Internal, format!("Passenger was asked in vain: {error}")))
            }
        }
    }

    /// Its watchdog starts another one at once, which boots the app from `current`.
    async fn end_core(&self, core: Image) -> Result<(), Problem> {
        let end = move |send_once: &SendOnce| {
            send_once.take()?;
            core.signal(Signal::KILL).map_err(|error| not_sent("Passenger's core", &error))
        };
        self.signaller.carry_out("Passenger's core", end).await
    }
}

/// Nothing that could be told.
pub(super) fn not_seen(not_found: &NotFound) -> Problem {
    match &not_found.silent {
        Some(silent) => Problem::new(
            Reason::AppServerMissing,
            format!("Passenger's core does not answer on its socket: {silent}"),
        ),
        None => not_found::problem(&KIND, &not_found.detection),
    }
}
