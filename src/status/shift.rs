//! A step of the shift, in /status.

use serde::Serialize;

use super::seconds;
use crate::core::{Moment, Sharing};

/// The second server has a share of the new connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ShiftStatus {
    /// From 1.
    step: usize,
    steps: usize,
    /// Of the new connections. Those that clients keep open stay with the earlier server.
    percent: f64,
    /// For how long.
    seconds: f64,
    /// What it has served in this step; `null` where nobody counts.
    requests: Option<u64>,
    /// How much that has to be.
    requests_wanted: u64,
    /// How much longer the step lasts at least.
    bake_seconds_left: f64,
    /// How much longer it lasts at most.
    seconds_left: f64,
}

impl ShiftStatus {
    pub(crate) fn of(sharing: &Sharing, now: Moment) -> Self {
        let left = |ms: u64| seconds(sharing.since.plus(ms).since(now));
        Self {
            step: sharing.step,
            steps: sharing.steps,
            percent: f64::from(sharing.permille) / 10.0,
            seconds: seconds(now.since(sharing.since)),
            requests: sharing.requests,
            requests_wanted: sharing.requests_wanted,
            bake_seconds_left: left(sharing.bake_ms),
            seconds_left: left(sharing.timeout_ms),
        }
    }
}

/// What is being done, in a sentence.
pub(crate) fn doing(to: &str, sharing: &Sharing) -> String {
    let Sharing { step, steps, requests, requests_wanted, .. } = sharing;
    let percent = f64::from(sharing.permille) / 10.0;
    let served = match requests {
        Some(requests) => format!("{requests} of {requests_wanted} requests served"),
        None => "its requests are not counted".into(),
    };
    format!("{to} gets {percent} % of new connections (step {step} of {steps}): {served}")
}

/// What the step waits for.
pub(crate) fn next(sharing: &Sharing, now: Moment) -> String {
    let left = |ms: u64| format!("{:.0} s", seconds(sharing.since.plus(ms).since(now)).ceil());
    let last = if sharing.step == sharing.steps { "all connections" } else { "the next step" };
    let enough = sharing.requests.is_some_and(|requests| requests >= sharing.requests_wanted);
    let (bake, most) = (left(sharing.bake_ms), left(sharing.timeout_ms));
    match (enough, sharing.since.plus(sharing.bake_ms) > now) {
        (true, true) => format!("{last} in {bake} (restart.bake)"),
        (true, false) => format!("{last} now"),
        (false, true) => {
            format!("{last} after {bake} (restart.bake) and enough requests, in {most} at the latest")
        }
        (false, false) => format!("{last} after enough requests, in {most} at the latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharing(requests: Option<u64>) -> Sharing {
        Sharing {
            permille: 105,
            step: 1,
            steps: 2,
            since: Moment(10_000),
            requests,
            requests_wanted: 20,
            bake_ms: 60_000,
            timeout_ms: 600_000,
        }
    }

    #[test]
    fn a_step_says_what_was_served_and_what_it_waits_for() {
        let now = Moment(15_500);
        let served = sharing(Some(14));
        assert_eq!(
            doing("v2#2", &served),
            "v2#2 gets 10.5 % of new connections (step 1 of 2): 14 of 20 requests served"
        );
        assert_eq!(
            next(&served, now),
            "the next step after 55 s (restart.bake) and enough requests, in 595 s at the latest"
        );
        assert_eq!(next(&sharing(Some(20)), now), "the next step in 55 s (restart.bake)");
        let late = Moment(80_000);
        let last = Sharing { step: 2, ..sharing(None) };
        assert_eq!(next(&last, late), "all connections after enough requests, in 530 s at the latest");
        assert_eq!(next(&sharing(Some(20)), late), "the next step now");
        assert!(doing("v2#2", &last).ends_with("(step 2 of 2): its requests are not counted"));
        let shown = serde_json::to_value(ShiftStatus::of(&served, now)).unwrap();
        let wanted = serde_json::json!({
            "step": 1, "steps": 2, "percent": 10.5, "seconds": 5.5, "requests": 14, "requests_wanted": 20,
            "bake_seconds_left": 54.5, "seconds_left": 594.5,
        });
        assert_eq!(shown, wanted);
    }
}
