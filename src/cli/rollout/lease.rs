//! Who drives a rollout: the one who has written its object last, as long as the heartbeat in it grows. Every write is
//! on condition that the object is what was written before, so that two never drive at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, watch};

use super::journal::Journal;
use crate::{
    revision::ReleaseId,
    store::{Body, Condition, Found, Store, StoreError, Version},
};

/// An object is some hundred bytes.
const LIMIT_BYTES: u64 = 64 << 10;
/// The heartbeat grows so many times before a lease is over.
const BEATS: u32 = 6;
/// Whoever waits for something looks so often before a lease is over.
const LOOKS: u32 = 30;

/// Between two looks: a second, by default.
pub(super) fn pause(lease: Duration) -> Duration {
    lease / LOOKS
}

/// Where the rollouts of all pointers are.
pub(in crate::cli) const PREFIX: &str = "rollouts/";

/// Where a pointer's rollout is.
pub(super) fn key(pointer: &str) -> String {
    format!("{PREFIX}{pointer}")
}

/// The releases that a pointer's rollout needs; none when it has ended.
///
/// # Errors
/// What the store says; also when what is there cannot be understood.
pub(in crate::cli) async fn needs(
    store: &Arc<dyn Store>,
    pointer: &str,
) -> Result<Vec<ReleaseId>, StoreError> {
    let Read { journal, condition } = read(store, &key(pointer)).await?;
    match (journal, condition) {
        (Some(journal), _) if journal.state.is_final() => Ok(Vec::new()),
        (Some(journal), _) => {
            let replaced = journal.replaces.map(|canary| canary.release);
            Ok([journal.release, journal.base.release].into_iter().chain(replaced).collect())
        }
        (None, Condition::Absent) => Ok(Vec::new()),
        (None, _) => Err(StoreError::Unfit(format!("{} is of another version, or damaged", key(pointer)))),
    }
}

/// The object as it was read.
#[derive(Debug, Clone)]
pub(super) struct Read {
    /// `None`: there is none, or none that this version understands.
    pub(super) journal: Option<Journal>,
    condition: Condition,
}

/// Reads it.
///
/// # Errors
/// What the store says.
pub(super) async fn read(store: &Arc<dyn Store>, key: &str) -> Result<Read, StoreError> {
    match store.get(key, None, LIMIT_BYTES).await? {
        Found::Object { version, bytes } => {
            Ok(Read { journal: serde_json::from_slice(&bytes).ok(), condition: Condition::Matches(version) })
        }
        Found::Absent | Found::NotModified => Ok(Read { journal: None, condition: Condition::Absent }),
    }
}

/// Why a write did not happen.
#[derive(Debug)]
pub(super) enum NotWritten {
    /// Somebody else has it now.
    Lost(Option<Box<Journal>>),
    /// The store did not do it.
    Store(StoreError),
}

/// What a dead holder is known by: whether its heartbeat grows is seen by one's own clock only.
///
/// # Errors
/// What the store says, when it does so first; later on it is asked again.
pub(super) async fn watch(
    store: &Arc<dyn Store>,
    key: &str,
    found: &Journal,
) -> Result<Option<Journal>, StoreError> {
    let lease = found.options.lease;
    let (mut unchanged, mut last) = (Duration::ZERO, Instant::now());
    while unchanged < lease {
        tokio::time::sleep(pause(lease)).await;
        let looked = read(store, key).await;
        let passed = last.elapsed();
        last = Instant::now();
        match looked {
            Ok(Read { journal: Some(now), .. }) if now.is_as_written_in(found) => unchanged += passed,
            Ok(Read { journal, .. }) => return Ok(journal),
            // It may have grown meanwhile.
            Err(StoreError::Unreachable(_)) => unchanged = Duration::ZERO,
            Err(error) => return Err(error),
        }
    }
    Ok(Some(found.clone()))
}

/// The object in one's own hands.
pub(super) struct Lease {
    held: Arc<Mutex<Held>>,
    lost: watch::Receiver<bool>,
    beats: tokio::task::JoinHandle<()>,
}

struct Held {
    store: Arc<dyn Store>,
    key: String,
    version: Version,
    journal: Journal,
}

