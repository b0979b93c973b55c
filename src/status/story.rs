//! /status in sentences: what this pod is doing, what will happen next, and for how long it has been so.

use serde::Serialize;

use super::{Snapshot, seconds, shift};
use crate::{
    app_server::SlotDescription,
    core::{
        Hold, Moment, Reason, Stage, View,
        drain::{DrainView, InWork, WaitsFor},
    },
    slots::Role,
};

/// Since when things are as they are, as far as this process has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since {
    stage: Moment,
    in_sync: Moment,
    reason: Moment,
}

/// For how long, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct ForSeconds {
    pub(crate) stage: f64,
    /// In sync, or not.
    pub(crate) in_sync: f64,
    /// The reason, where there is one.
    pub(crate) reason: Option<f64>,
}

impl Since {
    pub(crate) fn beginning(now: Moment) -> Self {
        Self { stage: now, in_sync: now, reason: now }
    }

    /// What has changed since the last snapshot begins now.
    pub(crate) fn after(before: &Snapshot, view: &View, now: Moment) -> Self {
        let keep = |same: bool, since: Moment| if same { since } else { now };
        let reason = |view: &View| view.problem.as_ref().map(|problem| problem.reason);
        let (old, since) = (&before.view, before.since);
        Self {
            stage: keep(old.stage == view.stage, since.stage),
            in_sync: keep(old.in_sync == view.in_sync, since.in_sync),
            reason: keep(reason(old) == reason(view), since.reason),
        }
    }

    /// How long ago that was.
    pub(crate) fn ago(self, view: &View, now: Moment) -> ForSeconds {
        let ago = |since: Moment| seconds(now.since(since));
        ForSeconds {
            stage: ago(self.stage),
            in_sync: ago(self.in_sync),
            reason: view.problem.as_ref().map(|_| ago(self.reason)),
        }
    }
}

/// What is being done.
pub(crate) fn doing(snapshot: &Snapshot) -> String {
    let view = &snapshot.view;
    if let Some(drain) = snapshot.drain.as_ref().filter(|drain| drain.meant) {
        return draining(drain);
    }
    let to = goal(view);
    match view.stage {
        Stage::Steady => match with_role(snapshot, Role::Lingering) {
            Some(_) => "idle: following the pointer, while the earlier server finishes its requests".into(),
            None => "idle: following the pointer".into(),
        },
        Stage::Fetching => match &snapshot.fetching_pod {
            Some(pod) => format!("waiting for pod {pod}, which is fetching {to}"),
            None => format!("fetching {to}"),
        },
        Stage::Checking if view.turn.is_some() => format!("waiting for this pod's turn to restart onto {to}"),
        Stage::Checking => format!("checking whether the app server can be restarted onto {to}"),
        Stage::Publishing => format!("switching `current` to {to}"),
        Stage::Restarting => format!("restarting the app server onto {to}"),
        Stage::Verifying if let Some(sharing) = &view.sharing => shift::doing(&to, sharing),
        Stage::Verifying if with_role(snapshot, Role::Candidate).is_some() => {
            format!("checking {to} in a second server, which no client reaches yet")
        }
        Stage::Verifying => format!("verifying that the app server runs {to}{}", progress(snapshot)),
        Stage::Committing => format!("recording that {to} runs"),
        Stage::Reverting => format!("rolling back from {to}"),
        Stage::Stranded => format!("stranded: neither {to} nor the previous release boots"),
    }
}

fn with_role(snapshot: &Snapshot, role: Role) -> Option<&SlotDescription> {
    snapshot.app_server.slots.iter().find(|slot| slot.role == role)
}

/// Where the move that is under way goes.
fn goal(view: &View) -> String {
    match (&view.hold, &view.desired) {
        (Some(Hold::Reverted(release)), _) => release.to_string(),
        (_, Some(desired)) => desired.to_string(),
        (_, None) => "the release".into(),
    }
}

