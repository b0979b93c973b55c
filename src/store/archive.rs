//! Finding the archive of a release: the digest is the commit, so a release without one is unknown.

use super::{ArchiveKind, Found, Store, StoreError};
use crate::revision::ReleaseId;

/// `sha256sum` prints some 200 bytes; a digest file larger than this is something else.
pub const DIGEST_LIMIT_BYTES: u64 = 4096;

/// A published archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// How it is packed.
    pub kind: ArchiveKind,
    /// The SHA-256 of the archive, in lower-case hexadecimal.
    pub sha256: String,
}

/// The content of a digest file was no SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{key} holds no SHA-256 digest; publish the release under another id, or write what `sha256sum` prints"
)]
pub struct NoDigest {
    /// The digest's key.
    pub key: String,
}

/// The digest that a digest file names: its first word, as `sha256sum` writes it.
///
/// # Errors
/// [`NoDigest`] when that is no SHA-256.
pub fn parse_digest(key: &str, bytes: &[u8]) -> Result<String, NoDigest> {
    let word = std::str::from_utf8(bytes).ok().and_then(|text| text.split_whitespace().next());
    word.filter(|w| w.len() == 64 && w.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(str::to_ascii_lowercase)
        .ok_or_else(|| NoDigest { key: key.into() })
}

/// Which archive a release has been committed with; `None`: the store does not know the release.
///
/// # Errors
/// [`StoreError`]; a digest file that holds none counts as unknown only to callers that say so.
pub async fn find(
    store: &dyn Store,
    id: &ReleaseId,
) -> Result<Option<Result<Published, NoDigest>>, StoreError> {
    let mut denied = None;
    for kind in ArchiveKind::ALL {
        let key = kind.digest_key(id);
        match store.get(&key, None, DIGEST_LIMIT_BYTES).await {
            Ok(Found::Object { bytes, .. }) => {
                return Ok(Some(parse_digest(&key, &bytes).map(|sha256| Published { kind, sha256 })));
            }
            Ok(Found::Absent | Found::NotModified) => {}
            // Without the permission to list, S3 says so of what is not there: the other kind may be.
            Err(error @ StoreError::Denied(_)) => denied = denied.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    denied.map_or(Ok(None), Err)
}

/// The releases that the store holds, sorted.
///
/// # Errors
/// [`StoreError`] when it cannot be listed.
pub async fn list(store: &dyn Store) -> Result<Vec<ReleaseId>, StoreError> {
    let keys = store.list("releases/").await?;
    let mut ids: Vec<ReleaseId> = keys.iter().filter_map(|key| committed(key)).collect();
    ids.sort();
    ids.dedup();
    Ok(ids)
}

fn committed(key: &str) -> Option<ReleaseId> {
    let name = key.strip_prefix("releases/")?.strip_suffix(".sha256")?;
    ArchiveKind::ALL.iter().find_map(|k| name.strip_suffix(k.extension())?.strip_suffix('.')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_first_word() {
        let hex = "AB".repeat(32);
        let parsed = parse_digest("k", format!("{hex}  v1.tar.zst\n").as_bytes());
        assert_eq!(parsed, Ok(hex.to_lowercase()));
    }

    #[test]
    fn anything_else_is_refused_by_its_key() {
        for bad in ["", "abc", "<html>", &"z".repeat(64)] {
            assert_eq!(parse_digest("k", bad.as_bytes()), Err(NoDigest { key: "k".into() }));
        }
    }

    #[test]
    fn only_committed_archives_are_releases() {
        assert_eq!(committed("releases/v1.tar.zst.sha256").unwrap().as_str(), "v1");
        assert_eq!(committed("releases/v1.2.tar.gz.sha256").unwrap().as_str(), "v1.2");
        assert_eq!(committed("releases/v1.tar.zst"), None);
        assert_eq!(committed("releases/v1.sha256"), None);
    }
}
