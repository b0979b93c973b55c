//! `--wait`: until every pod that follows the pointer runs what it names, or one has given up.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::{Console, Exit, Failure};
use crate::{
    fleet::{self, Report},
    revision::Revision,
    store::{Found, Store, StoreError, Version},
};

/// Between two looks at the fleet.
const PAUSE: Duration = Duration::from_secs(2);
/// So many reports are read at the same time.
const AT_ONCE: usize = 8;

/// How far the fleet has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// All live pods run it.
    pub converged: bool,
    /// Pods that run it, proven.
    pub arrived: usize,
    /// Why it will never converge, if so.
    pub failed: Option<String>,
    /// The live pods, by name.
    pub pods: Vec<PodState>,
}

/// One live pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodState {
    /// Which.
    pub pod: String,
    /// It runs the release, proven.
    pub arrived: bool,
    /// What it does, or why it does not.
    pub state: String,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pods.is_empty() {
            return write!(f, "no pod has reported in the last {}s", fleet::LIVE.as_secs());
        }
        write!(f, "{} of {} pods", self.arrived, self.pods.len())?;
        let others = self.pods.iter().filter(|pod| !pod.arrived);
        for (number, pod) in others.enumerate() {
            let before = if number == 0 { ": waiting for " } else { ", " };
            write!(f, "{before}{} ({})", pod.pod, pod.state)?;
        }
        Ok(())
    }
}

/// What is waited for, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// Then it is given up.
    pub timeout: Duration,
}

/// Waits; tells what changes on standard error.
pub(super) async fn wait(
    store: &Arc<dyn Store>,
    pointer: &str,
    moved: &Revision,
    wait: Wait,
    console: Console,
) -> Result<(Exit, Progress), Failure> {
    let began = Instant::now();
    let mut fleet = Fleet { store: store.clone(), prefix: fleet::prefix(pointer), known: BTreeMap::new() };
    let mut said = None;
    loop {
        // A store that does not answer for a while is no reason to give up.
        let looked = fleet.look().await;
        let mut progress = judge(fleet.reports(), moved, SystemTime::now());
        if let Err(error) = looked {
            progress.converged = false;
            tracing::warn!(%error, "the fleet's reports cannot be read");
        }
        if said.as_ref() != Some(&progress) {
            tell(&progress, console);
            said = Some(progress.clone());
        }
        if progress.converged {
            return Ok((Exit::Done, progress));
        }
        if progress.failed.is_none() && began.elapsed() >= wait.timeout {
            progress.failed =
                Some(format!("not converged within {}", humantime::format_duration(wait.timeout)));
        }
        if progress.failed.is_some() {
            return Ok((Exit::Failed, progress));
        }
        tokio::time::sleep(PAUSE.min(wait.timeout.saturating_sub(began.elapsed()))).await;
    }
}

fn tell(progress: &Progress, console: Console) {
    match console.json {
        true => eprintln!("{}", serde_json::to_string(progress).expect("plain data")),
        false => eprintln!("{progress}"),
    }
}

/// The reports as last read.
struct Fleet {
    store: Arc<dyn Store>,
    prefix: String,
    known: BTreeMap<String, (Version, Option<Report>)>,
}

impl Fleet {
    fn reports(&self) -> impl Iterator<Item = &Report> {
        self.known.values().filter_map(|(_, report)| report.as_ref())
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let keys = self.store.list(&self.prefix).await?;
        self.known.retain(|key, _| keys.contains(key));
        let known = &self.known;
        let store = &self.store;
        let reads = stream::iter(keys).map(|key| async move {
            let version = known.get(&key).map(|(version, _)| version.clone());
            let found = store.get(&key, version.as_ref(), fleet::LIMIT_BYTES).await;
            (key, found)
        });
        let found: Vec<_> = reads.buffer_unordered(AT_ONCE).collect().await;
        for (key, found) in found {
            if let Found::Object { version, bytes } = found? {
                // What cannot be read is of a version to come, or damaged; it is not waited for.
                self.known.insert(key, (version, serde_json::from_slice(&bytes).ok()));
            }
        }
        Ok(())
    }
}

