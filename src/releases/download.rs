//! An archive on its way from the store, hashed and read while it comes: nothing of it is on the volume, and nothing
//! in memory but the pieces that wait.
//!
//! A connection that breaks costs what it did not bring yet, and no more: the download goes on behind the
//! last byte, asking for the same version of the object. If somebody puts another one in its place, what was read so
//! far is of no use ([`StoreError::Changed`]), and two versions are never mixed. Whether the bytes are the published
//! ones, the digest says in the end.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::{
    failpoint,
    store::{Blocking, Object, StoreError, Version, dir::hex},
};

/// So many pieces wait to be read.
const WAITING: usize = 16;
/// Breaks in a row, with less than a [`STEP_BYTES`] between them, after which the download fails.
const BREAKS_MAX: u32 = 5;
/// What counts as getting on.
const STEP_BYTES: u64 = 1 << 20;
/// How often another version may come in between.
const CHANGES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Downloaded {
    /// Its SHA-256, in lower-case hexadecimal.
    pub(super) sha256: String,
    pub(super) bytes: u64,
    /// How it was changed on its way, where the store says so.
    pub(super) encoding: Option<String>,
}

/// Lets `read` read the object, which comes on a thread of its own. Answers what `read` made of it, and how the
/// download ended; both have ended then.
pub(super) fn download<T>(
    store: &Blocking,
    key: &str,
    object: Object,
    patience: &mut Patience,
    read: impl FnOnce(&mut Incoming) -> T,
) -> (T, Result<Downloaded, StoreError>) {
    let (pieces, receiver) = sync_channel(WAITING);
    let download = Download { pieces, hash: Sha256::new(), bytes: 0, version: object.version.clone() };
    let mut incoming = Incoming { pieces: receiver, piece: Vec::new(), read: 0, ended: false };
    let span = tracing::Span::current();
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("fetch-archive".into());
        // The thread takes the sender with it: whoever reads learns that it ended.
        let thread =
            thread.spawn_scoped(scope, move || span.in_scope(|| download.all(store, key, object, patience)));
        let read = read(&mut incoming);
        drop(incoming);
        let came = match thread.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(came)) => came,
            Ok(Err(_)) => Err(StoreError::Source(format!("{key}: the download ended by a defect"))),
            Err(e) => Err(StoreError::Source(format!("{key}: no thread to download it: {e}"))),
        };
        (read, came)
    })
}

/// The bytes of an archive as they come. Dropped before the end, it ends the download.
pub(super) struct Incoming {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    read: usize,
    ended: bool,
}

impl Incoming {
    /// Waits for the rest, which nobody needs.
    pub(super) fn drain(&mut self) {
        self.piece.clear();
        while !self.ended && self.next().is_ok() {}
    }

    fn next(&mut self) -> io::Result<()> {
        // Why, the download's thread says.
        self.piece = self.pieces.recv().map_err(|_| io::Error::other("the download failed"))?;
        self.read = 0;
        self.ended = self.piece.is_empty();
        Ok(())
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.piece.len() && !self.ended {
            self.next()?;
        }
        let n = (&self.piece[self.read..]).read(buffer)?;
        self.read += n;
        Ok(n)
    }
}

struct Download {
    pieces: SyncSender<Vec<u8>>,
    hash: Sha256,
    bytes: u64,
    version: Version,
}

impl Download {
    fn all(
        mut self,
        store: &Blocking,
        key: &str,
        mut object: Object,
        patience: &mut Patience,
    ) -> Result<Downloaded, StoreError> {
        loop {
            let broken = match self.go_on(store, key, &mut object) {
                Ok(()) => break,
                Err(error) => error,
            };
            object = self.resume(store, key, broken, patience)?;
        }
        let sha256 = hex(&self.hash.finalize());
        Ok(Downloaded { sha256, bytes: self.bytes, encoding: object.encoding })
    }

    /// The rest of the object, if it was only interrupted.
    fn resume(
        &self,
        store: &Blocking,
        key: &str,
        mut error: StoreError,
        patience: &mut Patience,
    ) -> Result<Object, StoreError> {
        while matches!(error, StoreError::Unreachable(_)) && self.bytes > 0 {
            tracing::warn!(%error, bytes = self.bytes, "the download was interrupted and is resumed after a pause");
            patience.broken(self.bytes, error)?;
            match store.read(key, self.bytes, Some(&self.version)) {
                Ok(object) => return Ok(object),
                Err(next) => error = next,
            }
        }
        Err(error)
    }

    fn go_on(&mut self, store: &Blocking, key: &str, object: &mut Object) -> Result<(), StoreError> {
        loop {
            let piece = store.next(key, object)?;
            if piece.is_empty() {
                self.end(key, object)?;
                return self.send(key, piece);
            }
            if self.bytes == 0 {
                failpoint::hit("fetch.mid_download");
            }
            self.hash.update(&piece);
            self.bytes += piece.len() as u64;
            if self.bytes > object.size_bytes {
                // A file that grows while it is read.
                return Err(StoreError::Changed(key.into()));
            }
            self.send(key, piece)?;
        }
    }

    fn send(&self, key: &str, piece: Vec<u8>) -> Result<(), StoreError> {
        self.pieces.send(piece).map_err(|_| StoreError::CalledOff(key.into()))
    }

    /// An end before the end is a break like others.
    fn end(&self, key: &str, object: &Object) -> Result<(), StoreError> {
        if self.bytes >= object.size_bytes {
            return Ok(());
        }
        let (came, all) = (self.bytes, object.size_bytes);
        Err(StoreError::Unreachable(format!("{key} ended after {came} of {all} bytes")))
    }
}

/// How much may go wrong until it is enough.
#[derive(Default)]
pub(super) struct Patience {
    reached_bytes: u64,
    breaks: u32,
    changes: u32,
}

impl Patience {
    /// Waits a little, unless it was the last time.
    fn broken(&mut self, bytes: u64, error: StoreError) -> Result<(), StoreError> {
        if bytes >= self.reached_bytes + STEP_BYTES {
            (self.reached_bytes, self.breaks) = (bytes, 0);
        }
        self.breaks += 1;
        if self.breaks > BREAKS_MAX {
            return Err(error);
        }
        let pause = PAUSE * 2_u32.pow(self.breaks - 1);
        std::thread::sleep(pause.min(PAUSE_MAX).mul_f64(0.5 + fastrand::f64() / 2.0));
        Ok(())
    }

    /// The archive was replaced: it starts over, unless it was the last time.
    pub(super) fn changed(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.changes += 1;
        (self.reached_bytes, self.breaks) = (0, 0);
        if self.changes > CHANGES_MAX { Err(error) } else { Ok(()) }
    }
}
