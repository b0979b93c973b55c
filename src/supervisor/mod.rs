//! The one loop that owns the state.
//!
//! Everything that happens comes in as one input; the core says what is to be done; effects are
//! started and a new snapshot is published. The loop waits for inputs and for nothing else: no
//! volume, no app server, no client can hold it up. If it is lost to a panic all the same, a new one
//! takes over from what is on disk, and who waits on /prestop goes on waiting.

mod asking;
mod cuts;
mod deploy_log;

mod foreign_restarts;
mod observer;
mod operator;
mod slots_log;
mod timings;

mod state;

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};

use crate::{
    app_server::AppServer,
    core::{Event, Moment, Policy, Problem, Recovered},
    effects::Effects,
    finding::Finding,
    fleet::Reader,
    handle::{Request, Requests},
    metrics::Metrics,
    pointer::{Kick, Latest},
    probe::Prober,
    status::Snapshot,
    warmup::Warmup,
};

use observer::{Attention, Observer, Seen};
use state::State;

/// A loop that was lost starts again after this.
const AFTER_A_LOSS: Duration = Duration::from_millis(500);
/// Between two attempts to learn from the volume where the pod stands.
const BETWEEN_RECOVERIES: Duration = Duration::from_secs(2);
/// The loop wakes at least so often, whatever the clocks do.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What the loop works with. All of it outlives a lost loop.
#[derive(Clone)]
pub struct Inputs {
    /// The core's part of the configuration.
    pub policy: Policy,
    /// After SIGTERM the agent is gone at the latest after this.
    pub grace_period: Duration,
    /// What is wrong with the configuration: no deploy ever begins, everything else works.
    pub invalid: Option<Finding>,
    /// What is known of the set-up from the start.
    pub standing: Vec<Finding>,
    /// What performs the effects.
    pub effects: Effects,
    /// Who is looked at.
    pub app_server: Arc<dyn AppServer>,
    /// How the app is asked, where it can be.
    pub prober: Option<Prober>,
    /// What a server is asked before clients reach it: a second one before its check, a pod's first one before the pod
    /// is ready.
    pub warmup: Option<Warmup>,
    /// What the pointer says, where there is one that can be followed.
    pub pointer: Option<(watch::Receiver<Latest>, Kick)>,
    /// Who reads the other pods' reports, where there are any.
    pub fleet: Option<Reader>,
    /// What the outside asks.
    pub requests: Requests,
    /// How many SIGTERMs there have been.
    pub terms: watch::Receiver<u32>,
    /// Where the snapshots go.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub clock: fn() -> Moment,
}

/// The one clock of all decisions: milliseconds of CLOCK_BOOTTIME, which counts on while the machine sleeps, and which
/// nobody sets.
pub fn boottime() -> Moment {
    let now = clock_gettime(ClockId::Boottime);
    Moment(now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000)
}

/// Anything that can happen.
enum Input {
    Event(Event),
    Seen(Seen),
    Request(Request),
    Recovered(Result<Recovered, Problem>),
    Terms(u32),
    /// Something that the loop needs is gone.
    Lost(&'static str),
}

/// Runs the loop until SIGTERM has been dealt with.
pub async fn supervise(inputs: Inputs) {
    loop {
        let lost = match tokio::spawn(Loop::begin(inputs.clone())).await {
            Ok(ControlFlow::Break(())) => return,
            Ok(ControlFlow::Continue(lost)) => lost.to_owned(),
            Err(panic) => panic.to_string(),
        };
        tracing::error!(
            lost,
            "bug in pitstop: the supervisor loop ended; restarting it from the state on disk"
        );
        tokio::time::sleep(AFTER_A_LOSS).await;
    }
}

struct Loop {
    inputs: Inputs,
    state: State,
    looks: mpsc::Receiver<Seen>,
    finished: mpsc::UnboundedReceiver<Event>,
    recovered: mpsc::Receiver<Result<Recovered, Problem>>,
}

impl Loop {
    /// Breaks when the agent is to end; continues when something was lost.
    async fn begin(inputs: Inputs) -> ControlFlow<(), &'static str> {
        let (done, finished) = mpsc::unbounded_channel();
        let journal = inputs.effects.read_drain_journal().await;
        let wanted = inputs.warmup.is_some() && inputs.invalid.is_none();
        let warms = wanted && !inputs.effects.was_ready().await;
        let state = State::new(&inputs, done.clone(), journal, warms);
        if let Some(reader) = inputs.fleet.clone() {
            tokio::spawn(reader.run(state.reads_fleet(), done));
        }
        let (send, looks) = mpsc::channel(1);
        let observer = Observer {
            app_server: inputs.app_server.clone(),
            prober: inputs.prober.clone(),
            warmup: inputs.warmup.clone(),
            attention: state.attention(),
            looks: send,
            clock: inputs.clock,
        };
        tokio::spawn(observer.run());
        let (send, recovered) = mpsc::channel(1);
        tokio::spawn(recover(inputs.effects.clone(), send));
        Self { inputs, state, looks, finished, recovered }.run().await
    }

