//! Finding the archive of a release: the digest is the commit, so a release without one is unknown.

use super::{ArchiveKind, Found, Store, StoreError};
use crate::{
    core::{Problem, Reason, requirement::Requirement},
    revision::ReleaseId,
};

/// Where `publish` puts what an archive holds; archives of other tools have none.
pub(crate) fn manifest_key(id: &ReleaseId) -> String {
    format!("releases/{id}.manifest")
}

/// Where its signed statement is.
pub(crate) fn signed_key(id: &ReleaseId) -> String {
    format!("releases/{id}.signed")
}

/// A signed statement is at most so long.
pub(crate) const SIGNED_LIMIT_BYTES: u64 = 64 << 10;

/// `sha256sum` prints some 200 bytes; a digest file larger than this is something else.
pub(crate) const DIGEST_LIMIT_BYTES: u64 = 4096;

/// A published archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// How it is packed.
    pub(crate) kind: ArchiveKind,
    /// The SHA-256 of the archive, in lower-case hexadecimal.
    pub(crate) sha256: String,
    /// What it needs of the image.
    pub(crate) requires: Vec<Requirement>,
    /// How large the archive is, where that is signed.
    pub(crate) bytes: Option<u64>,
}

impl Published {
    /// Understands a digest file: the digest is its first word, as `sha256sum` writes it; lines like
    /// `# requires ruby=3.3` say what the image must bring.
    ///
    /// # Errors
    /// [`Unusable::NoDigest`] when it holds none.
    pub(crate) fn parse(kind: ArchiveKind, key: &str, bytes: &[u8]) -> Result<Self, Unusable> {
        let sha256 = parse_digest(key, bytes)?;
        let text = String::from_utf8_lossy(bytes);
        let needs = text.lines().filter_map(|line| {
            let words = line.trim().strip_prefix('#')?.trim_start().strip_prefix("requires")?;
            words.starts_with([' ', '\t', ':']).then(|| words.trim_start_matches(':').to_owned())
        });
        let requires = Requirement::parse_list(&needs.collect::<Vec<_>>().join(" "));
        Ok(Self { kind, sha256, requires, bytes: None })
    }

    /// The digest file's content for an archive of this name.
    pub(crate) fn digest_file(&self, name: &str) -> String {
        let words: Vec<String> = self.requires.iter().map(Requirement::to_string).collect();
        let requires =
            if words.is_empty() { String::new() } else { format!("# requires {}\n", words.join(" ")) };
        format!("{}  {name}\n{requires}", self.sha256)
    }
}

/// Why no archive of a release can be used, though there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The content of a digest file is no SHA-256.
    #[error(
        "{key} does not contain a SHA-256 digest; publish the release under another id, or write what \
         `sha256sum` prints"
    )]
    NoDigest {
        /// The digest's key.
        key: String,
    },
    /// The digest file is UTF-16, as PowerShell's `>` writes it.
    #[error("{key} is UTF-16: write it as UTF-8 (in PowerShell: Set-Content -Encoding ascii)")]
    Utf16 {
        /// The digest's key.
        key: String,
    },
    /// A release has one archive; which of several was meant, nobody can tell.
    #[error(
        "the store has two archives of this release, {0} and {1}: delete the wrong one and its digest, or \
         publish the release under another id"
    )]
    TwoArchives(String, String),
}

/// The digest that a digest file names, in any form that tools write: `hex`, `hex  name`, `hex *name`,
/// `SHA256 (name) = hex`. Of several digests, the one of the archive's own name.
///
/// # Errors
/// [`Unusable::NoDigest`] when that is no SHA-256.
fn parse_digest(key: &str, bytes: &[u8]) -> Result<String, Unusable> {
    let none = || Unusable::NoDigest { key: key.into() };
    if is_utf16(bytes) {
        return Err(Unusable::Utf16 { key: key.into() });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| none())?.trim_start_matches('\u{feff}');
    let quoted: Option<String> = serde_json::from_str(text).ok();
    let text = quoted.as_deref().unwrap_or(text);
    // Comments are skipped by `sha256sum --check` as well.
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let found = lines.map(line).collect::<Option<Vec<_>>>().ok_or_else(none)?;
    let archive = key.rsplit('/').next().and_then(|name| name.strip_suffix(".sha256"));
    let own = |name: &str| name.rsplit('/').next() == archive;
    let (first, _) = found.first().ok_or_else(none)?;
    if found.iter().all(|(hex, _)| hex == first) {
        return Ok(first.clone());
    }
    let mut named = found.iter().filter(|(_, name)| own(name)).map(|(hex, _)| hex);
    named.next().filter(|hex| named.all(|other| other == *hex)).cloned().ok_or_else(none)
}

