//! The assets of all releases in one place: a page that one release made asks whichever release answers for its
//! stylesheet. Their names have digests, so that a file is right wherever it is found.
//!
//! ```text
//! shared/public/assets/app-1f3c.css -> ../../../releases/v2/public/assets/app-1f3c.css
//! ```
//!
//! Links, because each is made in no time, takes no room, and leaves the release's own file as it is.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Component, Path, PathBuf},
};

use super::{Releases, layout::SHARED, places};
use crate::{beneath::Held, core::Problem, revision::ReleaseId};

/// Directory by directory, file by file: the releases that have it, the newest first.
type Found<'a> = BTreeMap<PathBuf, BTreeMap<OsString, Vec<&'a ReleaseId>>>;

impl Releases {
    /// Makes the assets of all complete releases reachable below `shared`, and takes away what no release has any more.
    /// What somebody else has put there stays as it is.
    ///
    /// # Errors
    /// [`Problem`] naming the directory; what could be linked until then is.
    pub fn share_assets(&self) -> Result<(), Problem> {
        let releases: Vec<ReleaseId> = self.list()?.into_iter().map(|one| one.marker.release).collect();
        for dir in self.layout.asset_dirs.iter().filter(|dir| !self.layout.is_linked(dir)) {
            let shared = Path::new(SHARED).join(dir);
            let shared_here = || self.share(dir, &releases).and_then(|()| self.forget(&shared));
            shared_here().map_err(|e| places::refused(&self.deploy_to, &shared, &e))?;
        }
        Ok(())
    }

    fn share(&self, dir: &Path, releases: &[ReleaseId]) -> io::Result<()> {
        let mut found = Found::new();
        for id in releases {
            let root = Path::new(places::RELEASES).join(id.as_str()).join(dir);
            self.each(&root, |held, below, name| {
                let is_file =
                    absent_is(fs::symlink_metadata(held.join(name)).map(|meta| meta.is_file()), false);
                if is_file? {
                    found.entry(below.to_owned()).or_default().entry(name.to_owned()).or_default().push(id);
                }
                Ok(())
            })?;
        }
        for (below, files) in found {
            let place = Path::new(SHARED).join(dir).join(&below);
            let up: PathBuf = place.components().map(|_| "..").collect();
            let held = Held::make(&self.deploy_to, &place)?;
            for (name, ids) in files {
                let link = |id: &ReleaseId| {
                    let file = dir.join(&below).join(&name);
                    up.join(places::RELEASES).join(id.as_str()).join(file)
                };
                self.link(&held, &name, &link(ids[0]), |id| {
                    // What is in the oldest alone will be gone soon.
                    ids.contains(&id) && (ids.len() == 1 || Some(id) != releases.last())
                })?;
            }
        }
        Ok(())
    }

    /// `stays`: whether one that leads to this release may stay as it is.
    fn link(
        &self,
        held: &Held,
        name: &OsStr,
        target: &Path,
        stays: impl Fn(&ReleaseId) -> bool,
    ) -> io::Result<()> {
        let place = held.join(name);
        match fs::read_link(&place) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => match symlink(target, &place) {
                // Another pod was faster.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                done => done,
            },
            Ok(there) if release_of(&there).is_some_and(|id| !stays(&id)) => {
                let made = held.join(format!(".pitstop-{}", self.pod));
                let _ = fs::remove_file(&made);
                symlink(target, &made)?;
                fs::rename(made, place)
            }
            // It is good, or not ours.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Takes away the links into releases that have no such file any more.
    fn forget(&self, shared: &Path) -> io::Result<()> {
        self.each(shared, |held, _, name| {
            let place = held.join(name);
            let ours = fs::read_link(&place).is_ok_and(|target| release_of(&target).is_some());
            if ours && fs::metadata(&place).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                absent_is(fs::remove_file(place), ())?;
            }
            Ok(())
        })
    }

    /// What is in a directory of the volume that is no directory itself; no hidden ones. Links to directories are not
    /// followed. Also the path from `root` to the directory that it is in.
    fn each(
        &self,
        root: &Path,
        mut seen: impl FnMut(&Held, &Path, &OsStr) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut open = vec![PathBuf::new()];
        while let Some(below) = open.pop() {
            let held = match Held::open(&self.deploy_to, &root.join(&below)) {
                Ok(held) => held,
                // It is not there, or somebody's link or file.
                Err(e) if is_no_directory(&e) => continue,
                Err(e) => return Err(e),
            };
            for entry in fs::read_dir(held.path())? {
                let entry = entry?;
                let name = entry.file_name();
                if name.as_bytes().starts_with(b".") {
                    continue;
                }
                if absent_is(entry.file_type().map(|kind| kind.is_dir()), false)? {
                    open.push(below.join(name));
                } else {
                    seen(&held, &below, &name)?;
                }
            }
        }
        Ok(())
    }
}

/// Other agents delete releases, and links into them, between two looks.
fn absent_is<T>(done: io::Result<T>, absent: T) -> io::Result<T> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(absent),
        done => done,
    }
}

fn is_no_directory(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    let is_loop = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    is_loop || matches!(error.kind(), NotFound | NotADirectory)
}

/// The release that a link of ours leads into.
fn release_of(target: &Path) -> Option<ReleaseId> {
    let mut parts = target.components().skip_while(|part| *part == Component::ParentDir);
    let releases = parts.next()?.as_os_str() == places::RELEASES;
    let id = parts.next()?.as_os_str().to_str()?.parse().ok()?;
    (releases && target.starts_with("..")).then_some(id)
}
