//! How the last move ended, written down by the pod that knows it first; and the reports of pods that are gone, taken away.
//!
//! A pod that rejects a move says so at once. That all pods have arrived is watched by one of them only, the first in
//! their order, which also cleans up. Both need rights that a pod may not have (docs/s3.md): then `promote --wait`, the
//! next move and a rule of the bucket do it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use super::{
    Reports,
    moves::{End, Ended, Moves},
    prefix,
};
use crate::{
    core::View,
    revision::Revision,
    status::Snapshot,
    store::{Store, StoreError},
};

/// What a pod has found is written down after this, give or take a fifth: the others' reports come meanwhile.
const SOON: Duration = Duration::from_secs(5);
/// The pod that watches the others looks so often, and less and less,
const LOOK: Duration = Duration::from_secs(20);
/// down to this, at which another one takes its place if it is gone, and at which it cleans up.
const LOOK_SELDOM: Duration = Duration::from_secs(3600);
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// A pod that has said that it ends is forgotten after this,
const LEFT_S: u64 = 3600;
/// and one that has ended without a word after this.
const SILENT_S: u64 = 24 * 3600;
/// So many reports are taken away at once.
const DELETED_AT_ONCE: usize = 100;

/// Writes down how moves end.
pub(crate) struct Steward {
    store: Arc<dyn Store>,
    pointer: String,
    pod: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    reports: Reports,
    /// The end of this move is known.
    ended: Option<Revision>,
    cleaned: Option<Instant>,
    /// It was the first pod when that was last asked.
    first: bool,
}

/// How the pod stands with the move that all pods are to make.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    revision: Revision,
    rejected: Option<String>,
}

impl Standing {
    /// `None` while it is on its way, and for a canary: who leads it says how that ended.
    fn of(view: &View) -> Option<Self> {
        let followed = !view.canary.is_some_and(|(_, chosen)| chosen);
        let revision = view.desired.clone().filter(|desired| followed && desired.sequence.is_some())?;
        let rejected = view.rejected.iter().find(|(rejected, _)| *rejected == revision);
        let rejected = rejected.map(|(_, reason)| reason.code().to_owned());
        (view.in_sync || rejected.is_some()).then_some(Self { revision, rejected })
    }
}

impl Steward {
    pub(super) fn new(
        store: Arc<dyn Store>,
        pointer: String,
        pod: String,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        let reports = Reports::of(&store, &pointer);
        Self { store, pointer, pod, snapshots, reports, ended: None, cleaned: None, first: false }
    }

