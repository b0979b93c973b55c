//! What each pod runs, told to everybody by its own agent: a small object in the store for each pod.
//!
//! ```text
//! fleet/<pointer>/<pod>                  JSON: what the pod runs, what it should, and why not
//! canary/<pointer>/<sequence>/<n>        the name of a pod that is the n-th canary of a move
//! moves/<pointer>/<sequence>.end         how a move ended
//! ```
//!
//! Reports can be forged by whoever may write them. A pod that reads them waits or tries once more because of them,
//! and goes nowhere. A report is written when it changes and now and then in between, so that
//! who reads it can tell a pod that lives from one that is gone; `promote --wait` and `pitstop fleet` read it.

mod canary;
mod glance;
pub(crate) mod moves;
mod neighbours;
mod report;
pub(crate) mod reports;
mod steward;

pub(crate) use canary::Chooser;
pub use glance::Glance;
pub(crate) use glance::Overview;
pub use neighbours::Reader;
pub(crate) use report::LIVE;
#[cfg(test)]
pub(crate) use report::Rejected;
pub use report::{About, Report};
pub(crate) use reports::Reports;
pub(crate) use steward::Steward;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use crate::{
    revision::PodCount,
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
    pub(crate) fn reader(&self, max_unavailable: PodCount) -> Reader {
        let (store, pointer, pod) = (self.store.clone(), self.pointer.clone(), self.pod.clone());
        Reader { store, pointer, pod, max_unavailable }
    }

    /// Who writes down how moves ended.
    pub(crate) fn steward(&self) -> Steward {
        let (store, pointer, pod) = (self.store.clone(), self.pointer.clone(), self.pod.clone());
        Steward::new(store, pointer, pod, self.snapshots.clone())
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
    use super::{report::tests::report, *};

    #[test]
    fn a_report_outlives_two_that_are_missing() {
        let pauses: Vec<_> = (0..100).map(|_| Pauses::default().after(&report(true, 7))).collect();
        assert!(pauses.iter().all(|pause| *pause * 2 < GOOD_AT_REST));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "not all pods at once");
        assert_eq!(AT_REST.as_secs(), 600, "docs/sizing.md says what that costs");
        assert!(AT_WORK * 2 < LIVE && Pauses::default().after(&report(false, 7)) == AT_WORK);
    }
}
