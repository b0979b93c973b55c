//! Telling Puma, by signals to exactly the image that is meant.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;

use super::{Puma, census, census::Found};
use crate::{
    core::{Act, GenerationKey, Mode, Reason, Trouble},
    procs::{ProcessId, ProcsError},
    volume::Late,
};

/// Sending a signal takes microseconds; the rest is for a machine that is very busy.
const LIMIT: Duration = Duration::from_secs(5);

impl Puma {
    pub(super) async fn act(&self, act: Act, on: GenerationKey) -> Result<(), Trouble> {
        let Some(order) = Order::of(act) else { return Ok(()) };
        let memory = self.memory.lock().await;
        let master = memory.followed.ok_or_else(|| gone("no Puma was seen yet"))?;
        drop(memory);
        let permit = Arc::new(AtomicBool::new(true));
        let job = {
            let permit = permit.clone();
            move || order.carry_out(master, on, &permit)
        };
        match self.acts.run(LIMIT, job).await {
            Ok(result) => result,
            // Whoever takes the permit first decides: a signal is never sent behind our back.
            Err(Late::Pending(_)) if permit.swap(false, Ordering::SeqCst) => {
                Err(Trouble::new(Reason::Internal, "/proc did not answer in time: nothing was sent to Puma"))
            }
            Err(Late::Pending(answer)) => answer.await.unwrap_or_else(|_| Err(lost())),
            Err(Late::Lost) => Err(lost()),
        }
    }
}

/// What an act means for Puma.
#[derive(Debug, Clone, Copy)]
enum Order {
    Restart(Mode),
    Kill,
}

impl Order {
    /// A hot restart runs one generation at a time: there is nothing to commit.
    fn of(act: Act) -> Option<Self> {
        match act {
            Act::Begin(mode) | Act::Abort(mode) => Some(Self::Restart(mode)),
            Act::Commit => None,
            Act::Recover => Some(Self::Kill),
        }
    }

    fn carry_out(self, master: ProcessId, on: GenerationKey, permit: &AtomicBool) -> Result<(), Trouble> {
        let family = match census::of(master) {
            Found::One(family) => family,
            Found::NotPermitted(_) => return Err(not_sent(&ProcsError::NotPermitted(master.pid))),
            Found::Torn => return Err(not_sent(&ProcsError::Torn(master.pid))),
            Found::Nothing | Found::Starting | Found::Candidates(_) => {
                return Err(gone(&format!("Puma's master {} is gone", master.pid)));
            }
        };
        if family.image.generation_key() != on {
            return Err(gone(&format!("Puma's master {} was restarted meanwhile", master.pid)));
        }
        let signal = match self {
            Self::Kill => Signal::KILL,
            Self::Restart(Mode::Hot) if family.takes_hot() && family.title.is_some() => Signal::USR2,
            Self::Restart(Mode::Phased) if family.catches_phased && family.title.is_some() => Signal::USR1,
            Self::Restart(mode) => return Err(would_kill(mode, master.pid)),
        };
        if !permit.swap(false, Ordering::SeqCst) {
            return Err(Trouble::new(Reason::Internal, "the signal came too late and was not sent"));
        }
        family.image.signal(signal).map_err(|error| not_sent(&error))?;
        if matches!(self, Self::Kill) {
            // A worker that hangs does not notice that its master is gone.
            for worker in census::workers_of(master.pid) {
                let _ = worker.signal(Signal::KILL);
            }
        }
        Ok(())
    }
}

fn would_kill(mode: Mode, pid: i32) -> Trouble {
    let (signal, why) = match mode {
        Mode::Hot => ("SIGUSR2", "is PUMA_SKIP_SIGUSR2 set?"),
        Mode::Phased => ("SIGUSR1", "is it still starting?"),
    };
    let message = format!("Puma's master {pid} does not handle {signal} now and would die of it; {why}");
    Trouble::new(Reason::ConfigInvalid, message)
}

fn not_sent(error: &ProcsError) -> Trouble {
    let reason = match error {
        ProcsError::NotPermitted(_) | ProcsError::OffLimits(_) => Reason::NotPermitted,
        ProcsError::Gone(_) | ProcsError::AnotherImage(_) => Reason::MasterGone,
        ProcsError::Torn(_) | ProcsError::Io { .. } => Reason::Internal,
    };
    Trouble::new(reason, format!("nothing was sent to Puma: {error}"))
}

fn gone(message: &str) -> Trouble {
    Trouble::new(Reason::MasterGone, format!("{message}: nothing was sent"))
}

fn lost() -> Trouble {
    Trouble::new(Reason::Internal, "the thread that signals Puma panicked")
}
