//! Which releases go, and which stay and why.
//!
//! A release stays as long as anything alive may need it: some pod's lease names it, a process works in it or
//! has a file of it open or mapped, this pod runs it, ran it before or is to run it, or `current` points to it.
//! Of the others the newest good ones stay, `keep_releases` of them together with those in use. The ones
//! that never proved themselves fill up what is left of that number, and those that failed come last: neither
//! pushes a good one out. Without room for one more release, even those go that would stay by number.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    Marker, Releases,
    delete::Pace,
    disk_problem,
    leases::Lease,
    protection::{Protected, Protection},
    trash::{Emptied, Fate},
};
use crate::{
    core::Problem,
    revision::ReleaseId,
    revisions_log::{
        self,
        standings::{self, Standing},
    },
};

/// Room for so many of the largest release here should be left: its archive, its tree, and the next one's.
const ROOM_FOR: u64 = 2;
/// The journal of a pod that has no lease is removed after so long.
const FORGOTTEN: Duration = Duration::from_secs(90 * 24 * 3600);

/// How good a release has proved to be: the better, the longer it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Some pod proved that it runs.
    Good,
    /// No pod has ever come to a verdict.
    Untried,
    /// The last verdict of any pod was bad.
    Failed,
}

impl Class {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Untried => "untried",
            Self::Failed => "failed",
        }
    }
}

/// How much is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// What `keep_releases` does not keep; more only without room for one more release.
    Tidy,
    /// A fetch found no room: at least one release more than that.
    Room,
}

/// A release on the volume, and whether it may go.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// Which.
    pub release: ReleaseId,
    /// How good it is.
    pub class: Class,
    /// When the last pod came to a verdict (RFC 3339).
    pub(crate) judged_at: Option<String>,
    /// When it was completed here.
    #[serde(with = "humantime_serde")]
    pub(crate) completed: SystemTime,
    /// Bytes of all its files.
    pub(crate) bytes: u64,
    /// Files, directories and links in it.
    pub(crate) entries: u64,
    /// Why it must stay; `None`: only its place in the order decides.
    pub(crate) needed: Option<String>,
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pruned {
    /// These are gone.
    pub deleted: Vec<Judged>,
    /// These stay, and why.
    pub kept: Vec<Kept>,
    /// Could not be deleted, and why.
    pub failed: Vec<String>,
    /// So many that were to go before are gone now.
    pub emptied: usize,
    /// What is gone is not deleted to the end: the next time goes on.
    pub unfinished: bool,
}

/// A release that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Which.
    pub release: ReleaseId,
    /// Why.
    pub why: String,
}

impl Releases {
    /// Every complete release of the volume, the first to stay first.
    ///
    /// # Errors
    /// [`Problem`] when the volume does not tell.
    pub fn judge(&self, protection: Protection<'_>) -> Result<Vec<Judged>, Problem> {
        let protected = self.protected(protection)?;
        let standings = standings::standings(&self.deploy_to);
        let judge = |marker: Marker, completed| judged(marker, completed, &standings, &protected);
        let mut all: Vec<Judged> =
            self.list()?.into_iter().map(|found| judge(found.marker, found.completed)).collect();
        all.sort_by_key(|one| (one.class, Reverse((one.judged_at.clone(), one.completed))));
        Ok(all)
    }

    /// Deletes what may go, worst first. Directories that were not made here are left alone.
    ///
    /// # Errors
    /// [`Problem`] naming the path when the volume does not let it.
    pub fn prune(
        &self,
        keep: usize,
        need: Need,
        protection: Protection<'_>,
        pace: Pace<'_>,
    ) -> Result<Pruned, Problem> {
        let Emptied { emptied, unfinished, failed } = self.empty_trash(protection, pace)?;
        let mut done = Pruned { emptied, unfinished, failed, ..Pruned::default() };
        let mut stays: BTreeMap<ReleaseId, String> = BTreeMap::new();
        // A spare tree goes before any release that would stay by number.
        if need == Need::Room || self.is_short_of_room(&self.judge(protection)?, 0) {
            done.emptied += usize::from(self.discard_spare()? && self.clean_leftovers(pace)? > 0);
        }
        while !done.unfinished {
            let mut all = self.judge(protection)?;
            all.iter_mut()
                .for_each(|one| one.needed = one.needed.take().or(stays.get(&one.release).cloned()));
            let short = need == Need::Room && done.deleted.is_empty();
            let Some(one) = next(&all, keep, || short || self.is_short_of_room(&all, 0)) else {
                done.kept = kept(&all, keep);
                break;
            };
            match self.discard(&one.release, protection, pace) {
                Ok(Fate::Kept(why)) => drop(stays.insert(one.release.clone(), why)),
                Err(problem) => {
                    stays.insert(one.release.clone(), format!("cannot be deleted: {}", problem.message));
                    done.failed.push(problem.message);
                }
                Ok(fate) => {
                    done.unfinished = fate == Fate::Unfinished;
                    done.deleted.push(one.clone());
                }
            }
        }
        self.forget_pods()?;
        Ok(done)
    }