/// The digest of a line, in lower case, and the name that stands with it.
fn line(line: &str) -> Option<(String, &str)> {
    // A backslash in front says that there are some in the name.
    let line = line.strip_prefix('\\').unwrap_or(line);
    let (hex, name) = match line.split_once(char::is_whitespace).unwrap_or((line, "")) {
        (hex, name) if is_sha256(hex) => (hex, name.trim_start().trim_start_matches('*')),
        _ => tagged(line)?,
    };
    is_sha256(hex).then(|| (hex.to_ascii_lowercase(), name))
}

/// `SHA256 (name) = hex`; openssl leaves spaces out, and the algorithm for what it reads from a pipe.
fn tagged(line: &str) -> Option<(&str, &str)> {
    let (tag, hex) = line.rsplit_once('=')?;
    let (algorithm, name) = tag.trim_end().strip_suffix(')')?.split_once('(')?;
    let known = ["", "sha256", "sha2-256"].contains(&algorithm.trim().to_ascii_lowercase().as_str());
    known.then_some((hex.trim(), name))
}

/// By its byte order mark, or by the zeros that every second byte of ASCII is.
pub(crate) fn is_utf16(bytes: &[u8]) -> bool {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [first, second, ..] => (*first == 0) != (*second == 0),
        _ => false,
    }
}

