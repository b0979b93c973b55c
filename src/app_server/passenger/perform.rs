//! Telling Passenger: an order over its core's socket, for exactly the generation that is meant.

use rustix::process::Signal;

use super::{KIND, Passenger, Unseen, view::View};
use crate::{
    app_server::{
        acts::{Permit, not_sent},
        unseen,
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
        let view = self.see().await.map_err(|unseen| not_seen(&unseen))?;
        if view.key() != on {
            let message = format!("{} was restarted meanwhile: nothing was ordered", view.group.name);
            return Err(Problem::new(Reason::MasterGone, message));
        }
        match command {
            ServerCommand::Commit => Ok(()),
            ServerCommand::Restart(_) | ServerCommand::Abort(_) => self.restart(&view).await,
            ServerCommand::Recover => self.end_core(view.core.image).await,
        }
    }

    async fn restart(&self, view: &View) -> Result<(), Problem> {
        let Some(instance) = &view.core.instance else { return Err(not_seen(&Detection::Unclear.into())) };
        let name = &view.group.name;
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
        let end = move |permit: &Permit| {
            permit.take()?;
            core.signal(Signal::KILL).map_err(|error| not_sent("Passenger's core", &error))
        };
        self.acts.carry_out("Passenger's core", end).await
    }
}

/// Nothing that could be told.
pub(super) fn not_seen(unseen: &Unseen) -> Problem {
    match &unseen.silent {
        Some(silent) => Problem::new(
            Reason::AppServerMissing,
            format!("Passenger's core does not answer on its socket: {silent}"),
        ),
        None => unseen::problem(&KIND, &unseen.detection),
    }
}
