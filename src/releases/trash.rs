//! Releases on their way out: moved aside in one rename, put back if somebody turns out to need
//! them, and only then deleted, a little at a time.
//!
//! ```text
//! deploy_to/.pitstop/trash/<id>+<pod>+<number>   a release that was moved aside
//! deploy_to/.pitstop/trash/+<pod>+<name>         unfinished work that was abandoned
//! ```
//!
//! While its marker is in it, it is complete and can be put back. Taking the marker away is the point of
//! no return; from there on whoever finds it goes on deleting it. All three steps (aside, back, marker)
//! are taken under the lock that leases are written under. A kill between any two leaves something that the
//! next look deals with.

use std::{ffi::OsStr, fs, io, path::Path};

use rustix::fs::FlockOperation;

use super::{
    MARKER, Releases,
    delete::{Pace, delete_gently},
    disk_problem, is_absence,
    manifest::MANIFEST,
    places::{RELEASES, TRASH},
    protection::Protection,
    staging::is_abandoned,
};
use crate::{beneath::Held, core::Problem, failpoint, procs::in_use, revision::ReleaseId};

/// What became of a release that was to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Deleted,
    Kept(String),
    /// The rest is for another time.
    Unfinished,
}

/// What became of all that lay in the trash.
#[derive(Debug, Default)]
pub(super) struct Emptied {
    /// So many are gone now.
    pub(crate) emptied: usize,
    /// The rest is for another time.
    pub(crate) unfinished: bool,
    /// Could not be deleted, and why.
    pub(crate) failed: Vec<String>,
}

impl Releases {
    /// Moves a release aside and deletes it, unless it is needed after all.
    pub(super) fn discard(
        &self,
        id: &ReleaseId,
        protection: Protection<'_>,
        pace: Pace<'_>,
    ) -> Result<Fate, Problem> {
        let path = self.path(id);
        let failed = |e: io::Error| disk_problem(&path, &e);
        if let Some(user) = in_use::user_of(&path).map_err(failed)? {
            return Ok(Fate::Kept(user.to_string()));
        }
        let Some(releases) = self.place(RELEASES)? else { return Ok(Fate::Deleted) };
        let trash = self.make_place(TRASH)?;
        let aside = format!("{id}+{}+{:x}", self.pod, fastrand::u64(..));
        {
            let _guard = self.guard(FlockOperation::NonBlockingLockExclusive);
            if let Some(why) = self.needed(id, protection)? {
                return Ok(Fate::Kept(why));
            }
            match fs::rename(releases.join(id.as_str()), trash.join(&aside)) {
                // Another agent of this volume was faster.
                Err(e) if is_absence(&e) => return Ok(Fate::Deleted),
                done => done.map_err(failed)?,
            }
        }
        failpoint::hit("prune.renamed");
        for dir in [&releases, &trash] {
            dir.sync().map_err(|e| disk_problem(dir.name(), &e))?;
        }
        self.finish(&trash, OsStr::new(&aside), protection, pace)
    }

    /// Moves a release out of sight to this path, for something else to be made of it, unless it is needed. It is no
    /// release any more then. Not where the volume has no locks.
    pub(super) fn recycle(
        &self,
        id: &ReleaseId,
        into: &Path,
        protection: Protection<'_>,
    ) -> Result<bool, Problem> {
        let path = self.path(id);
        let failed = |e: io::Error| disk_problem(&path, &e);
        let Some(releases) = self.place(RELEASES)? else { return Ok(false) };
        if in_use::user_of(&path).map_err(failed)?.is_some() {
            return Ok(false);
        }
        {
            let guard = self.guard(FlockOperation::NonBlockingLockExclusive);
            if !guard.is_locked() || self.needed(id, protection)?.is_some() {
                return Ok(false);
            }
            match fs::rename(releases.join(id.as_str()), into) {
                // Another agent of this volume was faster.
                Err(e) if is_absence(&e) => return Ok(false),
                done => done.map_err(failed)?,
            }
        }
        failpoint::hit("spare.recycled");
        let unneeded = releases.sync().map_err(failed).and_then(|()| self.unmark(id, into, protection));
        if unneeded.is_err() {
            // Better back than lost.
            let _ = fs::rename(into, releases.join(id.as_str()));
        }
        unneeded
    }

