//! One drain from its begin to its answer: what it waits for, and by which witnesses.

use std::net::IpAddr;

use super::words::{Answer, Cut, DrainEffect, DrainResult, Evidence, Journal, Origin, Wait, WaitsFor};
use crate::core::observation::{GenerationKey, Moment};

/// A drain under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Course {
    pub began: Moment,
    pub drain_id: u64,
    pub deadline: Moment,
    pub origin: Origin,
    /// SIGTERM came to this agent.
    pub termed: bool,
    /// The image that is to end.
    pub generation: Option<GenerationKey>,
    /// The first look of this drain that told of traffic.
    pub watched_since: Option<Moment>,
    pub waiting: Vec<WaitsFor>,
    pub waits: Vec<Wait>,
    pub peers_not_quiet: usize,
    pub last_peer: Option<IpAddr>,
    pub in_flight: Option<u32>,
    /// Websockets and the like.
    pub upgraded: u32,
    /// Requests in flight, the oldest first: what would be cut now.
    pub cut: Vec<Cut>,
    pub evidence: Evidence,
}

/// Whether a source of evidence is there. One that was there a moment ago is missed before it is
/// given up: a control server refuses for some 100 ms in a hot restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Witness {
    pub last: Option<Moment>,
    pub state: Testimony,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Testimony {
    Here,
    Missed,
    #[default]
    Absent,
}

impl Witness {
    pub fn look(&mut self, began: Moment, here: bool, patience_ms: u64) {
        if here {
            self.last = Some(began);
        }
        self.state = match self.last {
            _ if here => Testimony::Here,
            Some(last) if began.since(last) <= patience_ms => Testimony::Missed,
            _ => Testimony::Absent,
        };
    }

    pub fn here(self) -> bool {
        self.state == Testimony::Here
    }
}

impl Course {
    pub fn new(now: Moment, origin: Origin, max_ms: u64, generation: Option<GenerationKey>) -> Self {
        Self {
            drain_id: now.0,
            began: now,
            deadline: now.plus(max_ms),
            origin,
            termed: origin == Origin::Term,
            generation,
            watched_since: None,
            waiting: vec![WaitsFor::Min, WaitsFor::Quiet, WaitsFor::InFlight],
            waits: Vec::new(),
            peers_not_quiet: 0,
            last_peer: None,
            in_flight: None,
            upgraded: 0,
            cut: Vec::new(),
            evidence: Evidence::default(),
        }
    }

    pub fn resumed(journal: &Journal) -> Self {
        let fresh = Self::new(journal.began, journal.origin, 0, journal.generation);
        Self { drain_id: journal.drain_id, deadline: journal.deadline, termed: false, ..fresh }
    }

    pub fn journal(&self, answer: Option<&Answer>) -> DrainEffect {
        DrainEffect::Journal(Some(Journal {
            drain_id: self.drain_id,
            began: self.began,
            deadline: self.deadline,
            origin: self.origin,
            generation: self.generation,
            answer: answer.cloned(),
        }))
    }

    /// Notes what is waited for now.
    pub fn wait_for(&mut self, now: Moment, waiting: Vec<WaitsFor>) {
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

    pub fn answer(&self, now: Moment, result: DrainResult) -> Answer {
        let late = result == DrainResult::Deadline;
        Answer {
            drain_id: self.drain_id,
            result,
            held_ms: now.since(self.began),
            requests_left: if late { self.in_flight.unwrap_or(0) } else { 0 },
            waited_for: self.waits.iter().map(|w| w.what).collect(),
            waits: self.waits.clone(),
            last_peer: self.last_peer,
            evidence: self.evidence,
            upgraded: self.upgraded,
            cut: if late { self.cut.clone() } else { Vec::new() },
        }
    }
}
