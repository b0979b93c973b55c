//! Is anything in flight? The control server's numbers are copies that each worker pushes every few
//! seconds: an idle one proves something only if it is newer than the last traffic. Its clock is
//! never compared with ours, so each worker must check in twice: the first of these may have
//! been under way already when the traffic was seen. The socket table is a veto.

use std::collections::BTreeMap;

use crate::core::ProcessKey;
use crate::core::observation::{AppServer, Traffic, WorkerLoad};

/// How many check-ins after the last traffic make a worker's numbers fresh.
const CHECKINS: u8 = 2;

/// Requests in flight as far as the traffic tells: the greater of what workers say (which may be
/// seconds old) and what sockets show. `None` when neither could be read.
pub fn in_flight(traffic: &Traffic) -> Option<u32> {
    let workers = traffic.workers.as_ref().map(|workers| {
        workers.iter().fold(0u32, |sum, w| sum.saturating_add(w.busy).saturating_add(w.backlog))
    });
    let sockets = traffic.sockets.as_ref().map(|sockets| {
        let busy = sockets.connections.iter().filter(|c| c.busy()).count();
        sockets.accept_queue.saturating_add(u32::try_from(busy).unwrap_or(u32::MAX))
    });
    workers.max(sockets)
}

/// How fresh each worker's numbers are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Freshness {
    workers: BTreeMap<ProcessKey, Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seen {
    checkin: u64,
    requests: u64,
    idle: bool,
    /// Check-ins since the last traffic, at most [`CHECKINS`].
    advances: u8,
}

impl Seen {
    fn first(worker: &WorkerLoad) -> Self {
        let idle = worker.busy == 0 && worker.backlog == 0;
        Self { checkin: worker.checkin, requests: worker.requests, idle, advances: 0 }
    }

    /// With sockets as a second witness, a check-in that told of work is itself the first of the
    /// two: the next one was certainly taken after it.
    fn next(&self, worker: &WorkerLoad, sockets: bool) -> Self {
        let mut next = Self::first(worker);
        if worker.checkin < self.checkin {
            return next;
        }
        let advanced = worker.checkin > self.checkin;
        let worked = !next.idle || worker.requests != self.requests;
        next.advances = match (worked, advanced) {
            (true, true) if sockets => 1,
            (true, _) => 0,
            (false, true) => (self.advances + 1).min(CHECKINS),
            (false, false) => self.advances,
        };
        next
    }
}

impl Freshness {
    /// Takes in the workers' numbers.
    pub fn look(&mut self, workers: &[WorkerLoad], sockets: bool) {
        let seen =
            |w: &WorkerLoad| self.workers.get(&w.key).map_or_else(|| Seen::first(w), |s| s.next(w, sockets));
        self.workers = workers.iter().map(|w| (w.key, seen(w))).collect();
    }

    /// Traffic was seen: older numbers prove nothing any more.
    pub fn disturb(&mut self) {
        for seen in self.workers.values_mut() {
            seen.advances = 0;
        }
    }

    /// Whether every worker is idle by fresh numbers. Workers of an ended phase finish their
    /// requests without telling any more.
    pub fn idle(&self, server: Option<&AppServer>) -> bool {
        let fresh = |seen: &Seen| seen.idle && seen.advances >= CHECKINS;
        let processes = server.into_iter().flat_map(|s| &s.generations).flat_map(|g| &g.processes);
        let told = processes.filter(|p| p.booted).all(|p| self.workers.contains_key(&p.key));
        told && !server.is_some_and(|s| s.old_workers)
            && !self.workers.is_empty()
            && self.workers.values().all(fresh)
    }
}
