//! What /status and /prestop answer: the contract's JSON, made of what the supervisor publishes.

mod drain;
mod last_deploy;
mod shift;
mod story;

use std::{collections::HashMap, sync::Arc};

use serde::Serialize;

use crate::{
    app_server::Description,
    core::{
        Level, Moment, Problem, Proof, Reason, Stage, View,
        drain::{Answer, DrainResult, DrainView, WaitsFor},
    },
    finding::Finding,
    revision::{ReleaseId, Revision},
};

pub(crate) use drain::DrainStatus;
pub(crate) use last_deploy::LastDeploy;
pub(crate) use story::{ForSeconds, Since};

/// Everything that the supervisor lets the outside know, replaced as a whole after each event.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// When it was made.
    pub(crate) at: Moment,
    /// The deploy's side.
    pub view: View,
    /// Since when it is so.
    pub(crate) since: Since,
    /// The id of the deploy under way, or of the last one; `None` before the first.
    pub(crate) deploy_id: Option<String>,
    /// The drain's side; `None` while serving.
    pub drain: Option<DrainView>,
    /// What the last drain ended with, until it is undone.
    pub(crate) answer: Option<Answer>,
    /// The last look at the app server.
    pub(crate) app_server: Arc<Description>,
    /// Traps in this pod's set-up.
    pub(crate) findings: Vec<Finding>,
    /// Another pod of the volume, whose fetch of the release this pod waits for.
    pub(crate) fetching_pod: Option<String>,
    /// The last deploy that ended, as far as this process knows.
    pub(crate) last_deploy: Option<LastDeploy>,
    /// Requests that are served or wait at the last look; `None` when nothing can tell.
    pub(crate) in_flight: Option<u32>,
    /// When moves were rejected, by the wall clock (RFC 3339).
    pub(crate) rejected_at: Arc<HashMap<Revision, String>>,
    /// `current` resolves to a complete release, as far as this process knows.
    pub current_complete: bool,
    /// The app server may end now and boot again later: `current` leads where it should.
    pub(crate) settled: bool,
    /// This process has seen a complete `current`, whatever came later.
    pub seen_current: bool,
    /// This process has seen an app server that accepts requests, whatever came later.
    pub seen_booted: bool,
    /// The warm-up of its first server is awaited.
    pub warms: bool,
}

impl Snapshot {
    /// What is known before anything was looked at: nothing, and why.
    pub fn unknown(at: Moment, problem: Problem) -> Self {
        Self {
            at,
            view: View::unknown(problem),
            since: Since::beginning(at),
            deploy_id: None,
            drain: None,
            answer: None,
            app_server: Arc::default(),
            findings: Vec::new(),
            fetching_pod: None,
            last_deploy: None,
            in_flight: None,
            rejected_at: Arc::default(),
            current_complete: false,
            settled: false,
            seen_current: false,
            seen_booted: false,
            warms: false,
        }
    }

    /// What /ready still waits for: names, none of which comes back once it is gone.
    pub(crate) fn pending(&self) -> Vec<&'static str> {
        let names =
            [("current", self.seen_current), ("app_server", self.seen_booted), ("warmup", !self.warms)];
        names.into_iter().filter(|(_, seen)| !seen).map(|(name, _)| name).collect()
    }
}

/// What GET /status answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    pub(crate) pod: String,
    pub(crate) stage: Stage,
    /// What the pointer last said.
    pub(crate) desired: Option<Revision>,
    /// What the app server was proved to run, never where `current` points.
    pub(crate) running: Option<ReleaseId>,
    /// What that proof rests on.
    pub(crate) proof: Option<Level>,
    /// The same for people.
    pub(crate) proof_message: Option<String>,
    /// What it was proved to run before.
    pub(crate) previous: Option<ReleaseId>,
    /// The desired release runs, proven.
    pub(crate) in_sync: bool,
    /// Why not, or what else holds.
    pub(crate) reason: Option<Reason>,
    /// The same for people; never empty.
    pub(crate) message: String,
    /// What is being done, for people.
    pub(crate) doing: String,
    /// What comes next, for people.
    pub(crate) next: String,
    /// For how long it has been so.
    pub(crate) for_seconds: ForSeconds,
    /// Moves that are not tried again.
    pub(crate) rejected: Vec<Rejection>,
    /// The deploy under way, or the last one: the same id as in the log.
    pub(crate) deploy_id: Option<String>,
    /// The end of the pod, once it has begun.
    pub(crate) drain: Option<DrainStatus>,
    /// A second server has a share of the traffic.
    pub(crate) shift: Option<shift::ShiftStatus>,
    pub(crate) app_server: Description,
    /// Traps in this pod's set-up.
    pub findings: Vec<Finding>,
}

