//! Each effect of the core as one linear function, with a deadline.
//!
//! An effect that overruns its deadline is reported as unknown, and by its real outcome when it ends
//! after all; one that panics has failed. Volume work runs on threads of its own: one for releases
//! and `current`, one for the journal, so that a long fetch holds up no line of the journal, and one each
//! for this pod's lease and for what is deleted, so that neither holds up a deploy.

pub(crate) mod drain_journal;
mod housekeeping;
mod leases;
mod once_ready;
mod recovery;
mod trial;
pub(crate) mod unfinished;
mod volume_work;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::mpsc;
use tracing::Instrument;

use crate::{
    app_server::AppServer,
    core::{
        Attempt, DeployResult, Effect, Event, GenerationKey, Outcome, Problem, Reason, ServerCommand, Step,
        drain::Journal,
    },
    failpoint,
    hook::Hook,
    lane::Lane,
    metrics::Metrics,
    releases::Releases,
    revision::{ReleaseId, Revision},
    revisions_log::Log,
    store::{Blocking, CallOff},
    telemetry::DeployIds,
};

/// Where [`crate::failpoint::hit`] is called on the way of a deploy, in order. Each effect has its
/// own points inside as well: those of the releases and of the journal.
pub const FAIL_POINTS: &[&str] = &[
    "effects.before_fetch",
    "effects.after_fetch",
    "effects.after_check",
    "effects.before_attempt",
    "effects.after_attempt",
    "effects.after_publish",
    "effects.before_signalled",
    "effects.after_signalled",
    "effects.before_signal",
    "effects.after_signal",
    "effects.before_verified",
    "effects.after_verified",
    "effects.before_rejected",
    "effects.after_rejected",
    "effects.before_reverted",
    "effects.after_reverted",
];

/// Large releases over a slow network take long; a hanging volume must show all the same.
const FETCH_LIMIT: Duration = Duration::from_secs(900);
/// A few small files on the volume.
const VOLUME_LIMIT: Duration = Duration::from_secs(20);

/// What the effects work with.
pub struct Tools {
    /// This pod's name.
    pub pod: String,
    /// Releases on the volume.
    pub releases: Releases,
    /// Where releases come from; `None`: they are put onto the volume by somebody else.
    pub store: Option<Blocking>,
    /// This pod's `revisions.log`.
    pub journal: PathBuf,
    /// Where what belongs to this pod is kept: not on the volume.
    pub state_dir: PathBuf,
    /// How many releases stay on the volume.
    pub keep_releases: usize,
    /// Who is restarted.
    pub app_server: Arc<dyn AppServer>,
    /// The user's trial boot, where there is one.
    pub hook: Option<Arc<Hook>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How deploys are called in the log.
    pub ids: DeployIds,
}

/// Performs effects. Cheap to clone.
#[derive(Clone)]
pub struct Effects {
    tools: Arc<Tools>,
    volume: Lane,
    lines: Lane,
    /// This pod's lease, in the background.
    leases: Lane,
    /// What is being deleted.
    pruning: Lane,
    /// Releases that are tried.
    trials: Lane,
    holder: Arc<leases::Holder>,
    gear: Arc<housekeeping::Gear>,
    log: Arc<Mutex<Option<Log>>>,
    /// Calls off the latest fetch.
    fetching: Arc<Mutex<CallOff>>,
    /// When moves were rejected, for /status.
    rejected_at: Arc<Mutex<Arc<HashMap<Revision, String>>>>,
    /// The latest drain journal to be written; older ones need not be.
    drains: tokio::sync::watch::Sender<Option<Option<Journal>>>,
}

