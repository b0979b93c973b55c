//! The stages of a deploy.
//!
//! ```text
//!            pointer moved            complete        possible, nothing long in flight
//!   Steady ───────────────► Fetching ────────► Checking ───────────────► Publishing
//!     ▲ ▲                      ▲ └─ retried ─┘    └─ waits, says why        │ attempt on disk,
//!     │ │                      │                                            │ then the flip
//!     │ └── Committing ◄───────│──── Verifying ◄──── Restarting ◄───────────┘
//!     │      proven, on disk   │         │ failed        │ baseline, `signalled` on disk,
//!     │                        │         ▼               ▼ then the signal
//!     └────────────────────────│──── Reverting  (rejected on disk, flip back, signal, watch)
//!        old release proven    │         │ nowhere to go, or it does not come up
//!                              └──── Stranded  (left by a new move, or when it comes up after all)
//! ```
//!
//! Each state names the step that is wanted next. [`Deploy::advance`] begins it when its gate is
//! open; `busy` is set while its effect is under way, and only that effect's result clears it.
//! What a step needs to know of the app server comes from a look that began after the step before
//! it ended (`fresh_after`): nothing is decided on what was seen before.

mod check;
mod failure;
mod forward;
mod goal;
mod newborn;
mod operator;
mod pointer;
mod recover;
mod revert;
mod stand_in;
mod start;
mod state;
mod steady;
mod strangers;
#[cfg(test)]
pub(super) mod tests;
mod turn;
mod view;

pub use stand_in::stand_ins;

use std::collections::BTreeSet;

use super::{
    Fleet, Moving, Policy, Recovered, Stage, View, Watchfulness,
    effect::{
        Attempt, Baseline, DeployResult, Effect, Event, Mode, Notice, Operator, Outcome, Problem, Record,
        ServerCommand, Step,
    },
    history::{History, Neighbours},
    mutation::Mutation,
    observation::{AppServer, Detection, GenerationKey, Moment, Observation},
    reason::Reason,
    verdict::{self, Watch},
};
use crate::revision::{Pointer, RecordEvent, ReleaseId, Revision};
use revert::{Revert, RevertStep};
use state::{Checking, Committing, Publishing, Restarting, StandIn, State, Target, Turn, Verifying};
use steady::Proven;

/// What the end of the pod forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// The pod is draining: no forward step begins.
    pub draining: bool,
    /// /prestop was answered: nothing is done to the app server any more.
    pub answered: bool,
}

/// A deploy in one of its stages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Deploy {
    policy: Policy,
    history: History,
    neighbours: Neighbours,
    desired: Option<Pointer>,
    pointer_problem: Option<Problem>,
    /// Where `current` points; `None` when that is not known to be a complete release.
    current: Option<ReleaseId>,
    running: Option<ReleaseId>,
    /// What the app server ran when it was last at rest, proven here or not.
    last_seen: Option<ReleaseId>,
    /// The server as it stood when it was last seen whole, and how well its release is proved.
    proven: Option<Proven>,
    /// What stands while something else is waited for, and is proved meanwhile.
    proving: Option<Watch>,
    /// What was put in place at the pod's birth, and did not come to be well.
    unwell: BTreeSet<ReleaseId>,
    /// How often another release was tried in its place.
    trials: u32,
    /// What the reports of the other pods say.
    fleet: Option<Fleet>,
    /// The last restart that was asked for and has not been seen to end.
    restart_in_flight: Option<Baseline>,
    state: State,
    attempt: Attempt,
    busy: Option<Step>,
    /// Effects that overran their deadline: until they report, nothing touches the volume.
    stuck: Vec<(Attempt, Step)>,
    problem: Option<Problem>,
    /// What the health path said when it last failed.
    probe_said: Option<String>,
    /// The exception that was seen last since the restart.
    raised: Option<String>,
    /// The move that was rejected for one of these, and those words.
    condemned: Option<(Revision, String)>,
    retry_at: Option<Moment>,
    /// Rejections that the volume has not taken yet.
    unwritten: Vec<(Revision, Reason)>,
    /// They are tried again then.
    write_again: Option<Moment>,
    /// A pointer that is older than what this pod has seen.
    replayed: Option<Pointer>,
    /// How often in a row the kernel has refused a signal.
    denied: u32,
    fresh_after: Moment,
    /// Since when the app server, at rest, runs something else than `current`.
    drift_since: Option<Moment>,
    paused: bool,
    /// The operator sent this pod back here; the pointer's move that it holds against.
    held: Option<(ReleaseId, Option<Revision>)>,
    #[cfg(test)]
    mutation: Option<Mutation>,
}

