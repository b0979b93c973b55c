//! The newest statement that was seen, which outlives the process.

use std::{fs, io::Write, path::Path};

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

    /// Whole or not at all. A place that cannot be written costs the memory of one life.
    pub(super) fn write(&self, memory: Option<&Path>) {
        let Some((path, dir)) = memory.and_then(|path| Some((path, path.parent()?))) else { return };
        let written = fs::create_dir_all(dir).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(serde_json::to_string(self)?.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|failed| failed.error)
        });
        if let Err(error) = written {
            let path = path.display();
            tracing::warn!(%error, "{path} cannot be written: after a restart of the agent, older signatures of the pointer would be accepted");
        }
    }
}
