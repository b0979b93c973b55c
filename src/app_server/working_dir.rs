//! Which release a process runs in: proven by device and inode, because its container may mount the
//! volume at another path than ours.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    core::Cwd,
    lane::Lane,
    procs::{self, Inode, WorkingDirectory},
    revision::ReleaseId,
};

/// Local disks answer in microseconds; a network volume that needs longer is as good as hung.
const LIMIT: Duration = Duration::from_millis(500);

/// An app may live this deep inside its release (`releases/v1/backend`).
const DEEPEST: usize = 3;

/// Looks up working directories on a thread of its own.
#[derive(Debug)]
pub(super) struct CwdResolver {
    lane: Lane,
    releases: PathBuf,
    /// Code in the image, as the app's container names it.
    fallback: Option<PathBuf>,
}

impl CwdResolver {
    pub(crate) fn start(releases: PathBuf, fallback: Option<PathBuf>) -> io::Result<Self> {
        Ok(Self { lane: Lane::one_at_a_time("cwd")?, releases, fallback })
    }

    /// Where each process runs; one that is missing in the answer is [`Cwd::Unknown`].
    pub(crate) async fn of(&self, pids: Vec<i32>) -> HashMap<i32, Cwd> {
        let (releases, fallback) = (self.releases.clone(), self.fallback.clone());
        let place = move |pid| (pid, release_of(pid, &releases, fallback.as_deref()));
        let job = move || pids.into_iter().map(place).collect();
        self.lane.look(LIMIT, job).await.unwrap_or_default()
    }
}

fn release_of(pid: i32, releases: &Path, fallback: Option<&Path>) -> Cwd {
    match WorkingDirectory::of(pid) {
        Ok(cwd) if cwd.deleted => Cwd::Elsewhere,
        Ok(cwd) => match prove(pid, &cwd.name, releases) {
            Cwd::Elsewhere if fallback.is_some_and(|dir| is_below(pid, &cwd.name, dir)) => {
                Cwd::Release(ReleaseId::fallback())
            }
            place => place,
        },
        Err(_) => Cwd::Unknown,
    }
}

/// Whether it is this directory of its own root, or not far below it.
fn is_below(pid: i32, name: &Path, dir: &Path) -> bool {
    let Ok(dir) = Inode::of(&procs::in_root_of(pid, dir)) else { return false };
    let mut here = PathBuf::from(format!("/proc/{pid}/cwd"));
    name.ancestors().take(DEEPEST + 1).any(|_| {
        let found = Inode::of(&here).is_ok_and(|inode| inode == dir);
        here.push("..");
        found
    })
}

/// The name only suggests a release; being the same directory proves it.
fn prove(pid: i32, name: &Path, releases: &Path) -> Cwd {
    let mut here = PathBuf::from(format!("/proc/{pid}/cwd"));
    for ancestor in name.ancestors().take(DEEPEST + 1) {
        let release = ancestor.file_name().and_then(|name| name.to_str()?.parse::<ReleaseId>().ok());
        if let Some(release) = release {
            match (Inode::of(&here), Inode::of(&releases.join(release.as_str()))) {
                (Ok(cwd), Ok(ours)) if cwd == ours => return Cwd::Release(release),
                (Err(e), _) | (_, Err(e)) if e.kind() != io::ErrorKind::NotFound => return Cwd::Unknown,
                _ => {}
            }
        }
        here.push("..");
    }
    Cwd::Elsewhere
}
