//! What this pod needs on the volume, named in its lease before it relies on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;

use super::{Effects, volume_work::on};
use crate::{
    core::{Problem, Protected},
    lane::Lane,
    releases::{Releases, leases::Lease},
    revision::ReleaseId,
};

/// A lease is written anew so often; see [`crate::releases::leases`] for how long it counts.
const REFRESH: Duration = Duration::from_secs(600);
/// After the last change it is synced: nothing that is left to do for a deploy waits for that.
const SETTLED: Duration = Duration::from_secs(5);
/// After a write that failed, the next try.
const RETRY: Duration = Duration::from_secs(30);
/// The end of the agent waits for its last line no longer than this.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the pod needs, and the lease that says so.
#[derive(Debug)]
pub(super) struct Holder {
    releases: Releases,
    pod: String,
    /// Never held while the volume is waited for. `None` until the volume has told where the pod stands.
    needs: Mutex<Option<Needs>>,
    /// The lease on the volume. Held while it is written: one writer at a time.
    written: Mutex<Option<Written>>,
    changed: Notify,
    /// It is written anew so often.
    refresh: Duration,
}

#[derive(Debug)]
struct Written {
    lease: Lease,
    at: Instant,
    synced: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Needs {
    /// What the core wants protected. `None` until it has said so: only then is anything deleted.
    protected: Option<Protected>,
    /// What effects work with, until the deploy is over: those of a lost loop may be on their way still.
    in_hand: BTreeSet<ReleaseId>,
    ended: bool,
}

impl Needs {
    /// Each release with what it is needed for.
    fn named(&self) -> BTreeMap<ReleaseId, String> {
        let Protected { running, previous, desired, also } = self.protected.clone().unwrap_or_default();
        let also =
            also.iter().chain(&self.in_hand).map(|id| (Some(id), "this pod, or its way back, may need it"));
        let all = also.chain([
            (previous.as_ref(), "this pod ran it before"),
            (desired.as_ref(), "the pointer names it"),
            (running.as_ref(), "this pod runs it"),
        ]);
        all.filter_map(|(id, why)| Some((id?.clone(), why.to_owned()))).collect()
    }

    fn lease(&self, pod: &str) -> Lease {
        let Protected { running, previous, desired, .. } = self.protected.clone().unwrap_or_default();
        let roles: BTreeSet<_> = [&running, &previous, &desired].into_iter().flatten().collect();
        Lease {
            v: 1,
            pod: pod.into(),
            also: self.named().into_keys().filter(|id| !roles.contains(id)).collect(),
            running,
            previous,
            desired,
            ended: self.ended,
            at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }
}

impl Holder {
    pub(crate) fn new(releases: Releases, pod: String) -> Self {
        Self {
            releases,
            pod,
            needs: Mutex::default(),
            written: Mutex::default(),
            changed: Notify::new(),
            refresh: REFRESH,
        }
    }

    /// Each release that this pod needs, with the reason.
    pub(crate) fn named(&self) -> BTreeMap<ReleaseId, String> {
        locked(&self.needs).as_ref().map(Needs::named).unwrap_or_default()
    }

    /// What the pod runs, proved, if that is what it should run.
    pub(crate) fn settled(&self) -> Option<ReleaseId> {
        let needs = locked(&self.needs);
        let protected = needs.as_ref()?.protected.as_ref()?;
        protected
            .running
            .clone()
            .filter(|_| protected.running == protected.desired)
            .filter(|release| !release.is_fallback())
    }

    /// Whether it is known well enough what this pod needs to delete anything.
    pub(crate) fn is_sure(&self) -> bool {
        locked(&self.needs).as_ref().is_some_and(|needs| needs.protected.is_some())
    }

    /// Notes a change; the lease follows in the background.
    fn note(&self, change: impl FnOnce(&mut Needs)) {
        let mut needs = locked(&self.needs);
        let Some(needs) = needs.as_mut() else { return };
        let before = needs.clone();
        change(needs);
        if *needs != before {
            self.changed.notify_one();
        }
    }

    /// The volume has told where `current` leads. Blocks: the lease is written before anything relies on it.
    pub(crate) fn begin(&self, current: Option<&ReleaseId>) {
        locked(&self.needs).get_or_insert_default().in_hand.extend(current.cloned());
        if let Err(problem) = self.write() {
            tracing::warn!(detail = problem.message, "the lease of this pod is not written");
        }
    }

    /// Names a release for all living agents before it is relied on. Blocks.
    pub(crate) fn hold(&self, release: &ReleaseId) -> Result<(), Problem> {
        self.note(|needs| needs.in_hand.extend([release.clone()]));
        let named = |written: &Written| written.lease.names().contains(release);
        if locked(&self.written).as_ref().is_some_and(named) { Ok(()) } else { self.put() }
    }

    /// Writes the lease if it says something new or is due. Blocks.
    fn put(&self) -> Result<(), Problem> {
        let mut written = locked(&self.written);
        let needs = locked(&self.needs).clone();
        let Some(needs) = needs else { return Ok(()) };
        let lease = needs.lease(&self.pod);
        let same = |last: &Written| {
            last.at.elapsed() < self.refresh / 2
                && Lease { at: lease.at.clone(), ..last.lease.clone() } == lease
        };
        if !written.as_ref().is_some_and(same) {
            self.releases.put_lease(&lease)?;
            *written = Some(Written { lease, at: Instant::now(), synced: false });
        }
        Ok(())
    }

