//! The newest statement that was seen, which outlives the process.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::plain_file;

const BYTES_MAX: u64 = 4096;

/// Nothing older is followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Floor {
    /// Of this pointer.
    pub(super) pointer: String,
    /// When it was signed, in seconds since 1970.
    pub(super) issued: u64,
    /// The highest number of a move.
    pub(super) sequence: u64,
}

impl Floor {
    /// What the file says; nothing where it says nothing of this pointer.
    pub(super) fn read(memory: Option<&Path>, pointer: &str) -> Self {
        let bytes = memory.and_then(|path| plain_file::read(path, BYTES_MAX).ok());
        let floor: Option<Self> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        floor.filter(|floor| floor.pointer == pointer).unwrap_or_default()
    }

    /// Whole or not at all, and on disk when this returns.
    ///
    /// # Errors
    /// What the system says; the file is as it was then.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|failed| failed.error)?;
        fs::File::open(dir)?.sync_all()
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// What is in the file is a floor of this pointer, or none.
    pub(crate) fn floor(bytes: &[u8]) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), bytes).expect("it is written");
        let floor = Floor::read(Some(file.path()), "production");
        assert!(floor == Floor::default() || floor.pointer == "production");
    }
}
