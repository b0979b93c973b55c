//! One pod of a volume fetches a release for all of them.
//!
//! ```text
//! deploy_to/.pitstop/fetching/<id>     locked by the pod that fetches the release; says which, and how far it is
//! deploy_to/.pitstop/fetching/<id>+1   the same, after the holder of the first has made no progress for long
//! ```
//!
//! The lock saves work and protects nothing: a fetch stages its tree for itself, and the first rename counts. So where
//! the volume has no locks, where their holder does not get on, or where an agent knows nothing of them, a pod
//! fetches the release itself, and all of that is right.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{Releases, places::FETCHING, staging::is_stale};
use crate::{beneath::Held, core::Problem, failpoint, plain_file, revision::ReleaseId, store::CallOff};

/// How often a holder says how far it is.
const SAID_EVERY: Duration = Duration::from_secs(5);
/// How often the others look, at first and later.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// So many holders in turn may get stuck before each pod fetches the release itself.
const HOLDERS_MAX: u32 = 3;
/// What a holder says is some hundred bytes.
const SIGN_BYTES_MAX: u64 = 4 << 10;

/// How long another pod's fetch is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// With no progress.
    pub stalled: Duration,
    /// With progress.
    pub most: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        // A network file system frees the lock of a dead node after about a minute.
        Self { stalled: Duration::from_secs(60), most: Duration::from_secs(600) }
    }
}

/// A pod that fetches a release which this pod waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchingPod {
    /// Its name.
    pub pod: String,
    /// The release.
    pub release: ReleaseId,
}

/// What the fetch of this process waits for. Shared by all copies of a [`Releases`].
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Option<FetchingPod>>>);

impl Waiting {
    fn locked(&self) -> MutexGuard<'_, Option<FetchingPod>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Says it in the log once.
    fn set(&self, pod: String, release: &ReleaseId) {
        let waits = FetchingPod { pod, release: release.clone() };
        let before = self.locked().replace(waits.clone());
        if before.as_ref() != Some(&waits) {
            tracing::info!(pod = waits.pod, "waiting for pod {}, which is fetching {release}", waits.pod);
        }
    }
}

/// What a holder says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Sign {
    pod: String,
    /// Grows as long as it gets on.
    steps: u64,
}

/// The lock. Free again when dropped.
struct FetchLock {
    dir: Held,
    name: OsString,
    _file: Arc<File>,
    /// Ends the thread below.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for FetchLock {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
        // Before the lock is free: who has it open finds that it is another file by now.
        let _ = fs::remove_file(self.dir.join(&self.name));
        failpoint::hit("fetch.unlocked");
    }
}

/// What came of waiting for the lock.
enum Waited {
    Locked(FetchLock),
    /// No lock is needed, or none can be had.
    Free,
    Stalled,
}

impl Releases {
    /// The same, with another patience.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Which other pod's fetch this process waits for.
    pub fn waits_for(&self) -> Option<FetchingPod> {
        self.waiting.locked().clone()
    }

    /// Runs a fetch when no other pod fetches the same release, or when waiting for that one is no use.
    pub(super) fn in_turn<T>(&self, id: &ReleaseId, off: &CallOff, fetch: impl FnOnce() -> T) -> T {
        let lock = self.lock_fetch(id, off);
        *self.waiting.locked() = None;
        let fetched = fetch();
        drop(lock);
        fetched
    }

    fn lock_fetch(&self, id: &ReleaseId, off: &CallOff) -> Option<FetchLock> {
        let is_there = || self.is_complete(id).unwrap_or(false);
        if is_there() {
            return None;
        }
        let until = Instant::now() + self.patience.most;
        for holder in 0..HOLDERS_MAX {
            let name = if holder == 0 { id.to_string() } else { format!("{id}+{holder}") };
            let dir = self.make_place(FETCHING).ok()?;
            match self.wait_for_lock(dir, name.into(), id, off, until) {
                Waited::Locked(lock) => return Some(lock),
                Waited::Free => return None,
                Waited::Stalled => {}
            }
        }
        None
    }

