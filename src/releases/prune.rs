//! Deleting old releases: renamed out of `releases/` first, so that what is there stays complete.

use std::fs;

use super::{Releases, disk_trouble, is_absence, sync_dir};
use crate::{core::Trouble, failpoint, revision::ReleaseId};

impl Releases {
    /// Deletes all complete releases but the protected ones and the `keep` newest of the others.
    /// Protected must be what runs, what ran before, what is desired, and what any process's working
    /// directory is in. Directories that were not made here are left alone. Answers what was deleted.
    ///
    /// # Errors
    /// [`Trouble`] naming the path when the volume does not let it.
    pub fn prune(&self, keep: usize, protected: &[ReleaseId]) -> Result<Vec<ReleaseId>, Trouble> {
        // Whatever else is known: what `current` names must never go.
        let current = self.current()?;
        let spared = |id: &ReleaseId| protected.contains(id) || current.as_ref() == Some(id);
        let found = self.list()?.into_iter().map(|found| found.marker.release);
        let old: Vec<ReleaseId> = found.filter(|id| !spared(id)).skip(keep).collect();
        for id in &old {
            self.delete(id)?;
        }
        Ok(old)
    }

    fn delete(&self, id: &ReleaseId) -> Result<(), Trouble> {
        let stage = self.stage()?;
        let path = self.path(id);
        match fs::rename(&path, stage.dir().join("release")) {
            // Another agent of this volume was faster.
            Err(e) if is_absence(&e) => return Ok(()),
            done => done.map_err(|e| disk_trouble(&path, &e))?,
        }
        failpoint::hit("prune.renamed");
        let dir = self.releases_dir();
        sync_dir(&dir).map_err(|e| disk_trouble(&dir, &e))?;
        super::staging::delete_tree(stage.dir()).map_err(|e| disk_trouble(stage.dir(), &e))
    }
}
