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
//! A [`state::Move`] goes forward or back, and names the step that is wanted next. [`Deploy::take`] starts it when it
//! may start; `busy` is set while its effect is under way, and only that effect's result clears it, in
//! [`Deploy::after`]. What a step needs to know of the app server comes from a look that began after the step
//! before it ended (`fresh_after`): nothing is decided on what was seen before.

mod back;
mod beside;
mod check;
mod failure;
mod newborn;
mod operator;
mod pointer;
mod recover;
mod releases;
mod restart;
mod share;
mod slots;
mod spread;
mod stand_in;
mod start;
mod state;
mod steady;
mod steps;
mod strangers;
#[cfg(test)]
pub(super) mod tests;
mod view;

pub(crate) use share::Sharing;
pub use share::Shift;
pub(crate) use stand_in::stand_ins;

use super::{
    Fleet, Moving, Policy, Recovered, Stage, View, Watchfulness,
    effect::{
        Attempt, Baseline, DeployResult, Effect, Event, Mode, Notice, Operator, Outcome, Problem, Protected,
        Record, ServerCommand, Step,
    },
    history::{History, Neighbours},
    observation::{AppServer, Detection, Generation, GenerationKey, Moment, Observation, Probe},
    reason::Reason,
    verdict::{self, Verdict, Watch},
};
use crate::revision::{Pointer, RecordEvent, ReleaseId, Revision};
use releases::Releases;
use slots::Slots;
use state::{Back, Direction, Move, MoveStep, Next, Spread, StandIn, State, Target, Verify};
use steady::Proven;

/// What the end of the pod forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gate {
    /// The pod is draining: no forward step begins.
    pub(crate) draining: bool,
    /// /prestop was answered: nothing is done to the app server any more.
    pub(crate) answered: bool,
}

/// One turn of the core: when, what the end of the pod forbids, what was seen, and what is to be done.
struct Turn<'a> {
    now: Moment,
    gate: Gate,
    look: Option<&'a Observation>,
    out: Vec<Effect>,
}

/// A deploy in one of its stages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Deploy {
    policy: Policy,
    releases: Releases,
    desired: Option<Pointer>,
    pointer_problem: Option<Problem>,
    /// What stands while something else is waited for, and is proved meanwhile.
    proving: Option<Watch>,
    /// How often another release was tried in its place.
    trials: u32,
    /// What the reports of the other pods say.
    fleet: Option<Fleet>,
    /// The last restart that was asked for and has not been seen to end.
    restart_in_flight: Option<Baseline>,
    /// What stands in other slots than the live server.
    slots: Slots,
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
}

impl Deploy {
    fn steady(policy: Policy, releases: Releases) -> Self {
        Self {
            policy,
            releases,
            desired: None,
            pointer_problem: None,
            proving: None,
            trials: 0,
            fleet: None,
            restart_in_flight: None,
            slots: Slots::default(),
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
        }
    }

