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
    /// What the candidate has served in this step.
    requests: Option<u64>,
    /// So many of those were our own, where all are counted.
    asked: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Count {
    at: Moment,
    candidate: Option<Served>,
    live: Option<Served>,
}

impl Count {
    /// What could not be read then counts from now on. Whoever counts errors begins with the first request: where there
    /// is no such count yet, the candidate has served none.
    fn of(known: Option<Self>, now: Moment, candidate: Option<Served>, live: Option<Served>) -> Self {
        let Some(known) = known else { return Self { at: now, candidate, live } };
        let counts_errors = |served: Option<Served>| served.is_some_and(|served| served.errors.is_some());
        let starts = |then, now| counts_errors(now) && !counts_errors(then);
        let none = Served { requests: 0, errors: Some(0), p95_ms: None };
        Self {
            at: known.at,
            candidate: if starts(known.candidate, candidate) {
                Some(none)
            } else {
                known.candidate.or(candidate)
            },
            live: if starts(known.live, live) { live } else { known.live.or(live) },
        }
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
    /// What the candidate has served in it; `None`: nobody counts.
    pub(crate) requests: Option<u64>,
    /// How much that has to be.
    pub(crate) requests_wanted: u64,
    /// How long it lasts at least.
    pub(crate) bake_ms: u64,
    /// And at most.
    pub(crate) timeout_ms: u64,
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

    /// Puma's own count has our probes in it, the middleware's has not.
    fn count(&mut self, look: &Observation, now: Moment, candidate: Option<Served>, live: Option<Served>) {
        self.first = Some(Count::of(self.first, now, candidate, live));
        let since = Count::of(self.since, now, candidate, live);
        self.asked += look.candidate_answers.len() as u64;
        let requests = |then: Served, now: Served| {
            let all = now.requests.saturating_sub(then.requests);
            match (then.errors, now.errors) {
                (None, None) => Some(all.saturating_sub(self.asked)),
                (Some(_), Some(_)) => Some(all),
                _ => None,
            }
        };
        self.requests =
            candidate.zip(since.candidate).and_then(|(now, then)| requests(then, now)).or(self.requests);
        self.since = Some(since);
    }

    /// What is wrong with its answers, in words, by all that both have served since the first share.
    fn errs(&self, candidate: Option<Served>, live: Option<Served>) -> Option<String> {
        let first = self.first?;
        worse(Counts::between(first.candidate?, candidate?)?, Counts::between(first.live?, live?)?)
    }

    fn served_enough(&self, shift: &Shift) -> bool {
        self.requests.is_some_and(|requests| requests >= shift.requests)
    }

    fn is_over(&self, now: Moment, shift: &Shift) -> bool {
        let lasted = self.since.map_or(0, |since| now.since(since.at));
        (self.served_enough(shift) && lasted >= shift.bake_ms) || lasted >= shift.timeout_ms
    }

    fn next_step(self) -> Self {
        Self { step: self.step + 1, since: None, requests: None, asked: 0, ..self }
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
            requests: self.requests,
            requests_wanted: policy.shift.requests,
            bake_ms: policy.shift.bake_ms,
            timeout_ms: policy.shift.timeout_ms,
        })
    }
}

impl Deploy {
    /// It has passed its check. A share that an agent before this one gave it goes on, counted anew.
    pub(super) fn share_or_switch(&mut self, m: Move, watch: Watch, candidate: &Candidate) -> State {
        let processes = candidate.generation.as_ref().map(verdict::keys).unwrap_or_default();
        let step = self.policy.shift.step_of(candidate.share);
        let on = candidate.key;
        (self.restart_in_flight, self.problem) = (None, None);
        let (first, since, requests) = (None, None, None);
        self.share_step(m, Share { on, step, watch, processes, missing: 0, first, since, requests, asked: 0 })
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

    pub(super) fn share_given(m: Move, share: Share, outcome: &Outcome) -> State {
        match outcome {
            // The parent of this container knows no shares.
            Outcome::Failed(problem) if problem.reason == Reason::ConfigInvalid => {
                m.then(MoveStep::Switch { on: share.on, proved: true })
            }
            // What it has is seen.
            _ => m.then(MoveStep::Bake(share)),
        }
    }

    /// An agent that was started anew checks a candidate that has a share already. Does that have to go at once?
    pub(super) fn share_in_doubt(&self, candidate: &Candidate, watch: &Watch, answer: Option<Probe>) -> bool {
        let unwell = answer == Some(Probe::Unhealthy) && self.policy.probing && watch.was_healthy();
        let broken = candidate.generation.as_ref().is_some_and(|seen| !verdict::whole(seen));
        candidate.share > 0 && (unwell || broken)
    }

    /// The candidate has a share. Is all well, and is the step over?
    pub(super) fn bake(&mut self, turn: &mut Turn<'_>, m: Move, mut share: Share) -> State {
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
        share.count(look, now, candidate.served, live);
        if let Some(words) = share.errs(candidate.served, live) {
            let revision = m.target.revision.clone();
            let state = self.abort_and_reject(m.target, Problem::new(Reason::ProbeFailed, &words));
            self.condemned = Some((revision, words));
            return state;
        }
        if share.is_over(now, &self.policy.shift) && !self.pauses() {
            if !share.served_enough(&self.policy.shift) {
                let (requests, wanted) = (share.requests, self.policy.shift.requests);
                turn.out.push(Effect::Notice(Notice::StepTimedOut { requests, wanted }));
            }
            self.note_proof(&m, &share.watch, &seen);
            return self.share_step(m, share.next_step());
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
