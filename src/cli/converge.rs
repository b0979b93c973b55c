//! `--wait`: until every pod that follows the pointer runs what it names, or one has given up.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{Console, Exit, console::one_line};
use crate::{
    fleet::{self, Report, Reports, moves::Ended},
    revision::{ReleaseId, Revision},
    store::Store,
};

/// Between two looks at the fleet.
const PAUSE: Duration = Duration::from_secs(2);
/// Agents report when they start: where none ever has for so long, none can, or there is no pod.
const NEVER: Duration = Duration::from_secs(120);
const REJECTED_BY: &str = "rejected by ";

/// How far the fleet has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Progress {
    /// All live pods run it.
    pub(crate) converged: bool,
    /// Pods that run it, proven.
    pub(crate) arrived: usize,
    /// Why it will never converge, if so.
    pub(crate) failed: Option<String>,
    /// The live pods, by name.
    pub(crate) pods: Vec<PodState>,
    /// How the wait ends, if it does.
    #[serde(skip)]
    end: Option<Exit>,
    /// What there is to say of reports that are missing.
    #[serde(skip)]
    gap: Option<String>,
}

/// One live pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PodState {
    /// Which.
    pub(crate) pod: String,
    /// It runs the release, proven.
    pub(crate) arrived: bool,
    /// What it does, or why it does not.
    pub(crate) state: String,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gap) = &self.gap {
            return f.write_str(gap);
        }
        write!(f, "{} of {} pods", self.arrived, self.pods.len())?;
        let others = self.pods.iter().filter(|pod| !pod.arrived);
        for (number, pod) in others.enumerate() {
            let before = if number == 0 { ": waiting for " } else { ", " };
            write!(f, "{before}{} ({})", one_line(&pod.pod), one_line(&pod.state))?;
        }
        Ok(())
    }
}

impl Progress {
    /// How it ended, for people.
    pub(super) fn result(&self, release: &ReleaseId) -> String {
        match &self.failed {
            Some(why) => format!("failed: {}", one_line(why)),
            None => format!("all pods run {release} ({} of {})", self.arrived, self.pods.len()),
        }
    }

    /// How the move ended, if that is certain now: of time that is up nothing follows.
    pub(super) fn end(&self, exit: Exit) -> Option<(Ended, String)> {
        let failed = self.failed.as_deref().unwrap_or_default();
        match exit {
            Exit::Done => {
                Some((Ended::Verified, format!("{} of {} pods ran it", self.arrived, self.pods.len())))
            }
            Exit::TakenBack => Some((Ended::Rejected, failed.trim_start_matches(REJECTED_BY).to_owned())),
            Exit::Failed | Exit::TimedOut | Exit::Lost | Exit::Code(_) => None,
        }
    }

    fn fail(&mut self, end: Exit, why: String) {
        (self.converged, self.end, self.failed) = (false, Some(end), Some(why));
    }
}

/// What is waited for, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// Then it is given up.
    pub(crate) timeout: Duration,
}

/// Waits; tells what changes on standard error.
pub(super) async fn wait(
    store: &Arc<dyn Store>,
    pointer: &str,
    moved: &Revision,
    wait: Wait,
    console: Console,
) -> (Exit, Progress) {
    let began = Instant::now();
    let mut reports = Reports::of(store, pointer);
    let mut said = None;
    loop {
        let looked = reports.look().await;
        let heard = reports.with_silence().filter(|(report, silent)| !is_lost(report, moved, *silent));
        let mut progress = judge(heard.map(|(report, _)| report), moved, SystemTime::now());
        match looked {
            // A store that does not answer for a while is no reason to give up.
            Err(error) => {
                (progress.converged, progress.end) = (false, progress.end.filter(|end| *end != Exit::Done));
                progress.gap = Some(format!("the pods' reports cannot be read; retrying: {error}"));
            }
            Ok(()) => unheard(&mut progress, pointer, reports.all().next().is_some(), began.elapsed()),
        }
        if progress.end.is_none() && began.elapsed() >= wait.timeout {
            let missing = progress.gap.as_ref().map(|gap| format!("; {gap}")).unwrap_or_default();
            let time = humantime::format_duration(wait.timeout);
            progress.fail(Exit::TimedOut, format!("the pods have not converged within {time}{missing}"));
        }
        if said.as_ref() != Some(&progress) {
            console.pulse("");
            console.tell(&progress);
            said = Some(progress.clone());
        }
        if let Some(end) = progress.end {
            console.pulse("");
            return (end, progress);
        }
        console.pulse(&format!("  for {}s so far", began.elapsed().as_secs()));
        tokio::time::sleep(PAUSE.min(wait.timeout.saturating_sub(began.elapsed()))).await;
    }
}

/// A pod that lives reads the pointer, and says so. One that ended without a word is not waited for until its last
/// report is too old.
fn is_lost(report: &Report, moved: &Revision, silent: Duration) -> bool {
    let reads_each = Duration::from_secs(report.about.poll_s.unwrap_or_default().min(3600));
    report.desired.as_ref() != Some(moved) && silent > fleet::LIVE.max(reads_each * 3)
}

