//! Unfinished work: directories that nothing refers to, each with a lock that its maker holds.
//!
//! A name carries the pod, so that an agent that starts again finds its own; the lock tells whether
//! the maker still lives, so that neither another pod's work nor a second command's in this pod is taken
//! away. The lock is a file beside the directory: network file systems lock no directories.
//!
//! What is abandoned moves into the trash in one operation, as `+<pod>+…`, and is deleted in the background: nobody
//! waits for it, and a name with nothing before the first `+` belongs to no release.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::{
    Releases,
    delete::{Pace, delete_gently},
    disk_problem, is_absence,
    places::{STAGING, TRASH},
};
use crate::{beneath::Held, core::Problem, failpoint};

/// Work of other pods whose maker is gone is taken away after so long.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// What an abandoned tree's name in the trash begins with.
const ABANDONED: char = '+';

/// A pod's name as a part of file names: `+` separates it from what follows.
pub(super) fn plain(pod: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    pod.chars().map(|c| if allowed(c) { c } else { '_' }).take(128).collect()
}

/// A directory for unfinished work; abandoned when dropped, unless it was moved away.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: PathBuf,
    lock: PathBuf,
    _locked: File,
    place: Held,
    trash: Held,
}

impl Stage {
    /// The directory. It is reached by a descriptor, so that nobody can put another into its place.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn place(&self) -> &Held {
        &self.place
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // If that fails, it is a leftover like others.
        if abandon(&self.dir, &self.trash).is_ok() {
            failpoint::hit("fetch.abandoned");
            let _ = fs::remove_file(&self.lock);
        }
    }
}

/// Moves a directory of the staging place into the trash, unless it is empty.
fn abandon(dir: &Path, trash: &Held) -> io::Result<()> {
    if fs::remove_dir(dir).is_ok() {
        return Ok(());
    }
    let name = dir.file_stem().unwrap_or_default().to_string_lossy();
    gone_is_fine(fs::rename(dir, trash.join(format!("{ABANDONED}{name}"))))
}

impl Releases {
    /// A new empty directory for work on the volume.
    ///
    /// # Errors
    /// [`Problem`] naming the path when the volume does not take it.
    pub(crate) fn stage(&self) -> Result<Stage, Problem> {
        let (place, trash) = (self.make_place(STAGING)?, self.make_place(TRASH)?);
        let make = || {
            let lock = tempfile::Builder::new()
                .prefix(&format!("{}+", self.pod))
                .suffix(".lock")
                .make_in(place.path(), take_new)?;
            let (locked, lock) = lock.into_parts();
            let lock = lock.keep().map_err(|e| e.error)?;
            let dir = lock.with_extension("dir");
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new().mode(0o700).create(&dir)?;
            Ok((dir, lock, locked))
        };
        let (dir, lock, locked) = make().map_err(|e: io::Error| disk_problem(place.name(), &e))?;
        Ok(Stage { dir, lock, _locked: locked, place, trash })
    }

    /// Moves into the trash what an agent of this pod left behind when it was killed, and what other pods left
    /// behind a day ago; what a living process works on stays. Then deletes all abandoned trees there, a little at a
    /// time. Answers how many are gone.
    ///
    /// # Errors
    /// [`Problem`] naming the path when the volume does not let it.
    pub fn clean_leftovers(&self, pace: Pace<'_>) -> Result<usize, Problem> {
        self.clean_links()?;
        self.clean_locks()?;
        let list = |dir: &Held| dir.list().map_err(|e| disk_problem(dir.name(), &e));
        if let Some(staging) = self.place(STAGING)? {
            for name in list(&staging)? {
                let done = self.clean(&staging, &self.make_place(TRASH)?, Path::new(&name));
                done.map_err(|e| disk_problem(&staging.name().join(&name), &e))?;
            }
        }
        let Some(trash) = self.place(TRASH)? else { return Ok(0) };
        let mut gone = 0;
        for name in list(&trash)?.into_iter().filter(|name| is_abandoned(name)) {
            let done = delete_gently(&trash, &name, pace);
            if done.map_err(|e| disk_problem(&trash.name().join(&name), &e))?.is_break() {
                break;
            }
            gone += 1;
        }
        Ok(gone)
    }

    /// Moves one entry of the staging directory away, if its maker is gone.
    fn clean(&self, staging: &Held, trash: &Held, name: &Path) -> io::Result<()> {
        let lock = name.with_extension("lock");
        if !self.is_own(name.file_name()) && !is_stale(&staging.join(name))? {
            return Ok(());
        }
        let _locked = match staging.file(lock.as_os_str(), OFlags::WRONLY) {
            Ok(file) => match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Some(file),
                Err(_) => return Ok(()),
            },
            // No lock of ours.
            Err(e) if is_absence(&e) || e.kind() == io::ErrorKind::InvalidInput => None,
            Err(e) => return Err(e),
        };
        abandon(&staging.join(name.with_extension("dir")), trash)?;
        gone_is_fine(fs::remove_file(staging.join(&lock)))
    }

    fn is_own(&self, name: Option<&OsStr>) -> bool {
        let owner = name.and_then(OsStr::to_str).and_then(|n| n.split_once('+'));
        owner.is_some_and(|(pod, _)| pod == self.pod)
    }
}

/// Whether this is a tree in the trash that was never a release.
pub(super) fn is_abandoned(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(&[ABANDONED as u8])
}

/// A lock file that is ours: a cleaner may have locked and removed it since it was created.
fn take_new(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create_new(true).open(path)?;
    let taken = || io::Error::from(io::ErrorKind::AlreadyExists);
    // On a file system without locks the names alone have to do.
    if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
        return Err(taken());
    }
    if file.metadata()?.nlink() == 0 { Err(taken()) } else { Ok(file) }
}

/// Whether nothing was written there for a day.
pub(super) fn is_stale(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.modified()?.elapsed().is_ok_and(|age| age > STALE)),
        Err(e) if is_absence(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

fn gone_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