/// A move that is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Rejection {
    pub(crate) release: ReleaseId,
    /// The number of the move; a plain-text pointer has none.
    pub(crate) sequence: Option<u64>,
    pub(crate) reason: Reason,
    /// Since when, by the wall clock (RFC 3339).
    pub(crate) at: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PrestopAnswer {
    /// How the drain ended.
    pub(crate) result: DrainResult,
    /// How long it held.
    pub(crate) seconds: f64,
    /// Requests that were still in flight.
    pub(crate) requests_left: u32,
    /// What it waited for, in the order of the first wait.
    pub(crate) waited_for: Vec<WaitsFor>,
    pub(crate) drain_id: String,
}

impl Status {
    /// The contract's form of a snapshot, as it stands at `now`.
    pub(crate) fn of(pod: &str, snapshot: &Snapshot, now: Moment) -> Self {
        let view = &snapshot.view;
        Self {
            pod: pod.into(),
            stage: view.stage,
            desired: view.desired.clone(),
            running: view.running.clone(),
            proof: view.proof.as_ref().map(|proof| proof.level),
            proof_message: view.proof.as_ref().map(Proof::words),
            previous: view.previous.clone(),
            in_sync: view.in_sync,
            reason: view.problem.as_ref().map(|problem| problem.reason),
            message: message(view, now),
            doing: story::doing(snapshot),
            next: story::next(snapshot, now),
            for_seconds: snapshot.since.ago(view, now),
            rejected: rejections(snapshot),
            deploy_id: snapshot.deploy_id.clone(),
            drain: snapshot.drain.as_ref().map(|drain| DrainStatus::of(drain, snapshot.answer.as_ref(), now)),
            shift: view.sharing.as_ref().map(|sharing| shift::ShiftStatus::of(sharing, now)),
            app_server: (*snapshot.app_server).clone(),
            findings: snapshot.findings.clone(),
        }
    }
}

/// A sentence also when nothing is wrong.
fn message(view: &View, now: Moment) -> String {
    match (&view.problem, &view.running, &view.desired) {
        (Some(problem), ..) => problem.message.clone(),
        (None, _, Some(desired)) if let Some(turn) = view.turn => format!(
            "the restart onto {desired} waits for this pod's turn (restart.spread), at most {:.0} s more",
            seconds(turn.since(now)).ceil()
        ),
        (None, Some(running), _) if view.in_sync => format!("runs {running}, as desired"),
        (None, _, Some(desired)) => format!("deploying {desired}"),
        (None, _, None) => "the pointer has not been read yet".into(),
    }
}

fn rejections(snapshot: &Snapshot) -> Vec<Rejection> {
    let rejection = |(revision, reason): &(Revision, Reason)| Rejection {
        release: revision.release.clone(),
        sequence: revision.sequence,
        reason: *reason,
        at: snapshot.rejected_at.get(revision).cloned(),
    };
    snapshot.view.rejected.iter().map(rejection).collect()
}

