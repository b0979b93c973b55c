//! A share of the traffic for a candidate that has passed its check: larger step by step, each until the candidate has
//! served enough, before it gets all connections.
//!
//! ```text
//!   Verify ─► Share ─► Bake ─► Share ─► Bake ─► … ─► Switch
//!     ▲                 │ │
//!     └──── Unshare ◄───┘ │ it fails, or a newer move came
//!        in doubt         ▼
//!                    Unshare ─► (Reject) ─► Flip back ─► AbortCandidate
//! ```
//!
//! Whatever is wrong, the share is taken back before anything else is done. What one look shows is enough for that, and
//! is not always enough to blame the release: then its check goes on without clients, and says which it was.

use std::collections::BTreeSet;

use super::{beside::alone, failure::failure, *};
use crate::core::{
    observation::{Candidate, ProcessKey, Served},
    verdict::errors::{Counts, worse},
};

/// A share is taken back for a doubt so often in one move, before the release is rejected for it.
const DOUBTS: u32 = 3;

/// `restart.shift` and `restart.bake`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shift {
    /// Of 1000 new connections: how many a candidate gets in each step before it gets all for good.
    pub steps: Vec<u32>,
    /// How long each step lasts, at least.
    pub bake_ms: u64,
    /// How many requests the candidate serves in each, at least.
    pub requests: u64,
    /// A step without so many requests ends by this time.
    pub timeout_ms: u64,
}

impl Shift {
    /// The first step with such a share or a larger one.
    fn step_of(&self, share: u32) -> usize {
        self.steps.iter().take_while(|step| **step < share).count()
    }
}

/// The share of a candidate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Share {
    /// Whose.
    pub(crate) on: GenerationKey,
    step: usize,
    /// Its check goes on.
    pub(crate) watch: Watch,
    /// The processes that passed it.
    processes: BTreeSet<ProcessKey>,
    /// In how many looks in a row one of them was missing.
    missing: u32,
    /// When the candidate had the first share, and what both servers had served by then.
    first: Option<Count>,
    /// The same of this step.
    since: Option<Count>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Count {
    at: Moment,
    candidate: Option<Served>,
    both: Option<(Served, Served)>,
}

impl Count {
    /// What could not be read then counts from now on.
    fn of(known: Option<Self>, now: Moment, candidate: Option<Served>, live: Option<Served>) -> Self {
        let known = known.unwrap_or(Self { at: now, candidate: None, both: None });
        Self { candidate: known.candidate.or(candidate), both: known.both.or(candidate.zip(live)), ..known }
    }
}

/// A step, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sharing {
    /// Of 1000 new connections.
    pub(crate) permille: u32,
    /// From 1.
    pub(crate) step: usize,
    pub(crate) steps: usize,
    /// When it started.
    pub(crate) since: Moment,
    /// What the candidate had served by then; `None`: that is not counted.
    pub(crate) requests_before: Option<u64>,
}

impl Share {
    pub(crate) fn permille(&self, policy: &Policy) -> u32 {
        policy.shift.steps.get(self.step).copied().unwrap_or_default()
    }

    /// A process that passed the check is gone. One look alone may have missed it.
    fn lost_a_process(&mut self, seen: &Generation) -> bool {
        let there = verdict::keys(seen);
        let gone = !self.processes.is_subset(&there);
        self.missing = if gone { self.missing + 1 } else { 0 };
        self.missing > 1
    }

    fn count(&mut self, now: Moment, candidate: Option<Served>, live: Option<Served>) {
        self.first = Some(Count::of(self.first, now, candidate, live));
        self.since = Some(Count::of(self.since, now, candidate, live));
    }

    /// What is wrong with its answers, in words, by all that both have served since the first share.
    fn errs(&self, candidate: Option<Served>, live: Option<Served>) -> Option<String> {
        let (candidate_then, live_then) = self.first?.both?;
        worse(Counts::between(candidate_then, candidate?)?, Counts::between(live_then, live?)?)
    }

    fn is_over(&self, now: Moment, served: Option<Served>, shift: &Shift) -> bool {
        let Some(since) = self.since else { return false };
        let lasted = now.since(since.at);
        let requests =
            served.zip(since.candidate).map(|(now, then)| now.requests.saturating_sub(then.requests));
        let enough = requests.is_some_and(|requests| requests >= shift.requests);
        (enough && lasted >= shift.bake_ms) || lasted >= shift.timeout_ms
    }

    pub(crate) fn deadlines(&self, policy: &Policy) -> Vec<Moment> {
        let step = |since: Count| [policy.shift.bake_ms, policy.shift.timeout_ms].map(|ms| since.at.plus(ms));
        let steps = self.since.into_iter().flat_map(step);
        self.watch.deadlines(policy).into_iter().chain(steps).collect()
    }

    pub(crate) fn shown(&self, policy: &Policy) -> Option<Sharing> {
        let since = self.since?;
        Some(Sharing {
            permille: self.permille(policy),
            step: self.step + 1,
            steps: policy.shift.steps.len(),
            since: since.at,
            requests_before: since.candidate.map(|served| served.requests),
        })
    }
}