fn progress(snapshot: &Snapshot) -> String {
    let workers = &snapshot.app_server.workers;
    let goal = match (&snapshot.view.hold, &snapshot.view.desired) {
        (Some(Hold::Reverted(release)), _) => Some(release),
        (_, desired) => desired.as_ref().map(|desired| &desired.release),
    };
    let there = workers.iter().filter(|worker| worker.booted && worker.release.as_ref() == goal).count();
    if workers.is_empty() { String::new() } else { format!(" ({there} of {} workers)", workers.len()) }
}

fn draining(drain: &DrainView) -> String {
    if drain.answered {
        return "drained: /prestop was answered".into();
    }
    let waits: Vec<_> = drain.waits_for.iter().map(|wait| waits_for(*wait, drain)).collect();
    match &waits[..] {
        [] => "draining".into(),
        waits => format!("draining: waiting for {}", waits.join("; for ")),
    }
}

/// One thing that a drain waits for, with what is known of it.
fn waits_for(wait: WaitsFor, drain: &DrainView) -> String {
    match wait {
        WaitsFor::Min => "drain.min".into(),
        WaitsFor::Quiet => match drain.peers_not_quiet {
            0 => "traffic to stop (just started watching)".into(),
            1 => "1 sender to stop sending".into(),
            senders => format!("{senders} senders to stop sending"),
        },
        WaitsFor::InFlight => in_flight(drain),
    }
}

fn in_flight(drain: &DrainView) -> String {
    let count = drain.requests_in_flight.unwrap_or(0) as usize;
    let requests = match count.max(drain.in_work.len()) {
        0 if drain.upgraded > 0 => {
            return format!("{} upgraded connections (websockets) to close", drain.upgraded);
        }
        0 => return "proof that no request is in flight".into(),
        1 => "1 request".into(),
        count => format!("{count} requests"),
    };
    let age =
        |request: &InWork| format!("from {}, {:.0} s old", request.peer, seconds(request.age_ms).floor());
    let known: Vec<_> = drain.in_work.iter().map(age).collect();
    if known.is_empty() { requests } else { format!("{requests}: {}", known.join(", ")) }
}

/// What will happen if nobody does anything, or what has to happen.
pub(crate) fn next(snapshot: &Snapshot, now: Moment) -> String {
    let view = &snapshot.view;
    if let Some(drain) = snapshot.drain.as_ref().filter(|drain| drain.meant) {
        return after_the_drain(drain, now);
    }
    let in_seconds = |at: Moment| format!("{:.0} s", seconds(at.since(now)).ceil());
    if let (Some(at), false) = (view.retry_at, view.stage == Stage::Steady) {
        return format!("retry in {}", in_seconds(at));
    }
    if let Some(sharing) = &view.sharing {
        return match view.hold {
            Some(_) => "nothing until `pitstop resume`: the share stays as it is".into(),
            None => shift::next(sharing, now),
        };
    }
    match view.stage {
        Stage::Steady | Stage::Stranded => at_rest(view),
        Stage::Fetching | Stage::Checking if view.hold == Some(Hold::Paused) => {
            "nothing until `pitstop resume`".into()
        }
        Stage::Fetching | Stage::Checking if matches!(view.hold, Some(Hold::FleetPaused(_))) => {
            "nothing until `pitstop resume --fleet`".into()
        }
        Stage::Fetching | Stage::Checking if matches!(view.hold, Some(Hold::SignatureExpired(_))) => {
            "nothing until the pointer is signed again".into()
        }
        Stage::Fetching => "the release is verified and unpacked, then the app server restarts onto it".into(),
        Stage::Checking => match view.turn {
            Some(at) => format!("the restart, in {}", in_seconds(at)),
            None => "`current` is switched and the app server restarts as soon as possible".into(),
        },
        Stage::Publishing => "the app server restarts".into(),
        Stage::Restarting => "every worker is checked until it runs the release".into(),
        Stage::Verifying if newborn_unwell(view) => {
            "in sync as soon as verify.url succeeds; if that takes too long, the previous release is tried".into()
        }
        Stage::Verifying => "the deploy succeeds when all checks pass for verify.soak; otherwise it is rolled \
                             back".into(),
        Stage::Committing => "in sync".into(),
        Stage::Reverting if newborn_unwell(view) => {
            "if the previous release is healthy, it serves while the desired one is retried; otherwise the pod \
             returns to the desired one and waits"
                .into()
        }
        Stage::Reverting => "the previous release serves, and this move is not retried".into(),
    }
}

