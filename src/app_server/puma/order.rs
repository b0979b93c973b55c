//! Which signals a command means for Puma, to exactly the image that is meant.

use rustix::process::Signal;

use super::discovery;
use crate::{
    app_server::{
        driver::Memory,
        server::Discovery,
        signaller::{self, gone, not_sent},
    },
    core::{GenerationKey, Mode, Problem, Reason, ServerCommand},
    procs::{ProcessId, ProcsError},
};

/// Whom a command is for.
pub(super) struct Target {
    pub(crate) master: ProcessId,
    on: GenerationKey,
    /// That image was seen with its title, whatever the app has made of it since.
    titled: bool,
    /// Those must still serve.
    serving: Vec<ProcessId>,
}

impl Target {
    pub(crate) fn of(
        memory: &Memory<super::Memory>,
        command: ServerCommand,
        on: GenerationKey,
    ) -> Result<Self, Problem> {
        let master = *memory.known.first().ok_or_else(|| gone("no Puma was seen yet"))?;
        // The way back may have to go through whatever is going on.
        let begins = matches!(command, ServerCommand::Restart(_));
        let serving = if begins { memory.own.serving.clone() } else { Vec::new() };
        let titled = memory.own.titled.as_ref().is_some_and(|(image, _)| image.generation_key() == on);
        Ok(Self { master, on, titled, serving })
    }
}

pub(super) fn signals(
    command: ServerCommand,
    target: &Target,
) -> Result<Vec<(signaller::Target, Signal)>, Problem> {
    let Target { master, on, titled, ref serving } = *target;
    let processes = match discovery::look_at(master) {
        Discovery::One(processes) => processes,
        Discovery::NotPermitted(_) => return Err(not_sent("Puma", &ProcsError::NotPermitted(master.pid))),
        Discovery::Torn => return Err(not_sent("Puma", &ProcsError::Torn(master.pid))),
        _ => return Err(gone(&format!("Puma's master {} is gone", master.pid))),
    };
    if processes.image.generation_key() != on {
        return Err(gone(&format!("Puma's master {} was restarted meanwhile", master.pid)));
    }
    // Its title stands until the exec: a restart by others shows in its workers first.
    let serves = |id: &ProcessId| processes.workers.iter().any(|worker| worker.id == *id && worker.serves);
    if !serving.iter().all(serves) {
        return Err(gone(&format!(
            "workers of Puma's master {} ended since the last look, as in a restart by others",
            master.pid
        )));
    }
    let titled = titled || processes.title.is_some();
    let to_master = |signal| (signaller::Target::Image(processes.image), signal);
    match command {
        ServerCommand::Restart(mode) | ServerCommand::Abort(mode) => match mode {
            Mode::Hot if processes.takes_hot() && titled => Ok(vec![to_master(Signal::USR2)]),
            Mode::Phased if processes.catches_phased && titled => Ok(vec![to_master(Signal::USR1)]),
            mode => Err(would_kill(mode, master.pid)),
        },
        ServerCommand::Commit
        | ServerCommand::Switch
        | ServerCommand::Share { .. }
        | ServerCommand::End
        | ServerCommand::Kill => Ok(Vec::new()),
        ServerCommand::Recover => {
            // A worker that hangs does not notice that its master is gone.
            let workers = processes.workers.iter().map(|worker| signaller::Target::Process(worker.id));
            let kills = workers.map(|worker| (worker, Signal::KILL));
            Ok([to_master(Signal::KILL)].into_iter().chain(kills).collect())
        }
    }
}

fn would_kill(mode: Mode, pid: i32) -> Problem {
    let (signal, why) = match mode {
        Mode::Hot => ("SIGUSR2", "is PUMA_SKIP_SIGUSR2 set?"),
        Mode::Phased | Mode::Beside => ("SIGUSR1", "is it still starting?"),
    };
    let message = format!("Puma's master {pid} has no handler for {signal}, which would kill it: {why}");
    Problem::new(Reason::ConfigInvalid, message)
}
