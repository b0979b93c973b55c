//! The criteria of a drain, at each look: is every sender silent, and is nothing in flight?

use super::{
    Drain, Evidence, InWork, Upgraded, WaitsFor,
    active::Availability,
    in_flight::SocketEvidence,
    left::Request,
    quiet::SenderId,
    socket_diff::{Sample, SocketDiff},
    types::Budget,
};
use crate::core::observation::{AppServer, Connection, Detection, Moment, Observation, Sockets, Traffic};

/// Requests in work that are followed after the answer.
const MOST_FOLLOWED: usize = 1024;
/// For less than this a thread of Puma's waits on a kept connection for the next request.
const NEXT_REQUEST_MS: u64 = 1000;

impl Drain {
    /// Learns from a look, whatever the state; says whether it tells of traffic at all.
    pub(super) fn learn(&mut self, now: Moment, observation: &Observation) -> bool {
        let server = match &observation.detection {
            Detection::Seen(server) => Some(server),
            Detection::NotPermitted => None,
            Detection::Missing => {
                self.generation = None;
                return false;
            }
            Detection::Unclear | Detection::Ambiguous => return false,
        };
        if let Some(server) = server {
            self.generation = server.generations.first().map(|g| g.key);
        }
        let traffic = &observation.traffic;
        let patience = self.budget.quiet_max_ms;
        self.control.look(observation.began, traffic.workers.is_some(), patience);
        self.sockets.look(observation.began, traffic.sockets.is_some(), patience);
        let draining = self.active.as_ref().is_some_and(|active| observation.began >= active.began);
        let beside = beside(traffic);
        let sample = Sample {
            now,
            draining,
            count_sent: traffic.workers.is_none(),
            unseen_is_ignored: beside == SocketEvidence::Sockets && !self.budget.ignore_peers.is_empty(),
            all_idle: self.control.here() && self.freshness.idle(server, 0),
        };
        if !draining {
            self.quiet.forget(now);
        }
        let arrived = traffic.sockets.as_ref().is_some_and(|s| self.quiet.sockets(&sample, s, &self.budget));
        if let Some(workers) = &traffic.workers {
            self.quiet.workers(&sample, workers);
            self.freshness.look(now, workers, beside);
        }
        if arrived || self.veto(observation) {
            self.freshness.disturb(now);
        }
        let (budget, diff) = (&self.budget, self.quiet.diff());
        self.progress.look(now, traffic, |c| counts(budget, diff, c));
        true
    }

    /// The socket table shows work. Without a control server a connection that may be busy counts
    /// as such for as long as the longest silence.
    fn veto(&self, observation: &Observation) -> bool {
        let Some(sockets) = &observation.traffic.sockets else { return false };
        let doubtful = |c: &Connection| {
            let age_ms = c.last_received_ms.unwrap_or(0);
            observation.traffic.workers.is_none() && c.ambiguous() && age_ms < self.budget.quiet_max_ms
        };
        let busy = |c: &Connection| (c.busy() || doubtful(c)) && self.counts(c);
        sockets.accept_queue > 0 || sockets.connections.iter().any(busy)
    }

    /// Whether this connection can hold the drain as one that carries requests.
    fn counts(&self, connection: &Connection) -> bool {
        counts(&self.budget, self.quiet.diff(), connection)
    }

