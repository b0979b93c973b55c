//! Where releases and pointers are kept: a few keys, conditional reads and writes.
//!
//! ```text
//! pointers/<name>                    what every pod that follows it should run
//! releases/<id>.tar.zst|.tar.gz      an archive, written once
//! releases/<id>.manifest             what the archive holds, where `publish` wrote it
//! releases/<id>.signed               which bytes it is, signed by CI, where `publish --sign` wrote it
//! releases/<id>.tar.zst.sha256       its digest, written last: the commit
//! moves/<pointer>/<sequence>         each move of it, written once; and `.end`, how that ended
//! canary/<pointer>/<sequence>/<n>    which pod is the n-th canary of a move, written once by itself
//! fleet/<pointer>/<pod>              what each pod runs, by its own word
//! rollouts/<pointer>                 how far a rollout is, and who drives it
//! ```

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tempfile::NamedTempFile;
use tokio::runtime::Handle;

use crate::{
    config::{self, S3Location},
    core::{Problem, Reason},
    revision::ReleaseId,
};

pub mod archive;
mod call_off;
mod came;
pub mod dir;
pub(crate) mod inventory;
pub mod s3;

use archive::Published;
pub use call_off::CallOff;
use came::Came;

/// Which content an object had. Opaque: versions are compared, never read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub(crate) String);

/// What a conditional read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The object still has the known version.
    NotModified,
    /// There is no such object.
    Absent,
    /// The object.
    Object {
        /// Its version.
        version: Version,
        /// Its content.
        bytes: Vec<u8>,
    },
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is there yet.
    Absent,
    /// The object still has this version.
    Matches(Version),
    /// Nothing: the last writer wins. For what only one writes.
    Any,
}

/// What is written.
#[derive(Debug, Clone)]
pub enum Body {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The content of this file.
    File(PathBuf),
}

/// An object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// When it was written, in seconds of the store's own clock: comparable with each other only. 0 where it does not
    /// tell.
    pub written_s: u64,
    /// Its size.
    pub bytes: u64,
}

/// A big object, opened for reading.
pub struct Object {
    /// Its size in bytes, whatever the offset.
    pub size_bytes: u64,
    /// Its version, to ask for the same one when the read has to go on after a break.
    pub version: Version,
    /// How the bytes were changed on their way, where an answer says so: they may not be what was uploaded.
    pub(crate) encoding: Option<String>,
    /// The bytes from the offset on.
    pub chunks: Box<dyn Chunks>,
}

/// The bytes of an object, piece by piece.
pub trait Chunks: Send {
    /// The next piece; empty at the end.
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<u8>, StoreError>>;
}

/// Why the store did not do what it was asked. Every message names the key or path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or is not there.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// It refuses us.
    #[error("the store refuses access: {0}")]
    Denied(String),
    /// It has no object of this key.
    #[error("the store has no {0}")]
    Missing(String),
    /// The condition of a write, or the version of a read, no longer holds.
    #[error("somebody else has changed {0} in the meantime")]
    Changed(String),
    /// The object is larger than what its reader takes.
    #[error("{key} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// Which.
        key: String,
        /// What its reader takes.
        limit_bytes: u64,
    },
    /// The text is no key.
    #[error("{0:?} is not a valid store key: it must be relative, without names that start with a dot")]
    InvalidKey(String),
    /// The store is full.
    #[error("the store is full: {0}")]
    Full(String),
    /// It cannot do what was asked, nor will it later.
    #[error("{0}")]
    Unfit(String),
    /// What was to be written could not be read.
    #[error("{0}")]
    Source(String),
    /// Nobody needs it any more.
    #[error("{0} was cancelled: another release is now desired")]
    CalledOff(String),
}

impl StoreError {
    /// The code that users see.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable(_) | Self::Changed(_) | Self::CalledOff(_) => Reason::StoreUnreachable,
            Self::Denied(_) | Self::Unfit(_) => Reason::StoreDenied,
            Self::Missing(_) => Reason::ReleaseUnknown,
            Self::TooLarge { .. } => Reason::ReleaseCorrupt,
            Self::InvalidKey(_) => Reason::ConfigInvalid,
            Self::Full(_) => Reason::NoSpace,
            Self::Source(_) => Reason::Internal,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

/// A place for releases and pointers. Every call ends within a bound of its own.
pub trait Store: Send + Sync {
    /// Reads a small object, unless it still has the known version.
    fn get<'a>(
        &'a self,
        key: &'a str,
        known: Option<&'a Version>,
        limit_bytes: u64,
    ) -> BoxFuture<'a, Result<Found, StoreError>>;

    /// Opens a big object from an offset on; with `same`, only that version of it.
    fn read<'a>(
        &'a self,
        key: &'a str,
        offset: u64,
        same: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Object, StoreError>>;

    /// Writes an object, whole or not at all, if the condition holds.
    fn put<'a>(
        &'a self,
        key: &'a str,
        body: Body,
        condition: Condition,
    ) -> BoxFuture<'a, Result<Version, StoreError>>;

    /// What lies directly below `prefix`, sorted by key.
    fn list_dated<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>>;

    /// The keys that begin with `prefix`, sorted.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        Box::pin(
            async move { Ok(self.list_dated(prefix).await?.into_iter().map(|listed| listed.key).collect()) },
        )
    }

    /// Deletes a small object; one that is not there is deleted.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// An empty file for an archive that is to be put as [`Body::File`]: where the store is a directory, it is made there,
    /// so that it is moved and not copied.
    fn temporary<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Result<NamedTempFile, StoreError>> {
        Box::pin(async { temporary_elsewhere() })
    }

    /// A directory in which a local file system reports changes of `key`; `None` where polling is all.
    fn watch_dir(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}

