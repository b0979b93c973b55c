//! One drain: who waits for it, what for, and by which witnesses.

use std::net::IpAddr;

use super::left::{Left, Request};
use super::types::{Answer, DrainEffect, DrainResult, Evidence, InWork, Journal, Origin, Wait, WaitsFor};
use crate::core::observation::{GenerationKey, Moment};

/// So many requests are named.
const MOST_NAMED: usize = 10;

/// A drain under way: what is seen for all that wait.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ActiveDrain {
    pub(crate) began: Moment,
    pub(crate) drain_id: u64,
    /// Those that are not answered yet, the earliest first. Never empty.
    pub(crate) calls: Vec<Call>,
    /// The image that is to end.
    pub(crate) generation: Option<GenerationKey>,
    /// The first look of this drain that told of traffic.
    pub(crate) watched_since: Option<Moment>,
    /// What is waited for besides each call's own minimum.
    pub(crate) waiting: Vec<WaitsFor>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) peers_not_quiet: usize,
    pub(crate) last_peer: Option<IpAddr>,
    pub(crate) in_flight: Option<u32>,
    /// Websockets and the like.
    pub(crate) upgraded: u32,
    /// Requests in flight, the oldest first.
    pub(crate) in_work: Vec<Request>,
    /// Nothing has been answered for so long, though requests waited.
    pub(crate) stuck_ms: Option<u64>,
    pub(crate) evidence: Evidence,
}

/// One call of /prestop, or the agent's own SIGTERM. Each has a clock of its own; what was seen is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Call {
    pub(crate) began: Moment,
    pub(crate) deadline: Moment,
    /// It says that the pod ends. A stray call is held as well, and means nothing.
    pub(crate) meant: bool,
}

/// The pod is to end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PodEnd {
    pub(crate) drain_id: u64,
    pub(crate) began: Moment,
    pub(crate) deadline: Moment,
    pub(crate) origin: Origin,
    /// SIGTERM came to this agent.
    pub(crate) termed: bool,
    /// The image that is to end.
    pub(crate) generation: Option<GenerationKey>,
    /// Every call that was meant has been answered.
    pub(crate) answered: Option<Answered>,
}

/// What came after the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) at: Moment,
    /// The image that was answered for still serves, by the last look after the answer.
    pub(crate) serves: bool,
    /// It takes no connections any more, by the last look after the answer.
    pub(crate) closed: bool,
    /// The app server was gone at a look after the answer.
    pub(crate) went: bool,
    /// The requests that were left.
    pub(crate) left: Left,
}

/// Whether a source of evidence is there. One that was there a moment ago is missed before it is
/// given up: a control server refuses for some 100 ms in a hot restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Source {
    pub(crate) last: Option<Moment>,
    pub(crate) state: Availability,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Availability {
    Here,
    Missed,
    #[default]
    Absent,
}

impl Source {
    pub(crate) fn look(&mut self, began: Moment, here: bool, patience_ms: u64) {
        if here {
            self.last = Some(began);
        }
        self.state = match self.last {
            _ if here => Availability::Here,
            Some(last) if began.since(last) <= patience_ms => Availability::Missed,
            _ => Availability::Absent,
        };
    }

    pub(crate) fn here(self) -> bool {
        self.state == Availability::Here
    }
}

impl Call {
    pub(crate) fn new(now: Moment, max_ms: u64, meant: bool) -> Self {
        Self { began: now, deadline: now.plus(max_ms), meant }
    }
}

impl Answered {
    pub(crate) fn new(answer: Answer, at: Moment) -> Self {
        Self { answer, at, serves: false, closed: false, went: false, left: Left::default() }
    }

    /// Nothing is left that a new call could hold.
    pub(crate) fn over(&self) -> bool {
        self.closed || self.went
    }
}

