//! Which signals a command means, to exactly the masters that are meant.

use rustix::process::Signal;

use super::{
    Unicorn,
    discovery::{Master, ServerProcesses, Table},
};
use crate::{
    app_server::{
        driver::Driver,
        signaller::{Target, gone, not_sent},
    },
    core::{GenerationKey, Problem, Reason, ServerCommand},
    procs::{Image, ProcessId, ProcsError},
};

/// What is sent to which process.
type Signals = Vec<(Target, Signal)>;

/// For the server whose newest master is the image `on`.
pub(super) fn signals(
    command: ServerCommand,
    on: GenerationKey,
    known: &[ProcessId],
) -> Result<Signals, Problem> {
    let newest = known.last().map_or(0, |master| master.pid);
    let table = Table::read(known).ok_or_else(|| not_sent("Unicorn", &ProcsError::Torn(newest)))?;
    let is_meant = |server: &ServerProcesses| server.newest().image.generation_key() == on;
    match table.servers.iter().find(|server| is_meant(server)) {
        Some(server) => order(command, server),
        None if table.servers.is_empty() && table.denied => {
            Err(not_sent("Unicorn", &ProcsError::NotPermitted(newest)))
        }
        None => Err(gone("Unicorn's master is gone, or another one was started meanwhile")),
    }
}

/// So that the kubelet starts the container again.
pub(super) async fn end_container(driver: &Driver<Unicorn>, holder: Image) {
    let pid = holder.process.pid;
    match driver.send(move |_| Ok(vec![(Target::Image(holder), Signal::KILL)])).await {
        Ok(()) => tracing::error!(
            pid,
            "no Unicorn master is serving any more: ended the container so that it restarts"
        ),
        Err(problem) => {
            tracing::warn!(
                pid,
                detail = problem.message,
                "no Unicorn master is serving any more, and the container could not be ended"
            );
        }
    }
}

fn order(command: ServerCommand, processes: &ServerProcesses) -> Result<Signals, Problem> {
    let (newest, older) = (processes.newest(), older(processes));
    match command {
        ServerCommand::Restart(_) if older.is_empty() => begin(newest),
        ServerCommand::Restart(_) => Err(Problem::new(
            Reason::AppServerAmbiguous,
            "two Unicorn masters are running already: nothing was sent",
        )),
        ServerCommand::Commit => older.into_iter().map(retire).collect(),
        // The old master is gone: a new one can only come from another restart.
        ServerCommand::Abort(_) if older.is_empty() => begin(newest),
        ServerCommand::Abort(_) => Ok(vec![(Target::Image(newest.image), end(newest))]),
        ServerCommand::Recover => Ok(everything(processes)),
        ServerCommand::Switch | ServerCommand::Share { .. } | ServerCommand::End | ServerCommand::Kill => {
            Ok(Vec::new())
        }
    }
}

/// The masters before the newest that have workers.
fn older(processes: &ServerProcesses) -> Vec<&Master> {
    let mut generations = processes.generations();
    generations.pop();
    generations
}

fn begin(master: &Master) -> Result<Signals, Problem> {
    let loading = || gone(&format!("Unicorn's master {} is loading", master.image.process.pid));
    master.title.as_ref().ok_or_else(loading)?;
    Ok(vec![(Target::Image(master.image), Signal::USR2)])
}

/// Ends it when its requests are answered. The master that the container was started with only ends its workers:
/// its own end would be the container's.
fn retire(master: &Master) -> Result<(Target, Signal), Problem> {
    match (master.holds_container(), master.on_terminal) {
        (false, _) => Ok((Target::Image(master.image), Signal::QUIT)),
        (true, false) => Ok((Target::Image(master.image), Signal::WINCH)),
        (true, true) => Err(Problem::new(
            Reason::ConfigInvalid,
            "the old workers cannot be ended without the container, because its input is a terminal: remove `tty: true`",
        )),
    }
}

/// Workers that never accepted a request have none to finish, and a master that still loads handles no other signal
/// than SIGKILL.
fn end(master: &Master) -> Signal {
    match &master.title {
        None => Signal::KILL,
        Some(_) if master.workers.iter().any(|worker| worker.booted) => Signal::QUIT,
        Some(_) => Signal::TERM,
    }
}

/// Workers first, because one that hangs does not notice that its master is gone; the oldest master last, because
/// the container ends with it.
fn everything(processes: &ServerProcesses) -> Signals {
    let workers = processes.masters.iter().flat_map(|master| &master.workers);
    let workers = workers.map(|worker| Target::Process(worker.id));
    let masters = processes.masters.iter().rev().map(|master| Target::Image(master.image));
    workers.chain(masters).map(|target| (target, Signal::KILL)).collect()
}