    /// How many connections are such, of those that somebody else holds open.
    fn how_many(&self, sockets: Option<&Sockets>, such: impl Fn(&Connection) -> bool) -> u32 {
        let counted = |c: &&Connection| such(c) && !c.ours && !c.lost && !self.budget.ignores(c.peer);
        let count = sockets.map_or(0, |s| s.connections.iter().filter(counted).count());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Requests in flight as far as the traffic tells: the greater of what workers say (which may be
    /// seconds old) and what sockets show. `None` when neither could be read. A thread that waits on a kept
    /// connection for the next request counts as busy for a moment, and has none.
    fn in_flight(&self, traffic: &Traffic) -> Option<u32> {
        let sockets = traffic.sockets.as_ref();
        let shown = sockets
            .map(|s| s.accept_queue.saturating_add(self.how_many(sockets, |c| c.busy() && self.counts(c))));
        let waiting = |c: &Connection| !c.busy() && c.last_received_ms.is_some_and(|ms| ms < NEXT_REQUEST_MS);
        let none = self.how_many(sockets, |c| waiting(c) || self.quiet.diff().endless(c));
        let told = traffic.workers.as_ref().map(|workers| {
            let work =
                workers.iter().fold(0u32, |sum, w| sum.saturating_add(w.busy).saturating_add(w.backlog));
            work.saturating_sub(none)
        });
        told.max(shown)
    }

    /// Finds out what is still to be waited for.
    pub(super) fn evaluate(&mut self, now: Moment, observation: &Observation) {
        let server = match &observation.detection {
            Detection::Seen(server) => Some(server),
            _ => None,
        };
        let traffic = &observation.traffic;
        let ends = beside(traffic) == SocketEvidence::AllConnections;
        let evidence = Evidence { control: self.control.here(), sockets: self.sockets.here(), ends };
        let loud = self.quiet.loud(observation.began, &self.budget);
        let (sockets, diff) = (traffic.sockets.as_ref(), self.quiet.diff());
        let upgraded = self.how_many(sockets, |c| diff.upgraded(c));
        let waits = self.budget.upgraded == Upgraded::Wait;
        // What the look that proves all workers idle would not show: a websocket between two messages.
        let speaks = self.how_many(sockets, |c| diff.speaks(c, now));
        let endless = if waits { 0 } else { self.how_many(sockets, |c| diff.endless(c)) };
        let idle = self.idle(server, observation, endless) && (endless == 0 || speaks == 0);
        if idle && evidence.control {
            self.quiet.settle();
        }
        let provable = self.provable(traffic.sockets.as_ref());
        let (in_work, requests) = (self.in_work(traffic.sockets.as_ref()), self.in_flight(traffic));
        let stuck_ms = self.progress.stuck_ms(now);
        let Some(active) = &mut self.active else { return };
        if active.watched_since.is_none() && (evidence.control || evidence.sockets) {
            active.watched_since = Some(observation.began);
        }
        let long_enough = |since| observation.began.since(since) >= self.budget.quiet_min_ms;
        let watched = active.watched_since.is_some_and(long_enough);
        let unmet = [
            (WaitsFor::Quiet, !(watched && provable && loud.is_empty())),
            (WaitsFor::InFlight, !idle || (waits && upgraded + speaks > 0)),
        ];
        active.wait_for(now, unmet.into_iter().filter(|(_, unmet)| *unmet).map(|(what, _)| what).collect());
        active.evidence = evidence;
        (active.in_flight, active.stuck_ms) = (requests, stuck_ms);
        (active.upgraded, active.in_work) = (upgraded, in_work);
        active.peers_not_quiet = loud.len();
        if let Some(sender) = loud.last() {
            active.last_peer = if let SenderId::Peer(peer) = sender { Some(*peer) } else { None };
        }
    }

    /// The requests that the table shows, the oldest first.
    fn in_work(&self, sockets: Option<&Sockets>) -> Vec<Request> {
        let connections = sockets.into_iter().flat_map(|s| &s.connections).filter(|c| self.counts(c));
        let request = |c: &Connection| {
            let of = InWork { peer: c.peer, age_ms: c.request_age_ms()? };
            Some(Request { key: c.key, sent: c.sent, of })
        };
        let mut requests: Vec<_> = connections.filter_map(request).collect();
        requests.sort_by_key(|request| std::cmp::Reverse(request.of.age_ms));
        requests.truncate(MOST_FOLLOWED);
        requests
    }

    /// Nothing is in flight, by every witness there is.
    fn idle(&self, server: Option<&AppServer>, observation: &Observation, but_for: u32) -> bool {
        let proven = match (self.control.state, self.sockets.state) {
            (Availability::Missed, _) | (_, Availability::Missed) => false,
            (Availability::Here, _) => self.freshness.idle(server, but_for),
            (Availability::Absent, sockets) => sockets == Availability::Here,
        };
        proven && !self.veto(observation)
    }

    /// Whether silence can be seen at all: without a control server a connection whose byte counters
    /// are unknown may carry requests that no look catches.
    fn provable(&self, sockets: Option<&Sockets>) -> bool {
        let counted =
            |s: &Sockets| s.connections.iter().all(|c| c.received.is_some() || self.budget.ignores(c.peer));
        self.control.here() || sockets.is_some_and(counted)
    }
}

/// Whether this connection can carry requests that count.
fn counts(budget: &Budget, diff: &SocketDiff, connection: &Connection) -> bool {
    !connection.ours && !connection.lost && !budget.ignores(connection.peer) && !diff.upgraded(connection)
}

/// What there is beside the workers' own numbers.
fn beside(traffic: &Traffic) -> SocketEvidence {
    match &traffic.sockets {
        None => SocketEvidence::Nothing,
        Some(sockets) if sockets.ended.is_some() => SocketEvidence::AllConnections,
        Some(_) => SocketEvidence::Sockets,
    }
}
