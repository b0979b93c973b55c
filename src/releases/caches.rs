//! What an app keeps per release in the pod's own place, by the line that `docs/rails.md` gives for Bootsnap:
//! `pod_dir/bootsnap/<id>/`. It goes when its release has gone.

use std::{ffi::OsStr, fs, io, path::Path};

use super::{
    Releases,
    delete::{Pace, delete_gently},
    disk_problem, places,
};
use crate::{beneath::Held, core::Problem, revision::ReleaseId};

const CACHES: &str = "bootsnap";

impl Releases {
    /// Deletes the caches of releases that are not on the volume, a little at a time.
    ///
    /// # Errors
    /// [`Problem`] naming the path when it cannot be read or deleted.
    pub fn clean_caches(&self, pace: Pace<'_>) -> Result<(), Problem> {
        let pod_dir = &self.layout.pod_dir;
        // Then it is a directory of the app's, with whatever the app likes in it.
        let taken = self.layout.pod_dirs.iter().any(|dir| dir.starts_with(CACHES));
        let Some(releases) = self.place(places::RELEASES)?.filter(|_| !taken) else { return Ok(()) };
        let caches = match Held::open(pod_dir, Path::new(CACHES)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            caches => caches.map_err(|e| places::refused(pod_dir, Path::new(CACHES), &e))?,
        };
        let failed = |e: io::Error| disk_problem(caches.name(), &e);
        for entry in fs::read_dir(caches.path()).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if !self.is_left_over(&releases, &name) {
                continue;
            }
            let done = delete_gently(&caches, &name, pace);
            if done.map_err(|e| disk_problem(&caches.name().join(&name), &e))?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Whether this is the name of a release that is not there, neither on the volume nor in the image.
    fn is_left_over(&self, releases: &Held, name: &OsStr) -> bool {
        let is_id = name.to_str().is_some_and(|name| name.parse::<ReleaseId>().is_ok());
        let in_image = self.fallback.as_deref().and_then(Path::file_name) == Some(name);
        let gone = || {
            let found = fs::symlink_metadata(releases.join(name));
            found.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
        };
        is_id && !in_image && gone()
    }
}
