//! What this pod needs on the volume, named in its lease before it relies on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;

use super::{Effects, volume_work::on};
use crate::{
    core::{Problem, Protected},
    releases::{Releases, leases::Lease},
    revision::ReleaseId,
};

/// A lease is written anew so often; see [`crate::releases::leases`] for how long it counts.
const REFRESH: Duration = Duration::from_secs(600);
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
    written: Mutex<Option<(Lease, Instant)>>,
    changed: Notify,
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
    pub fn new(releases: Releases, pod: String) -> Self {
        Self { releases, pod, needs: Mutex::default(), written: Mutex::default(), changed: Notify::new() }
    }

    /// Each release that this pod needs, with the reason.
    pub fn named(&self) -> BTreeMap<ReleaseId, String> {
        locked(&self.needs).as_ref().map(Needs::named).unwrap_or_default()
    }

    /// What the pod runs, proved, if that is what it should run.
    pub fn settled(&self) -> Option<ReleaseId> {
        let needs = locked(&self.needs);
        let protected = needs.as_ref()?.protected.as_ref()?;
        protected
            .running
            .clone()
            .filter(|_| protected.running == protected.desired)
            .filter(|release| !release.is_fallback())
    }

    /// Whether it is known well enough what this pod needs to delete anything.
    pub fn is_sure(&self) -> bool {
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
    pub fn begin(&self, current: Option<&ReleaseId>) {
        locked(&self.needs).get_or_insert_default().in_hand.extend(current.cloned());
        if let Err(problem) = self.write() {
            tracing::warn!(detail = problem.message, "the lease of this pod is not written");
        }
    }

    /// Names a release before it is relied on. Blocks.
    pub fn hold(&self, release: &ReleaseId) -> Result<(), Problem> {
        self.note(|needs| needs.in_hand.extend([release.clone()]));
        let named = |(lease, _): &(Lease, Instant)| lease.names().contains(release);
        if locked(&self.written).as_ref().is_some_and(named) { Ok(()) } else { self.write() }
    }

    /// Writes the lease, synced, if it says something new or is due. Blocks.
    fn write(&self) -> Result<(), Problem> {
        let mut written = locked(&self.written);
        let needs = locked(&self.needs).clone();
        let Some(needs) = needs else { return Ok(()) };
        let lease = needs.lease(&self.pod);
        let same = |(last, at): &(Lease, Instant)| {
            at.elapsed() < REFRESH / 2 && Lease { at: lease.at.clone(), ..last.clone() } == lease
        };
        if !written.as_ref().is_some_and(same) {
            self.releases.write_lease(&lease)?;
            *written = Some((lease, Instant::now()));
        }
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Effects {
    /// What the core wants protected, said before the effects of the same step are started. Never waits.
    pub fn protect(&self, protected: Protected) {
        self.holder.note(|needs| needs.protected = Some(protected));
    }

    /// Nothing of a deploy is needed any more but what it has left running.
    pub(super) fn let_go(&self) {
        self.holder.note(|needs| needs.in_hand.clear());
    }

    /// Keeps the lease on the volume as it should be, and now and then looks for what may go.
    pub(super) async fn keep_lease(self) {
        let mut failed: Option<Problem> = None;
        loop {
            let pause = if failed.is_none() { REFRESH } else { RETRY };
            let due = tokio::time::timeout(pause, self.holder.changed.notified()).await.is_err();
            let holder = self.holder.clone();
            let problem = on(&self.leases, move || holder.write()).await.and_then(|done| done).err();
            if problem != failed
                && let Some(Problem { message, .. }) = &problem
            {
                tracing::warn!(detail = message, "the lease of this pod is not written; tried again soon");
            }
            failed = problem;
            if due && failed.is_none() {
                self.tidy().await;
            }
        }
    }

    /// The pod has ended in order: others need not wait for its lease to expire. Best effort.
    pub async fn farewell(&self) {
        self.holder.note(|needs| needs.ended = true);
        let holder = self.holder.clone();
        let _ = self.leases.run(FAREWELL, move || holder.write()).await;
    }
}

#[cfg(test)]
mod tests {
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
}