    /// The same, synced. Blocks.
    fn write(&self) -> Result<(), Problem> {
        self.put()?;
        if let Some(written) = locked(&self.written).as_mut().filter(|written| !written.synced) {
            self.releases.sync_lease()?;
            written.synced = true;
        }
        Ok(())
    }

    fn is_synced(&self) -> bool {
        locked(&self.written).as_ref().is_none_or(|written| written.synced)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Effects {
    /// What the core wants protected, said before the effects of the same step are started. Never waits.
    pub(crate) fn protect(&self, protected: Protected) {
        self.holder.note(|needs| needs.protected = Some(protected));
    }

    /// Nothing of a deploy is needed any more but what it has left running.
    pub(super) fn let_go(&self) {
        self.holder.note(|needs| needs.in_hand.clear());
    }

    /// Keeps the lease on the volume as it should be, and now and then looks for what may go.
    pub(super) async fn keep_lease(self) {
        keep(&self.holder, &self.leases, || self.tidy_soon()).await;
    }

    /// The pod has ended in order: others need not wait for its lease to expire. Best effort.
    pub(crate) async fn farewell(&self) {
        self.holder.note(|needs| needs.ended = true);
        let holder = self.holder.clone();
        let _ = self.leases.run(FAREWELL, move || holder.write()).await;
    }
}

/// `tidy` only starts what it does: a volume that refuses to delete must not keep the lease from being written.
async fn keep(holder: &Arc<Holder>, lane: &Lane, tidy: impl Fn()) {
    let (mut failed, mut synced): (Option<Problem>, _) = (None, true);
    loop {
        let pause = match &failed {
            Some(_) => RETRY,
            None if synced => holder.refresh,
            None => SETTLED,
        };
        let due = tokio::time::timeout(pause, holder.changed.notified()).await.is_err();
        let writer = holder.clone();
        let write = move || {
            let done = if due { writer.write() } else { writer.put() };
            done.map(|()| writer.is_synced())
        };
        let written = on(lane, write).await.and_then(|done| done);
        let (was_synced, problem) = (synced, written.as_ref().err().cloned());
        synced = written.unwrap_or_default();
        if problem != failed
            && let Some(Problem { message, .. }) = &problem
        {
            tracing::warn!(detail = message, "the lease of this pod is not written; tried again soon");
        }
        failed = problem;
        if due && was_synced && failed.is_none() {
            tidy();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, os::unix::fs::MetadataExt};

    use super::*;
    use crate::releases::Limits;

    fn id(text: &str) -> ReleaseId {
        text.parse().unwrap()
    }

    fn holder(dir: &std::path::Path) -> Holder {
        let releases = Releases::new(dir.into(), dir.join("current"), "web-0", Limits::default());
        Holder::new(releases, "web-0".into())
    }

    fn on_disk(holder: &Holder) -> BTreeSet<ReleaseId> {
        holder.releases.leases().unwrap().live.iter().flat_map(Lease::names).collect()
    }

    #[test]
    fn a_release_is_on_disk_in_the_lease_before_it_is_relied_on() {
        let dir = tempfile::tempdir().unwrap();
        let holder = holder(dir.path());
        holder.begin(Some(&id("v1")));
        assert_eq!(on_disk(&holder), [id("v1")].into());
        holder.hold(&id("v2")).unwrap();
        assert_eq!(on_disk(&holder), [id("v1"), id("v2")].into());
        assert!(!holder.is_sure(), "the core has not said what it needs");
        let protected = Protected { running: Some(id("v2")), ..Protected::default() };
        holder.note(|needs| needs.protected = Some(protected));
        assert!(
            holder.is_sure() && holder.named().contains_key(&id("v1")),
            "an effect may work with it still"
        );
        holder.note(|needs| needs.in_hand.clear());
        assert_eq!(holder.named().into_keys().collect::<Vec<_>>(), [id("v2")]);
    }

    #[test]
    fn nothing_is_said_before_it_is_known_where_the_pod_stands() {
        let dir = tempfile::tempdir().unwrap();
        let holder = holder(dir.path());
        holder.write().unwrap();
        assert_eq!(on_disk(&holder), [].into());
        assert!(!dir.path().join(".pitstop").exists());
    }

    /// A deletion that a volume refuses is tried again for as long as it does: in the background.
    #[tokio::test]
    async fn the_lease_is_written_anew_while_a_deletion_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let holder = Arc::new(Holder { refresh: Duration::from_millis(20), ..holder(dir.path()) });
        holder.begin(Some(&id("v1")));
        let begun = Cell::new(0);
        let lease = dir.path().join(".pitstop/leases/web-0");
        let written = || std::fs::metadata(&lease).map(|meta| meta.ino()).unwrap();
        let first = written();
        let anew = async {
            while begun.get() < 3 || written() == first {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let lane = Lane::start("lease").unwrap();
        tokio::select! {
            () = keep(&holder, &lane, || begun.set(begun.get() + 1)) => unreachable!("it keeps on"),
            () = anew => {}
        }
    }
}