/// The health path fails in a pod that has nothing good to compare the release with: nothing is rejected.
fn newborn_unwell(view: &View) -> bool {
    let failed = view.problem.as_ref().is_some_and(|problem| problem.reason == Reason::ProbeFailed);
    failed && !view.rejected.iter().any(|(revision, _)| Some(revision) == view.desired.as_ref())
}

fn at_rest(view: &View) -> String {
    let reason = view.problem.as_ref().map(|problem| problem.reason);
    match (&view.hold, reason, view.stage) {
        (Some(Hold::Paused), ..) => "nothing until `pitstop resume`".into(),
        (Some(Hold::FleetPaused(_)), ..) => "nothing until `pitstop resume --fleet`".into(),
        (Some(Hold::SignatureExpired(_)), ..) => "nothing until the pointer is signed again".into(),
        (Some(Hold::Reverted(_)), ..) => "nothing until the pointer moves or `pitstop resume` is run".into(),
        (None, _, Stage::Stranded) => {
            "the agent waits until the pointer moves or the app server boots".into()
        }
        (None, Some(Reason::Rejected), _) => {
            "nothing until the pointer moves or `pitstop sync --retry` is run".into()
        }
        (None, Some(Reason::ConfigInvalid), _) => {
            "nothing until the configuration is fixed and the agent restarted".into()
        }
        (None, Some(_), _) => "the agent retries until it succeeds".into(),
        (None, None, _) => "the next move of the pointer".into(),
    }
}

