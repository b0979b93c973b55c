//! Leases: what the pods of a volume need, each written by its own agent.
//!
//! A lease names a release before the pod relies on it. Who deletes a release looks at all leases first,
//! and both happen under one lock, so that a release is either named in time or seen to be gone
//! in time. Where the volume has no locks, a second look after the release was moved aside does it.
//!
//! A lease is refreshed as long as its agent lives and counts for a day without that: a node may be cut
//! off for long and its pod serve on. Its age is told by the volume's own clock, the time stamp of a file
//! written just now, as the clocks of the nodes may differ.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::{Releases, disk_problem, places::LEASES};
use crate::{beneath::Held, core::Problem, failpoint, plain_file, revision::ReleaseId};

/// A lease that nobody has refreshed for so long counts no more.
const EXPIRES: Duration = Duration::from_secs(24 * 3600);
/// The same for the lease of a pod that has ended: its container may be started again.
const EXPIRES_ENDED: Duration = Duration::from_secs(3600);
/// Files that mean nothing any more are removed after so long.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the lock is waited for. Its holder needs it for a few small operations only.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// A lease is some hundred bytes.
const LIMIT_BYTES: u64 = 64 << 10;

/// What one pod needs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lease {
    /// 1.
    pub v: u32,
    /// Whose.
    pub pod: String,
    /// What it was proved to run.
    #[serde(default)]
    pub running: Option<ReleaseId>,
    /// What it was proved to run before.
    #[serde(default)]
    pub previous: Option<ReleaseId>,
    /// What its pointer names.
    #[serde(default)]
    pub desired: Option<ReleaseId>,
    /// Whatever else it may need: where `current` points, what is on its way.
    #[serde(default)]
    pub also: BTreeSet<ReleaseId>,
    /// The pod has ended in order.
    #[serde(default)]
    pub ended: bool,
    /// When it was written, by the pod's wall clock: for people.
    pub at: String,
}

impl Lease {
    /// Every release that must stay for this pod.
    pub(crate) fn names(&self) -> BTreeSet<ReleaseId> {
        let named = [&self.running, &self.previous, &self.desired].into_iter().flatten();
        named.chain(&self.also).cloned().collect()
    }

    /// What the pod needs the release for.
    pub(crate) fn role(&self, id: &ReleaseId) -> Option<&'static str> {
        let is = |named: &Option<ReleaseId>| named.as_ref() == Some(id);
        match () {
            () if is(&self.running) => Some("running"),
            () if is(&self.desired) => Some("desired"),
            () if is(&self.previous) => Some("previous"),
            () if self.also.contains(id) => Some("in use"),
            () => None,
        }
    }
}

/// All leases of a volume that count.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    /// Those that could be read.
    pub(crate) live: Vec<Lease>,
    /// The others, each with what is wrong with it. Any of them may name anything.
    pub(crate) unreadable: Vec<String>,
}

/// The lock between who writes a lease and who deletes releases. Free again when dropped.
pub(super) struct Guard(Option<File>);

impl Guard {
    /// False where the volume has no locks, or the lock was held for too long.
    pub(super) fn is_locked(&self) -> bool {
        self.0.is_some()
    }
}

impl Releases {
    /// Writes the lease of this pod, in place of the one before, and syncs it.
    ///
    /// # Errors
    /// [`Problem`] naming the path when the volume does not take it; the one before counts on.
    pub fn write_lease(&self, lease: &Lease) -> Result<(), Problem> {
        self.put_lease(lease)?;
        self.sync_lease()
    }

    /// The same for every living agent. A loss of power may undo it, and ends this pod's processes, too: its agent
    /// names what it needs anew when it starts.
    ///
    /// # Errors
    /// As [`Releases::write_lease`].
    pub(crate) fn put_lease(&self, lease: &Lease) -> Result<(), Problem> {
        let dir = self.make_place(LEASES)?;
        let path = dir.name().join(&self.pod);
        let failed = |e: io::Error| disk_problem(&path, &e);
        let text = serde_json::to_vec(lease).map_err(|e| failed(e.into()))?;
        let mut temp = tempfile::Builder::new().prefix(".lease-").tempfile_in(dir.path()).map_err(failed)?;
        temp.write_all(&text).map_err(failed)?;
        readable_by_all(temp.as_file()).map_err(failed)?;
        failpoint::hit("lease.written");
        let guard = self.guard(FlockOperation::NonBlockingLockShared);
        let file = temp.persist(dir.join(&self.pod)).map_err(|e| failed(e.error))?;
        drop(guard);
        failpoint::hit("lease.renamed");
        // A network file system writes it now, and says whether it could.
        nix::unistd::close(file).map_err(|e| failed(e.into()))
    }