impl From<&Answer> for PrestopAnswer {
    fn from(answer: &Answer) -> Self {
        Self {
            result: answer.result,
            seconds: seconds(answer.held_ms),
            requests_left: answer.requests_left,
            waited_for: answer.waited_for.clone(),
            drain_id: answer.drain_id.to_string(),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app_server::{SlotDescription, WorkerDescription},
        core::{
            ProcessKey,
            drain::{Evidence, InWork},
        },
        finding::{Code, Severity},
        slots::{Role, Slot},
    };

    fn release(id: &str) -> ReleaseId {
        id.parse().unwrap()
    }

    fn rejected_move() -> Snapshot {
        let bad = Revision { release: release("v43"), sequence: Some(7) };
        let mut snapshot = Snapshot::unknown(
            Moment(60_000),
            Problem::new(Reason::Rejected, "v43#7 was rejected (boot_loop) and is not tried again"),
        );
        snapshot.view.desired = Some(bad.clone());
        snapshot.view.running = Some(release("v42"));
        snapshot.view.proof = Some(Proof { level: Level::EveryWorker, processes: 2, heard: 2 });
        snapshot.view.previous = Some(release("v41"));
        snapshot.view.rejected = vec![(bad.clone(), Reason::BootLoop)];
        snapshot.deploy_id = Some("6740a1b2-3".into());
        snapshot.rejected_at = Arc::new(HashMap::from([(bad, "2026-11-21T10:00:00Z".into())]));
        snapshot.app_server = Arc::new(puma());
        snapshot.findings = vec![Finding {
            code: Code::RestartDirUnproven,
            severity: Severity::Broken,
            message: "no restart moves this Puma".into(),
            fix: "start it with PWD=/srv/app/current".into(),
        }];
        snapshot
    }

    fn puma() -> Description {
        let worker =
            |pid| WorkerDescription { pid, key: ProcessKey(1), release: Some(release("v42")), booted: true };
        let live = SlotDescription {
            slot: Slot::A,
            role: Role::Live,
            release: Some(release("v42")),
            pid: 17,
            weight: 1000,
            memory_bytes: Some(300 << 20),
            requests: Some(930),
            errors: Some(3),
            p95_ms: Some(63),
        };
        Description {
            kind: "puma".into(),
            pid: Some(17),
            mode: Some("cluster".into()),
            workers: vec![worker(21), worker(22)],
            candidate: Vec::new(),
            slots: vec![live],
            warmup: None,
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one answer, whole")]
    fn status_of_a_pod_that_rejected_a_move() {
        insta::assert_json_snapshot!(Status::of("web-0", &rejected_move(), Moment(60_000)), @r#"
        {
          "pod": "web-0",
          "stage": "steady",
          "desired": {
            "release": "v43",
            "sequence": 7
          },
          "running": "v42",
          "proof": "every_worker",
          "proof_message": "each of 2 named the release in an answer of its own",
          "previous": "v41",
          "in_sync": false,
          "reason": "rejected",
          "message": "v43#7 was rejected (boot_loop) and is not tried again",
          "doing": "idle: following the pointer",
          "next": "nothing until the pointer moves or `pitstop sync --retry` is run",
          "for_seconds": {
            "stage": 0.0,
            "in_sync": 0.0,
            "reason": 0.0
          },
          "rejected": [
            {
              "release": "v43",
              "sequence": 7,
              "reason": "boot_loop",
              "at": "2026-11-21T10:00:00Z"
            }
          ],
          "deploy_id": "6740a1b2-3",
          "drain": null,
          "shift": null,
          "app_server": {
            "kind": "puma",
            "pid": 17,
            "mode": "cluster",
            "workers": [
              {
                "pid": 21,
                "release": "v42",
                "booted": true
              },
              {
                "pid": 22,
                "release": "v42",
                "booted": true
              }
            ],
            "slots": [
              {
                "slot": "a",
                "role": "live",
                "release": "v42",
                "pid": 17,
                "weight": 1000,
                "memory_bytes": 314572800,
                "requests": 930,
                "errors": 3,
                "p95_ms": 63
              }
            ]
          },
          "findings": [
            {
              "code": "RESTART_DIR_UNPROVEN",
              "severity": "broken",
              "message": "no restart moves this Puma",
              "fix": "start it with PWD=/srv/app/current",
              "remedy": "start it with PWD=/srv/app/current"
            }
          ]
        }
        "#);
    }

    #[test]
    fn status_of_a_pod_that_drains() {
        let mut snapshot = rejected_move();
        snapshot.drain = Some(DrainView {
            drain_id: 58_000,
            meant: true,
            began: Moment(58_000),
            deadline: Moment(76_000),
            waits_for: vec![WaitsFor::Quiet, WaitsFor::InFlight],
            peers_not_quiet: 2,
            requests_in_flight: Some(1),
            in_work: vec![InWork { peer: [10, 0, 3, 7].into(), age_ms: 9_400 }],
            upgraded: 3,
            evidence: Evidence { control: true, sockets: true, ends: true },
            answered: false,
            result: None,
        });
        let status = Status::of("web-0", &snapshot, Moment(60_500));
        insta::assert_json_snapshot!(status.drain, @r#"
        {
          "drain_id": "58000",
          "result": null,
          "seconds": 2.5,
          "seconds_left": 15.5,
          "waits_for": [
            "quiet",
            "in_flight"
          ],
          "peers_not_quiet": 2,
          "requests_in_flight": 1,
          "requests": [
            {
              "peer": "10.0.3.7",
              "seconds": 9.4
            }
          ],
          "upgraded": 3,
          "holds_deploys": true
        }
        "#);
    }

    #[test]
    fn a_pod_in_sync_says_so_in_words() {
        let mut snapshot = rejected_move();
        snapshot.view.problem = None;
        snapshot.view.in_sync = true;
        assert_eq!(Status::of("web-0", &snapshot, Moment(0)).message, "runs v42, as desired");
    }

    #[test]
    fn the_answer_of_prestop() {
        let answer = Answer {
            drain_id: 58_000,
            result: DrainResult::Deadline,
            held_ms: 18_250,
            requests_left: 2,
            waited_for: vec![WaitsFor::Min, WaitsFor::InFlight],
            waits: Vec::new(),
            last_peer: None,
            upgraded: 0,
            left: Vec::new(),
            stuck_ms: None,
            evidence: Evidence { control: true, sockets: true, ends: true },
        };
        insta::assert_json_snapshot!(PrestopAnswer::from(&answer), @r#"
        {
          "result": "deadline",
          "seconds": 18.25,
          "requests_left": 2,
          "waited_for": [
            "min",
            "in_flight"
          ],
          "drain_id": "58000"
        }
        "#);
    }
}
