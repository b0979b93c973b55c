//! Is anything in flight? The control server's numbers are copies that each worker pushes every few
//! seconds: an idle one proves something only if it is newer than the last traffic. Its clock is
//! never compared with ours, so each worker must check in twice: the first of these may have
//! been under way already when the traffic was seen. SocketEvidence a socket table one is enough that comes a
//! good while later. The socket table is a veto.

use std::collections::BTreeMap;

use crate::core::ProcessKey;
use crate::core::observation::{AppServer, Moment, WorkerLoad};

/// How many check-ins after the last traffic make a worker's numbers fresh.
const CHECKINS: u8 = 2;

/// Numbers are under way from a worker to us for less than this.
const UNDER_WAY_MS: u64 = 1000;

/// How fresh each worker's numbers are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Freshness {
    workers: BTreeMap<ProcessKey, WorkerFreshness>,
    /// The look before. What is new has come since.
    looked: Option<Moment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct WorkerFreshness {
    checkin: u64,
    requests: u64,
    idle: bool,
    /// Requests being served or waiting.
    work: u32,
    /// Check-ins since the last traffic, at most [`CHECKINS`].
    advances: u8,
    disturbed: Moment,
}

/// How the other witness can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketEvidence {
    Nothing,
    Sockets,
    /// The socket table, and every connection that ended: a request that a worker counts was seen.
    AllConnections,
}

impl WorkerFreshness {
    fn first(worker: &WorkerLoad, now: Moment) -> Self {
        let idle = worker.busy == 0 && worker.backlog == 0;
        let work = worker.busy.saturating_add(worker.backlog);
        Self { checkin: worker.checkin, requests: worker.requests, idle, work, advances: 0, disturbed: now }
    }

    /// With sockets as a second witness, a check-in that told of work is itself the first of the
    /// two: the next one was certainly taken after it.
    fn next(&self, worker: &WorkerLoad, now: Moment, looked: Moment, beside: SocketEvidence) -> Self {
        let mut next = Self::first(worker, now);
        if worker.checkin < self.checkin {
            return next;
        }
        let advanced = worker.checkin > self.checkin;
        let counted = worker.requests != self.requests && beside != SocketEvidence::AllConnections;
        let long_after = beside != SocketEvidence::Nothing && looked.since(self.disturbed) >= UNDER_WAY_MS;
        next.advances = match (!next.idle || counted, advanced) {
            (true, true) if beside != SocketEvidence::Nothing => 1,
            (true, _) => 0,
            (false, true) if long_after => CHECKINS,
            (false, true) => (self.advances + 1).min(CHECKINS),
            (false, false) => self.advances,
        };
        if next.idle && !counted {
            next.disturbed = self.disturbed;
        }
        next
    }
}

impl Freshness {
    /// Takes in the workers' numbers.
    pub(crate) fn look(&mut self, now: Moment, workers: &[WorkerLoad], beside: SocketEvidence) {
        let looked = self.looked.replace(now).unwrap_or(now);
        let seen = |w: &WorkerLoad| {
            self.workers
                .get(&w.key)
                .map_or_else(|| WorkerFreshness::first(w, now), |s| s.next(w, now, looked, beside))
        };
        self.workers = workers.iter().map(|w| (w.key, seen(w))).collect();
    }

    /// Traffic was seen: older numbers prove nothing any more.
    pub(crate) fn disturb(&mut self, now: Moment) {
        for seen in self.workers.values_mut() {
            (seen.advances, seen.disturbed) = (0, now);
        }
    }

    /// Whether no worker has more to do, by fresh numbers, than so many requests in all. Workers of an ended
    /// phase finish their requests without telling any more.
    pub(crate) fn idle(&self, server: Option<&AppServer>, but_for: u32) -> bool {
        let fresh = |seen: &WorkerFreshness| match seen.idle {
            true => seen.advances >= CHECKINS,
            false => but_for > 0 && seen.advances > 0,
        };
        let busy = self.workers.values().fold(0u32, |sum, seen| sum.saturating_add(seen.work));
        let processes = server.into_iter().flat_map(|s| &s.generations).flat_map(|g| &g.processes);
        let told = processes.filter(|p| p.booted).all(|p| self.workers.contains_key(&p.key));
        told && !server.is_some_and(|s| s.old_workers)
            && !self.workers.is_empty()
            && self.workers.values().all(fresh)
            && busy <= but_for
    }
}
