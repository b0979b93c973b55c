//! What each pod runs, told to everybody by its own agent: a small object in the store for each pod.
//!
//! ```text
//! fleet/<pointer>/<pod>     JSON: what the pod runs, what it should, and why not
//! ```
//!
//! Reports can be forged by whoever may write them. A pod that reads them waits or tries once more because of them,
//! and goes nowhere. A report is written when it changes and now and then in between, so that
//! who reads it can tell a pod that lives from one that is gone; `promote --wait` and `pitstop fleet` read it.

mod glance;
pub(crate) mod moves;
mod report;
mod reports;

pub use glance::Glance;
pub(crate) use glance::Overview;
pub(crate) use report::LIVE;
#[cfg(test)]
pub(crate) use report::Rejected;
pub use report::{About, Report};
pub(crate) use reports::Reports;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, watch};

use crate::{
    config::order,
    core::{Event, Fleet, Reason, Stage},
    status::Snapshot,
    store::{Body, Condition, Store, StoreError},
};

/// A pod that runs what it should repeats its report so often, give or take a fifth,
const AT_REST: Duration = Duration::from_secs(600);
/// and is gone when two of them are missing.
const GOOD_AT_REST: Duration = Duration::from_secs(1500);
/// Any other pod repeats it so often, since somebody may be waiting for it.
const AT_WORK: Duration = Duration::from_secs(120);
/// Several changes in a row are one report.
const SETTLE: Duration = Duration::from_secs(1);
/// After a failure.
const RETRY: Duration = Duration::from_secs(30);
/// Where the store lets nobody write, it is asked again so often.
const RETRY_DENIED: Duration = Duration::from_secs(3600);
/// The last report holds up the agent's end no longer than this.
const FAREWELL: Duration = Duration::from_secs(1);
/// So many reports are read: those of the pods that go first.
const READ_AT_MOST: usize = 100;
/// A report is some hundred bytes.
pub(crate) const LIMIT_BYTES: u64 = 64 << 10;

/// The prefix of all reports of the pods that follow a pointer.
pub(crate) fn prefix(pointer: &str) -> String {
    format!("fleet/{pointer}/")
}

/// Writes what this pod runs. Keeps a store of its own where one call may hold up another.
pub struct Reporter {
    /// Where to.
    pub store: Arc<dyn Store>,
    /// The name of the pointer that this pod follows.
    pub pointer: String,
    /// This pod.
    pub pod: String,
    /// Where it is, and what it is made of.
    pub about: About,
    /// What it does.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Reporter {
    /// Who reads what the others write.
    pub(crate) fn reader(&self) -> Reader {
        Reader { store: self.store.clone(), pointer: self.pointer.clone(), pod: self.pod.clone() }
    }

    /// What the page shows of the others.
    pub(crate) fn glance(&self) -> Glance {
        Glance::at(self.store.clone(), &self.pointer)
    }

    /// Reports until the agent ends, and that it ends. Failures are said once, and tried again later.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut said: Option<(Report, Instant)> = None;
        // A fleet that starts at once does not repeat itself at once.
        let mut pauses = Pauses::default();
        let mut refused: Option<(StoreError, Instant)> = None;
        while !*stop.borrow_and_update() {
            let due = self.due(&said, &refused, &pauses);
            let writes = due.is_some();
            if let Some(report) = due {
                match self.write(report.clone()).await {
                    Ok(()) => {
                        (said, refused) = (Some((report, Instant::now())), None);
                        pauses = Pauses::default();
                    }
                    Err(error) => {
                        tell(&error, refused.as_ref().map(|(error, _)| error));
                        refused = Some((error, Instant::now()));
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(if writes { SETTLE } else { RETRY }) => {}
                // Who publishes is gone only when the agent ends.
                Ok(()) = self.snapshots.changed(), if !writes => {}
                _ = stop.changed() => break,
            }
        }
        let leaving = Report { leaving: true, ..self.now() };
        if refused.is_none() {
            let _ = tokio::time::timeout(FAREWELL, self.write(leaving)).await;
        }
    }

    fn now(&mut self) -> Report {
        Report::of(&self.pod, &self.about, &self.snapshots.borrow_and_update())
    }

    /// What is to be written now, if anything.
    fn due(
        &mut self,
        said: &Option<(Report, Instant)>,
        refused: &Option<(StoreError, Instant)>,
        pauses: &Pauses,
    ) -> Option<Report> {
        let pause =
            |error: &StoreError| if matches!(error, StoreError::Denied(_)) { RETRY_DENIED } else { RETRY };
        if refused.as_ref().is_some_and(|(error, at)| at.elapsed() < pause(error)) {
            return None;
        }
        let report = self.now();
        let known = |(last, at): &(Report, Instant)| last.says(&report) && at.elapsed() < pauses.after(last);
        (!said.as_ref().is_some_and(known)).then_some(report)
    }

    async fn write(&self, mut report: Report) -> Result<(), StoreError> {
        report.good_for_s = Some(if report.in_sync { GOOD_AT_REST } else { LIVE }.as_secs());
        report.at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let text = serde_json::to_vec(&report).map_err(|e| StoreError::Source(e.to_string()))?;
        let key = format!("{}{}", prefix(&self.pointer), self.pod);
        self.store.put(&key, Body::Bytes(text), Condition::Any).await.map(drop)
    }
}

/// Until a report is repeated.
struct Pauses {
    at_rest: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { at_rest: AT_REST.mul_f64(0.8 + 0.4 * fastrand::f64()) }
    }
}

