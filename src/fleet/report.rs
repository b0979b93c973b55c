//! What one pod says of itself.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    core::{Reason, Stage},
    revision::{ReleaseId, Revision},
    status::{LastDeploy, Snapshot},
};

/// For so long a report counts that does not say for how long: those of earlier versions come every two minutes.
pub(crate) const LIVE: Duration = Duration::from_secs(360);
/// And no report for longer, whatever it says.
const LIVE_AT_MOST: Duration = Duration::from_secs(3600);

/// What one pod says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub(crate) v: u32,
    /// Which pod.
    pub pod: String,
    /// What it was proved to run.
    pub running: Option<ReleaseId>,
    /// What its pointer names.
    pub desired: Option<Revision>,
    /// The desired release runs, proven.
    pub in_sync: bool,
    /// The stage of the deploy, as on /status.
    pub(crate) stage: String,
    /// The reason, as on /status.
    #[serde(default)]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default)]
    pub(crate) message: String,
    /// Moves that are not tried again.
    #[serde(default)]
    pub(crate) rejected: Vec<Rejected>,
    /// The pod is about to end, or its agent has ended: it deploys no more.
    #[serde(default)]
    pub leaving: bool,
    /// When it was written, by the pod's wall clock (RFC 3339).
    pub(crate) at: String,
    /// After so many seconds without a new one the pod is gone.
    #[serde(default)]
    pub(crate) good_for_s: Option<u64>,
    /// Where the pod is, and what it is made of.
    #[serde(flatten)]
    pub about: About,
    /// The last deploy that ended, since the agent started.
    #[serde(default)]
    pub(crate) last_deploy: Option<LastDeploy>,
    /// The pointer names a canary, and whether the pod is among its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) canary: Option<bool>,
    /// The number of that canary's move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) canary_sequence: Option<u64>,
    /// Requests in flight when this was written.
    #[serde(default)]
    pub(crate) in_flight: Option<u32>,
}

/// What does not change for as long as the agent runs. All of it is for people, except how often the pointer is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What the app is called.
    #[serde(default)]
    pub app: Option<String>,
    /// The node that the pod is on.
    #[serde(default)]
    pub node: Option<String>,
    /// Its zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// The image of the app's container.
    #[serde(default)]
    pub image: Option<String>,
    /// Where others reach the pod.
    #[serde(default)]
    pub address: Option<String>,
    /// The agent's version.
    #[serde(default)]
    pub version: Option<String>,
    /// The pod reads the pointer every so many seconds.
    #[serde(default)]
    pub poll_s: Option<u64>,
}

/// A move that a pod does not try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejected {
    #[serde(flatten)]
    pub(crate) revision: Revision,
    pub(crate) reason: String,
}

impl Report {
    pub(super) fn of(pod: &str, about: &About, snapshot: &Snapshot) -> Self {
        let view = &snapshot.view;
        let rejected = |(revision, reason): &(Revision, Reason)| Rejected {
            revision: revision.clone(),
            reason: reason.code().into(),
        };
        Self {
            v: 1,
            pod: pod.into(),
            running: view.running.clone(),
            desired: view.desired.clone(),
            in_sync: view.in_sync,
            stage: view.stage.name().into(),
            reason: view.problem.as_ref().map(|problem| problem.reason.code().into()),
            message: view.problem.as_ref().map(|problem| problem.message.clone()).unwrap_or_default(),
            rejected: view.rejected.iter().map(rejected).collect(),
            leaving: snapshot.drain.is_some(),
            at: String::new(),
            good_for_s: None,
            about: about.clone(),
            last_deploy: snapshot.last_deploy.clone(),
            canary: view.canary.map(|(_, chosen)| chosen),
            canary_sequence: view.canary.and_then(|(sequence, _)| sequence),
            in_flight: snapshot.in_flight,
        }
    }

    /// Whether it says anything new. Requests come and go: they are told when there is something to tell, or by and by.
    pub(super) fn says(&self, other: &Self) -> bool {
        let told = |report: &Self| Self { in_flight: None, ..report.clone() };
        told(self) == told(other)
    }

