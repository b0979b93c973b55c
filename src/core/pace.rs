//! How long until the app server is looked at again. Each look costs the pod something, and a pod at rest has
//! little to show: it is looked at more and more seldom, and more often again as soon as something happens.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    Watchfulness,
    observation::{Detection, Observation, Traffic},
};

/// While something goes on.
const CLOSE_MS: u64 = 100;
/// While two servers share the traffic.
const STEADY_MS: u64 = 500;
/// With traffic, or without an app server.
const CALM_MS: u64 = 1000;
/// At rest. Nothing that happens is noticed later than this, and a beginning drain or deploy waits for no pause.
const REST_MS: u64 = 5000;

/// What the last look showed, and how often to look.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<(Detection, u64)>,
    calm_ms: u64,
}

impl Pace {
    /// Takes in a look.
    pub(crate) fn take(&mut self, look: &Observation) {
        let now = (look.detection.clone(), activity(&look.traffic));
        let before = self.last.replace(now);
        self.calm_ms = match (&before, &self.last) {
            (Some((detection, traffic)), Some((now, now_traffic))) if detection == now && rests(now) => {
                let silent = traffic == now_traffic && !some_ended(&look.traffic);
                // Halved, and not the shortest at once: a prober's request each few seconds is rest as well.
                let pause = if silent { self.calm_ms * 2 } else { self.calm_ms / 2 };
                pause.clamp(CALM_MS, REST_MS)
            }
            _ => CALM_MS,
        };
    }

    /// The pause until the next look, in milliseconds. `stale`: a later look is waited for than the last one.
    pub(crate) fn pause_ms(&self, watchfulness: Watchfulness, stale: bool) -> u64 {
        match watchfulness {
            _ if stale => 0,
            Watchfulness::Calm => self.calm_ms.max(CALM_MS),
            Watchfulness::Steady => STEADY_MS,
            Watchfulness::Close => CLOSE_MS,
        }
    }
}

/// An app server that is missing is looked for.
fn rests(detection: &Detection) -> bool {
    matches!(detection, Detection::Seen(_))
}

/// Short connections may show nowhere else.
fn some_ended(traffic: &Traffic) -> bool {
    let ended = traffic.sockets.iter().flat_map(|sockets| &sockets.ended);
    ended.into_iter().any(|ended| !ended.is_empty())
}

/// What has been asked and answered so far, as a number that changes with it.
fn activity(traffic: &Traffic) -> u64 {
    let mut hasher = DefaultHasher::new();
    for worker in traffic.workers.iter().flatten() {
        (worker.key, worker.requests, worker.busy, worker.backlog).hash(&mut hasher);
    }
    for connection in traffic.sockets.iter().flat_map(|sockets| &sockets.connections) {
        (connection.key, connection.received, connection.sent, connection.unread).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{AppServer, Moment, ProcessKey, WorkerLoad};

    fn after(requests: u64) -> Observation {
        let load = WorkerLoad { key: ProcessKey(1), requests, busy: 0, backlog: 0, checkin: requests };
        let traffic = Traffic { workers: Some(vec![load]), sockets: None };
        Observation::new(Moment(0), Detection::Seen(AppServer::default()), traffic)
    }

    fn pauses(pace: &mut Pace, looks: impl IntoIterator<Item = Observation>) -> Vec<u64> {
        let pause = |look| {
            pace.take(&look);
            pace.pause_ms(Watchfulness::Calm, false)
        };
        looks.into_iter().map(pause).collect()
    }

    #[test]
    fn an_idle_pod_is_looked_at_less_often_until_requests_come() {
        let mut pace = Pace::default();
        let idle = pauses(&mut pace, (0..7).map(|_| after(7)));
        assert!(idle.is_sorted() && idle[0] == CALM_MS, "{idle:?}");
        assert_eq!(idle.last(), Some(&REST_MS));
        assert_eq!(pauses(&mut pace, (8..12).map(after)), [2500, 1250, CALM_MS, CALM_MS]);
    }

    #[test]
    fn a_prober_keeps_nobody_awake() {
        let mut pace = Pace::default();
        pauses(&mut pace, (0..7).map(|_| after(7)));
        let (mut now_ms, mut looks) = (0, 0);
        while now_ms < 600_000 {
            // A request each five seconds.
            pace.take(&after(7 + now_ms / 5000));
            (now_ms, looks) = (now_ms + pace.pause_ms(Watchfulness::Calm, false), looks + 1);
        }
        assert!(looks < 240, "{looks}");
    }

    #[test]
    fn whatever_else_changes_is_followed_at_once() {
        let mut pace = Pace::default();
        pauses(&mut pace, (0..7).map(|_| after(7)));
        let other = AppServer { old_workers: true, ..AppServer::default() };
        let restarted = Observation { detection: Detection::Seen(other), ..after(7) };
        assert_eq!(pauses(&mut pace, [restarted]), [CALM_MS]);
        assert_eq!(pace.pause_ms(Watchfulness::Close, false), CLOSE_MS);
        for watchfulness in [Watchfulness::Calm, Watchfulness::Close] {
            assert_eq!(pace.pause_ms(watchfulness, true), 0, "the core waits for the next look");
        }
    }

    #[test]
    fn a_missing_app_server_is_looked_for_without_a_longer_pause() {
        let missing = || Observation { detection: Detection::Missing, ..after(0) };
        assert_eq!(pauses(&mut Pace::default(), (0..4).map(|_| missing())), [CALM_MS; 4]);
    }
}
