//! Telling Unicorn, by signals to exactly the masters that are meant.

use rustix::process::Signal;

use super::{
    KIND, Unicorn,
    discovery::{self, Discovery, Master, ServerProcesses},
};
use crate::{
    app_server::signaller::{SendOnce, gone, not_sent},
    core::{GenerationKey, Problem, Reason, ServerCommand},
    procs::{Image, ProcessId, ProcsError},
};

/// What is sent to whom.
type Order = Vec<(Image, Signal)>;

impl Unicorn {
    pub(super) async fn act(&self, command: ServerCommand, on: GenerationKey) -> Result<(), Problem> {
        let known = self.memory.lock().await.known.clone();
        self.signaller.carry_out(KIND.name, move |send_once| carry_out(command, on, &known, send_once)).await
    }

    /// The first master was kept for its container's sake, and the one that served is gone. A container
    /// whose only master ends is started anew; so it is here.
    pub(super) async fn give_up_container(&self, holder: Image) {
        let done = self
            .signaller
            .carry_out(KIND.name, move |send_once| send(vec![(holder, Signal::KILL)], send_once))
            .await;
        let pid = holder.process.pid;
        match done {
            Ok(()) => {
                tracing::error!(pid, "no master serves any more: the container was ended, to be started anew")
            }
            Err(problem) => tracing::warn!(pid, detail = problem.message, "no master serves any more"),
        }
    }
}

fn carry_out(
    command: ServerCommand,
    on: GenerationKey,
    known: &[ProcessId],
    send_once: &SendOnce,
) -> Result<(), Problem> {
    let is_meant = |processes: &ServerProcesses| processes.newest().image.generation_key() == on;
    let processes = match discovery::discover(known, None) {
        Discovery::Servers(servers) => servers.into_iter().find(is_meant),
        Discovery::NotPermitted => {
            return Err(Problem::new(
                Reason::NotPermitted,
                "nothing was sent to Unicorn: it is another user's",
            ));
        }
        Discovery::Torn => {
            return Err(Problem::new(
                Reason::Internal,
                "nothing was sent to Unicorn: it changed while it was looked at",
            ));
        }
        Discovery::Nothing | Discovery::Starting => None,
    };
    let processes = processes
        .ok_or_else(|| gone("the Unicorn meant is gone, or another master was started meanwhile"))?;
    send(order(command, &processes)?, send_once)
}

fn send(order: Order, send_once: &SendOnce) -> Result<(), Problem> {
    send_once.take()?;
    for (image, signal) in order {
        match image.signal(signal) {
            // What was to end has ended.
            Ok(()) | Err(ProcsError::Gone(_)) if signal == Signal::KILL => {}
            result => result.map_err(|error| not_sent(KIND.name, &error))?,
        }
    }
    Ok(())
}

fn order(command: ServerCommand, processes: &ServerProcesses) -> Result<Order, Problem> {
    let (newest, older) = (processes.newest(), older(processes));
    match command {
        ServerCommand::Restart(_) if older.is_empty() => begin(newest),
        ServerCommand::Restart(_) => Err(Problem::new(
            Reason::AppServerAmbiguous,
            "two masters run already: nothing was sent to Unicorn",
        )),
        ServerCommand::Commit => older.into_iter().map(retire).collect(),
        // Whoever served before is gone: what is to serve comes from another restart.
        ServerCommand::Abort(_) if older.is_empty() => begin(newest),
        ServerCommand::Abort(_) => Ok(vec![(newest.image, end(newest))]),
        ServerCommand::Recover => Ok(everything(processes)),
    }
}

/// The masters before the newest that have workers.
fn older(processes: &ServerProcesses) -> Vec<&Master> {
    let mut generations = processes.generations();
    generations.pop();
    generations
}

fn begin(master: &Master) -> Result<Order, Problem> {
    let loading = || gone(&format!("Unicorn's master {} is loading", master.image.process.pid));
    master.title.as_ref().ok_or_else(loading)?;
    Ok(vec![(master.image, Signal::USR2)])
}

/// Ends it when its requests are answered. The master that the container was started with only lets go of
/// its workers: with its own end everything would end.
fn retire(master: &Master) -> Result<(Image, Signal), Problem> {
    match (master.holds_container(), master.on_terminal) {
        (false, _) => Ok((master.image, Signal::QUIT)),
        (true, false) => Ok((master.image, Signal::WINCH)),
        (true, true) => Err(Problem::new(
            Reason::ConfigInvalid,
            "the container would end with its first master, which keeps its workers as its input is a terminal: \
             leave `tty: true` out",
        )),
    }
}

/// Nobody waits for an answer of workers that never accepted a request; and a master that still loads hears
/// of no signal but this.
fn end(master: &Master) -> Signal {
    match &master.title {
        None => Signal::KILL,
        Some(_) if master.workers.iter().any(|worker| worker.booted) => Signal::QUIT,
        Some(_) => Signal::TERM,
    }
}

/// Workers first, as one that hangs does not notice that its master is gone; the oldest master last, as
/// everything ends with it.
fn everything(processes: &ServerProcesses) -> Order {
    let masters = processes.masters.iter().rev().map(|master| (master.image, Signal::KILL));
    let workers = processes.masters.iter().flat_map(|master| &master.workers);
    let workers = workers.filter_map(|worker| Image::of(worker.id.pid).ok());
    workers.map(|worker| (worker, Signal::KILL)).chain(masters).collect()
}