    fn wait_for_lock(
        &self,
        dir: Held,
        name: OsString,
        id: &ReleaseId,
        off: &CallOff,
        until: Instant,
    ) -> Waited {
        let (mut said, mut since, mut pause) = (Vec::new(), Instant::now(), LOOK);
        loop {
            match try_lock(&dir, &name) {
                Ok(Some(file)) => return Waited::Locked(self.hold(dir, name, file, off)),
                // Released, and removed, just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound || is_stale_handle(&e) => {}
                // A volume without locks, or one that refuses more than that: the fetch will say so.
                Err(error) => {
                    tracing::debug!(%error, "no lock for the fetch of {id}");
                    return Waited::Free;
                }
                Ok(None) => {
                    let says = read_sign(&dir, &name);
                    if says != said {
                        (said, since) = (says, Instant::now());
                    }
                    // Its name comes right after the lock.
                    let sign = serde_json::from_slice::<Sign>(&said).ok();
                    if since.elapsed() > self.patience.stalled {
                        let pod =
                            sign.map_or_else(|| "another pod".into(), |sign| format!("pod {}", sign.pod));
                        let seconds = since.elapsed().as_secs();
                        tracing::warn!(
                            "{pod} has made no progress with the fetch of {id} for {seconds} s: not waiting for it"
                        );
                        return Waited::Stalled;
                    }
                    if let Some(sign) = sign {
                        self.waiting.set(sign.pod, id);
                    }
                }
            }
            if !rest(pause, off) || self.is_complete(id).unwrap_or(false) {
                return Waited::Free;
            }
            if Instant::now() > until {
                tracing::warn!("the fetch of {id} by another pod takes too long: this pod fetches it itself");
                return Waited::Free;
            }
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// Says in the lock's file who holds it, and from time to time how far it is.
    fn hold(&self, dir: Held, name: OsString, file: File, off: &CallOff) -> FetchLock {
        let file = Arc::new(file);
        let (stop, stopped) = mpsc::channel::<()>();
        let (pod, off, written) = (self.pod.clone(), off.clone(), file.clone());
        let say = move |steps| {
            // Of a fixed length: what was there is replaced as a whole.
            let text = format!("{{\"pod\":\"{pod}\",\"steps\":{steps:>20}}}\n");
            // Best effort: who sees no progress fetches the release itself.
            let _ = written.write_all_at(text.as_bytes(), 0).and_then(|()| written.sync_data());
        };
        let mut last = off.steps();
        say(last);
        failpoint::hit("fetch.locked");
        let every = SAID_EVERY.min(self.patience.stalled / 4);
        let report = move || {
            while stopped.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = off.steps();
                if std::mem::replace(&mut last, now) != now {
                    say(now);
                }
            }
        };
        let thread = thread::Builder::new().name("fetching".into()).spawn(report).ok();
        FetchLock { dir, name, _file: file, stop: Some(stop), thread }
    }

    /// A lock for a piece of background work that one pod does for all; free again when dropped. `None` where
    /// another has it, or the volume has no locks.
    pub(super) fn background_lock(&self, name: &str) -> Option<File> {
        try_lock(&self.make_place(FETCHING).ok()?, OsStr::new(name)).ok().flatten()
    }

    /// Removes what holders that were killed long ago have left.
    pub(super) fn clean_locks(&self) -> Result<(), Problem> {
        let Some(dir) = self.place(FETCHING)? else { return Ok(()) };
        for name in dir.list().map_err(|e| super::disk_problem(dir.name(), &e))? {
            if is_stale(&dir.join(&name)).unwrap_or(false) && matches!(try_lock(&dir, &name), Ok(Some(_))) {
                let _ = fs::remove_file(dir.join(&name));
            }
        }
        Ok(())
    }
}

/// `None`: somebody else has it.
///
/// # Errors
/// `NotFound` when it was removed meanwhile; else what the volume says.
fn try_lock(dir: &Held, name: &OsStr) -> io::Result<Option<File>> {
    let file = dir.file(name, OFlags::RDWR | OFlags::CREATE)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    let is_there = fs::symlink_metadata(dir.join(name))?.ino() == file.metadata()?.ino();
    if is_there { Ok(Some(file)) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// As a network file system says that a file was removed by another node.
fn is_stale_handle(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::STALE)
}

/// Opened anew each time, which makes a network file system ask its server.
fn read_sign(dir: &Held, name: &OsStr) -> Vec<u8> {
    let file = dir.file(name, OFlags::RDONLY);
    file.and_then(|file| plain_file::read_all(file, SIGN_BYTES_MAX)).unwrap_or_default()
}

/// False when nobody needs what is waited for.
fn rest(pause: Duration, off: &CallOff) -> bool {
    let until = Instant::now() + pause;
    while !off.is_called() && Instant::now() < until {
        thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
    }
    !off.is_called()
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// What the pod that has the lock says of itself.
    pub(crate) fn sign(bytes: &[u8]) {
        if let Ok(sign) = serde_json::from_slice::<Sign>(bytes) {
            assert!(sign.pod.len() <= bytes.len());
        }
    }
}