impl Deploy {
    fn steady(policy: Policy, history: History, current: Option<ReleaseId>) -> Self {
        Self {
            policy,
            history,
            neighbours: Neighbours::default(),
            desired: None,
            pointer_problem: None,
            current,
            running: None,
            last_seen: None,
            proven: None,
            proving: None,
            unwell: BTreeSet::new(),
            trials: 0,
            fleet: None,
            restart_in_flight: None,
            state: State::Steady,
            attempt: Attempt(0),
            busy: None,
            stuck: Vec::new(),
            problem: None,
            probe_said: None,
            raised: None,
            condemned: None,
            retry_at: None,
            unwritten: Vec::new(),
            write_again: None,
            replayed: None,
            denied: 0,
            fresh_after: Moment(0),
            drift_since: None,
            paused: false,
            held: None,
            #[cfg(test)]
            mutation: None,
        }
    }

    /// A failure in words; the health path's own, or the exception, where that is to blame.
    fn blame(&self, reason: Reason, words: &str) -> Problem {
        let times = self.policy.successes;
        let message = match (self.evidence(reason), reason) {
            (Some(said), Reason::ProbeFailed) => {
                format!("the health path failed {times} of {times} times: {said}")
            }
            // What follows the colon says where to look for it.
            (Some(raised), _) => {
                format!("{}: {raised}", words.split_once(':').map_or(words, |(what, _)| what))
            }
            (None, _) => words.to_owned(),
        };
        Problem::new(reason, message)
    }

    /// What the app itself said to such a failure.
    fn evidence(&self, reason: Reason) -> Option<&String> {
        match reason {
            Reason::ProbeFailed => self.probe_said.as_ref(),
            Reason::BootLoop | Reason::BootFailed | Reason::MasterGone => self.raised.as_ref(),
            _ => None,
        }
    }

    /// Takes one event.
    pub fn step(&mut self, now: Moment, gate: Gate, event: &Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut look = None;
        if let Event::Observed(Observation { said: Some(said), .. }) = event {
            self.probe_said = Some(said.clone());
        }
        if let Event::Observed(Observation { raised: Some(raised), began, .. }) = event
            && *began >= self.fresh_after
        {
            self.raised = Some(raised.clone());
        }
        match event {
            Event::Pointer(pointer) => self.read_pointer(pointer),
            Event::Observed(observation) if observation.began >= self.fresh_after => look = Some(observation),
            Event::Fleet(fleet) => self.read_fleet(fleet),
            Event::Observed(_) | Event::Drain(_) | Event::Tick => {}
            Event::Finished { attempt, step, outcome } => {
                self.finish(now, *attempt, *step, outcome, &mut effects)
            }
            Event::Operator(operator) => self.obey(*operator),
        }
        self.advance(now, gate, look, &mut effects);
        effects
    }

    fn finish(
        &mut self,
        now: Moment,
        attempt: Attempt,
        step: Step,
        outcome: &Outcome,
        out: &mut Vec<Effect>,
    ) {
        let unknown = *outcome == Outcome::Unknown;
        self.stuck.retain(|effect| *effect != (attempt, step));
        if unknown && !matches!(step, Step::Perform(_)) {
            self.stuck.push((attempt, step));
        }
        let ours = attempt == self.attempt && self.busy == Some(step);
        let late = self.mutated(Mutation::LateEffectAccepted) && self.busy == Some(step);
        if !ours && !late {
            return;
        }
        if unknown && !matches!(step, Step::Perform(_)) {
            self.problem = Some(Problem::new(
                Reason::VolumeUnavailable,
                "the volume has not answered in time; nothing on it is changed until it does",
            ));
            return;
        }
        self.busy = None;
        self.fresh_after = Moment(now.0 + 1);
        self.ended(now, step, outcome, out);
    }

    /// An effect of the attempt under way has ended: what is wanted next?
    fn ended(&mut self, now: Moment, step: Step, outcome: &Outcome, out: &mut Vec<Effect>) {
        if step == Step::Publish {
            self.note_publish(outcome);
        }
        let outcome = &match outcome {
            Outcome::NotPublished { problem, .. } => Outcome::Failed(problem.clone()),
            outcome => outcome.clone(),
        };
        if step == Step::Record(RecordEvent::Rejected)
            && matches!(self.state, State::Steady | State::Stranded(_))
        {
            return self.late_rejection_ended(now, outcome);
        }
        let state = std::mem::replace(&mut self.state, State::Steady);
        self.state = match state {
            State::Reverting(target, revert) => self.revert_ended(now, target, revert, outcome, out),
            state => self.forward_ended(now, state, step, outcome, out),
        };
    }

