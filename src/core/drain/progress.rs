//! Is a request ever answered? Where all threads hang, nothing is in flight that would end, and waiting for it would be
//! waiting for the deadline, while a liveness probe wants the server ended.

use std::collections::BTreeMap;

use crate::core::observation::{Connection, Moment, Traffic};

/// For so long nothing must have been answered while requests waited: twice the longest that was seen to be
/// answered, within these bounds.
const STUCK_MS: (u64, u64) = (20_000, 60_000);
/// More requests than these are not followed.
const MOST_FOLLOWED: usize = 1024;

/// What was answered, and when.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Progress {
    /// Since when nothing has been answered though requests wait.
    at: Option<Moment>,
    requests: Option<u64>,
    /// Each request in work: how much of its answer there is, and for how long it has been asked.
    in_work: BTreeMap<u64, (Option<u64>, u64)>,
    longest_ms: u64,
}

impl Progress {
    /// Takes in a look; `counts` says which connections do.
    pub(crate) fn look(&mut self, now: Moment, traffic: &Traffic, counts: impl Fn(&Connection) -> bool) {
        let told = traffic.workers.as_ref();
        let requests = told.map(|workers| workers.iter().map(|w| w.requests).sum::<u64>());
        let served = requests != std::mem::replace(&mut self.requests, requests);
        let answered = self.answered(traffic, &counts);
        let sockets = traffic.sockets.as_ref();
        let connections = || sockets.into_iter().flat_map(|s| &s.connections).filter(|c| !c.lost);
        let in_work = told.is_some_and(|workers| workers.iter().any(|w| w.busy > 0))
            || connections().any(Connection::busy);
        let queued = told.is_some_and(|workers| workers.iter().any(|w| w.backlog > 0))
            || sockets.is_some_and(|s| s.accept_queue > 0)
            // Who has given up waiting waits no more, but was not answered either.
            || connections().any(|c| c.unread > 0 || (c.half_closed && c.unanswered()));
        let hangs = !served && !answered && in_work && queued;
        self.at = hangs.then_some(self.at.unwrap_or(now));
    }

    fn answered(&mut self, traffic: &Traffic, counts: impl Fn(&Connection) -> bool) -> bool {
        let before = std::mem::take(&mut self.in_work);
        let Some(sockets) = &traffic.sockets else { return false };
        let ended = sockets.ended.iter().flatten();
        let mut answered = false;
        for connection in sockets.connections.iter().chain(ended).filter(|c| counts(c)) {
            let (sent, age_ms) = before.get(&connection.key).copied().unwrap_or((Some(0), 0));
            if connection.sent > sent {
                answered = true;
                self.longest_ms = self.longest_ms.max(age_ms);
            }
        }
        let in_work = sockets.connections.iter().take(MOST_FOLLOWED);
        let request = |c: &Connection| (c.key, (c.sent, c.request_age_ms().unwrap_or(0)));
        self.in_work = in_work.map(request).collect();
        answered
    }

    /// For how long nothing has been answered, if that is too long.
    pub(crate) fn stuck_ms(&self, now: Moment) -> Option<u64> {
        let limit_ms = (2 * self.longest_ms).clamp(STUCK_MS.0, STUCK_MS.1);
        self.at.map(|at| now.since(at)).filter(|ms| *ms >= limit_ms)
    }
}
