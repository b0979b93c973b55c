//! A store in a directory. It may lie on a network file system that hangs, so every system call
//! runs on a thread of the store's own, with a deadline.
//!
//! Writes are compare-and-swap by a lock file: lock, compare, write a temporary file, sync, rename,
//! sync the directory. That is safe between processes of one node, and over NFS as far as its locks are.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::BoxFuture;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};

use super::{
    Body, Chunks, Condition, Found, Listed, Object, Store, StoreError, Version, temporary_elsewhere,
};
use crate::{lane::Lane, plain_file};

/// How long one look or one piece may take.
const SHORT: Duration = Duration::from_secs(15);
/// How long writing an archive may take.
const LONG: Duration = Duration::from_secs(3600);
/// How long another writer may hold the lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Objects up to this size are versioned by their content, larger ones by inode, size and times.
const CONTENT_VERSION_LIMIT_BYTES: u64 = 1 << 20;
/// What is being written, until it gets its name.
const TEMP_PREFIX: &str = ".put-";
const STALE: Duration = Duration::from_secs(24 * 3600);
const CHUNK_BYTES: usize = 256 << 10;
/// So many calls may wait behind one that hangs; more are refused at once.
const WAITING_MAX: usize = 8;

/// A directory as a store.
pub struct DirStore {
    root: PathBuf,
    /// Pointers and digests never wait behind an archive.
    small: Lane,
    big: Lane,
}

impl DirStore {
    /// The store at `root`, which need not be there yet.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(root: PathBuf) -> io::Result<Self> {
        let lane = |name| Lane::bounded(name, WAITING_MAX);
        Ok(Self { root, small: lane("store")?, big: lane("store-bulk")? })
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('\0');
        let valid = key.split('/').all(plain);
        if valid { Ok(self.root.join(key)) } else { Err(StoreError::InvalidKey(key.into())) }
    }
}

impl Store for DirStore {
    fn get<'a>(
        &'a self,
        key: &'a str,
        known: Option<&'a Version>,
        limit_bytes: u64,
    ) -> BoxFuture<'a, Result<Found, StoreError>> {
        Box::pin(async move {
            let path = self.path(key)?;
            let (key, known) = (key.to_owned(), known.cloned());
            run(&self.small, &self.root, SHORT, move || get(&key, &path, known, limit_bytes)).await
        })
    }

    fn read<'a>(
        &'a self,
        key: &'a str,
        offset: u64,
        same: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Object, StoreError>> {
        Box::pin(async move {
            let path = self.path(key)?;
            let (name, same) = (key.to_owned(), same.cloned());
            let open = move || open_at(&name, &path, offset, same);
            let (file, size_bytes, version) = run(&self.big, &self.root, SHORT, open).await?;
            let chunks = FileChunks { file: Some(file), path: self.path(key)?, lane: self.big.clone() };
            Ok(Object { size_bytes, version, encoding: None, chunks: Box::new(chunks) })
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        body: Body,
        condition: Condition,
    ) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move {
            let path = self.path(key)?;
            let key = key.to_owned();
            let (lane, limit) = match body {
                Body::Bytes(_) => (&self.small, SHORT + LOCK_WAIT),
                Body::File(_) => (&self.big, LONG),
            };
            run(lane, &self.root, limit, move || put(&key, &path, &body, &condition)).await
        })
    }

    fn temporary<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<NamedTempFile, StoreError>> {
        Box::pin(async move {
            let path = self.path(key)?;
            let make = move || {
                clean(path.parent().unwrap_or(&path));
                // The first publish makes the store, and only when it has an archive.
                new_temp(path.parent().unwrap_or(&path)).or_else(|_| temporary_elsewhere())
            };
            run(&self.small, &self.root, SHORT, make).await
        })
    }

    fn list_dated<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        Box::pin(async move {
            let folder = prefix.trim_end_matches('/').to_owned();
            let dir = self.path(&folder)?;
            run(&self.small, &self.root, SHORT, move || list(&folder, &dir)).await
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let path = self.path(key)?;
            run(&self.small, &self.root, SHORT, move || delete(&path)).await
        })
    }

    fn watch_dir(&self, key: &str) -> Option<PathBuf> {
        self.path(key).ok()?.parent().map(Path::to_owned)
    }
}

/// Runs a job on a lane; a directory that does not answer in time hangs.
async fn run<T: Send + 'static>(
    lane: &Lane,
    root: &Path,
    limit: Duration,
    job: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let hangs = |_| Err(StoreError::Unreachable(format!("directory {} hangs", root.display())));
    lane.run(limit, job).await.unwrap_or_else(hangs)
}

