//! Reading the pods' reports.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use super::{LIMIT_BYTES, Report, prefix};
use crate::{
    config::order,
    store::{Found, Store, StoreError, Version},
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

    /// Each with the time for which it has been the same, by this reader's clock and since it first looked.
    pub(crate) fn with_silence(&self) -> impl Iterator<Item = (&Report, Duration)> {
        self.known.values().filter_map(|known| Some((known.report.as_ref()?, known.since.elapsed())))
    }

    /// The same, and whether it was written while this reader looked: then that time says more than the pod's clock.
    pub(crate) fn heard(&self) -> impl Iterator<Item = (&Report, Duration, bool)> {
        let known = self.known.values();
        known.filter_map(|known| Some((known.report.as_ref()?, known.since.elapsed(), known.news)))
    }

    /// Reads what has changed.
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
        let mut keys = self.store.list(&self.prefix).await?;
        let pods: Vec<String> =
            keys.iter().filter_map(|key| key.strip_prefix(&self.prefix)).map(str::to_owned).collect();
        keys.sort_by_key(|key| order(key.strip_prefix(&self.prefix).unwrap_or(key)));
        keys.truncate(most);
        self.known.retain(|key, _| keys.contains(key));
        let known = &self.known;
        let store = &self.store;
        let reads = stream::iter(keys).map(|key| async move {
            let version = known.get(&key).map(|known| known.version.clone());
            let found = store.get(&key, version.as_ref(), LIMIT_BYTES).await;
            (key, found)
        });
        let found: Vec<_> = reads.buffer_unordered(AT_ONCE).collect().await;
        for (key, found) in found {
            match found {
                Ok(Found::Object { version, bytes }) => {
                    let report = key.strip_prefix(&self.prefix).and_then(|pod| report(pod, &bytes));
                    let known = Known { version, report, since: Instant::now(), news: self.looked };
                    self.known.insert(key, known);
                }
                // No agent of ours writes so much: it is no report, and must not hide the others.
                Ok(Found::Absent | Found::NotModified) | Err(StoreError::TooLarge { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.looked = true;
        Ok(pods)
    }
}

/// What cannot be read is of a version to come, or damaged; what speaks for another pod is forged. Neither is waited for.
fn report(pod: &str, bytes: &[u8]) -> Option<Report> {
    serde_json::from_slice(bytes).ok().filter(|report: &Report| report.pod == pod)
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
}