/// Whether it is a SHA-256 in hexadecimal digits.
pub(crate) fn is_sha256(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Which archive a release has been committed with; `None`: the store does not know the release.
///
/// # Errors
/// [`StoreError`]; an archive that nobody can use counts as unknown only to callers that say so.
pub async fn find(
    store: &dyn Store,
    id: &ReleaseId,
) -> Result<Option<Result<Published, Unusable>>, StoreError> {
    let mut found: Option<(ArchiveKind, Vec<u8>)> = None;
    let mut denied = None;
    for kind in ArchiveKind::ALL {
        match store.get(&kind.digest_key(id), None, DIGEST_LIMIT_BYTES).await {
            Ok(Found::Object { bytes, .. }) => match &found {
                None => found = Some((kind, bytes)),
                Some((other, _)) => return Ok(Some(Err(Unusable::TwoArchives(other.key(id), kind.key(id))))),
            },
            Ok(Found::Absent | Found::NotModified) => {}
            // Without the permission to list, S3 says so of what is not there: the other kind may be.
            Err(error @ StoreError::Denied(_)) => denied = denied.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match (found, denied) {
        (Some((kind, bytes)), _) => Ok(Some(Published::parse(kind, &kind.digest_key(id), &bytes))),
        (None, Some(denied)) => Err(denied),
        (None, None) => Ok(None),
    }
}

/// The archive of a release that has to be there.
///
/// # Errors
/// [`Reason::ReleaseUnknown`] when it is not, [`Reason::ReleaseCorrupt`] when it cannot be used; else what the store
/// says.
pub(crate) async fn require(store: &dyn Store, id: &ReleaseId) -> Result<Published, Problem> {
    match find(store, id).await? {
        Some(Ok(published)) => Ok(published),
        Some(Err(why)) => Err(Problem::new(Reason::ReleaseCorrupt, format!("release {id}: {why}"))),
        None => {
            let message = match uploaded(store, id).await {
                Some(key) => format!(
                    "release {id}: the store has its archive ({key}) but not its digest ({key}.sha256). The \
                     upload did not finish, or the digest was deleted. Publish {id} again, or promote another \
                     release"
                ),
                None => format!(
                    "the store has no release {id}: publish it, or promote another (`pitstop releases` lists them)"
                ),
            };
            Err(Problem::new(Reason::ReleaseUnknown, message))
        }
    }
}

/// The signed statement on a release, if there is one.
///
/// # Errors
/// [`StoreError`] when the store does not tell.
pub(crate) async fn signed(store: &dyn Store, id: &ReleaseId) -> Result<Option<Vec<u8>>, StoreError> {
    match store.get(&signed_key(id), None, SIGNED_LIMIT_BYTES).await {
        Ok(Found::Object { bytes, .. }) => Ok(Some(bytes)),
        // Without the right to list, S3 denies what is not there.
        Ok(Found::Absent | Found::NotModified) | Err(StoreError::Denied(_)) => Ok(None),
        // Whatever that is, it is no signature.
        Err(StoreError::TooLarge { .. }) => Ok(Some(Vec::new())),
        Err(error) => Err(error),
    }
}

/// The key of an archive of the release, with a digest or without; `None` also where the store does not tell.
async fn uploaded(store: &dyn Store, id: &ReleaseId) -> Option<String> {
    for kind in ArchiveKind::ALL {
        let key = kind.key(id);
        if is_uploaded(store, &key).await {
            return Some(key);
        }
    }
    None
}

/// Whether there is such an archive, with a digest or without; false also where the store does not tell.
pub(crate) async fn is_uploaded(store: &dyn Store, key: &str) -> bool {
    // Nothing of it has to be read for that.
    matches!(store.get(key, None, 0).await, Ok(Found::Object { .. }) | Err(StoreError::TooLarge { .. }))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A digest that was read is one, and is written the same.
    pub(crate) fn digest(bytes: &[u8]) {
        let key = "releases/v1.tar.gz.sha256";
        if let Ok(read) = Published::parse(ArchiveKind::TarGz, key, bytes) {
            assert!(is_sha256(&read.sha256) && read.sha256 == read.sha256.to_lowercase());
            let written = read.digest_file("v1.tar.gz");
            assert_eq!(Published::parse(ArchiveKind::TarGz, key, written.as_bytes()), Ok(read));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "releases/v1.tar.gz.sha256";

    #[test]
    fn a_digest_is_understood_in_every_form_that_tools_write() {
        let (upper, lower) = ("AB".repeat(32), "ab".repeat(32));
        for text in [
            upper.clone(),
            format!("{lower}\r\n"),
            format!("{upper}  v1.tar.zst\n"),
            format!("{lower} *build/app.tgz\r\n\r\n"),
            format!("\\{lower}  odd\\\\name\n"),
            format!("SHA256 (v1.tar.gz) = {lower}\n"),
            format!("SHA256(a (b) = c.tar.gz)= {upper}\n"),
            format!("SHA2-256(stdin)= {lower}\n"),
            format!("(stdin)= {lower}\n"),
            format!("\u{feff}{lower}  v1.tar.gz\n"),
            format!("\u{feff}\"{lower}\"\r\n"),
            format!("{lower}  name with (a) = in it\n"),
        ] {
            assert_eq!(parse_digest(KEY, text.as_bytes()), Ok(lower.clone()), "{text:?}");
        }
    }

    #[test]
    fn of_several_digests_the_archives_own_counts() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let sums = format!("{a}  v0.tar.gz\n{b}  dist/v1.tar.gz\n");
        assert_eq!(parse_digest(KEY, sums.as_bytes()), Ok(b.clone()));
        let nobodys = format!("{a}  x\n{b}  y\n");
        let twice = format!("{a}  v1.tar.gz\n{b}  v1.tar.gz\n");
        for bad in [nobodys, twice] {
            assert_eq!(parse_digest(KEY, bad.as_bytes()), Err(Unusable::NoDigest { key: KEY.into() }));
        }
    }

    #[test]
    fn requirements_follow_the_digest_and_are_read_back() {
        let requires = Requirement::parse_list("ruby=3.3 arch=amd64 gpu=yes");
        let published =
            Published { kind: ArchiveKind::TarGz, sha256: "ab".repeat(32), requires, bytes: None };
        let text = published.digest_file("v1.tar.gz");
        assert!(text.ends_with("  v1.tar.gz\n# requires ruby=3.3 arch=amd64 gpu=yes\n"), "{text}");
        assert_eq!(Published::parse(ArchiveKind::TarGz, "k", text.as_bytes()), Ok(published.clone()));
        let by_hand = format!(
            "{}  x\n# built by CI\n#requires: arch=amd64,ruby=3.3\n# requires gpu=yes",
            "ab".repeat(32)
        );
        assert_eq!(Published::parse(ArchiveKind::TarGz, "k", by_hand.as_bytes()), Ok(published));
    }

    #[test]
    fn anything_else_is_refused_by_its_key() {
        let sha512 = format!("SHA512 (v1.tar.gz) = {}", "a".repeat(64));
        let long = "a".repeat(128);
        for bad in ["", "\n", "abc", "<html>", &"z".repeat(64), &sha512, &long, "SHA256 (x) ="] {
            assert_eq!(
                parse_digest(KEY, bad.as_bytes()),
                Err(Unusable::NoDigest { key: KEY.into() }),
                "{bad:?}"
            );
        }
        assert!(parse_digest(KEY, &[0xff; 64]).is_err());
        let utf16: Vec<u8> =
            format!("\u{feff}{}", "a".repeat(64)).encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(parse_digest(KEY, &utf16), Err(Unusable::Utf16 { key: KEY.into() }));
    }
}