struct FileChunks {
    file: Option<File>,
    path: PathBuf,
    lane: Lane,
}

impl Chunks for FileChunks {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<u8>, StoreError>> {
        Box::pin(async move {
            let Some(mut file) = self.file.take() else {
                return Err(StoreError::Unreachable(format!(
                    "{}: an earlier read failed",
                    self.path.display()
                )));
            };
            let path = self.path.clone();
            let read = move || {
                let mut chunk = vec![0; CHUNK_BYTES];
                let n = file.read(&mut chunk).map_err(|e| failed(&path, &e))?;
                chunk.truncate(n);
                Ok((file, chunk))
            };
            let (file, chunk) = run(&self.lane, &self.path, SHORT, read).await?;
            self.file = Some(file);
            Ok(chunk)
        })
    }
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Denied(message),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(message),
        _ => StoreError::Unreachable(message),
    }
}

/// Opens an object. An object is absent only in a store that is there: without its folder, and without
/// the others, the store itself is gone (an unmounted share looks like an empty directory).
fn open(key: &str, path: &Path) -> Result<Option<File>, StoreError> {
    match plain_file::open_no_link(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::LOOP) => Err(StoreError::Denied(format!(
            "{} is a symlink, which pitstop does not follow in a store: replace it with the file itself",
            path.display()
        ))),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Err(StoreError::Unreachable(format!(
            "{} is not a regular file: delete it and write it again",
            path.display()
        ))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            let gone = |e: io::Error| match e.kind() {
                io::ErrorKind::NotFound => StoreError::Unreachable(format!(
                    "directory {} does not exist: check that the store is mounted and that a release was \
                     published to it",
                    folder.display()
                )),
                _ => failed(folder, &e),
            };
            // What a CI uploads by itself makes no folder for pointers.
            let others = ["pointers", "releases"].map(|name| root(key, path).join(name));
            if others.iter().any(|folder| folder.is_dir()) {
                return Ok(None);
            }
            fs::metadata(folder).map_err(gone).map(|_| None)
        }
        Err(e) => Err(failed(path, &e)),
    }
}

/// Where the store is that has `key` at `path`.
fn root<'a>(key: &str, path: &'a Path) -> &'a Path {
    path.ancestors().nth(key.split('/').count()).unwrap_or(path)
}

fn get(key: &str, path: &Path, known: Option<Version>, limit_bytes: u64) -> Result<Found, StoreError> {
    let Some(mut file) = open(key, path)? else { return Ok(Found::Absent) };
    let version = version(path, &mut file)?;
    if known.as_ref() == Some(&version) {
        return Ok(Found::NotModified);
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(limit_bytes + 1).read_to_end(&mut bytes).map_err(|e| failed(path, &e))?;
    if bytes.len() as u64 > limit_bytes {
        return Err(StoreError::TooLarge { key: key.into(), limit_bytes });
    }
    Ok(Found::Object { version, bytes })
}

fn open_at(
    key: &str,
    path: &Path,
    offset: u64,
    same: Option<Version>,
) -> Result<(File, u64, Version), StoreError> {
    let mut file = open(key, path)?.ok_or_else(|| StoreError::Missing(key.into()))?;
    let version = version(path, &mut file)?;
    if same.is_some_and(|same| same != version) {
        return Err(StoreError::Changed(key.into()));
    }
    let size_bytes = file.metadata().map_err(|e| failed(path, &e))?.len();
    file.seek(SeekFrom::Start(offset)).map_err(|e| failed(path, &e))?;
    Ok((file, size_bytes, version))
}

/// Small objects by content: time stamps are too coarse for two moves in one tick of the kernel.
/// Leaves the file at its beginning.
fn version(path: &Path, file: &mut File) -> Result<Version, StoreError> {
    let meta = file.metadata().map_err(|e| failed(path, &e))?;
    if meta.len() > CONTENT_VERSION_LIMIT_BYTES {
        let stamp = format!(
            "{}-{}-{}-{}-{}",
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime_nsec()
        );
        return Ok(Version(stamp));
    }
    let mut bytes = Vec::new();
    Read::by_ref(file)
        .take(2 * CONTENT_VERSION_LIMIT_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(path, &e))?;
    file.rewind().map_err(|e| failed(path, &e))?;
    Ok(Version(hex(&Sha256::digest(&bytes))))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn put(key: &str, path: &Path, body: &Body, condition: &Condition) -> Result<Version, StoreError> {
    let folder = path.parent().unwrap_or(path);
    let root = root(key, path);
    match condition {
        // Not by an agent's report, though: without its folders the store may just not be mounted.
        Condition::Any => drop(open("releases/any", &root.join("releases/any"))?),
        Condition::Absent | Condition::Matches(_) => make_store(root)?,
    }
    fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
    clean(folder);
    // Once more below: this one saves the copy, and leaves a file that is not needed where it is.
    compare(key, path, condition)?;
    let temp = write_temp(folder, body)?;
    let _lock = lock(folder)?;
    compare(key, path, condition)?;
    temp.persist(path).map_err(|e| failed(path, &e.error))?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed(folder, &e))?;
    let mut file = plain_file::open_no_link(path).map_err(|e| failed(path, &e))?;
    version(path, &mut file)
}

/// A store is made by the first write to it; both folders, so that a reader can tell an empty store
/// from one that is not mounted.
fn make_store(root: &Path) -> Result<(), StoreError> {
    for name in ["releases", "pointers"] {
        fs::create_dir_all(root.join(name)).map_err(|e| failed(root, &e))?;
    }
    Ok(())
}

/// Removes what a killed writer left a day ago or earlier. Best effort: it is in nobody's way.
fn clean(folder: &Path) {
    let stale = |entry: &fs::DirEntry| {
        let temporary = entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes());
        let modified = entry.metadata().and_then(|meta| meta.modified());
        temporary && modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE))
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(stale) {
        let _ = fs::remove_file(entry.path());
    }
}