impl Lease {
    /// Writes the object over what was read, and keeps its heartbeat growing from then on.
    ///
    /// # Errors
    /// [`NotWritten`]: somebody else was faster, or the store refuses.
    pub(super) async fn take(
        store: &Arc<dyn Store>,
        key: &str,
        over: &Read,
        journal: Journal,
    ) -> Result<Self, NotWritten> {
        let written = write(store, key, over.condition.clone(), &journal).await?;
        let held = Held { store: store.clone(), key: key.into(), version: written, journal };
        let each = held.journal.options.lease / BEATS;
        let held = Arc::new(Mutex::new(held));
        let (tell, lost) = watch::channel(false);
        let beats = tokio::spawn(beat(held.clone(), each, tell));
        Ok(Self { held, lost, beats })
    }

    /// What was written last.
    pub(super) async fn journal(&self) -> Journal {
        self.held.lock().await.journal.clone()
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`NotWritten`].
    pub(super) async fn save(&self, journal: Journal) -> Result<(), NotWritten> {
        let mut held = self.held.lock().await;
        let heartbeat = held.journal.heartbeat + 1;
        held.put(Journal { heartbeat, ..journal }).await
    }

    /// Until somebody else has it.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + use<> {
        let mut lost = self.lost.clone();
        async move {
            if lost.wait_for(|lost| *lost).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Lets the next one take it at once.
    ///
    /// # Errors
    /// [`NotWritten`].
    pub(super) async fn release(self) -> Result<(), NotWritten> {
        let mut held = self.held.lock().await;
        let released = Journal { holder: None, ..held.journal.clone() };
        held.put(released).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

impl Held {
    async fn put(&mut self, journal: Journal) -> Result<(), NotWritten> {
        loop {
            let condition = Condition::Matches(self.version.clone());
            match write(&self.store, &self.key, condition, &journal).await {
                Ok(version) => {
                    (self.version, self.journal) = (version, journal);
                    return Ok(());
                }
                Err(NotWritten::Lost(Some(there))) if there.is_same_hand(&journal) => {
                    // A write of our own, of which the answer was lost.
                    let read = read(&self.store, &self.key).await.map_err(NotWritten::Store)?;
                    let Condition::Matches(version) = read.condition else {
                        return Err(NotWritten::Lost(None));
                    };
                    self.version = version;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Journal {
    /// Whether nobody has written since.
    pub(super) fn is_as_written_in(&self, before: &Self) -> bool {
        self.is_same_hand(before) && self.heartbeat == before.heartbeat
    }

    /// Whether the same holder has written both: each one has a fencing number of its own.
    fn is_same_hand(&self, other: &Self) -> bool {
        (&self.id, self.fence, &self.holder) == (&other.id, other.fence, &other.holder)
    }
}

async fn beat(held: Arc<Mutex<Held>>, each: Duration, tell: watch::Sender<bool>) {
    loop {
        tokio::time::sleep(each).await;
        let mut held = held.lock().await;
        let next = Journal { heartbeat: held.journal.heartbeat + 1, ..held.journal.clone() };
        // What the store does not take is tried at the next beat.
        if let Err(NotWritten::Lost(_)) = held.put(next).await {
            let _ = tell.send(true);
            return;
        }
    }
}

async fn write(
    store: &Arc<dyn Store>,
    key: &str,
    condition: Condition,
    journal: &Journal,
) -> Result<Version, NotWritten> {
    let text =
        serde_json::to_string(journal).map_err(|e| NotWritten::Store(StoreError::Source(e.to_string())))?;
    let text = text + "\n";
    match store.put(key, Body::Bytes(text.clone().into_bytes()), condition).await {
        Ok(version) => Ok(version),
        Err(error) => match store.get(key, None, LIMIT_BYTES).await {
            // The answer was lost, not the write.
            Ok(Found::Object { version, bytes }) if bytes == text.as_bytes() => Ok(version),
            Ok(Found::Object { bytes, .. }) if matches!(error, StoreError::Changed(_)) => {
                Err(NotWritten::Lost(serde_json::from_slice(&bytes).ok().map(Box::new)))
            }
            Ok(_) if matches!(error, StoreError::Changed(_)) => Err(NotWritten::Lost(None)),
            _ => Err(NotWritten::Store(error)),
        },
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A rollout's journal in the store.
    pub(crate) fn rollout(bytes: &[u8]) {
        let Ok(journal) = serde_json::from_slice::<Journal>(bytes) else { return };
        let _ = (journal.place(), journal.share(), journal.revision());
        let written = serde_json::to_vec(&journal).expect("it is plain data");
        assert_eq!(serde_json::from_slice::<Journal>(&written).expect("it was just written"), journal);
    }
}