/// Opens the store that `source` names. A bucket is not asked before it is used.
///
/// # Errors
/// [`Reason::ConfigInvalid`] when it names none.
pub fn open(source: Option<&str>, s3: &config::S3) -> Result<Arc<dyn Store>, Problem> {
    let invalid = |message: String| Problem::new(Reason::ConfigInvalid, message);
    let source = source.ok_or_else(|| {
        invalid("no `source` is configured: set it to s3://bucket/prefix or to a directory".into())
    })?;
    if let Some(place) = S3Location::parse(source) {
        let settings = s3::Settings { keys: s3.clone(), ..s3::Settings::default() };
        return Ok(Arc::new(s3::S3Store::new(place.map_err(invalid)?, settings)));
    }
    let store = dir::DirStore::new(source.into()).map_err(|e| {
        Problem::new(Reason::Internal, format!("the thread for the store {source} could not be started: {e}"))
    })?;
    Ok(Arc::new(store))
}

fn temporary_elsewhere() -> Result<NamedTempFile, StoreError> {
    let made = tempfile::Builder::new().prefix("pitstop-publish-").tempfile();
    made.map_err(|e| StoreError::Source(format!("{}: {e}", std::env::temp_dir().display())))
}

/// The key of a pointer.
pub(crate) fn pointer_key(name: &str) -> String {
    format!("pointers/{name}")
}

/// The kinds of archives, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ArchiveKind {
    /// tar, compressed by zstd.
    #[serde(rename = "tar.zst")]
    TarZst,
    /// tar, compressed by gzip.
    #[serde(rename = "tar.gz")]
    TarGz,
}

impl ArchiveKind {
    /// Each of them.
    pub(crate) const ALL: [Self; 2] = [Self::TarZst, Self::TarGz];

    /// What the archive's name ends with.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::TarZst => "tar.zst",
            Self::TarGz => "tar.gz",
        }
    }

    /// What a file is by its first bytes; `None` for anything else.
    pub(crate) fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::TarZst),
            // A frame to be skipped: pzstd begins with one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::TarZst),
            [0x1f, 0x8b, ..] => Some(Self::TarGz),
            _ => None,
        }
    }

    /// The archive's key.
    pub(crate) fn key(self, id: &ReleaseId) -> String {
        format!("releases/{id}.{}", self.extension())
    }

    /// The key of its digest.
    pub(crate) fn digest_key(self, id: &ReleaseId) -> String {
        format!("{}.sha256", self.key(id))
    }
}

/// The store for code that may block: each call waits on the runtime from a thread outside of it.
#[derive(Clone)]
pub struct Blocking {
    store: Arc<dyn Store>,
    runtime: Handle,
    idle: Duration,
    off: CallOff,
    came: Came,
}

impl Blocking {
    /// `idle` is how long a single answer, or the next piece of an object, may take.
    pub fn new(store: Arc<dyn Store>, runtime: Handle, idle: Duration) -> Self {
        Self { store, runtime, idle, off: CallOff::default(), came: Came::default() }
    }

    /// The same store for one piece of work: each call fails at once when that is called off.
    pub fn until(&self, off: CallOff) -> Self {
        Self { off, ..self.clone() }
    }

    /// How far the download has come, if there is one.
    pub(crate) fn came(&self) -> Came {
        self.came.clone()
    }

    /// What calls the work off.
    pub fn off(&self) -> &CallOff {
        &self.off
    }

    /// Like [`archive::require`]. Must not be called from an async task.
    ///
    /// # Errors
    /// As there; also when there is no answer in time.
    pub(crate) fn require(&self, id: &ReleaseId) -> Result<Published, Problem> {
        self.wait(&format!("releases/{id}"), Box::pin(archive::require(self.store.as_ref(), id)))
    }

    /// The signed statement on a release, if there is one. Must not be called from an async task.
    ///
    /// # Errors
    /// What the store says; also when there is no answer in time.
    pub(crate) fn signed(&self, id: &ReleaseId) -> Result<Option<Vec<u8>>, Problem> {
        let signed = self.wait(&archive::signed_key(id), Box::pin(archive::signed(self.store.as_ref(), id)));
        signed.map_err(|error: StoreError| error.into())
    }

    /// Like [`Store::read`]. Must not be called from an async task.
    ///
    /// # Errors
    /// [`StoreError`], also when there is no answer in time.
    pub(crate) fn read(&self, key: &str, offset: u64, same: Option<&Version>) -> Result<Object, StoreError> {
        let object = self.wait(key, self.store.read(key, offset, same))?;
        self.came.opened(key, offset, object.size_bytes);
        Ok(object)
    }

    /// The next piece of an object, empty at its end. Must not be called from an async task.
    ///
    /// # Errors
    /// [`StoreError`], also when there is no answer in time.
    pub(crate) fn next(&self, key: &str, object: &mut Object) -> Result<Vec<u8>, StoreError> {
        let piece = self.wait(key, object.chunks.next())?;
        self.came.add(piece.len());
        Ok(piece)
    }

    fn wait<T, E: From<StoreError>>(&self, key: &str, call: BoxFuture<'_, Result<T, E>>) -> Result<T, E> {
        let late = || StoreError::Unreachable(format!("{key}: no answer within {:?}", self.idle));
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.off.called() => Err(StoreError::CalledOff(key.into()).into()),
                answer = tokio::time::timeout(self.idle, call) => {
                    self.off.step();
                    answer.unwrap_or_else(|_| Err(late().into()))
                }
            }
        })
    }
}