    /// A failure in words; the health path's own, or the exception, where that is to blame.
    fn blame(&self, reason: Reason, words: &str) -> Problem {
        let times = self.policy.successes;
        let message = match (self.said_of(reason), reason) {
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
    fn said_of(&self, reason: Reason) -> Option<&String> {
        match reason {
            Reason::ProbeFailed => self.probe_said.as_ref(),
            Reason::BootLoop | Reason::BootFailed | Reason::MasterGone => self.raised.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn step(&mut self, now: Moment, gate: Gate, event: &Event) -> Vec<Effect> {
        let mut turn = Turn { now, gate, look: None, out: Vec::new() };
        match event {
            Event::Pointer(pointer) => self.read_pointer(pointer),
            Event::Observed(look) => {
                self.probe_said = look.said.clone().or(self.probe_said.take());
                if look.began >= self.fresh_after {
                    self.raised = look.raised.clone().or(self.raised.take());
                    turn.look = Some(look);
                }
            }
            Event::Fleet(fleet) => self.read_fleet(fleet),
            Event::Drain(_) | Event::Tick => {}
            Event::Finished { attempt, step, outcome } => self.finish(&mut turn, (*attempt, *step), outcome),
            Event::Operator(operator) => self.obey(*operator),
        }
        self.advance(&mut turn);
        turn.out
    }

    fn finish(&mut self, turn: &mut Turn<'_>, effect: (Attempt, Step), outcome: &Outcome) {
        let (attempt, step) = effect;
        let on_volume = !matches!(step, Step::Perform(_));
        let hangs = *outcome == Outcome::Unknown && on_volume;
        self.stuck.retain(|stuck| *stuck != effect);
        if hangs {
            self.stuck.push(effect);
        }
        if attempt != self.attempt || self.busy != Some(step) {
            return;
        }
        if hangs {
            self.problem = Some(Problem::new(
                Reason::VolumeUnavailable,
                "the volume has not answered in time; nothing on it is changed until it does",
            ));
            return;
        }
        self.busy = None;
        self.fresh_after = Moment(turn.now.0 + 1);
        if step == Step::Publish {
            self.note_publish(outcome);
        }
        let outcome = match outcome {
            Outcome::NotPublished { problem, .. } => &Outcome::Failed(problem.clone()),
            outcome => outcome,
        };
        match std::mem::replace(&mut self.state, State::Steady) {
            State::Moving(m) => self.state = self.after(turn, m, outcome),
            rest => {
                self.state = rest;
                self.late_rejection_ended(turn.now, outcome);
            }
        }
    }

    fn note_publish(&mut self, outcome: &Outcome) {
        // What others do to it from here on can no more be told from what we do.
        self.releases.proven = None;
        self.releases.current = match outcome {
            Outcome::Done => self.state.moving().and_then(Move::goal).map(|goal| goal.release),
            Outcome::NotPublished { current, .. } => current.clone(),
            // It was lost on the way: nobody knows where the link points.
            _ => None,
        };
    }

    /// Starts whatever is wanted and allowed, until nothing is.
    fn advance(&mut self, turn: &mut Turn<'_>) {
        if let Some(look) = turn.look {
            self.watch_at_rest(turn, look);
            self.tidy_slots(turn, look);
        }
        self.supersede(turn);
        self.leave_candidate(turn);
        self.write_late_rejections(turn);
        // Each round either changes the state or ends the loop; the bound only guards against a defect.
        for _ in 0..16 {
            if self.busy.is_some() || self.retry_at.is_some_and(|at| turn.now < at) {
                return;
            }
            let before = self.state.clone();
            self.start_move(turn);
            if let State::Moving(m) = self.state.clone() {
                self.state = self.take(turn, m);
            }
            // One look is one piece of evidence: it is weighed in the first round only.
            turn.look = None;
            if self.state == before {
                return;
            }
        }
    }

    fn conclude(&self, turn: &mut Turn<'_>, revision: Revision, result: DeployResult) {
        turn.out.push(Effect::Conclude { attempt: self.attempt, revision, result });
    }

    fn record(&mut self, turn: &mut Turn<'_>, record: Record) {
        self.busy = Some(Step::Record(record.event));
        turn.out.push(Effect::Record { attempt: self.attempt, record });
    }

    fn perform(&mut self, turn: &mut Turn<'_>, command: ServerCommand, on: GenerationKey) {
        self.busy = Some(Step::Perform(command));
        turn.out.push(Effect::Perform { attempt: self.attempt, command, on });
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
        match baseline.mode {
            Mode::Hot | Mode::Beside => self.policy.hot_timeout_ms,
            Mode::Phased => self.phased_timeout(baseline.processes.len()),
        }
    }

    fn phased_timeout(&self, workers: usize) -> u64 {
        let Policy { phased_timeout_ms, phased_worker_ms, .. } = self.policy;
        let workers = u64::try_from(workers.max(1)).unwrap_or(u64::MAX);
        phased_timeout_ms.saturating_add(phased_worker_ms.saturating_mul(workers))
    }

    /// How long the restart may take that was asked for last.
    fn timeout_of_last(&self) -> u64 {
        self.restart_in_flight.as_ref().map_or(self.policy.hot_timeout_ms, |b| self.timeout_of(b))
    }

    /// The image that a signal would reach safely. After a hot restart was asked for, the title
    /// alone proves nothing: it stands before the exec as well, so the image must have changed.
    fn signalable(&self, server: &AppServer) -> Option<GenerationKey> {
        let newest = server.generations.last()?;
        let arrived = match &self.restart_in_flight {
            Some(b) if b.mode == Mode::Hot => !b.generations.contains(&newest.key),
            _ => true,
        };
        (newest.signalable && arrived).then_some(newest.key)
    }

    fn baseline(&self, now: Moment, mode: Mode, server: &AppServer, healthy: bool) -> Baseline {
        let beside = server.beside.keys().filter(|_| mode == Mode::Beside);
        Baseline {
            at: now,
            boot_id: String::new(),
            mode,
            generations: beside.chain(server.generations.iter().map(|g| g.key)).collect(),
            processes: server.generations.iter().flat_map(|g| &g.processes).map(|p| p.key).collect(),
            healthy,
        }
    }

    /// Whether a restart that we asked for may still change the image.
    pub(crate) fn restart_in_flight(&self) -> bool {
        self.restart_in_flight.is_some() || self.state.stage() == Stage::Committing
    }

    /// What will be due though nothing happens; some of it may be overdue.
    pub(crate) fn deadlines(&self) -> Vec<Moment> {
        let late = self.write_again.filter(|_| !self.unwritten.is_empty());
        let mut due: Vec<Moment> = self.retry_at.into_iter().chain(late).collect();
        match &self.state {
            State::Moving(m) => due.extend(m.deadlines(&self.policy).into_iter().chain(self.turn_at())),
            State::Steady | State::Stranded(_) => {
                due.extend(self.drift_since.map(|since| since.plus(self.policy.soak_ms)));
                due.extend(self.releases.proven.as_ref().and_then(Proven::until));
            }
        }
        due.extend(self.proving.iter().flat_map(|watch| watch.deadlines(&self.policy)));
        due.extend(self.slot_deadlines());
        due
    }

    /// How closely to watch.
    pub(crate) fn watchfulness(&self) -> Watchfulness {
        match self.state.step() {
            None | Some(MoveStep::Spread(_) | MoveStep::Lacking { .. }) => Watchfulness::Calm,
            Some(MoveStep::Bake(_)) => Watchfulness::Steady,
            Some(_) if self.state.stage() == Stage::Fetching => Watchfulness::Calm,
            Some(_) => Watchfulness::Close,
        }
    }

    /// The next step waits for a look that begins then or later.
    pub(crate) fn look_awaited(&self) -> Option<Moment> {
        let waits = self.state.moving().is_some() && self.busy.is_none() && self.retry_at.is_none();
        waits.then_some(self.fresh_after)
    }

    /// The release that observations should be probed for, when a probe's answer matters now.
    pub(crate) fn probe_for(&self, gate: Gate) -> Option<ReleaseId> {
        match (self.state.moving(), self.state.stage()) {
            // The live server's health outranks the candidate's.
            (Some(m), Stage::Verifying) if m.watches_candidate() => m.target.from.clone(),
            (Some(m), Stage::Verifying) => Some(m.target.revision.release.clone()),
            (Some(m), Stage::Reverting) => m.on_trial().map(|goal| goal.release),
            // In a drain our own requests would pass for traffic, and what is restarted next is not.
            _ if gate.draining => None,
            (Some(m), Stage::Restarting) => Some(m.target.revision.release.clone()),
            (_, Stage::Steady | Stage::Fetching | Stage::Checking) if self.proving.is_some() => {
                self.proving.as_ref().map(|watch| watch.target().clone())
            }
            (_, Stage::Steady) if self.policy.naming => self.to_be_heard().map(Proven::release),
            _ => None,
        }
    }

    /// The release that the candidate is to be probed for.
    pub(crate) fn probe_candidate_for(&self) -> Option<ReleaseId> {
        let m = self.state.moving().filter(|m| m.watches_candidate())?;
        Some(m.target.revision.release.clone())
    }

    /// Whether the files that processes have loaded matter now.
    pub(crate) fn wants_files(&self) -> bool {
        match (self.state.moving(), self.state.stage()) {
            (_, Stage::Verifying) => true,
            (Some(m), Stage::Reverting) => m.on_trial().is_some(),
            (_, Stage::Fetching | Stage::Checking) => self.proving.is_some(),
            (_, Stage::Steady) => self.proving.is_some() || self.to_be_heard().is_some(),
            _ => false,
        }
    }

    /// What stands, as long as it is asked to name its release.
    fn to_be_heard(&self) -> Option<&Proven> {
        self.releases.proven.as_ref().filter(|proven| proven.until().is_some())
    }
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

#[cfg(all(test, feature = "walk"))]
impl Deploy {
    pub(super) fn renumber(&mut self) -> bool {
        let alone = self.stuck.is_empty();
        self.attempt = if alone { Attempt(1) } else { self.attempt };
        alone
    }
}