impl Deploy {
    /// It has passed its check. A share that an agent before this one gave it goes on, counted anew.
    pub(super) fn share_or_switch(&mut self, m: Move, watch: Watch, candidate: &Candidate) -> State {
        let processes = candidate.generation.as_ref().map(verdict::keys).unwrap_or_default();
        let step = self.policy.shift.step_of(candidate.share);
        let on = candidate.key;
        self.restart_in_flight = None;
        self.share_step(m, Share { on, step, watch, processes, missing: 0, first: None, since: None })
    }

    fn share_step(&self, m: Move, share: Share) -> State {
        match self.policy.shift.steps.get(share.step) {
            Some(_) => m.then(MoveStep::Share(share)),
            None => m.then(MoveStep::Switch { on: share.on, proved: true }),
        }
    }

    pub(super) fn give_share(&mut self, turn: &mut Turn<'_>, share: &Share) {
        let permille = share.permille(&self.policy);
        self.slots.share_given(share.on);
        self.perform(turn, ServerCommand::Share { permille }, share.on);
    }

    pub(super) fn share_given(&mut self, turn: &Turn<'_>, m: Move, share: Share, outcome: &Outcome) -> State {
        match outcome {
            Outcome::Done => m.then(MoveStep::Bake(share)),
            // The parent of this container knows no shares.
            Outcome::Failed(problem) if problem.reason == Reason::ConfigInvalid => {
                m.then(MoveStep::Switch { on: share.on, proved: true })
            }
            // What it has is seen.
            _ => {
                self.retry_at = Some(turn.now.plus(self.policy.retry_ms));
                m.then(MoveStep::Bake(share))
            }
        }
    }

    /// The candidate has a share. Is all well, and is the step over?
    pub(super) fn bake(&mut self, turn: &Turn<'_>, m: Move, mut share: Share) -> State {
        let (now, Some(look)) = (turn.now, turn.look) else { return m.then(MoveStep::Bake(share)) };
        let server = match &look.detection {
            Detection::Seen(server) => server,
            // The live server has ended. One that has passed its check takes its place.
            Detection::Missing => return m.then(MoveStep::Switch { on: share.on, proved: true }),
            _ => return m.then(MoveStep::Bake(share)),
        };
        let candidate = match self.candidate_stands(look, server, &m.target, (&share.watch, false)) {
            Ok(candidate) => candidate,
            Err(state) => return state,
        };
        let Some(seen) = alone(look, candidate) else { return m.then(MoveStep::Bake(share)) };
        if let Verdict::Failed(reason) = share.watch.observe(now, &seen, &self.policy) {
            let why = self.blame(reason, failure(&share.watch, reason));
            return self.abort_and_reject(m.target, why);
        }
        if candidate.generation.as_ref().is_some_and(|seen| share.lost_a_process(seen)) {
            return self.doubt(turn, m, share, Reason::BootLoop);
        }
        if seen.probe() == Some(Probe::Unhealthy) && self.policy.probing && share.watch.was_healthy() {
            return self.doubt(turn, m, share, Reason::ProbeFailed);
        }
        if candidate.share != share.permille(&self.policy) {
            return m.then(MoveStep::Share(share));
        }
        let live = server.beside.served_by_live;
        share.count(now, candidate.served, live);
        if let Some(words) = share.errs(candidate.served, live) {
            return self.abort_and_reject(m.target, Problem::new(Reason::ProbeFailed, words));
        }
        if share.is_over(now, candidate.served, &self.policy.shift) && !self.pauses() {
            (share.step, share.since) = (share.step + 1, None);
            self.note_proof(&m, &share.watch, &seen);
            return self.share_step(m, share);
        }
        m.then(MoveStep::Bake(share))
    }

    /// One bad answer, or a process that is gone: no client meets it while its check goes on.
    fn doubt(&mut self, turn: &Turn<'_>, m: Move, share: Share, reason: Reason) -> State {
        let words = match reason {
            Reason::ProbeFailed => {
                "the health path failed while the second server had a share of the traffic"
            }
            _ => "a worker of the second server ended while it had a share of the traffic: see its log",
        };
        self.slots.doubts += 1;
        if self.slots.doubts >= DOUBTS {
            let why = self.blame(reason, words);
            return self.abort_and_reject(m.target, why);
        }
        self.problem = Some(Problem::new(reason, words));
        let mut watch = share.watch;
        watch.go_on_until(turn.now.plus(self.policy.hot_timeout_ms));
        let check = Verify { watch, candidate: true, ask_again: None, unwell_until: None };
        m.then(MoveStep::Unshare { on: share.on, then: Box::new(check.into()) })
    }

    /// Where the candidate may have a share, that is taken back before this step.
    pub(super) fn without_share(&self, step: MoveStep) -> MoveStep {
        match self.slots.sharing {
            Some(on) => MoveStep::Unshare { on, then: Box::new(step) },
            None => step,
        }
    }

    pub(super) fn share_taken_back(&mut self, m: Move, then: MoveStep) -> State {
        self.slots.sharing = None;
        m.on_to(then)
    }

    /// The step, while the candidate has a share.
    pub(super) fn sharing(&self) -> Option<Sharing> {
        match self.state.step() {
            Some(MoveStep::Bake(share)) => share.shown(&self.policy),
            _ => None,
        }
    }
}
