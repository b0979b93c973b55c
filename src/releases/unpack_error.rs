//! What can go wrong with an archive on its way onto the volume.

use std::io;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It has something that must not be.
    #[error("the archive is refused: {0}")]
    Refused(String),
    /// It cannot be read to its end.
    #[error("the archive cannot be read: {0}")]
    Archive(io::Error),
    /// The volume did not take it.
    #[error("{0}: {1}")]
    Disk(String, io::Error),
    /// The spare tree that it was unpacked onto is another than was noted.
    #[error("the spare tree is not what its manifest says: {0}")]
    Spare(String),
}
