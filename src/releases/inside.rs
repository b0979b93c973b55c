//! Paths inside a release: plain names, kept as one string of bytes.

use std::{borrow::Borrow, ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use super::unpack_error::UnpackError;

/// A path has at most so many names. Rails trees have fewer than 30.
pub(crate) const DEPTH_MAX: usize = 128;

/// A path inside the tree: `a/b/c`, without `.`, `..` or a slash at either end. Empty: the tree itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inside(Box<[u8]>);

impl Inside {
    /// Reads a path of an archive; `./` and trailing slashes mean nothing.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] for absolute paths, `..`, NUL and what is longer or deeper than allowed.
    pub(crate) fn parse(path: &[u8], limit_bytes: usize) -> Result<Self, UnpackError> {
        let shown = || String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned();
        let refuse = |why: &str| Err(UnpackError::Refused(format!("{:?} {why}", shown())));
        if path.len() > limit_bytes {
            return refuse(&format!("is a path of more than {limit_bytes} bytes"));
        }
        if path.contains(&0) {
            return refuse("has a NUL in its path");
        }
        if path.starts_with(b"/") {
            return refuse("is an absolute path; pack the release from inside its directory (tar -C DIR .)");
        }
        let mut plain = Vec::with_capacity(path.len());
        let mut depth = 0;
        for name in names(path).filter(|name| *name != b".") {
            if name == b".." {
                return refuse("has a `..` in its path; pack the release from inside its directory");
            }
            if name.len() > 255 {
                return refuse("has a name of more than 255 bytes");
            }
            depth += 1;
            push(&mut plain, name);
        }
        if depth > DEPTH_MAX {
            return refuse(&format!(
                "is more than {DEPTH_MAX} directories deep; leave it out of the archive"
            ));
        }
        Ok(Self(plain.into()))
    }

    /// A path that the configuration has checked.
    pub(crate) fn of(path: &Path) -> Self {
        let mut plain = Vec::new();
        path.iter().for_each(|name| push(&mut plain, name.as_bytes()));
        Self(plain.into())
    }

    /// The path as text, for messages.
    pub(crate) fn show(&self) -> String {
        Self::shown(&self.0)
    }

    /// The same of a path in bytes.
    pub(crate) fn shown(path: &[u8]) -> String {
        format!("{:?}", OsStr::from_bytes(path).display().to_string())
    }

    /// The path as bytes, relative to the tree.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path, relative to the tree.
    pub(crate) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether it is the tree itself.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether macOS would name a file of a file's attributes so.
    pub(crate) fn is_apple_double(&self) -> bool {
        self.split().is_some_and(|(_, name)| name.as_bytes().starts_with(b"._"))
    }

    /// The directory that it is in, and its name there.
    pub(crate) fn split(&self) -> Option<(&[u8], &OsStr)> {
        let name = names(&self.0).next_back()?;
        let parents = self.0.len() - name.len();
        Some((&self.0[..parents.saturating_sub(1)], OsStr::from_bytes(name)))
    }

    /// Whether one of the two leads to the other.
    pub(crate) fn is_on_the_way(&self, other: &Self) -> bool {
        names(&self.0).zip(names(&other.0)).all(|(a, b)| a == b)
    }

    /// Whether the path goes through it, or is it.
    pub(crate) fn leads_to(&self, path: &[u8]) -> bool {
        path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// The same path, as seen from the directory of this name, if it is in there.
    pub(crate) fn below(&self, dir: &OsStr) -> Option<Self> {
        self.0.strip_prefix(dir.as_bytes())?.strip_prefix(b"/").map(|rest| Self(rest.into()))
    }
}

impl Borrow<[u8]> for Inside {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// The names in a path.
pub(crate) fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

/// Goes on to a name.
pub(crate) fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
}

/// Goes back to the directory; false where there is none above.
pub(crate) fn pop(path: &mut Vec<u8>) -> bool {
    let above = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let was_below = !path.is_empty();
    path.truncate(above);
    was_below
}