impl Effects {
    /// Starts the threads, and a task on the runtime that this is called from.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(tools: Tools) -> io::Result<Self> {
        let (drains, pending) = tokio::sync::watch::channel(None);
        drain_journal::keep(tools.state_dir.clone(), pending)?;
        let effects = Self {
            holder: Arc::new(leases::Holder::new(tools.releases.clone(), tools.pod.clone())),
            tools: Arc::new(tools),
            volume: Lane::start("volume")?,
            lines: Lane::start("journal")?,
            leases: Lane::start("lease")?,
            pruning: Lane::start("prune")?,
            trials: Lane::start("trial")?,
            gear: Arc::default(),
            log: Arc::default(),
            fetching: Arc::default(),
            rejected_at: Arc::default(),
            drains,
        };
        tokio::spawn(effects.clone().keep_lease());
        Ok(effects)
    }

    /// How deploys are called.
    pub(crate) fn ids(&self) -> &DeployIds {
        &self.tools.ids
    }

    /// Another pod of the volume, whose fetch this pod waits for.
    pub(crate) fn fetching_pod(&self) -> Option<String> {
        self.tools.releases.waits_for().map(|waits| waits.pod)
    }

    /// When moves were rejected, by the wall clock.
    pub(crate) fn rejected_at(&self) -> Arc<HashMap<Revision, String>> {
        self.rejected_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The drain that was under way when the last process of the agent ended.
    pub(crate) async fn read_drain_journal(&self) -> Option<Journal> {
        drain_journal::read(&self.tools.state_dir).await
    }

    /// Writes the drain's journal, or removes it: best effort, in the background.
    pub(crate) fn write_drain_journal(&self, journal: Option<Journal>) {
        self.drains.send_replace(Some(journal));
    }

    /// Whether this pod was ready before this agent started.
    pub(crate) async fn was_ready(&self) -> bool {
        once_ready::was(&self.tools.state_dir).await
    }

    /// Notes that it is: best effort, in the background.
    pub(crate) fn note_ready(&self) {
        let state_dir = self.tools.state_dir.clone();
        tokio::task::spawn_blocking(move || once_ready::note(&state_dir));
    }

    /// Starts an effect; its result goes to `done`. Notices and the drain's effects are not performed
    /// here: callers of /prestop wait in the supervisor.
    pub(crate) fn perform(&self, effect: Effect, done: &mpsc::UnboundedSender<Event>) {
        match effect {
            Effect::Fetch { attempt, release, sha256 } => {
                let (this, off) = (self.clone(), CallOff::default());
                self.call_off_fetch(off.clone());
                let work = async move {
                    this.noted("fetch", release.clone(), this.fetch(release, sha256, off)).await
                };
                self.run(attempt, Step::Fetch, FETCH_LIMIT, work, done);
            }
            Effect::Check { attempt, release, running, trial, beside } => {
                let (this, limit) = (self.clone(), VOLUME_LIMIT.saturating_add(self.trial_limit()));
                // Also where this one needs none: the one before is wanted no more.
                let turn = self.begin_trial().filter(|_| trial);
                let work = async move {
                    this.noted("check", release.clone(), this.check((running, release), beside, turn)).await
                };
                self.run(attempt, Step::Check, limit, work, done);
            }
            Effect::Record { attempt, record } => {
                let (this, step) = (self.clone(), Step::Record(record.event));
                let work = async move { this.record(record).await };
                self.run(attempt, step, VOLUME_LIMIT, work, done);
            }
            Effect::Publish { attempt, release } => {
                let this = self.clone();
                let work = async move { this.publish(release).await };
                self.run(attempt, Step::Publish, VOLUME_LIMIT, work, done);
            }
            Effect::Perform { attempt, command, on } => {
                let (this, limit) = (self.clone(), self.tools.app_server.perform_limit());
                let work = async move { this.act(command, on).await };
                self.run(attempt, Step::Perform(command), limit, work, done);
            }
            Effect::Conclude { result, .. } => self.conclude(&result),
            Effect::Notice(_) | Effect::Drain(_) => {}
        }
    }

    /// What the agent does not survive is not tried for ever.
    async fn noted(
        &self,
        step: &'static str,
        release: ReleaseId,
        work: impl Future<Output = Result<Outcome, Problem>>,
    ) -> Result<Outcome, Problem> {
        let state_dir = self.tools.state_dir.clone();
        let begin = move || unfinished::begin(&state_dir, step, &release);
        let _begun = match tokio::task::spawn_blocking(begin).await {
            Ok(Err(problem)) => return Ok(Outcome::Condemned(problem)),
            begun => begun.ok(),
        };
        work.await
    }

    /// Runs the work of one effect, and reports: in time, late, or as failed when it panics.
    fn run(
        &self,
        attempt: Attempt,
        step: Step,
        limit: Duration,
        work: impl Future<Output = Result<Outcome, Problem>> + Send + 'static,
        done: &mpsc::UnboundedSender<Event>,
    ) {
        let done = done.clone();
        let report = move |outcome| {
            // Nobody listens when the loop has ended.
            let _ = done.send(Event::Finished { attempt, step, outcome });
        };
        let task = async move {
            let mut work = tokio::spawn(work.in_current_span());
            let ended = match tokio::time::timeout(limit, &mut work).await {
                Ok(ended) => ended,
                Err(_) => {
                    let (what, limit) = (name(step), humantime::format_duration(limit));
                    tracing::error!("{what} has not ended within {limit}: whether it will is not known");
                    report(Outcome::Unknown);
                    if matches!(step, Step::Perform(_)) {
                        // A signal that comes when nobody waits for it any more must not be sent.
                        work.abort();
                        return;
                    }
                    work.await
                }
            };
            report(outcome(ended));
        };
        // Whatever is logged inside belongs to the deploy.
        tokio::spawn(task.in_current_span());
    }

    /// The fetch before is needed no more, and must not keep the next one waiting.
    fn call_off_fetch(&self, next: CallOff) {
        let mut fetching = self.fetching.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        std::mem::replace(&mut *fetching, next).now();
    }

    /// Tells the app server.
    async fn act(&self, command: ServerCommand, on: GenerationKey) -> Result<Outcome, Problem> {
        pause_at("effects.before_signal").await;
        self.tools.app_server.perform(command, on).await?;
        pause_at("effects.after_signal").await;
        Ok(Outcome::Done)
    }

    /// A deploy is over: what it held is let go.
    fn conclude(&self, result: &DeployResult) {
        // Of a pod that is stranded nobody knows what it will need.
        if !matches!(result, DeployResult::Stranded(_)) {
            self.let_go();
        }
        if matches!(result, DeployResult::Superseded) {
            self.call_off_fetch(CallOff::default());
            self.end_trial();
        }
    }
}

fn outcome(ended: Result<Result<Outcome, Problem>, tokio::task::JoinError>) -> Outcome {
    match ended {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(problem)) => Outcome::Failed(problem),
        Err(panic) => Outcome::Failed(Problem::new(
            Reason::Internal,
            format!("a defect in pitstop: {panic}; the log shows where, please report it"),
        )),
    }
}

fn name(step: Step) -> &'static str {
    match step {
        Step::Fetch => "the fetch",
        Step::Check => "the check",
        Step::Record(_) => "a line of revisions.log",
        Step::Publish => "the switch of `current`",
        Step::Perform(_) => "the call of the app server",
    }
}

/// A fail point in async code: it must not block the runtime's threads.
async fn pause_at(point: &'static str) {
    if failpoint::wanted(point) {
        let _ = tokio::task::spawn_blocking(move || failpoint::hit(point)).await;
    }
}
