//! Telling Puma, by signals to exactly the image that is meant.

use std::sync::Arc;

use rustix::process::Signal;

use super::{LIMIT, Output, Puma, discovery, discovery::Discovery};
use crate::{
    app_server::signaller::{SendOnce, gone, not_sent},
    core::{GenerationKey, Mode, Problem, Reason, ServerCommand},
    procs::{ProcessId, ProcsError},
};

impl Puma {
    pub(super) async fn act(&self, command: ServerCommand, on: GenerationKey) -> Result<(), Problem> {
        let Some(order) = Order::of(command) else { return Ok(()) };
        let memory = self.memory.lock().await;
        let master = memory.followed.ok_or_else(|| gone("no Puma was seen yet"))?;
        // The way back may have to go through whatever is going on.
        let serving =
            if matches!(command, ServerCommand::Restart(_)) { memory.serving.clone() } else { Vec::new() };
        let titled = memory.titled.as_ref().is_some_and(|(image, _)| image.generation_key() == on);
        drop(memory);
        let beginning = matches!(command, ServerCommand::Restart(_)).then_some(master.pid);
        *self.output.lock().await = match beginning {
            Some(pid) => self.files.look(LIMIT, move || Output::of(pid)).await.map(Arc::new),
            None => None,
        };
        let target = Target { master, on, titled, serving };
        self.signaller.carry_out("Puma", move |send_once| order.carry_out(&target, send_once)).await
    }
}

/// Whom an order is for.
struct Target {
    master: ProcessId,
    on: GenerationKey,
    /// That image was seen with its title, whatever the app has made of it since.
    titled: bool,
    /// Those must still serve.
    serving: Vec<ProcessId>,
}

/// What an act means for Puma.
#[derive(Debug, Clone, Copy)]
enum Order {
    Restart(Mode),
    Kill,
}

impl Order {
    /// A hot restart runs one generation at a time: there is nothing to commit.
    fn of(command: ServerCommand) -> Option<Self> {
        match command {
            ServerCommand::Restart(mode) | ServerCommand::Abort(mode) => Some(Self::Restart(mode)),
            ServerCommand::Commit => None,
            ServerCommand::Recover => Some(Self::Kill),
        }
    }

    fn carry_out(self, target: &Target, send_once: &SendOnce) -> Result<(), Problem> {
        let Target { master, on, titled, ref serving } = *target;
        let processes = match discovery::look_at(master) {
            Discovery::One(processes) => processes,
            Discovery::NotPermitted(_) => {
                return Err(not_sent("Puma", &ProcsError::NotPermitted(master.pid)));
            }
            Discovery::Torn => return Err(not_sent("Puma", &ProcsError::Torn(master.pid))),
            Discovery::Nothing | Discovery::Starting(_) | Discovery::Candidates(_) => {
                return Err(gone(&format!("Puma's master {} is gone", master.pid)));
            }
        };
        if processes.image.generation_key() != on {
            return Err(gone(&format!("Puma's master {} was restarted meanwhile", master.pid)));
        }
        // Its title stands until the exec: a restart by others shows in its workers first.
        let serves =
            |id: &ProcessId| processes.workers.iter().any(|worker| worker.id == *id && worker.serves);
        if !serving.iter().all(serves) {
            return Err(gone(&format!(
                "workers of Puma's master {} ended since the last look, as in a restart by others",
                master.pid
            )));
        }
        let titled = titled || processes.title.is_some();
        let signal = match self {
            Self::Kill => Signal::KILL,
            Self::Restart(Mode::Hot) if processes.takes_hot() && titled => Signal::USR2,
            Self::Restart(Mode::Phased) if processes.catches_phased && titled => Signal::USR1,
            Self::Restart(mode) => return Err(would_kill(mode, master.pid)),
        };
        send_once.take()?;
        processes.image.signal(signal).map_err(|error| not_sent("Puma", &error))?;
        if matches!(self, Self::Kill) {
            // A worker that hangs does not notice that its master is gone.
            for worker in processes.workers {
                let _ = worker.id.signal(Signal::KILL);
            }
        }
        Ok(())
    }
}

fn would_kill(mode: Mode, pid: i32) -> Problem {
    let (signal, why) = match mode {
        Mode::Hot => ("SIGUSR2", "is PUMA_SKIP_SIGUSR2 set?"),
        Mode::Phased => ("SIGUSR1", "is it still starting?"),
    };
    let message = format!("Puma's master {pid} does not handle {signal} now and would die of it; {why}");
    Problem::new(Reason::ConfigInvalid, message)
}
