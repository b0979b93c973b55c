//! Packing a directory, always into the same bytes for the same content: sorted, without times and owners.

use std::{
    collections::BTreeSet,
    fs::{self, FileType},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Component, Path, PathBuf},
    sync::mpsc::SyncSender,
};

use tar::{Builder, EntryType, Header};

use super::{
    Limits, MARKER, inside::Inside, links::Links, manifest::MANIFEST, one_pass::Tee,
    unpack_error::UnpackError,
};
use crate::{plain_file, store::CallOff};

/// As `zstd` does by itself: what more would save in the store, it would cost several times in the pipeline.
pub(crate) const LEVEL: i32 = 3;
/// More threads find no more work: reading the files takes as long.
const THREADS_MAX: usize = 8;
/// Headers and small files come to the compressor together.
const BUFFER_BYTES: usize = 256 << 10;

/// Why a directory was not packed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// It holds something that a release must not have.
    #[error("{0}")]
    Refused(String),
    /// It cannot be read, or the archive not be written.
    #[error("{0}: {1}")]
    Disk(PathBuf, io::Error),
}

/// What is packed, and how.
pub(crate) struct Packing<'a> {
    /// Paths in the directory that are left out, with all that is below.
    pub(crate) exclude: &'a [PathBuf],
    pub(crate) level: i32,
    /// Told after each entry how many there are and how many bytes their files have.
    pub(crate) progress: &'a mut dyn FnMut(u64, u64),
}

impl Packing<'_> {
    /// Packs what is in `dir` as tar, compressed by zstd, into the same bytes on any number of cores. The tar itself goes
    /// to `plain`, too. Left out is also
    /// the repository's own `.git` at the top, and what `pitstop` itself puts into releases.
    ///
    /// # Errors
    /// [`PackError`], also for sockets, devices and links that lead out of `dir`.
    pub(crate) fn pack(
        self,
        dir: &Path,
        out: impl Write,
        plain: SyncSender<Vec<u8>>,
    ) -> Result<(), PackError> {
        let failed = |e| disk(dir, e);
        let mut left_out: BTreeSet<PathBuf> = [".git", MARKER, MANIFEST].map(PathBuf::from).into();
        for path in self.exclude {
            left_out.insert(excluded(path)?);
        }
        let mut encoder = zstd::Encoder::new(out, self.level).map_err(failed)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        encoder.multithread(cores.min(THREADS_MAX) as u32).map_err(failed)?;
        let both = Tee { to: encoder, pieces: plain };
        let tar = Builder::new(io::BufWriter::with_capacity(BUFFER_BYTES, both));
        let (links, entries, bytes) = (Links::default(), 0, 0);
        let mut walk = Walk { tar, root: dir, left_out, links, entries, bytes, progress: self.progress };
        walk.directory(Path::new(""))?;
        walk.links.check(&BTreeSet::new(), &CallOff::default()).map_err(|e| {
            PackError::Refused(format!(
                "{}: {e}; leave it out (--exclude), or see linked_dirs",
                dir.display()
            ))
        })?;
        if walk.entries == 0 {
            return Err(PackError::Refused(format!("{} is empty", dir.display())));
        }
        let buffered = walk.tar.into_inner().map_err(failed)?;
        let Tee { to: encoder, pieces } = buffered.into_inner().map_err(|e| failed(e.into_error()))?;
        drop(pieces);
        encoder.finish().and_then(|mut out| out.flush()).map_err(failed)?;
        Ok(())
    }
}

/// A path to leave out, without `./` and slashes at the end.
fn excluded(path: &Path) -> Result<PathBuf, PackError> {
    let shown = path.display().to_string();
    let refuse = |why: &str| Err(PackError::Refused(format!("--exclude {shown}: {why}")));
    if shown.contains(['*', '?', '[']) {
        return refuse(
            "name a path in the directory, like node_modules or tmp/cache; there are no wildcards",
        );
    }
    let plain: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let inside = plain.components().all(|part| matches!(part, Component::Normal(_)));
    if inside && !plain.as_os_str().is_empty() { Ok(plain) } else { refuse("is no path in the directory") }
}

fn disk(path: &Path, error: io::Error) -> PackError {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return PackError::Disk(path.into(), error);
    }
    PackError::Refused(format!("{}: {error}; make it readable, or leave it out (--exclude)", path.display()))
}

struct Walk<'a, W: Write> {
    tar: Builder<W>,
    root: &'a Path,
    left_out: BTreeSet<PathBuf>,
    links: Links,
    entries: u64,
    bytes: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<W: Write> Walk<'_, W> {
    fn directory(&mut self, path: &Path) -> Result<(), PackError> {
        let dir = self.root.join(path);
        let failed = |e| disk(&dir, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            names.push((entry.file_name(), entry.file_type().map_err(failed)?));
        }
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, kind) in names {
            let path = path.join(name);
            if !self.left_out.contains(&path) {
                self.entry(&path, kind)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, kind: FileType) -> Result<(), PackError> {
        let on_disk = self.root.join(path);
        let failed = |e| disk(&on_disk, e);
        let mode = || fs::symlink_metadata(&on_disk).map(|meta| meta.permissions().mode());
        let (limits, refused) = (Limits::default(), |e: UnpackError| PackError::Refused(e.to_string()));
        let inside = Inside::parse(path.as_os_str().as_bytes(), limits.path_bytes).map_err(refused)?;
        self.entries += 1;
        (self.progress)(self.entries, self.bytes);
        if kind.is_dir() {
            let mut header = header(mode().map_err(failed)?);
            header.set_entry_type(EntryType::Directory);
            self.tar.append_data(&mut header, path, io::empty()).map_err(failed)?;
            self.directory(path)
        } else if kind.is_symlink() {
            let mut header = header(mode().map_err(failed)?);
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(&on_disk).map_err(failed)?;
            self.tar.append_link(&mut header, path, &target).map_err(failed)?;
            self.links.insert(inside, target.as_os_str().as_bytes(), &limits).map_err(refused)
        } else if kind.is_file() {
            self.file(path, &on_disk)
        } else {
            let path = on_disk.display();
            Err(PackError::Refused(format!(
                "{path} is a socket, fifo or device; remove it, or leave it out (--exclude)"
            )))
        }
    }

    fn file(&mut self, path: &Path, on_disk: &Path) -> Result<(), PackError> {
        let failed = |e| disk(on_disk, e);
        let file = plain_file::open_no_link(on_disk).map_err(failed)?;
        let before = file.metadata().map_err(failed)?;
        let size = before.len();
        let mut header = header(before.permissions().mode());
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        // A file that grows meanwhile would break the archive, one that shrinks is caught here.
        let mut content = io::Read::take(&file, size);
        self.tar.append_data(&mut header, path, &mut content).map_err(failed)?;
        self.bytes += size;
        let same = |a: &fs::Metadata, b: &fs::Metadata| {
            (a.len(), a.mtime(), a.mtime_nsec()) == (b.len(), b.mtime(), b.mtime_nsec())
        };
        if content.limit() == 0 && same(&before, &file.metadata().map_err(failed)?) {
            return Ok(());
        }
        let path = on_disk.display();
        Err(PackError::Refused(format!(
            "{path} changed while it was packed; pack what nobody writes to, or leave it out (--exclude)"
        )))
    }
}

/// Without owner and time. Whether others may write depends on the umask of who checked the code out, and would make
/// another archive of the same code.
fn header(mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode & 0o755);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}