    /// For how long nothing was heard of the pod, by the reader's clock.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        let at = humantime::parse_rfc3339_weak(&self.at).unwrap_or(SystemTime::UNIX_EPOCH);
        now.duration_since(at).unwrap_or_default()
    }

    /// Whether nothing was heard of the pod for longer than it promised.
    pub(crate) fn is_gone(&self, now: SystemTime) -> bool {
        self.age(now) > self.promised()
    }

    /// The next one comes sooner than this, if the pod is there.
    pub(crate) fn promised(&self) -> Duration {
        self.good_for_s.map_or(LIVE, Duration::from_secs).min(LIVE_AT_MOST)
    }

    /// Whether the pod is there and follows the pointer.
    pub(crate) fn is_live(&self, now: SystemTime) -> bool {
        !self.leaving && !self.is_gone(now)
    }

    /// Whether it runs what this move names.
    pub(crate) fn has_arrived(&self, revision: &Revision) -> bool {
        self.in_sync && self.desired.as_ref() == Some(revision)
    }

    /// Why it does not try this move again, if so.
    pub(crate) fn rejection(&self, revision: &Revision) -> Option<&str> {
        let rejected = self.rejected.iter().find(|rejected| rejected.revision == *revision);
        let stranded = || {
            let stuck = self.stage == Stage::Stranded.name() && self.desired.as_ref() == Some(revision);
            self.reason.as_deref().filter(|_| stuck)
        };
        rejected.map(|rejected| rejected.reason.as_str()).or_else(stranded)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn report(in_sync: bool, sequence: u64) -> Report {
        Report {
            v: 1,
            pod: "web-0".into(),
            desired: Some(moved(sequence)),
            in_sync,
            stage: "steady".into(),
            at: "2026-11-21T10:00:00Z".into(),
            ..Report::default()
        }
    }

    pub(crate) fn moved(sequence: u64) -> Revision {
        Revision { release: "v2".parse().unwrap(), sequence: Some(sequence) }
    }

    fn at(seconds: u64) -> SystemTime {
        humantime::parse_rfc3339("2026-11-21T10:00:00Z").unwrap() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_pod_has_arrived_when_it_proved_this_very_move() {
        assert!(report(true, 7).has_arrived(&moved(7)));
        assert!(!report(false, 7).has_arrived(&moved(7)));
        assert!(!report(true, 6).has_arrived(&moved(7)), "the same release, an earlier move");
    }

    #[test]
    fn a_pod_that_is_silent_or_leaves_is_waited_for_no_more() {
        assert!(report(true, 7).is_live(at(300)));
        assert!(!report(true, 7).is_live(at(361)));
        assert!(!Report { leaving: true, ..report(true, 7) }.is_live(at(1)));
    }

    #[test]
    fn a_report_counts_for_as_long_as_it_says_and_for_an_hour_at_most() {
        let good_for = |seconds| Report { good_for_s: Some(seconds), ..report(true, 7) };
        assert!(good_for(1500).is_live(at(1500)) && !good_for(1500).is_live(at(1501)));
        assert!(!good_for(60).is_live(at(61)));
        assert!(!good_for(u64::MAX).is_live(at(3601)), "a forged one");
    }

    #[test]
    fn a_rejection_belongs_to_one_move() {
        let rejected = vec![Rejected { revision: moved(7), reason: "boot_failed".into() }];
        let failed = Report { rejected, ..report(false, 7) };
        assert_eq!(failed.rejection(&moved(7)), Some("boot_failed"));
        assert_eq!(failed.rejection(&moved(8)), None);
        let stranded =
            Report { stage: "stranded".into(), reason: Some("master_gone".into()), ..report(false, 7) };
        assert_eq!(stranded.rejection(&moved(7)), Some("master_gone"));
    }

    #[test]
    fn requests_that_come_and_go_are_no_news() {
        let busy = Report { in_flight: Some(3), ..report(true, 7) };
        assert!(busy.says(&report(true, 7)) && !busy.says(&report(true, 8)));
    }

    #[test]
    fn reports_of_the_version_before_are_read_and_those_of_a_later_one() {
        let before = r#"{"v":1,"pod":"web-0","running":"v2","desired":{"release":"v2","sequence":7},"in_sync":true,
            "stage":"steady","reason":null,"message":"","rejected":[],"leaving":false,"at":"2026-11-21T10:00:00Z"}"#;
        let read: Report = serde_json::from_str(before).unwrap();
        assert_eq!(read, Report { running: Some("v2".parse().unwrap()), ..report(true, 7) });
        assert_eq!((read.canary, read.canary_sequence, read.about.address.as_ref()), (None, None, None));
        let later = before.replacen('{', r#"{"slots":[1],"node":"n1","last_deploy":{"release":"v2","result":"verified","seconds":3.5,"at":"x"},"#, 1);
        let read: Report = serde_json::from_str(&later).unwrap();
        assert_eq!(read.about.node.as_deref(), Some("n1"));
        assert_eq!(read.last_deploy.unwrap().revision.to_string(), "v2");
    }
}