    async fn run(mut self) -> ControlFlow<(), &'static str> {
        self.state.publish();
        if let Some((pointer, _)) = &mut self.inputs.pointer {
            // What it says already counts as news for a new loop.
            pointer.mark_changed();
        }
        self.inputs.terms.mark_changed();
        let requests = self.inputs.requests.clone();
        let mut requests = requests.lock().await;
        while !self.state.finished() {
            match self.next(&mut requests).await {
                Input::Lost(what) => return ControlFlow::Continue(what),
                Input::Event(event) => self.state.feed(event),
                Input::Seen(seen) => self.state.seen(seen),
                Input::Request(request) => self.state.request(request),
                Input::Recovered(recovered) => self.state.recovered(recovered),
                Input::Terms(count) => self.state.terms(count),
            }
            self.state.publish();
        }
        self.inputs.effects.end_trial();
        if self.state.app_server_is_gone() {
            self.inputs.effects.farewell().await;
        }
        ControlFlow::Break(())
    }

    async fn next(&mut self, requests: &mut mpsc::UnboundedReceiver<Request>) -> Input {
        let pause = self.state.until_deadline().min(LONGEST_SLEEP);
        tokio::select! {
            Some(event) = self.finished.recv() => Input::Event(event),
            Some(request) = requests.recv() => Input::Request(request),
            seen = self.looks.recv() => seen.map_or(Input::Lost("the observer"), Input::Seen),
            Some(recovered) = self.recovered.recv() => Input::Recovered(recovered),
            Ok(()) = self.inputs.terms.changed() => Input::Terms(*self.inputs.terms.borrow_and_update()),
            latest = newest(&mut self.inputs.pointer) => match latest {
                Some(pointer) => Input::Event(Event::Pointer(pointer)),
                None => Input::Event(Event::Tick),
            },
            () = tokio::time::sleep(pause) => Input::Event(Event::Tick),
        }
    }
}

/// The next thing that the pointer says; never, where none is followed.
async fn newest(pointer: &mut Option<(watch::Receiver<Latest>, Kick)>) -> Latest {
    let Some((latest, _)) = pointer else { return std::future::pending().await };
    if latest.changed().await.is_err() {
        // The watch was lost, with nothing to say any more. The last value stands.
        *pointer = None;
        return Some(Err(lost_pointer()));
    }
    latest.borrow_and_update().clone()
}

fn lost_pointer() -> Problem {
    Problem::new(
        crate::core::Reason::Internal,
        "bug in pitstop: the pointer is no longer watched; restart the agent, and report the bug",
    )
}

/// Asks the volume where the pod stands, until it tells.
async fn recover(effects: Effects, recovered: mpsc::Sender<Result<Recovered, Problem>>) {
    loop {
        let result = effects.recover().await;
        let known = result.is_ok();
        if recovered.send(result).await.is_err() || known {
            return;
        }
        tokio::time::sleep(BETWEEN_RECOVERIES).await;
    }
}
