//! Reading the pods' reports.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use super::{GOOD_AT_REST, LIMIT_BYTES, Report, prefix};
use crate::{
    config::order,
    store::{Found, Listed, Store, StoreError, Version},
};

/// So many reports are read at the same time.
const AT_ONCE: usize = 8;

/// The reports as last read.
pub(crate) struct Reports {
    store: Arc<dyn Store>,
    prefix: String,
    looked: bool,
    known: BTreeMap<String, Known>,
}

/// A report as last read.
struct Known {
    version: Version,
    /// `None`: it is none.
    report: Option<Report>,
    /// It has been the same since.
    since: Instant,
    /// It was written while this reader looked.
    news: bool,
}

impl Reports {
    /// Those of the pods that follow this pointer. None is read yet.
    pub(crate) fn of(store: &Arc<dyn Store>, pointer: &str) -> Self {
        Self { store: store.clone(), prefix: prefix(pointer), looked: false, known: BTreeMap::new() }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Report> {
        self.known.values().filter_map(|known| known.report.as_ref())
    }

    /// What a pod said last, where that was read and is a report.
    pub(crate) fn get(&self, pod: &str) -> Option<&Report> {
        self.known.get(pod)?.report.as_ref()
    }

    /// Each with the time for which it has been the same, by this reader's clock and since it first looked.
    pub(crate) fn with_silence(&self) -> impl Iterator<Item = (&Report, Duration)> {
        self.known.values().filter_map(|known| Some((known.report.as_ref()?, known.since.elapsed())))
    }

    /// The same, and whether it was written while this reader looked: then that time says more than the pod's clock.
    pub(crate) fn heard(&self) -> impl Iterator<Item = (&Report, Duration, bool)> {
        let known = self.known.values();
        known.filter_map(|known| Some((known.report.as_ref()?, known.since.elapsed(), known.news)))
    }

    /// Reads what has changed, of all pods.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn look(&mut self) -> Result<(), StoreError> {
        self.look_at(usize::MAX).await.map(drop)
    }

    /// Reads what has changed of the `most` pods that come first in their order. Returns the names of all pods.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn look_at(&mut self, most: usize) -> Result<Vec<String>, StoreError> {
        let all: Vec<_> = self.list().await?.into_iter().map(|listed| listed.key).collect();
        let mut pods = all.clone();
        pods.sort_by_key(|pod| order(pod));
        pods.truncate(most);
        self.known.retain(|pod, _| pods.contains(pod));
        self.read(&pods).await?;
        self.looked = true;
        Ok(all)
    }

    /// The names of all pods that have ever reported, in the place of the keys, and when they last did.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let mut all = self.store.list_dated(&self.prefix).await?;
        all.retain(|listed| listed.key.get(self.prefix.len()..).is_some_and(is_name));
        for listed in &mut all {
            listed.key.drain(..self.prefix.len());
        }
        Ok(all)
    }

    /// The names of the pods that may be alive, in their order: none has been silent for longer than a pod may be, by
    /// the store's clock. What others had said is forgotten.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn list_live(&mut self) -> Result<Vec<String>, StoreError> {
        let pods = live(self.list().await?);
        self.known.retain(|pod, _| pods.contains(pod));
        Ok(pods)
    }

    /// Reads what has changed of these pods.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn read(&mut self, pods: &[String]) -> Result<(), StoreError> {
        let (known, store, prefix) = (&self.known, &self.store, &self.prefix);
        let reads = stream::iter(pods.to_vec()).map(|pod| async move {
            let version = known.get(&pod).map(|known| known.version.clone());
            let found = store.get(&format!("{prefix}{pod}"), version.as_ref(), LIMIT_BYTES).await;
            (pod, found)
        });
        let found: Vec<_> = reads.buffer_unordered(AT_ONCE).collect().await;
        let (mut readable, mut denied) = (false, None);
        for (pod, found) in found {
            readable |= found.is_ok();
            match found {
                Ok(Found::Object { version, bytes }) => {
                    let report = report(&pod, &bytes);
                    let known = Known { version, report, since: Instant::now(), news: self.looked };
                    self.known.insert(pod, known);
                }
                Ok(Found::NotModified) => {}
                // No agent writes so much, or an object that S3 archives: it must not hide the others.
                Ok(Found::Absent) | Err(StoreError::TooLarge { .. } | StoreError::Unfit(_)) => {
                    self.known.remove(&pod);
                }
                Err(error @ StoreError::Denied(_)) => {
                    self.known.remove(&pod);
                    denied = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        // One alone is encrypted with a key that others do not have.
        denied.filter(|_| !readable).map_or(Ok(()), Err)
    }
}

fn live(all: Vec<Listed>) -> Vec<String> {
    let newest = all.iter().map(|listed| listed.written_s).max().unwrap_or(0);
    let oldest = newest.saturating_sub(GOOD_AT_REST.as_secs());
    let there = |listed: &Listed| listed.written_s == 0 || listed.written_s >= oldest;
    let mut pods: Vec<_> = all.into_iter().filter(there).map(|listed| listed.key).collect();
    pods.sort_by_key(|pod| order(pod));
    pods
}

/// Whether a pod can be called so, and its report be asked for.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control)
}