impl Pauses {
    fn after(&self, said: &Report) -> Duration {
        if said.in_sync { self.at_rest } else { AT_WORK }
    }
}

/// Reads what the other pods say, while that matters to this one.
#[derive(Clone)]
pub struct Reader {
    pub(crate) store: Arc<dyn Store>,
    /// The name of the pointer that this pod follows.
    pub(crate) pointer: String,
    pub(crate) pod: String,
}

impl Reader {
    /// Reads as often as `wanted` says, in milliseconds, until nobody listens.
    pub(crate) async fn run(
        self,
        mut wanted: watch::Receiver<Option<u64>>,
        events: mpsc::UnboundedSender<Event>,
    ) {
        let mut reports = Reports::of(&self.store, &self.pointer);
        loop {
            let each = *wanted.borrow_and_update();
            let Some(each) = each else {
                match wanted.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            match self.read(&mut reports).await {
                Ok(Some(fleet)) => {
                    if events.send(Event::Fleet(fleet)).is_err() {
                        return;
                    }
                }
                // Where this pod cannot tell the others, they cannot tell it either.
                Ok(None) => {}
                // Without reports a pod goes by its own place.
                Err(error) => tracing::debug!(%error, "reading the other pods' reports failed"),
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(each)) => {}
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn read(&self, reports: &mut Reports) -> Result<Option<Fleet>, StoreError> {
        let pods = reports.look_at(READ_AT_MOST).await?;
        let seen = pods.contains(&self.pod);
        Ok(seen.then(|| add_up(reports.all(), &self.pod, SystemTime::now())))
    }
}

fn add_up<'a>(reports: impl Iterator<Item = &'a Report>, own: &str, now: SystemTime) -> Fleet {
    let mut fleet = Fleet { first: true, ..Fleet::default() };
    for report in reports.filter(|report| report.pod != own && report.is_live(now)) {
        fleet.others += 1;
        let held = report.reason.as_deref() == Some(Reason::Held.code());
        fleet.first &= held || order(own) < order(&report.pod);
        fleet.rejected.extend(report.rejected.iter().map(|rejected| rejected.revision.clone()));
        let Some(desired) = &report.desired else { continue };
        let moves = [Stage::Publishing, Stage::Restarting, Stage::Verifying, Stage::Committing];
        if report.in_sync {
            fleet.well.insert(desired.clone());
        } else if moves.iter().any(|stage| stage.name() == report.stage) {
            fleet.proving.insert(desired.clone());
        } else if report.stage == Stage::Stranded.name() {
            fleet.rejected.insert(desired.clone());
        }
    }
    fleet
}

fn tell(error: &StoreError, before: Option<&StoreError>) {
    match (error, before) {
        (StoreError::Denied(_), Some(StoreError::Denied(_))) => {}
        (StoreError::Denied(why), _) => tracing::info!(
            why,
            "the store refuses this pod's report, so `promote --wait` does not see this pod; deploys work \
             without it"
        ),
        (_, Some(before)) if before.reason() == error.reason() => {}
        (error, _) => tracing::warn!(%error, "writing this pod's report failed; retrying later"),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        report::tests::{moved, report},
        *,
    };

    #[test]
    fn live_reports_of_other_pods_add_up() {
        let at = humantime::parse_rfc3339("2026-11-21T10:01:00Z").unwrap();
        let pod = |name: &str, report: Report| Report { pod: name.into(), ..report };
        let proving = Report { stage: "verifying".into(), ..report(false, 8) };
        let rejected = vec![Rejected { revision: moved(6), reason: "boot_failed".into() }];
        let reports = [
            pod("own", report(true, 9)),
            pod("web-1", report(true, 7)),
            pod("web-2", proving),
            pod("web-3", Report { rejected, ..report(false, 7) }),
            pod("gone", Report { leaving: true, ..report(true, 5) }),
        ];
        let fleet = add_up(reports.iter(), "own", at);
        assert_eq!((fleet.others, fleet.well), (3, [moved(7)].into()));
        assert_eq!((fleet.proving, fleet.rejected), ([moved(8)].into(), [moved(6)].into()));
        assert_eq!(add_up(reports.iter(), "own", at + LIVE * 2), Fleet { first: true, ..Fleet::default() });
    }

    #[test]
    fn one_pod_of_a_fleet_comes_first_and_none_that_is_held() {
        let at = humantime::parse_rfc3339("2026-11-21T10:01:00Z").unwrap();
        let held = |held: Option<&str>| {
            let all = ["a", "b", "c", "d"].map(|pod| {
                let reason = held.filter(|held| *held == pod).map(|_| "held".to_owned());
                Report { pod: pod.into(), reason, ..report(true, 7) }
            });
            let first = |pod: &&str| add_up(all.iter(), pod, at).first;
            ["a", "b", "c", "d"].into_iter().filter(first).map(str::to_owned).collect::<Vec<_>>()
        };
        let first = held(None);
        assert_eq!(first.len(), 1);
        assert_eq!(held(Some(&first[0])).len(), 2, "it is first itself once it is not held any more");
    }

    #[test]
    fn a_report_outlives_two_that_are_missing() {
        let pauses: Vec<_> = (0..100).map(|_| Pauses::default().after(&report(true, 7))).collect();
        assert!(pauses.iter().all(|pause| *pause * 2 < GOOD_AT_REST));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "not all pods at once");
        assert!(AT_WORK * 2 < LIVE && Pauses::default().after(&report(false, 7)) == AT_WORK);
    }
}
