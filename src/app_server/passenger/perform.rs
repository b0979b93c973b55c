//! Telling Passenger: an order over its core's socket, for exactly the generation that is meant.

use rustix::process::Signal;

use super::{KIND, Passenger, Unseen, view::View};
use crate::{
    app_server::{
        acts::{Permit, not_sent},
        unseen,
    },
    core::{Act, GenerationKey, Reason, Sight, Trouble},
    procs::Image,
};

impl Passenger {
    pub(super) async fn act(&self, act: Act, on: GenerationKey) -> Result<(), Trouble> {
        // One generation at a time gets requests: there is nothing to commit.
        if act == Act::Commit {
            return Ok(());
        }
        let view = self.see().await.map_err(|unseen| not_seen(&unseen))?;
        if view.key() != on {
            let message = format!("{} was restarted meanwhile: nothing was ordered", view.group.name);
            return Err(Trouble::new(Reason::MasterGone, message));
        }
        match act {
            Act::Commit => Ok(()),
            Act::Begin(_) | Act::Abort(_) => self.restart(&view).await,
            Act::Recover => self.end_core(view.core.image).await,
        }
    }

    async fn restart(&self, view: &View) -> Result<(), Trouble> {
        let Some(instance) = &view.core.instance else { return Err(not_seen(&Sight::Unclear.into())) };
        let name = &view.group.name;
        match self.api.restart(instance, name).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(Trouble::new(Reason::MasterGone, format!("Passenger has no app {name} any more")))
            }
            Err(error) => {
                Err(Trouble::new(Reason::Internal, format!("Passenger was asked in vain: {error}")))
            }
        }
    }

    /// Its watchdog starts another one at once, which boots the app from `current`.
    async fn end_core(&self, core: Image) -> Result<(), Trouble> {
        let end = move |permit: &Permit| {
            permit.take()?;
            core.signal(Signal::KILL).map_err(|error| not_sent("Passenger's core", &error))
        };
        self.acts.carry_out("Passenger's core", end).await
    }
}

/// Nothing that could be told.
pub(super) fn not_seen(unseen: &Unseen) -> Trouble {
    match &unseen.silent {
        Some(silent) => Trouble::new(
            Reason::AppServerMissing,
            format!("Passenger's core does not answer on its socket: {silent}"),
        ),
        None => unseen::trouble(&KIND, &unseen.sight),
    }
}