/// What cannot be read is of a version to come, or damaged; what speaks for another pod is forged. Neither is waited for.
fn report(pod: &str, bytes: &[u8]) -> Option<Report> {
    serde_json::from_slice(bytes).ok().filter(|report: &Report| report.pod == pod)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {

    /// What a pod, or whoever may write there, says of it.
    pub(crate) fn report(bytes: &[u8]) {
        let Some(report) = super::report("web-0", bytes) else { return };
        let now = std::time::SystemTime::now();
        let _ = (report.age(now), report.promised(), report.is_gone(now), report.is_live(now));
        if let Some(desired) = &report.desired {
            let _ = (report.has_arrived(desired), report.rejection(desired));
        }
        assert_eq!(report.pod, "web-0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_speaks_for_its_own_pod_only() {
        let text =
            br#"{"v":1,"pod":"web-0","running":null,"desired":null,"in_sync":true,"stage":"steady","at":""}"#;
        assert!(report("web-0", text).is_some());
        assert!(report("web-1", text).is_none());
        assert!(report("web-0", b"{").is_none());
    }

    /// What any pod may write must not hide what the others say.
    #[tokio::test]
    async fn one_object_that_nobody_can_read_hides_no_other_report() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = dir.path().join("fleet/production");
        std::fs::create_dir_all(fleet.join("a-directory")).unwrap();
        let report =
            br#"{"v":1,"pod":"web-0","running":null,"desired":null,"in_sync":true,"stage":"steady","at":""}"#;
        std::fs::write(fleet.join("web-0"), report).unwrap();
        std::fs::write(fleet.join("web-1\n"), report).unwrap();
        std::fs::write(fleet.join("web-2"), vec![b' '; 70_000]).unwrap();
        let store: Arc<dyn Store> =
            Arc::new(crate::store::dir::DirStore::new(dir.path().to_owned()).unwrap());
        let mut reports = Reports::of(&store, "production");
        reports.look().await.unwrap();
        assert_eq!(reports.all().map(|report| report.pod.as_str()).collect::<Vec<_>>(), ["web-0"]);
    }

    #[test]
    fn pods_that_were_not_heard_of_for_long_have_no_place_in_the_order() {
        let listed = |pod: &str, written_s| Listed { key: pod.into(), written_s, bytes: 0 };
        let all = vec![listed("a", 10_000), listed("b", 8_500), listed("c", 8_499), listed("d", 0)];
        let pods = live(all);
        assert_eq!(pods.len(), 3);
        assert!(!pods.contains(&"c".to_owned()) && pods.is_sorted_by_key(|pod| order(pod)), "{pods:?}");
    }
}