fn after_the_drain(drain: &DrainView, now: Moment) -> String {
    if drain.answered {
        return "SIGTERM from the kubelet; if none comes and the app server keeps serving, the drain is \
                cancelled automatically"
            .into();
    }
    format!(
        "/prestop is answered after that, in {:.0} s at the latest",
        seconds(drain.deadline.since(now)).ceil()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Problem, drain::Evidence};

    fn snapshot(change: impl FnOnce(&mut View)) -> Snapshot {
        let mut snapshot = Snapshot::unknown(Moment(1_000), Problem::new(Reason::Internal, ""));
        snapshot.view.problem = None;
        snapshot.view.desired =
            Some(crate::revision::Revision { release: "v3".parse().unwrap(), sequence: Some(3) });
        change(&mut snapshot.view);
        snapshot
    }

    #[test]
    fn what_has_not_changed_goes_on_counting() {
        let before = snapshot(|_| ());
        let mut view = before.view.clone();
        view.stage = Stage::Fetching;
        view.problem = Some(Problem::new(Reason::StoreUnreachable, "first"));
        let mut after = before.clone();
        after.since = Since::after(&before, &view, Moment(5_000));
        after.view = view.clone();
        let ago = after.since.ago(&view, Moment(6_000));
        assert_eq!(ago, ForSeconds { stage: 1.0, in_sync: 5.0, reason: Some(1.0) });
        view.problem = Some(Problem::new(Reason::StoreUnreachable, "the same in other words"));
        let later = Since::after(&after, &view, Moment(7_000));
        assert_eq!(later, after.since);
    }

    #[test]
    fn every_stage_says_what_is_done_and_what_comes() {
        for stage in Stage::ALL {
            let snapshot = snapshot(|view| view.stage = stage);
            assert!(!doing(&snapshot).is_empty() && !next(&snapshot, Moment(0)).is_empty(), "{stage:?}");
        }
    }

    #[test]
    fn of_two_servers_it_is_said_which_is_checked_and_which_ends() {
        let told = |stage, role| {
            let mut snapshot = snapshot(|view| view.stage = stage);
            let description = std::sync::Arc::make_mut(&mut snapshot.app_server);
            let (slot, memory_bytes) = (crate::slots::Slot::B, None);
            description.slots.push(SlotDescription {
                slot,
                role,
                release: None,
                pid: 7,
                weight: 0,
                memory_bytes,
                requests: None,
                errors: None,
                p95_ms: None,
            });
            doing(&snapshot)
        };
        assert!(told(Stage::Verifying, Role::Candidate).contains("no client reaches"));
        assert!(told(Stage::Steady, Role::Lingering).contains("the earlier server finishes its requests"));
    }

    #[test]
    fn who_waits_for_the_fetch_of_another_pod_names_it() {
        let mut snapshot = snapshot(|view| view.stage = Stage::Fetching);
        assert_eq!(doing(&snapshot), "fetching v3#3");
        snapshot.fetching_pod = Some("web-2".into());
        assert_eq!(doing(&snapshot), "waiting for pod web-2, which is fetching v3#3");
    }

    #[test]
    fn what_waits_for_somebody_names_the_command() {
        for (part, snapshot) in [
            ("pitstop resume", snapshot(|view| view.hold = Some(Hold::Paused))),
            (
                "pitstop resume --fleet",
                snapshot(|view| view.hold = Some(Hold::FleetPaused(crate::revision::Note::default()))),
            ),
            ("pitstop resume", snapshot(|view| view.hold = Some(Hold::Reverted("v1".parse().unwrap())))),
            ("sync --retry", snapshot(|view| view.problem = Some(Problem::new(Reason::Rejected, "")))),
        ] {
            let next = next(&snapshot, Moment(0));
            assert!(next.contains(part), "{next}");
        }
    }

    #[test]
    fn a_newborn_pod_beside_a_sick_dependency_is_not_told_that_its_release_will_be_rolled_back() {
        for (stage, promise) in
            [(Stage::Verifying, "as soon as verify.url succeeds"), (Stage::Reverting, "the pod returns")]
        {
            let unwell = |view: &mut View| {
                view.stage = stage;
                view.problem = Some(Problem::new(Reason::ProbeFailed, ""));
            };
            let said = next(&snapshot(unwell), Moment(0));
            assert!(said.contains(promise) && !said.contains("rolled back"), "{said}");
            let rejected = snapshot(|view| {
                unwell(view);
                view.rejected =
                    view.desired.clone().map(|desired| (desired, Reason::ProbeFailed)).into_iter().collect();
            });
            assert!(!next(&rejected, Moment(0)).contains(promise), "{stage:?}");
        }
    }

    #[test]
    fn a_drain_says_whose_requests_it_waits_for() {
        let request = |last: u8, age_ms| InWork { peer: [10, 0, 3, last].into(), age_ms };
        let drain = |waits_for: &[WaitsFor], count, in_work| DrainView {
            drain_id: 1,
            meant: true,
            began: Moment(0),
            deadline: Moment(9_000),
            waits_for: waits_for.into(),
            peers_not_quiet: 2,
            requests_in_flight: count,
            in_work,
            upgraded: 0,
            evidence: Evidence::default(),
            answered: false,
            result: None,
        };
        let one = drain(&[WaitsFor::InFlight], Some(1), vec![request(7, 9_400)]);
        assert_eq!(draining(&one), "draining: waiting for 1 request: from 10.0.3.7, 9 s old");
        let two =
            drain(&[WaitsFor::Quiet, WaitsFor::InFlight], Some(2), vec![request(7, 9_400), request(8, 10)]);
        let all = "2 senders to stop sending; for 2 requests: from 10.0.3.7, 9 s old, from 10.0.3.8, 0 s old";
        assert_eq!(draining(&two), format!("draining: waiting for {all}"));
        let unseen = drain(&[WaitsFor::InFlight], Some(3), Vec::new());
        assert_eq!(draining(&unseen), "draining: waiting for 3 requests");
        let websocket = DrainView { upgraded: 1, ..drain(&[WaitsFor::InFlight], Some(0), Vec::new()) };
        assert!(draining(&websocket).contains("1 upgraded"), "{}", draining(&websocket));
        let mut pod = snapshot(|_| ());
        pod.drain = Some(DrainView { meant: false, ..one });
        assert_eq!(doing(&pod), "idle: following the pointer", "a stray call holds nothing");
    }

    #[test]
    fn a_retry_says_when() {
        let retried = snapshot(|view| (view.stage, view.retry_at) = (Stage::Fetching, Some(Moment(31_000))));
        assert_eq!(next(&retried, Moment(19_500)), "retry in 12 s");
    }
}
