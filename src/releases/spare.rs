//! A spare tree: one in the state of some release, onto which the next release is unpacked, so that only what
//! differs has to be written. It is not a release, and nothing leads to it.

use super::{
    inside::Inside,
    manifest::{Entry, Manifest},
    unpack_error::UnpackError,
};

/// What a spare tree has that the archive was not found to have yet.
pub(super) struct Before {
    rest: Manifest,
    prefix: Prefix,
}

/// Whether the archive's paths begin with the name of a directory that the spare tree does not have.
enum Prefix {
    No,
    Wanted,
    Is(Box<[u8]>),
}

impl Before {
    /// `strip_prefix`: the archive has a directory around everything.
    pub(super) fn new(manifest: Manifest, strip_prefix: bool) -> Self {
        Self { rest: manifest, prefix: if strip_prefix { Prefix::Wanted } else { Prefix::No } }
    }

    /// Whether a directory at the archive's top is the spare tree itself.
    ///
    /// # Errors
    /// [`UnpackError::Spare`] for a second one.
    pub(super) fn goes_below(&mut self, name: &[u8]) -> Result<bool, UnpackError> {
        match &self.prefix {
            Prefix::No => Ok(false),
            Prefix::Wanted => {
                self.prefix = Prefix::Is(name.into());
                Ok(true)
            }
            Prefix::Is(_) => Err(not_around()),
        }
    }

    /// For a name at the archive's top that is no directory.
    ///
    /// # Errors
    /// [`UnpackError::Spare`] where a directory should be around everything.
    pub(super) fn allow_at_top(&self) -> Result<(), UnpackError> {
        if matches!(self.prefix, Prefix::No) { Ok(()) } else { Err(not_around()) }
    }

    /// The archive was read: from here on, paths begin in the directory that was around everything. Answers whether
    /// there was one.
    ///
    /// # Errors
    /// [`UnpackError::Spare`] where `is_around` says that it was not around everything.
    pub(super) fn strip(&mut self, is_around: bool) -> Result<bool, UnpackError> {
        match std::mem::replace(&mut self.prefix, Prefix::No) {
            Prefix::No => Ok(false),
            _ if is_around => Ok(true),
            _ => Err(not_around()),
        }
    }

    fn below<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        match &self.prefix {
            Prefix::Is(prefix) => {
                path.strip_prefix(&**prefix).and_then(|rest| rest.strip_prefix(b"/")).unwrap_or(path)
            }
            _ => path,
        }
    }

    /// Whether something like this is at the path.
    pub(super) fn has(&self, path: &[u8], like: impl Fn(&Entry) -> bool) -> bool {
        self.rest.get(self.below(path)).is_some_and(like)
    }

    /// What is at the path; afterwards the archive has something there.
    pub(super) fn claim(&mut self, path: &[u8]) -> Option<Entry> {
        let path = self.below(path);
        self.rest.remove(path)
    }

    /// All that is below this directory left the tree with it.
    pub(super) fn forget_below(&mut self, path: &[u8]) {
        let path = self.below(path);
        self.rest.remove_below(path);
    }

    /// What the archive has not, without what is in such a directory.
    pub(super) fn take_rest(&mut self) -> Vec<(Inside, Entry)> {
        let rest = std::mem::take(&mut self.rest);
        let is_inside = |path: &Inside| path.split().is_some_and(|(parent, _)| rest.get(parent).is_some());
        let top = rest.iter().filter(|(path, _)| !is_inside(path));
        top.map(|(path, entry)| (path.clone(), entry.clone())).collect()
    }
}

fn not_around() -> UnpackError {
    UnpackError::Spare("the archive has no directory around everything, as those before it had".into())
}