impl PodEnd {
    /// What a journal tells, with the drain that goes on unless it was answered. Where no app server
    /// was there for it, it ended with the process that began it.
    pub(crate) fn resumed(journal: Journal) -> Option<(Self, Option<ActiveDrain>)> {
        let Journal { drain_id, began, deadline, origin, generation, answer } = journal;
        if answer.as_ref().is_some_and(|answer| answer.result == DrainResult::NoAppServer) {
            return None;
        }
        let answered = answer.map(|answer| Answered::new(answer.clone(), began.plus(answer.held_ms)));
        let call = Call { began, deadline, meant: true };
        let active =
            answered.is_none().then(|| ActiveDrain { drain_id, ..ActiveDrain::new(call, generation) });
        Some((Self { drain_id, began, deadline, origin, termed: false, generation, answered }, active))
    }

    pub(crate) fn journal(&self) -> DrainEffect {
        DrainEffect::Journal(Some(Journal {
            drain_id: self.drain_id,
            began: self.began,
            deadline: self.deadline,
            origin: self.origin,
            generation: self.generation,
            answer: self.answered.as_ref().map(|after| after.answer.clone()),
        }))
    }
}

impl ActiveDrain {
    pub(crate) fn new(call: Call, generation: Option<GenerationKey>) -> Self {
        Self {
            drain_id: call.began.0,
            began: call.began,
            calls: vec![call],
            generation,
            watched_since: None,
            waiting: vec![WaitsFor::Quiet, WaitsFor::InFlight],
            waits: Vec::new(),
            peers_not_quiet: 0,
            last_peer: None,
            in_flight: None,
            upgraded: 0,
            in_work: Vec::new(),
            stuck_ms: None,
            evidence: Evidence::default(),
        }
    }

    /// One more call, in the order of their begin.
    pub(crate) fn join(&mut self, call: Call) {
        match self.calls.last_mut() {
            Some(last) if last.began == call.began => last.meant |= call.meant,
            _ => self.calls.push(call),
        }
    }

    /// Whether somebody waits whose call was meant.
    pub(crate) fn meant(&self) -> bool {
        self.calls.iter().any(|call| call.meant)
    }

    /// The oldest requests in work.
    pub(crate) fn named(&self) -> Vec<InWork> {
        self.in_work.iter().take(MOST_NAMED).map(|request| request.of).collect()
    }

    /// The call that people are told of: the last one that was meant, if any was.
    pub(crate) fn main(&self) -> Option<&Call> {
        self.calls.iter().rev().find(|call| call.meant).or(self.calls.last())
    }

    /// Notes what is waited for now.
    pub(crate) fn wait_for(&mut self, now: Moment, waiting: Vec<WaitsFor>) {
        let until_ms = now.since(self.began);
        for wait in self.waits.iter_mut().filter(|w| self.waiting.contains(&w.what)) {
            wait.until_ms = until_ms;
        }
        for &what in &waiting {
            match self.waits.iter_mut().find(|w| w.what == what) {
                Some(wait) => wait.until_ms = until_ms,
                None => self.waits.push(Wait { what, until_ms }),
            }
        }
        self.waiting = waiting;
    }

    /// What this call is answered.
    pub(crate) fn answer(&self, now: Moment, call: Call, min_ms: u64, result: DrainResult) -> Answer {
        let late = result.gives_up();
        let (held_ms, earlier_ms) = (now.since(call.began), call.began.since(self.began));
        let own = |wait: &Wait| {
            let until_ms = wait.until_ms.saturating_sub(earlier_ms);
            (until_ms > 0).then_some(Wait { until_ms, ..*wait })
        };
        let min = Wait { what: WaitsFor::Min, until_ms: min_ms.min(held_ms) };
        let waits: Vec<_> = Some(min)
            .filter(|min| min.until_ms > 0)
            .into_iter()
            .chain(self.waits.iter().filter_map(own))
            .collect();
        Answer {
            drain_id: self.drain_id,
            result,
            held_ms,
            requests_left: if late { self.in_flight.unwrap_or(0) } else { 0 },
            waited_for: waits.iter().map(|w| w.what).collect(),
            waits,
            last_peer: self.last_peer,
            evidence: self.evidence,
            upgraded: self.upgraded,
            left: if late { self.named() } else { Vec::new() },
            stuck_ms: self.stuck_ms.filter(|_| result == DrainResult::Stuck),
        }
    }
}