/// Nobody is there to be waited for, or nobody can say so. `ever`: some pod has reported at some time.
fn unheard(progress: &mut Progress, pointer: &str, ever: bool, waited: Duration) {
    if !progress.pods.is_empty() {
        return;
    }
    let place = fleet::prefix(pointer);
    let (gap, limit) = match ever {
        false => (
            format!(
                "no pod has ever reported: give the agents write access to {place} in the store (chart: \
                 store.readOnly: false), and run at least one pod"
            ),
            NEVER,
        ),
        true => (
            format!(
                "no pod has reported in the last {}: check that pods are running and that their agents may \
                 write to {place}",
                humantime::format_duration(fleet::LIVE)
            ),
            fleet::LIVE,
        ),
    };
    if waited >= limit {
        progress.fail(Exit::TimedOut, gap.clone());
    }
    progress.gap = Some(gap);
}

fn judge<'a>(reports: impl Iterator<Item = &'a Report>, moved: &Revision, now: SystemTime) -> Progress {
    let live: Vec<_> = reports.filter(|report| report.is_live(now)).collect();
    let pods: Vec<_> = live.iter().map(|report| pod_state(report, moved)).collect();
    let arrived = pods.iter().filter(|pod| pod.arrived).count();
    let converged = arrived > 0 && arrived == pods.len();
    let end = converged.then_some(Exit::Done);
    let mut progress = Progress { converged, arrived, failed: None, pods, end, gap: None };
    let rejected =
        live.iter().filter_map(|report| Some(format!("{}: {}", report.pod, report.rejection(moved)?)));
    let rejected: Vec<_> = rejected.collect();
    let newer = live
        .iter()
        .find_map(|report| report.desired.as_ref().filter(|desired| desired.sequence > moved.sequence));
    match newer {
        _ if !rejected.is_empty() => {
            progress.fail(Exit::TakenBack, format!("{REJECTED_BY}{}", rejected.join(", ")));
        }
        Some(desired) => {
            progress.fail(Exit::Lost, format!("the pointer was moved again meanwhile, to {desired}"));
        }
        None => {}
    }
    progress
}

fn pod_state(report: &Report, moved: &Revision) -> PodState {
    let arrived = report.has_arrived(moved);
    let knows = report.desired.as_ref() == Some(moved);
    let state = match (&report.reason, knows) {
        _ if arrived => "runs it".to_owned(),
        (Some(reason), true) => format!("{}, {reason}", report.stage),
        (None, true) => report.stage.clone(),
        (_, false) => "has not read the new pointer yet".to_owned(),
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
            desired: Some(moved(sequence)),
            in_sync,
            stage: "restarting".into(),
            at: "2026-11-21T10:00:00Z".into(),
            ..Report::default()
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
        insta::assert_snapshot!(progress, @"1 of 3 pods: waiting for b (restarting), c (has not read the new \
                                            pointer yet)");
        let gone = Report { at: "2026-11-21T09:00:00Z".into(), ..report("b", 6, false) };
        let leaves = Report { leaving: true, ..report("c", 6, false) };
        let progress = judge([report("a", 7, true), gone, leaves].iter(), &moved(7), now());
        assert!(progress.converged, "{progress:?}");
    }

    #[test]
    fn a_pod_that_has_not_read_the_pointer_for_too_long_is_lost() {
        let seconds = Duration::from_secs;
        let behind = report("a", 6, true);
        assert!(!is_lost(&behind, &moved(7), seconds(360)) && is_lost(&behind, &moved(7), seconds(361)));
        let seldom = fleet::About { poll_s: Some(300), ..fleet::About::default() };
        assert!(!is_lost(&Report { about: seldom, ..behind }, &moved(7), seconds(361)));
        assert!(!is_lost(&report("a", 7, false), &moved(7), seconds(3600)), "it is at work");
    }

    #[test]
    fn nobody_there_is_no_success_and_says_what_agents_need() {
        let unheard = |ever, waited| {
            let mut progress = judge([].iter(), &moved(7), now());
            unheard(&mut progress, "production", ever, Duration::from_secs(waited));
            progress
        };
        let first = unheard(false, 0);
        assert!(!first.converged && first.end.is_none());
        assert!(
            first
                .to_string()
                .starts_with("no pod has ever reported: give the agents write access to fleet/production/")
        );
        assert_eq!(unheard(false, 120).end, Some(Exit::TimedOut), "long before any timeout");
        assert_eq!(unheard(true, 120).end, None, "pods that are being replaced");
        let gone = unheard(true, 360);
        assert_eq!(gone.end, Some(Exit::TimedOut));
        assert!(gone.result(&moved(7).release).starts_with("failed: no pod has reported in the last 6m: "));
    }

    #[test]
    fn one_pod_that_gave_up_or_a_newer_move_ends_it() {
        let rejected = vec![Rejected { revision: moved(7), reason: "boot_failed".into() }];
        let bad = Report { rejected, ..report("b", 7, false) };
        let progress = judge([report("a", 7, true), bad].iter(), &moved(7), now());
        assert_eq!(progress.end, Some(Exit::TakenBack));
        assert_eq!(progress.failed.unwrap(), "rejected by b: boot_failed");
        let progress = judge([report("a", 8, true)].iter(), &moved(7), now());
        assert_eq!(progress.end, Some(Exit::Lost));
        assert_eq!(progress.failed.unwrap(), "the pointer was moved again meanwhile, to v2#8");
    }

    #[test]
    fn what_a_report_says_begins_no_line_of_its_own() {
        let loud = Report { stage: "x\r\nall pods run v9\u{1b}[2J".into(), ..report("a", 7, false) };
        let said = judge([loud].iter(), &moved(7), now()).to_string();
        assert_eq!(said, "0 of 1 pods: waiting for a (x\\r\\nall pods run v9\\u{1b}[2J)");
    }
}