    /// What [`Releases::prune`] would do now.
    ///
    /// # Errors
    /// [`Problem`] when the volume does not tell.
    pub(crate) fn would_prune(&self, keep: usize, protection: Protection<'_>) -> Result<Pruned, Problem> {
        let mut all = self.judge(protection)?;
        for one in all.iter_mut().filter(|one| one.needed.is_none()) {
            let path = self.path(&one.release);
            let user = crate::procs::in_use::user_of(&path).map_err(|e| disk_problem(&path, &e))?;
            one.needed = user.map(|user| user.to_string());
        }
        let (mut done, mut freed) = (Pruned::default(), 0);
        while let Some(one) = next(&all, keep, || self.is_short_of_room(&all, freed)).cloned() {
            freed += i128::from(one.bytes);
            all.retain(|other| other.release != one.release);
            done.deleted.push(one);
        }
        done.kept = kept(&all, keep);
        Ok(done)
    }

    /// Whether another release like the largest one here would not fit, with so many bytes more free.
    pub(super) fn is_short_of_room(&self, all: &[Judged], freed: i128) -> bool {
        let Ok(stat) = rustix::fs::statvfs(&self.deploy_to) else { return false };
        let largest =
            |size: fn(&Judged) -> u64| all.iter().map(size).max().unwrap_or(0).saturating_mul(ROOM_FOR);
        let free = i128::from(stat.f_bavail) * i128::from(stat.f_frsize) + freed;
        // Some file systems have no fixed number of inodes, and say 0.
        let inodes_are_counted = stat.f_files > 0;
        free < i128::from(largest(|one| one.bytes))
            || (inodes_are_counted && stat.f_favail < largest(|one| one.entries))
    }

    /// Removes the journals of pods that are gone for long.
    fn forget_pods(&self) -> Result<(), Problem> {
        let leases = self.leases()?;
        if !leases.unreadable.is_empty() {
            return Ok(());
        }
        let of = |lease: &Lease| revisions_log::path(&self.deploy_to, &lease.pod);
        let live: BTreeSet<_> = leases.live.iter().map(of).collect();
        let Some(pods) = self.place(".pitstop/pods")? else { return Ok(()) };
        for journal in standings::journals(&self.deploy_to).filter(|journal| !live.contains(journal)) {
            let written = fs::symlink_metadata(&journal).and_then(|meta| meta.modified());
            let old = written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > FORGOTTEN));
            if let (true, Some(pod)) = (old, journal.parent().and_then(Path::file_name)) {
                let _ = fs::remove_dir_all(pods.join(pod));
            }
        }
        Ok(())
    }
}

fn judged(
    marker: Marker,
    completed: SystemTime,
    standings: &HashMap<ReleaseId, Standing>,
    protected: &Protected,
) -> Judged {
    let standing = standings.get(&marker.release);
    let class = match standing {
        Some(Standing { good: true, .. }) => Class::Good,
        None => Class::Untried,
        Some(_) => Class::Failed,
    };
    Judged {
        class,
        judged_at: standing.map(|standing| standing.at.clone()),
        completed,
        bytes: marker.bytes,
        entries: marker.entries,
        needed: protected.why(&marker.release),
        release: marker.release,
    }
}

/// The next one to go: the worst of those that nobody needs, if there are more than `keep` or no room is left.
pub(super) fn next(all: &[Judged], keep: usize, short: impl Fn() -> bool) -> Option<&Judged> {
    let free = |one: &&Judged| one.needed.is_none();
    let beyond = all.iter().skip(keep).rev().find(free);
    beyond.or_else(|| all.iter().rev().find(free).filter(|_| short()))
}

fn kept(all: &[Judged], keep: usize) -> Vec<Kept> {
    let by_number = || format!("one of the {keep} that keep_releases keeps");
    let kept = |one: &Judged| Kept {
        release: one.release.clone(),
        why: one.needed.clone().unwrap_or_else(by_number),
    };
    all.iter().map(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(release: &str, class: Class, needed: bool) -> Judged {
        Judged {
            release: release.parse().unwrap(),
            class,
            judged_at: None,
            completed: SystemTime::UNIX_EPOCH,
            bytes: 1,
            entries: 1,
            needed: needed.then(|| "running".into()),
        }
    }

    /// In which order they would go.
    fn goes(mut all: Vec<Judged>, keep: usize, short: bool) -> Vec<String> {
        let mut gone = Vec::new();
        while let Some(one) = next(&all, keep, || short).cloned() {
            all.retain(|other| other.release != one.release);
            gone.push(one.release.to_string());
        }
        gone
    }

    #[test]
    fn failed_ones_push_no_good_one_out_and_go_first() {
        let all = || {
            vec![
                one("v9", Class::Good, true),
                one("v8", Class::Good, false),
                one("v7", Class::Good, false),
                one("new", Class::Untried, false),
                one("bad2", Class::Failed, false),
                one("bad1", Class::Failed, false),
            ]
        };
        assert_eq!(goes(all(), 3, false), ["bad1", "bad2", "new"]);
        assert_eq!(goes(all(), 2, false), ["bad1", "bad2", "new", "v7"]);
        assert_eq!(goes(all(), 6, false), [""; 0]);
        assert_eq!(goes(all(), 6, true), ["bad1", "bad2", "new", "v7", "v8"], "what is needed stays");
    }
}
