//! The places of pitstop on a volume, opened so that nothing outside of it is touched, whatever links the app or
//! another pod put there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Releases, disk_problem};
use crate::{
    beneath::{self, Held},
    core::{Problem, Reason},
};

pub(super) const PRIVATE: &str = ".pitstop";
pub(super) const FETCHING: &str = ".pitstop/fetching";
pub(super) const LEASES: &str = ".pitstop/leases";
pub(super) const RELEASES: &str = "releases";
pub(super) const STAGING: &str = ".pitstop/staging";
pub(super) const TRASH: &str = ".pitstop/trash";

impl Releases {
    /// A directory of the volume; `None` where it is not there.
    pub(super) fn place(&self, dir: &str) -> Result<Option<Held>, Problem> {
        match Held::open(&self.deploy_to, Path::new(dir)) {
            Ok(held) => Ok(Some(held)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(refused(&self.deploy_to, Path::new(dir), &e)),
        }
    }

    /// The same, or the nearest directory above that is there.
    ///
    /// # Errors
    /// [`Reason::VolumeUnavailable`] naming the directory, or a link in the way.
    pub(crate) fn nearest(&self, dir: &str) -> Result<Held, Problem> {
        for dir in Path::new(dir).ancestors() {
            match Held::open(&self.deploy_to, dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                held => return held.map_err(|e| refused(&self.deploy_to, dir, &e)),
            }
        }
        Err(disk_problem(&self.deploy_to, &io::ErrorKind::NotFound.into()))
    }

    /// The same, made where it is missing.
    pub(super) fn make_place(&self, dir: &str) -> Result<Held, Problem> {
        Held::make(&self.deploy_to, Path::new(dir)).map_err(|e| refused(&self.deploy_to, Path::new(dir), &e))
    }
}

/// Why a directory below a root cannot be had; a link is named itself.
pub(super) fn refused(root: &Path, dir: &Path, error: &io::Error) -> Problem {
    match first_link(root, dir) {
        Some(link) => Problem::new(
            Reason::VolumeUnavailable,
            format!(
                "{} is a link, and pitstop follows none below {}: put a directory in its place",
                link.display(),
                root.display()
            ),
        ),
        None => disk_problem(&root.join(dir), error),
    }
}

fn first_link(root: &Path, dir: &Path) -> Option<PathBuf> {
    let mut here = root.to_owned();
    dir.components().find_map(|part| {
        here.push(part);
        fs::symlink_metadata(&here).is_ok_and(|meta| meta.is_symlink()).then(|| here.clone())
    })
}

/// Makes a directory below `root`, links on the way followed by nobody: one that leads to a directory already is
/// somebody's choice, and nothing is made there.
pub(super) fn make_dir_below(root: &Path, dir: &Path) -> Result<(), Problem> {
    let Err(error) = Held::make(root, dir) else { return Ok(()) };
    if root.join(dir).is_dir() && beneath::plain(dir).is_ok() {
        return Ok(());
    }
    Err(refused(root, dir, &error))
}