    /// Looks once more, as a process may have come meanwhile, and takes away what makes it a release.
    fn unmark(&self, id: &ReleaseId, aside: &Path, protection: Protection<'_>) -> Result<bool, Problem> {
        let failed = |e: io::Error| disk_problem(aside, &e);
        let user = in_use::user_of(aside).map_err(failed)?;
        let _guard = self.guard(FlockOperation::NonBlockingLockExclusive);
        if user.is_some() || self.needed(id, protection)?.is_some() {
            self.put_back(aside, id, user.is_some())?;
            return Ok(false);
        }
        for proof in [MARKER, MANIFEST] {
            gone_is_fine(fs::remove_file(aside.join(proof))).map_err(failed)?;
        }
        failpoint::hit("spare.unmarked");
        Ok(true)
    }

    /// Goes on with the releases that were left in the trash, by whomever.
    pub(super) fn empty_trash(&self, protection: Protection<'_>, pace: Pace<'_>) -> Result<Emptied, Problem> {
        let mut done = Emptied::default();
        let Some(trash) = self.place(TRASH)? else { return Ok(done) };
        let failed = |e: io::Error| disk_problem(trash.name(), &e);
        for entry in fs::read_dir(trash.path()).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if is_abandoned(&name) {
                continue;
            }
            match self.finish(&trash, &name, protection, pace) {
                Ok(Fate::Deleted) => done.emptied += 1,
                Ok(Fate::Kept(why)) => {
                    tracing::info!(path = %trash.name().join(&name).display(), why, "a release that was moved aside is needed");
                }
                Ok(Fate::Unfinished) => {
                    done.unfinished = true;
                    break;
                }
                Err(problem) => done.failed.push(problem.message),
            }
        }
        Ok(done)
    }

    /// Decides for the last time about something in the trash, then deletes it.
    fn finish(
        &self,
        trash: &Held,
        aside: &OsStr,
        protection: Protection<'_>,
        pace: Pace<'_>,
    ) -> Result<Fate, Problem> {
        let failed = |e: io::Error| disk_problem(&trash.name().join(aside), &e);
        let id = aside.to_str().and_then(|name| name.split('+').next()?.parse::<ReleaseId>().ok());
        // Before it is opened here, too.
        let user = in_use::user_of(&trash.join(aside)).map_err(failed)?;
        {
            let _guard = self.guard(FlockOperation::NonBlockingLockExclusive);
            // Not before: another agent may have put it back, and whoever has it open would take its marker away there.
            // Of a link, or what else is no directory, nothing is taken but itself.
            let tree = Held::open(&self.deploy_to, &Path::new(TRASH).join(aside)).ok();
            let marker = tree.as_ref().map(|tree| tree.join(MARKER));
            let whole = marker.as_ref().is_some_and(|marker| fs::symlink_metadata(marker).is_ok());
            let why = match &id {
                Some(id) if whole => user.map(|u| u.to_string()).or(self.needed(id, protection)?),
                _ => None,
            };
            if let (Some(id), Some(why)) = (&id, why)
                && self.put_back(&trash.join(aside), id, user.is_some())?
            {
                return Ok(Fate::Kept(why));
            }
            if let Some(marker) = marker {
                gone_is_fine(fs::remove_file(marker)).map_err(failed)?;
            }
        }
        failpoint::hit("prune.unmarked");
        let done = delete_gently(trash, aside, pace).map_err(failed)?;
        Ok(if done.is_break() { Fate::Unfinished } else { Fate::Deleted })
    }

    /// Answers whether it stays, here or wherever another agent has put it meanwhile. Where the release was fetched
    /// anew, this copy stays as long as a process is in it.
    fn put_back(&self, aside: &Path, id: &ReleaseId, in_use: bool) -> Result<bool, Problem> {
        let (path, releases) = (self.path(id), self.make_place(RELEASES)?);
        match fs::rename(aside, releases.join(id.as_str())) {
            Ok(()) => releases.sync().map(|()| true).map_err(|e| disk_problem(&path, &e)),
            Err(_) if in_use => Ok(true),
            Err(e) if is_absence(&e) => Ok(true),
            Err(_) if self.is_complete(id)? => Ok(false),
            Err(e) => Err(disk_problem(&path, &e)),
        }
    }

    /// Who needs the release, by what this agent knows and by all leases.
    fn needed(&self, id: &ReleaseId, protection: Protection<'_>) -> Result<Option<String>, Problem> {
        let protected = self.protected(protection)?;
        Ok(protected.why(id))
    }
}

fn gone_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if is_absence(&e) => Ok(()),
        done => done,
    }
}