    fn note_publish(&mut self, outcome: &Outcome) {
        let goal = match &self.state {
            State::Reverting(_, revert) => revert.goal.clone(),
            State::Publishing(target, ..) => Some(target.revision.release.clone()),
            _ => None,
        };
        // What others do to it from here on can no more be told from what we do.
        self.proven = None;
        self.current = match outcome {
            Outcome::Done => goal,
            Outcome::NotPublished { current, .. } => current.clone(),
            // It was lost on the way: nobody knows where the link points.
            _ => None,
        };
    }

    /// Begins whatever is wanted and allowed, until nothing is.
    fn advance(&mut self, now: Moment, gate: Gate, look: Option<&Observation>, out: &mut Vec<Effect>) {
        if let Some(look) = look {
            self.watch_at_rest(now, look, out);
        }
        self.supersede(now, out);
        self.write_late_rejections(now, out);
        // One look is one piece of evidence: it is weighed in the first turn only. Each turn either
        // changes the state or ends the loop; the bound only guards against a defect.
        for turn in 0..16 {
            let look = look.filter(|_| turn == 0);
            if self.busy.is_some() || self.retry_at.is_some_and(|at| now < at) {
                return;
            }
            let before = self.state.clone();
            self.begin_move(now, gate);
            if matches!(self.state, State::Reverting(..)) {
                self.advance_revert(now, gate, look, out);
            } else {
                self.advance_forward(now, gate, look, out);
            }
            if self.state == before {
                return;
            }
        }
    }

    fn conclude(&self, revision: Revision, result: DeployResult) -> Effect {
        Effect::Conclude { attempt: self.attempt, revision, result }
    }

    fn record(&mut self, event: RecordEvent, revision: Revision, extra: Extra) -> Effect {
        self.busy = Some(Step::Record(event));
        let (reason, baseline) = match extra {
            Extra::None => (None, None),
            Extra::Reason(reason) => (Some(reason), None),
            Extra::Baseline(baseline) => (None, Some(baseline)),
        };
        Effect::Record { attempt: self.attempt, record: Record { event, revision, reason, baseline } }
    }

    fn perform(&mut self, command: ServerCommand, on: GenerationKey) -> Effect {
        self.busy = Some(Step::Perform(command));
        Effect::Perform { attempt: self.attempt, command, on }
    }

    fn retry(&mut self, now: Moment, problem: &Problem) {
        self.problem = Some(problem.clone());
        let pause = self.pause(problem.reason);
        self.retry_at = Some(now.plus(pause));
    }

    fn volume_is_free(&self) -> bool {
        self.stuck.is_empty()
    }

    /// How long a restart may take that was asked for while this was there.
    fn timeout_of(&self, baseline: &Baseline) -> u64 {
        let Policy { hot_timeout_ms, phased_timeout_ms, phased_worker_ms, .. } = self.policy;
        match baseline.mode {
            Mode::Hot => hot_timeout_ms,
            Mode::Phased => {
                let workers = u64::try_from(baseline.processes.len().max(1)).unwrap_or(u64::MAX);
                phased_timeout_ms.saturating_add(phased_worker_ms.saturating_mul(workers))
            }
        }
    }

    /// The image that a signal would reach safely. After a hot restart was asked for, the title
    /// alone proves nothing: it stands before the exec as well, so the image must have changed.
    fn signalable(&self, server: &AppServer) -> Option<GenerationKey> {
        let newest = server.generations.last()?;
        let arrived = match &self.restart_in_flight {
            Some(b) if b.mode == Mode::Hot && !self.mutated(Mutation::TitleOnlyGuard) => {
                !b.generations.contains(&newest.key)
            }
            _ => true,
        };
        (newest.signalable && arrived).then_some(newest.key)
    }

    fn baseline(&self, now: Moment, mode: Mode, server: &AppServer, healthy: bool) -> Baseline {
        Baseline {
            at: now,
            boot_id: String::new(),
            mode,
            generations: server.generations.iter().map(|g| g.key).collect(),
            processes: server.generations.iter().flat_map(|g| &g.processes).map(|p| p.key).collect(),
            healthy,
        }
    }

    /// Whether a restart that we asked for may still change the image.
    pub fn restart_in_flight(&self) -> bool {
        self.restart_in_flight.is_some() || matches!(self.state, State::Committing(..))
    }

