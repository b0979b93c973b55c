//! What is left of a volume after its power was lost.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use super::nodes::{Content, Nodes, ROOT};

/// What survives of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    /// All of it: the power was not lost.
    All,
    /// Names, but no content of files: as a journaling file system does it.
    Names,
    /// Nothing: neither content nor names.
    Nothing,
}

/// A volume at one moment.
#[derive(Clone)]
pub struct Snapshot(Nodes);

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a snapshot of a volume")
    }
}

impl Snapshot {
    pub(super) fn of(nodes: &Nodes) -> Self {
        Self(nodes.clone())
    }

    pub(super) fn nodes(&self) -> &Nodes {
        &self.0
    }

    /// Writes what is left of it into a new directory.
    ///
    /// # Panics
    /// When that cannot be written.
    pub fn write_to(&self, dir: &Path, survives: Survives) {
        self.write(ROOT, dir, survives);
    }

    fn write(&self, number: u64, at: &Path, survives: Survives) {
        // A name whose directory was synced before what it leads to was removed.
        let Ok(node) = self.0.node(number) else { return };
        let empty = match &node.content {
            Content::File(_) => Content::File(Vec::new()),
            Content::Directory(_) => Content::Directory(BTreeMap::new()),
            // A link is written with its name.
            Content::Symlink(target) => Content::Symlink(target.clone()),
        };
        let names = matches!(node.content, Content::Directory(_)) && survives == Survives::Names;
        let content = if survives == Survives::All || names {
            &node.content
        } else {
            node.synced.as_ref().unwrap_or(&empty)
        };
        let written = match content {
            Content::File(bytes) => fs::write(at, bytes),
            Content::Symlink(target) => symlink(target, at),
            Content::Directory(names) => self.write_names(names, at, survives),
        };
        written.unwrap_or_else(|e| panic!("{}: {e}", at.display()));
        if !matches!(content, Content::Symlink(_)) {
            let mode = fs::Permissions::from_mode(u32::from(node.perm));
            fs::set_permissions(at, mode).expect("the mode is set");
        }
    }

    fn write_names(
        &self,
        names: &BTreeMap<OsString, u64>,
        at: &Path,
        survives: Survives,
    ) -> std::io::Result<()> {
        fs::create_dir(at)?;
        names.iter().for_each(|(name, number)| self.write(*number, &at.join(name), survives));
        Ok(())
    }
}