fn new_temp(folder: &Path) -> Result<NamedTempFile, StoreError> {
    use std::os::unix::fs::PermissionsExt;
    let mut builder = tempfile::Builder::new();
    // Readable by agents of other users, as far as the umask allows.
    builder.prefix(TEMP_PREFIX).permissions(fs::Permissions::from_mode(0o644));
    builder.tempfile_in(folder).map_err(|e| failed(folder, &e))
}

fn write_temp(folder: &Path, body: &Body) -> Result<NamedTempFile, StoreError> {
    let failed = |e: io::Error| failed(folder, &e);
    let temp = match body {
        Body::Bytes(bytes) => {
            let mut temp = new_temp(folder)?;
            temp.write_all(bytes).map_err(failed)?;
            temp
        }
        Body::File(from) => {
            let unreadable = |e: io::Error| StoreError::Source(format!("{}: {e}", from.display()));
            let mut source = File::open(from).map_err(unreadable)?;
            if is_temp_in(folder, from) {
                NamedTempFile::from_parts(source, TempPath::try_from_path(from).map_err(failed)?)
            } else {
                let mut temp = new_temp(folder)?;
                io::copy(&mut source, temp.as_file_mut()).map_err(failed)?;
                temp
            }
        }
    };
    temp.as_file().sync_all().map_err(failed)?;
    Ok(temp)
}

fn is_temp_in(folder: &Path, file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    file.parent() == Some(folder) && name.starts_with(TEMP_PREFIX.as_bytes())
}

/// Waits for the folder's lock without blocking in the kernel, where no deadline would reach.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(".lock");
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).custom_flags(flags.bits().cast_signed());
    let file = options.open(&path).map_err(|e| failed(&path, &e))?;
    let began = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(failed(&path, &e.into())),
        }
    }
}

fn compare(key: &str, path: &Path, condition: &Condition) -> Result<(), StoreError> {
    let there = open(key, path)?.map(|mut file| version(path, &mut file)).transpose()?;
    let holds = match condition {
        Condition::Absent => there.is_none(),
        Condition::Matches(known) => there.as_ref() == Some(known),
        Condition::Any => true,
    };
    if holds { Ok(()) } else { Err(StoreError::Changed(key.into())) }
}

fn list(folder: &str, dir: &Path) -> Result<Vec<Listed>, StoreError> {
    let mut all = Vec::new();
    let entries = match fs::read_dir(dir) {
        // No pointer, or no report, has been written yet. (Without releases there is no store.)
        Err(e) if e.kind() == io::ErrorKind::NotFound && folder != "releases" => return Ok(all),
        entries => entries.map_err(|e| failed(dir, &e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| failed(dir, &e))?;
        // No object, as in S3.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if let Some(name) = entry.file_name().to_str().filter(|name| !name.starts_with('.')) {
            let metadata = entry.metadata();
            let bytes = metadata.as_ref().map_or(0, fs::Metadata::len);
            let written = metadata.and_then(|metadata| metadata.modified()).ok();
            let since = written.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            let written_s = since.unwrap_or_default().as_secs();
            all.push(Listed { key: format!("{folder}/{name}"), written_s, bytes });
        }
    }
    all.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(all)
}

fn delete(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, &error)),
        _ => Ok(()),
    }
}
