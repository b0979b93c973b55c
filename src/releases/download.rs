//! An archive on its way into the staging directory.
//!
//! A connection that breaks costs what it did not bring yet, and no more: the download goes on behind the
//! last byte, asking for the same version of the object. If somebody puts another one in its place it starts
//! over, so that two versions are never mixed; whether the bytes are the published ones, the digest says in
//! the end. Nothing of the archive is held in memory but the piece that has just come.

use std::{
    fs::File,
    io::{self, Seek, Write},
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::{
    failpoint,
    store::{Blocking, Object, StoreError, Version, dir::hex},
};

/// Breaks in a row, with less than a [`STEP_BYTES`] between them, after which the download fails.
const BREAKS_MAX: u32 = 5;
/// What counts as getting on.
const STEP_BYTES: u64 = 1 << 20;
/// How often another version may come in between.
const CHANGES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why an archive did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError<E> {
    /// The store's side.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file's side.
    #[error("cannot be written: {0}")]
    Disk(#[from] io::Error),
    /// The caller does not take an object of this size.
    #[error("refused")]
    Refused(E),
}

/// What came.
#[derive(Debug)]
pub(super) struct Downloaded {
    /// Its SHA-256, in lower-case hexadecimal.
    pub(super) sha256: String,
    /// Its size.
    pub(super) bytes: u64,
    /// How it was changed on its way, where the store says so.
    pub(super) encoding: Option<String>,
}

/// Copies the object into the file. `accept` is asked with the number of bytes that are promised.
///
/// # Errors
/// [`DownloadError`]; then the file holds anything.
pub(super) fn download<E>(
    store: &Blocking,
    key: &str,
    file: File,
    accept: impl Fn(u64) -> Result<(), E>,
) -> Result<Downloaded, DownloadError<E>> {
    let mut copy = Copy { file, hash: Sha256::new(), bytes: 0, version: None, encoding: None };
    let mut patience = Patience::default();
    loop {
        match copy.go_on(store, key, &accept) {
            Ok(()) => break,
            Err(DownloadError::Store(error @ StoreError::Unreachable(_))) if copy.bytes > 0 => {
                tracing::warn!(%error, bytes = copy.bytes, "the download goes on after a pause");
                patience.broken(copy.bytes, error)?;
            }
            Err(DownloadError::Store(error @ StoreError::Changed(_))) => {
                tracing::warn!(%error, "the download starts over");
                patience.changed(error)?;
                copy.start_over()?;
            }
            Err(error) => return Err(error),
        }
    }
    // A network file system may say only now that it could not write.
    nix::unistd::close(copy.file).map_err(io::Error::from)?;
    Ok(Downloaded { sha256: hex(&copy.hash.finalize()), bytes: copy.bytes, encoding: copy.encoding })
}

struct Copy {
    file: File,
    hash: Sha256,
    bytes: u64,
    version: Option<Version>,
    encoding: Option<String>,
}

impl Copy {
    fn go_on<E>(
        &mut self,
        store: &Blocking,
        key: &str,
        accept: impl Fn(u64) -> Result<(), E>,
    ) -> Result<(), DownloadError<E>> {
        let mut object = store.read(key, self.bytes, self.version.as_ref())?;
        self.version = Some(object.version.clone());
        self.encoding.clone_from(&object.encoding);
        accept(object.size_bytes).map_err(DownloadError::Refused)?;
        loop {
            let chunk = store.next(key, &mut object)?;
            if chunk.is_empty() {
                return Ok(self.end(key, &object)?);
            }
            if self.bytes == 0 {
                failpoint::hit("fetch.mid_download");
            }
            self.take(&chunk)?;
            if self.bytes > object.size_bytes {
                // A file that grows while it is read.
                return Err(StoreError::Changed(key.into()).into());
            }
        }
    }

    fn take(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk)?;
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// An end before the end is a break like others.
    fn end(&self, key: &str, object: &Object) -> Result<(), StoreError> {
        if self.bytes >= object.size_bytes {
            return Ok(());
        }
        let (came, all) = (self.bytes, object.size_bytes);
        Err(StoreError::Unreachable(format!("{key} ended after {came} of {all} bytes")))
    }

    fn start_over(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        (self.hash, self.bytes, self.version) = (Sha256::new(), 0, None);
        Ok(())
    }
}

/// How much may go wrong until it is enough.
#[derive(Default)]
struct Patience {
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

    fn changed(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.changes += 1;
        (self.reached_bytes, self.breaks) = (0, 0);
        if self.changes > CHANGES_MAX { Err(error) } else { Ok(()) }
    }
}
