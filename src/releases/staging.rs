//! Unfinished work: directories that nothing refers to, each with a lock that its maker holds.
//!
//! A name carries the pod, so that an agent that starts again finds its own; the lock tells whether
//! the maker still lives, so that neither another pod's work nor a second command's in this pod is taken
//! away. The lock is a file beside the directory: network file systems lock no directories.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::{
    Releases, disk_problem, is_absence,
    places::STAGING,
    trash::{Pace, delete_gently},
};
use crate::{beneath::Held, core::Problem, store::CallOff};

/// Work of other pods whose maker is gone is taken away after so long.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Work that was called off is taken away for so long, before others may go on.
const TIDYING: Duration = Duration::from_secs(1);

/// A pod's name as a part of file names: `+` separates it from what follows.
pub(super) fn plain(pod: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    pod.chars().map(|c| if allowed(c) { c } else { '_' }).take(128).collect()
}

/// A directory for unfinished work; removed when dropped, unless it was moved away.
#[derive(Debug)]
pub struct Stage {
    dir: PathBuf,
    lock: PathBuf,
    _locked: File,
    place: Held,
    off: CallOff,
}

impl Stage {
    /// The directory. It is reached by a descriptor, so that nobody can put another into its place.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it lies.
    pub(super) fn place(&self) -> &Held {
        &self.place
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let began = Instant::now();
        // Whoever called it off waits: what is left then is a leftover like others.
        let pace = |_| match self.off.is_called() && began.elapsed() > TIDYING {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let name = self.dir.file_name().unwrap_or_default();
        if !delete_gently(&self.place, name, &pace).is_ok_and(|done| done.is_break()) {
            let _ = fs::remove_file(&self.lock);
        }
    }
}

impl Releases {
    /// A new empty directory for work on the volume, until that is called off.
    ///
    /// # Errors
    /// [`Problem`] naming the path when the volume does not take it.
    pub fn stage(&self, off: &CallOff) -> Result<Stage, Problem> {
        let place = self.make_place(STAGING)?;
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
        Ok(Stage { dir, lock, _locked: locked, place, off: off.clone() })
    }

    /// Removes what an agent of this pod left behind when it was killed, and what other pods left
    /// behind a day ago, a little at a time. What a living process works on stays.
    ///
    /// # Errors
    /// [`Problem`] naming the path when the volume does not let it.
    pub fn clean_leftovers(&self, pace: Pace<'_>) -> Result<(), Problem> {
        self.clean_links()?;
        let Some(staging) = self.place(STAGING)? else { return Ok(()) };
        let failed = |e: io::Error| disk_problem(staging.name(), &e);
        for entry in fs::read_dir(staging.path()).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let done = self.clean(&staging, Path::new(&name), pace);
            let done = done.map_err(|e| disk_problem(&staging.name().join(&name), &e))?;
            if done.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Takes away one entry of the staging directory, if its maker is gone.
    fn clean(&self, staging: &Held, name: &Path, pace: Pace<'_>) -> io::Result<ControlFlow<()>> {
        let lock = name.with_extension("lock");
        if !self.is_own(name.file_name()) && !is_stale(&staging.join(name))? {
            return Ok(ControlFlow::Continue(()));
        }
        let _locked = match staging.file(lock.as_os_str(), OFlags::WRONLY) {
            Ok(file) => match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Some(file),
                Err(_) => return Ok(ControlFlow::Continue(())),
            },
            // No lock of ours.
            Err(e) if is_absence(&e) || e.kind() == io::ErrorKind::InvalidInput => None,
            Err(e) => return Err(e),
        };
        let done = delete_gently(staging, name.with_extension("dir").as_os_str(), pace)?;
        if done.is_continue() {
            gone_is_fine(fs::remove_file(staging.join(&lock)))?;
        }
        Ok(done)
    }

    fn is_own(&self, name: Option<&OsStr>) -> bool {
        let owner = name.and_then(OsStr::to_str).and_then(|n| n.split_once('+'));
        owner.is_some_and(|(pod, _)| pod == self.pod)
    }
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

fn is_stale(path: &Path) -> io::Result<bool> {
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