    /// What will be due though nothing happens; some of it may be overdue.
    pub fn deadlines(&self) -> Vec<Moment> {
        let late = self.write_again.filter(|_| !self.unwritten.is_empty());
        let mut due: Vec<Moment> = self.retry_at.into_iter().chain(late).collect();
        match &self.state {
            State::Checking(_, Checking::Look { missing_until }) => due.extend(missing_until),
            State::Checking(_, Checking::Requests { until, .. })
            | State::Checking(_, Checking::Lacking { again: until, .. })
            | State::Publishing(_, _, Publishing::Flip { until })
            | State::Restarting(_, _, Restarting::Look { until })
            | State::Committing(_, Committing::Watch { until } | Committing::TakenUp { until }) => {
                due.push(*until)
            }
            State::Verifying(_, verifying) => {
                due.extend(verifying.watch.deadlines(&self.policy));
                due.extend(verifying.ask_again);
                due.extend(verifying.unwell_until);
            }
            State::Checking(_, Checking::Spread(turn)) => due.extend([turn.place, turn.last]),
            State::Reverting(_, revert) => due.extend(revert.deadlines(&self.policy)),
            State::Steady | State::Stranded(_) => {
                due.extend(self.drift_since.map(|since| since.plus(self.policy.soak_ms)));
                due.extend(self.proven.as_ref().and_then(Proven::until));
            }
            _ => {}
        }
        due.extend(self.proving.iter().flat_map(|watch| watch.deadlines(&self.policy)));
        due
    }

    /// How closely to watch.
    pub fn watchfulness(&self) -> Watchfulness {
        match self.state {
            State::Steady | State::Stranded(_) | State::Fetching(_) => Watchfulness::Calm,
            State::Checking(_, Checking::Spread(_) | Checking::Lacking { .. }) => Watchfulness::Calm,
            _ => Watchfulness::Close,
        }
    }

    /// The release that observations should be probed for, when a probe's answer matters now.
    pub fn probe_for(&self, gate: Gate) -> Option<ReleaseId> {
        match &self.state {
            State::Verifying(target, _) => Some(target.revision.release.clone()),
            State::Reverting(_, revert) => revert.on_trial(),
            // In a drain our own requests would pass for traffic, and what is restarted next is not.
            _ if gate.draining => None,
            State::Restarting(target, ..) => Some(target.revision.release.clone()),
            State::Steady | State::Fetching(_) | State::Checking(..) if self.proving.is_some() => {
                self.proving.as_ref().map(|watch| watch.target().clone())
            }
            State::Steady if self.policy.naming => {
                self.proven.as_ref().filter(|proven| proven.until().is_some()).map(Proven::release)
            }
            _ => None,
        }
    }

    /// Whether the files that processes have loaded matter now.
    pub fn wants_files(&self) -> bool {
        match &self.state {
            State::Verifying(..) => true,
            State::Reverting(_, revert) => revert.on_trial().is_some(),
            State::Steady | State::Fetching(_) | State::Checking(..) if self.proving.is_some() => true,
            State::Steady => self.proven.as_ref().is_some_and(|proven| proven.until().is_some()),
            _ => false,
        }
    }
}

/// What a record says besides its event and revision.
enum Extra {
    None,
    Reason(Reason),
    Baseline(Baseline),
}

/// What an app server that cannot be worked with means for a deploy.
fn detection_problem(detection: &Detection) -> Option<Problem> {
    let (reason, message) = match detection {
        Detection::Missing => (Reason::AppServerMissing, "no app server is running in this pod"),
        Detection::Ambiguous => (
            Reason::AppServerAmbiguous,
            "several processes could be the app server: name one of them in the key `match` of its section",
        ),
        Detection::NotPermitted => (
            Reason::NotPermitted,
            "the app server runs under another user: give both containers the same runAsUser and runAsGroup",
        ),
        Detection::Unclear | Detection::Seen(_) => return None,
    };
    Some(Problem::new(reason, message))
}

fn from_detection(reason: Reason) -> bool {
    matches!(reason, Reason::AppServerMissing | Reason::AppServerAmbiguous | Reason::NotPermitted)
}

#[cfg(test)]
impl Deploy {
    pub(super) fn mutate(&mut self, mutation: Option<Mutation>) {
        self.mutation = mutation;
    }

    pub(super) fn renumber(&mut self) -> bool {
        let alone = self.stuck.is_empty();
        self.attempt = if alone { Attempt(1) } else { self.attempt };
        alone
    }

    fn mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

#[cfg(not(test))]
impl Deploy {
    #[expect(clippy::unused_self, reason = "in test builds the walk plants its defects here")]
    fn mutated(&self, _: Mutation) -> bool {
        false
    }
}