    /// Makes the lease of this pod durable.
    ///
    /// # Errors
    /// As [`Releases::write_lease`].
    pub(crate) fn sync_lease(&self) -> Result<(), Problem> {
        let dir = self.make_place(LEASES)?;
        let synced = dir.file(OsStr::new(&self.pod), OFlags::RDONLY).and_then(|file| file.sync_all());
        synced.and_then(|()| dir.sync()).map_err(|e| disk_problem(&dir.name().join(&self.pod), &e))
    }

    /// The lease that this pod has now; `None` when there is none that can be read.
    pub(crate) fn own_lease(&self) -> Option<Lease> {
        let dir = self.place(LEASES).ok().flatten()?;
        read(&dir, OsStr::new(&self.pod)).ok().flatten()
    }

    /// All leases that count, and those that cannot be read. Files that mean nothing any more are removed.
    ///
    /// # Errors
    /// [`Problem`] when the volume does not tell.
    pub fn leases(&self) -> Result<Leases, Problem> {
        let Some(dir) = self.place(LEASES)? else { return Ok(Leases::default()) };
        let failed = |e: io::Error| disk_problem(dir.name(), &e);
        // It tells the time, and makes a network file system ask its server for the directory.
        let now = now_by(&dir.path());
        let mut leases = Leases::default();
        for entry in fs::read_dir(dir.path()).map_err(failed)? {
            take(&mut leases, &dir, &entry.map_err(failed)?.file_name(), now);
        }
        leases.live.sort_by(|a, b| a.pod.cmp(&b.pod));
        Ok(leases)
    }

    /// Waits for the lock, not for ever: a volume without locks, or one whose holder hangs, must not
    /// keep a pod from its release.
    pub(super) fn guard(&self, operation: FlockOperation) -> Guard {
        Guard(self.try_guard(operation))
    }

    fn try_guard(&self, operation: FlockOperation) -> Option<File> {
        let dir = Held::open(&self.deploy_to, Path::new(".pitstop")).ok()?;
        let file = dir.file(OsStr::new("lock"), OFlags::RDWR | OFlags::CREATE).ok()?;
        let began = Instant::now();
        loop {
            match flock(&file, operation) {
                Ok(()) => return Some(file),
                Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return None,
            }
        }
    }
}

/// Agents of other users have to read it.
fn readable_by_all(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

/// What time the volume thinks it is; `None` when nothing can be written: then no lease is too old.
fn now_by(dir: &Path) -> Option<SystemTime> {
    let file = tempfile::Builder::new().prefix(".now-").tempfile_in(dir).ok()?;
    file.as_file().metadata().and_then(|meta| meta.modified()).ok()
}

fn take(leases: &mut Leases, dir: &Held, name: &OsStr, now: Option<SystemTime>) {
    let age = match fs::symlink_metadata(dir.join(name)).and_then(|meta| meta.modified()) {
        Ok(modified) => now.and_then(|now| now.duration_since(modified).ok()).unwrap_or_default(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        // It may be young.
        Err(_) => Duration::ZERO,
    };
    if age > FORGOTTEN {
        let _ = fs::remove_file(dir.join(name));
    }
    let temporary = name.as_encoded_bytes().starts_with(b".");
    if temporary || age > EXPIRES {
        return;
    }
    match read(dir, name) {
        Ok(Some(lease)) if lease.ended && age > EXPIRES_ENDED => {}
        Ok(Some(lease)) => leases.live.push(lease),
        Ok(None) => {}
        Err(error) => leases.unreadable.push(format!("{}: {error}", dir.name().join(name).display())),
    }
}

/// A lease may be replaced while it is read, which a network file system may report as an error.
fn read(dir: &Held, name: &OsStr) -> io::Result<Option<Lease>> {
    let once = || {
        let bytes = plain_file::read_all(dir.file(name, OFlags::RDONLY)?, LIMIT_BYTES)?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    match once().or_else(|_: io::Error| once()) {
        Ok(lease) => Ok(Some(lease)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// What a pod says that it needs.
    pub(crate) fn lease(bytes: &[u8]) {
        let Ok(lease) = serde_json::from_slice::<Lease>(bytes) else { return };
        assert!(lease.names().iter().all(|id| lease.role(id).is_some()));
    }
}
