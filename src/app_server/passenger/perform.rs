//! Telling Passenger: an order over its core's socket, for exactly the generation that is meant.

use std::time::Duration;

use rustix::process::Signal;

use super::{KIND, Passenger, Unseen, view::View};
use crate::{
    app_server::unseen,
    core::{Act, GenerationKey, Reason, Sight, Trouble},
    procs::{Image, ProcsError},
};

/// A signal takes microseconds; the rest is for a machine that is very busy.
const LIMIT: Duration = Duration::from_secs(5);

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
        let ended = self.acts.run(LIMIT, move || core.signal(Signal::KILL)).await;
        let late = |_| Trouble::new(Reason::Internal, "/proc did not answer in time");
        ended.map_err(late)?.map_err(|error| not_sent(&error))
    }
}

fn not_sent(error: &ProcsError) -> Trouble {
    let reason = match error {
        ProcsError::NotPermitted(_) | ProcsError::OffLimits(_) => Reason::NotPermitted,
        ProcsError::Gone(_) | ProcsError::AnotherImage(_) => Reason::MasterGone,
        ProcsError::Torn(_) | ProcsError::Io { .. } => Reason::Internal,
    };
    Trouble::new(reason, format!("nothing was sent to Passenger's core: {error}"))
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
