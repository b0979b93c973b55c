//! What lies in `releases/`, by release: also what a publish or a deletion left unfinished.

use std::collections::BTreeMap;

use super::{ArchiveKind, Listed, Store, StoreError};
use crate::revision::ReleaseId;

/// All objects of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Which.
    pub(crate) release: ReleaseId,
    /// The keys of its digests: what makes it a release. None, where a publish or a deletion was not finished.
    pub(crate) digests: Vec<String>,
    /// Its other keys, the archives last.
    pub(crate) others: Vec<String>,
    /// All of it.
    pub(crate) bytes: u64,
    /// When the last of it was written, in seconds since 1970 by the store's clock; `None` where the store does not tell.
    pub(crate) written_s: Option<u64>,
}

/// What an object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Digest,
    Beside,
    Archive,
}

/// The releases that the store holds, sorted, with all that belongs to them.
///
/// # Errors
/// [`StoreError`] when it cannot be listed.
pub(crate) async fn list(store: &dyn Store) -> Result<Vec<Stored>, StoreError> {
    Ok(grouped(store.list_dated("releases/").await?))
}

/// Those that can be promoted, sorted.
///
/// # Errors
/// [`StoreError`] when it cannot be listed.
pub(crate) async fn releases(store: &dyn Store) -> Result<Vec<ReleaseId>, StoreError> {
    let complete = list(store).await?.into_iter().filter(|one| !one.digests.is_empty());
    Ok(complete.map(|one| one.release).collect())
}

fn grouped(objects: Vec<Listed>) -> Vec<Stored> {
    let mut all: BTreeMap<ReleaseId, Vec<(Part, Listed)>> = BTreeMap::new();
    for object in objects {
        if let Some((release, part)) = belongs(&object.key) {
            all.entry(release).or_default().push((part, object));
        }
    }
    all.into_iter().map(|(release, objects)| stored(release, objects)).collect()
}

fn stored(release: ReleaseId, mut objects: Vec<(Part, Listed)>) -> Stored {
    objects.sort_by_key(|(part, _)| *part);
    let bytes = objects.iter().map(|(_, object)| object.bytes).sum();
    let dated = objects.iter().all(|(_, object)| object.written_s > 0);
    let newest = objects.iter().map(|(_, object)| object.written_s).max().filter(|_| dated);
    let (digests, others) = objects.into_iter().partition::<Vec<_>, _>(|(part, _)| *part == Part::Digest);
    let keys = |objects: Vec<(Part, Listed)>| objects.into_iter().map(|(_, object)| object.key).collect();
    Stored { release, digests: keys(digests), others: keys(others), bytes, written_s: newest }
}

/// Whose object that is; `None`: nothing of ours.
fn belongs(key: &str) -> Option<(ReleaseId, Part)> {
    let name = key.strip_prefix("releases/")?;
    let archives = ArchiveKind::ALL.map(|kind| format!(".{}", kind.extension()));
    let digest = archives.iter().find_map(|end| name.strip_suffix(&format!("{end}.sha256")));
    let archive = archives.iter().find_map(|end| name.strip_suffix(end.as_str()));
    let beside = [".manifest", ".signed"].iter().find_map(|end| name.strip_suffix(end));
    let (id, part) = digest
        .map(|id| (id, Part::Digest))
        .or_else(|| archive.map(|id| (id, Part::Archive)))
        .or_else(|| beside.map(|id| (id, Part::Beside)))?;
    Some((id.parse().ok()?, part))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A name in the store is of a release, or of nothing of ours.
    pub(crate) fn key(bytes: &[u8]) {
        let key = String::from_utf8_lossy(bytes);
        if let Some((id, _)) = belongs(&key) {
            assert!(key.starts_with(&format!("releases/{id}.")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_is_one_release_and_its_archive_comes_last() {
        let listed = |(key, written_s): (&str, u64)| Listed {
            key: format!("releases/{key}"),
            written_s,
            bytes: written_s * 10,
        };
        let objects = [
            ("README", 9),
            ("v1.tar.zst", 1),
            ("v1.manifest", 2),
            ("v1.signed", 4),
            ("v1.tar.zst.sha256", 3),
            ("v1.2.tar.gz", 5),
            ("v3.manifest", 0),
        ];
        let all = grouped(objects.into_iter().map(listed).collect());
        let names: Vec<_> = all.iter().map(|one| one.release.as_str()).collect();
        assert_eq!(names, ["v1", "v1.2", "v3"]);
        assert_eq!(all[0].digests, ["releases/v1.tar.zst.sha256"]);
        assert_eq!(all[0].others, ["releases/v1.manifest", "releases/v1.signed", "releases/v1.tar.zst"]);
        assert_eq!((all[0].bytes, all[0].written_s), (100, Some(4)));
        assert_eq!((all[1].digests.len(), all[1].others.len()), (0, 1), "an upload that did not finish");
        assert_eq!(all[2].written_s, None);
    }
}
