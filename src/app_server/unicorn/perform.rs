//! Telling Unicorn, by signals to exactly the masters that are meant.

use rustix::process::Signal;

use super::{
    KIND, Unicorn,
    discovery::{self, Discovery, Master, ServerProcesses},
};
use crate::{
    app_server::signaller::{SendOnce, gone, not_sent},
    core::{Act, GenerationKey, Reason, Trouble},
    procs::{Image, ProcessId, ProcsError},
};

/// What is sent to whom.
type Order = Vec<(Image, Signal)>;

impl Unicorn {
    pub(super) async fn act(&self, act: Act, on: GenerationKey) -> Result<(), Trouble> {
        let known = self.memory.lock().await.known.clone();
        self.signaller.carry_out(KIND.name, move |send_once| carry_out(act, on, &known, send_once)).await
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
            Err(trouble) => tracing::warn!(pid, detail = trouble.message, "no master serves any more"),
        }
    }
}

fn carry_out(act: Act, on: GenerationKey, known: &[ProcessId], send_once: &SendOnce) -> Result<(), Trouble> {
    let is_meant = |processes: &ServerProcesses| processes.newest().image.generation_key() == on;
    let processes = match discovery::discover(known, None) {
        Discovery::Servers(servers) => servers.into_iter().find(is_meant),
        Discovery::NotPermitted => {
            return Err(Trouble::new(
                Reason::NotPermitted,
                "nothing was sent to Unicorn: it is another user's",
            ));
        }
        Discovery::Torn => {
            return Err(Trouble::new(
                Reason::Internal,
                "nothing was sent to Unicorn: it changed while it was looked at",
            ));
        }
        Discovery::Nothing | Discovery::Starting => None,
    };
    let processes = processes
        .ok_or_else(|| gone("the Unicorn meant is gone, or another master was started meanwhile"))?;
    send(order(act, &processes)?, send_once)
}

fn send(order: Order, send_once: &SendOnce) -> Result<(), Trouble> {
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

fn order(act: Act, processes: &ServerProcesses) -> Result<Order, Trouble> {
    let (newest, older) = (processes.newest(), older(processes));
    match act {
        Act::Begin(_) if older.is_empty() => begin(newest),
        Act::Begin(_) => Err(Trouble::new(
            Reason::AppServerAmbiguous,
            "two masters run already: nothing was sent to Unicorn",
        )),
        Act::Commit => older.into_iter().map(retire).collect(),
        // Whoever served before is gone: what is to serve comes from another restart.
        Act::Abort(_) if older.is_empty() => begin(newest),
        Act::Abort(_) => Ok(vec![(newest.image, end(newest))]),
        Act::Recover => Ok(everything(processes)),
    }
}

/// The masters before the newest that have workers.
fn older(processes: &ServerProcesses) -> Vec<&Master> {
    let mut generations = processes.generations();
    generations.pop();
    generations
}

fn begin(master: &Master) -> Result<Order, Trouble> {
    let loading = || gone(&format!("Unicorn's master {} is loading", master.image.process.pid));
    master.title.as_ref().ok_or_else(loading)?;
    Ok(vec![(master.image, Signal::USR2)])
}

/// Ends it when its requests are answered. The master that the container was started with only lets go of
/// its workers: with its own end everything would end.
fn retire(master: &Master) -> Result<(Image, Signal), Trouble> {
    match (master.holds_container(), master.on_terminal) {
        (false, _) => Ok((master.image, Signal::QUIT)),
        (true, false) => Ok((master.image, Signal::WINCH)),
        (true, true) => Err(Trouble::new(
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