    /// Works until the agent ends.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut known = None;
        let (mut due, mut pause) = (tokio::time::Instant::now(), LOOK);
        while !*stop.borrow_and_update() {
            let standing = Standing::of(&self.snapshots.borrow_and_update().view);
            if standing != known {
                (due, pause) = (tokio::time::Instant::now() + jittered(SOON), LOOK);
                known = standing;
            }
            if let (Some(standing), true) = (&known, tokio::time::Instant::now() >= due) {
                if let Err(error) = self.look(standing).await {
                    tracing::debug!(%error, "how the last move ended could not be written down");
                }
                // At rest, all but one pod ask nothing.
                let rests = self.ended.as_ref() == Some(&standing.revision) && !self.first;
                due = tokio::time::Instant::now() + if rests { FOR_EVER } else { jittered(pause) };
                pause = (pause * if self.first { 2 } else { 30 }).min(LOOK_SELDOM);
            }
            tokio::select! {
                () = tokio::time::sleep_until(due), if known.is_some() => {}
                // Who publishes is gone only when the agent ends.
                Ok(()) = self.snapshots.changed() => {}
                _ = stop.changed() => break,
            }
        }
    }

    async fn look(&mut self, standing: &Standing) -> Result<(), StoreError> {
        let revision = &standing.revision;
        let Some(sequence) = revision.sequence else { return Ok(()) };
        let moves = Moves::of(&self.store, &self.pointer);
        if self.ended.as_ref() != Some(revision) && moves.end(sequence).await?.is_some() {
            self.ended = Some(revision.clone());
        }
        let open = self.ended.as_ref() != Some(revision);
        let end = match &standing.rejected {
            Some(reason) if open => (Ended::Rejected, format!("{}: {reason}", self.pod)),
            None if open || self.first => {
                self.first = self.is_first().await?;
                if !self.first {
                    return Ok(());
                }
                self.clean().await?;
                match open.then_some(self.all_arrived(revision).await?).flatten() {
                    Some(pods) => (Ended::Verified, format!("{pods} of {pods} pods ran it")),
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        let at = Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string());
        let by = Some(format!("pod {}", self.pod));
        moves.write_end(sequence, &End { v: 1, result: end.0, message: end.1, by, at }).await?;
        self.ended = Some(revision.clone());
        Ok(())
    }

    /// No pod that lives comes before this one.
    async fn is_first(&mut self) -> Result<bool, StoreError> {
        for pod in self.reports.list_live().await? {
            if pod == self.pod {
                return Ok(true);
            }
            self.reports.read(std::slice::from_ref(&pod)).await?;
            if self.reports.get(&pod).is_some_and(|report| report.is_live(SystemTime::now())) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// How many pods there are, if all of them run the move, proved.
    async fn all_arrived(&mut self, revision: &Revision) -> Result<Option<usize>, StoreError> {
        let pods = self.reports.list_live().await?;
        self.reports.read(&pods).await?;
        let now = SystemTime::now();
        let live: Vec<_> = self.reports.all().filter(|report| report.is_live(now)).collect();
        Ok(live.iter().all(|report| report.has_arrived(revision)).then_some(live.len()))
    }

    /// Takes away what pods have left that are gone, by the store's own clock. A pod that comes back under its name just
    /// then writes its report again in ten minutes at most.
    async fn clean(&mut self) -> Result<(), StoreError> {
        if self.cleaned.is_some_and(|at| at.elapsed().as_secs() < LEFT_S) {
            return Ok(());
        }
        self.cleaned = Some(Instant::now());
        let all = self.reports.list().await?;
        let newest = all.iter().map(|listed| listed.written_s).max().unwrap_or(0);
        let age = |written_s: u64| if written_s == 0 { 0 } else { newest - written_s };
        let old = all.into_iter().filter(|listed| age(listed.written_s) > LEFT_S).take(DELETED_AT_ONCE);
        let (pods, silent): (Vec<_>, Vec<_>) =
            old.map(|listed| (listed.key, age(listed.written_s) > SILENT_S)).unzip();
        self.reports.read(&pods).await?;
        for (pod, silent) in pods.into_iter().zip(silent) {
            if silent || self.reports.get(&pod).is_some_and(|report| report.leaving) {
                match self.store.delete(&format!("{}{pod}", prefix(&self.pointer))).await {
                    Err(StoreError::Denied(_)) => return Ok(()),
                    deleted => deleted?,
                }
            }
        }
        Ok(())
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        core::{Moment, Problem, Reason},
        store::dir::DirStore,
    };

    fn reports(fleet: &Path) -> Vec<String> {
        let names =
            fs::read_dir(fleet).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn reports_of_pods_that_are_gone_are_taken_away_an_hour_after_their_farewell_or_a_day_after_their_last_word()
     {
        let dir = tempfile::tempdir().unwrap();
        let fleet = dir.path().join("fleet/production");
        ["releases", "moves/production"]
            .iter()
            .for_each(|name| fs::create_dir_all(dir.path().join(name)).unwrap());
        fs::create_dir_all(&fleet).unwrap();
        let now = SystemTime::now();
        let write = |pod: &str, leaving: bool, hours: u64| {
            let at = humantime::format_rfc3339_seconds(now).to_string();
            let text = serde_json::json!({
                "v": 1, "pod": pod, "running": null, "desired": null, "in_sync": true, "stage": "steady", "at": at,
                "leaving": leaving,
            });
            fs::write(fleet.join(pod), text.to_string()).unwrap();
            let file = fs::File::options().write(true).open(fleet.join(pod)).unwrap();
            file.set_modified(now - Duration::from_secs(hours * 3601)).unwrap();
        };
        for (pod, leaving, hours) in [
            ("own", false, 0),
            ("left-now", true, 0),
            ("left-an-hour-ago", true, 1),
            ("silent-for-hours", false, 23),
            ("silent-for-a-day", false, 24),
        ] {
            write(pod, leaving, hours);
        }
        let snapshot = Snapshot::unknown(Moment(1), Problem::new(Reason::Held, ""));
        let (_snapshots, seen) = watch::channel(Arc::new(snapshot));
        let store: Arc<dyn Store> = Arc::new(DirStore::new(dir.path().to_owned()).unwrap());
        let mut steward = Steward::new(store, "production".into(), "own".into(), seen);
        let revision = Revision { release: "v1".parse().unwrap(), sequence: Some(1) };
        let standing = Standing { revision, rejected: None };
        steward.look(&standing).await.unwrap();
        assert_eq!(reports(&fleet), ["left-now", "own", "silent-for-hours"]);
        // It does so once an hour.
        write("silent-for-a-day", false, 24);
        steward.look(&standing).await.unwrap();
        assert!(fleet.join("silent-for-a-day").exists());
        // Who is not the first leaves that to who is.
        let (_snapshots, seen) = watch::channel(steward.snapshots.borrow().clone());
        let mut other = Steward::new(steward.store.clone(), "production".into(), "not-reported".into(), seen);
        other.look(&standing).await.unwrap();
        assert!(fleet.join("silent-for-a-day").exists());
    }
}