fn judge<'a>(reports: impl Iterator<Item = &'a Report>, moved: &Revision, now: SystemTime) -> Progress {
    let live: Vec<_> = reports.filter(|report| report.is_live(now)).collect();
    let failed =
        live.iter().filter_map(|report| Some(format!("{}: {}", report.pod, report.rejection(moved)?)));
    let failed: Vec<_> = failed.collect();
    let newer = live.iter().find_map(|report| {
        let desired = report.desired.as_ref().filter(|desired| desired.sequence > moved.sequence)?;
        Some(format!("the pointer was moved again meanwhile, to {desired}"))
    });
    let pods: Vec<_> = live.iter().map(|report| pod_state(report, moved)).collect();
    let arrived = pods.iter().filter(|pod| pod.arrived).count();
    let failed = if failed.is_empty() { newer } else { Some(format!("rejected by {}", failed.join(", "))) };
    Progress { converged: failed.is_none() && arrived > 0 && arrived == pods.len(), arrived, failed, pods }
}

fn pod_state(report: &Report, moved: &Revision) -> PodState {
    let arrived = report.has_arrived(moved);
    let knows = report.desired.as_ref() == Some(moved);
    let state = match (&report.reason, knows) {
        _ if arrived => "runs it".to_owned(),
        (Some(reason), true) => format!("{}, {reason}", report.stage),
        (None, true) => report.stage.clone(),
        (_, false) => "has not seen the move yet".to_owned(),
    };
    PodState { pod: report.pod.clone(), arrived, state }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Rejected;

    fn moved(sequence: u64) -> Revision {
        Revision { release: "v2".parse().unwrap(), sequence: Some(sequence) }
    }

    fn report(pod: &str, sequence: u64, in_sync: bool) -> Report {
        Report {
            v: 1,
            pod: pod.into(),
            running: None,
            desired: Some(moved(sequence)),
            in_sync,
            stage: "restarting".into(),
            reason: None,
            message: String::new(),
            rejected: Vec::new(),
            leaving: false,
            at: "2026-11-21T10:00:00Z".into(),
        }
    }

    fn now() -> SystemTime {
        humantime::parse_rfc3339("2026-11-21T10:01:00Z").unwrap()
    }

    #[test]
    fn all_live_pods_have_to_arrive() {
        let reports = [report("a", 7, true), report("b", 7, false), report("c", 6, true)];
        let progress = judge(reports.iter(), &moved(7), now());
        assert!(!progress.converged);
        insta::assert_snapshot!(progress, @"1 of 3 pods: waiting for b (restarting), c (has not seen the move yet)");
        let gone = Report { at: "2026-11-21T09:00:00Z".into(), ..report("b", 6, false) };
        let leaves = Report { leaving: true, ..report("c", 6, false) };
        let progress = judge([report("a", 7, true), gone, leaves].iter(), &moved(7), now());
        assert!(progress.converged, "{progress:?}");
    }

    #[test]
    fn nobody_there_is_no_success() {
        let progress = judge([].iter(), &moved(7), now());
        assert!(!progress.converged && progress.failed.is_none());
        assert_eq!(progress.to_string(), "no pod has reported in the last 360s");
    }

    #[test]
    fn one_pod_that_gave_up_or_a_newer_move_ends_it() {
        let rejected = vec![Rejected { revision: moved(7), reason: "boot_failed".into() }];
        let bad = Report { rejected, ..report("b", 7, false) };
        let progress = judge([report("a", 7, true), bad].iter(), &moved(7), now());
        assert_eq!(progress.failed.unwrap(), "rejected by b: boot_failed");
        let progress = judge([report("a", 8, true)].iter(), &moved(7), now());
        assert_eq!(progress.failed.unwrap(), "the pointer was moved again meanwhile, to v2#8");
    }
}
