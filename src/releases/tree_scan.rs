//! What is in a tree on the volume: every file is read, several at once, and nothing is written.

use std::{
    collections::BTreeMap,
    ffi::{CStr, OsStr},
    fs::File,
    io::{self, Read, Seek},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Mutex,
    time::Instant,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{
    delete::Pace,
    inside::Inside,
    manifest::{Entry, FileEntry, Identity, Manifest},
    parallel::in_parallel,
};
use crate::{beneath, plain_file};

/// So many files are one job.
const HANDFUL: usize = 32;
const BUFFER_BYTES: usize = 256 << 10;

/// What was found by its path; `None` where it is neither file, directory nor link.
pub(super) type Found = BTreeMap<Inside, Option<Entry>>;

/// A part of a tree that is to be looked at.
enum Job {
    Directory(Vec<u8>),
    Files(Vec<u8>, Vec<Box<CStr>>),
}

/// How a tree is looked at.
pub(super) struct Scan<'a> {
    pub(super) tree: OwnedFd,
    /// Files whose identity is noted here, and still the same, are not read.
    pub(super) known: &'a Manifest,
    /// So many operations at once.
    pub(super) threads: usize,
    /// Called after each handful; [`io::ErrorKind::Interrupted`] comes of its end.
    pub(super) pace: Pace<'a>,
}

/// Opens a tree for a scan, or to copy from it.
///
/// # Errors
/// What the system says.
pub(super) fn open_tree(tree: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(rustix::fs::CWD, tree, flags, Mode::empty())?)
}

/// A directory of the tree, followed to without links.
///
/// # Errors
/// What the system says.
pub(super) fn directory(tree: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if path.is_empty() {
        return Ok(openat(tree, c".", flags, Mode::empty())?);
    }
    beneath::open(tree, Path::new(OsStr::from_bytes(path)), flags, Mode::empty())
}

impl Scan<'_> {
    /// Looks at all of it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn run(&self) -> io::Result<Found> {
        let found = Mutex::new(Found::new());
        let work = |job| match job {
            Job::Directory(path) => self.list(&path, &found),
            Job::Files(parent, names) => {
                let began = Instant::now();
                let entries = self.files(&parent, &names)?;
                locked(&found).extend(entries);
                match (self.pace)(began.elapsed()) {
                    std::ops::ControlFlow::Continue(()) => Ok(Vec::new()),
                    std::ops::ControlFlow::Break(()) => Err(io::ErrorKind::Interrupted.into()),
                }
            }
        };
        in_parallel(self.threads, vec![Job::Directory(Vec::new())], &work)?;
        Ok(found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn list(&self, path: &[u8], found: &Mutex<Found>) -> io::Result<Vec<Job>> {
        let mut dir = Dir::new(directory(&self.tree, path, OFlags::RDONLY)?)?;
        let (mut jobs, mut names, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(entry) = dir.read() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => FileType::from_raw_mode(stat(dir.fd()?, name)?.st_mode),
                kind => kind,
            };
            match kind {
                FileType::Directory => jobs.push(Job::Directory(joined(path, name))),
                FileType::RegularFile => names.push(name.into()),
                FileType::Symlink => {
                    let target = readlinkat(dir.fd()?, name, Vec::new())?.into_bytes().into();
                    entries.push((inside(&joined(path, name)), Some(Entry::Link { target })));
                }
                _ => entries.push((inside(&joined(path, name)), None)),
            }
        }
        if !path.is_empty() {
            let mode = rustix::fs::fstat(dir.fd()?)?.st_mode & 0o7777;
            entries.push((inside(path), Some(Entry::Directory { mode })));
        }
        locked(found).extend(entries);
        let handfuls = names.chunks(HANDFUL).map(|names| Job::Files(path.to_vec(), names.to_vec()));
        jobs.extend(handfuls);
        Ok(jobs)
    }

    fn files(&self, parent: &[u8], names: &[Box<CStr>]) -> io::Result<Vec<(Inside, Option<Entry>)>> {
        let dir = directory(&self.tree, parent, OFlags::PATH)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let path = joined(parent, name);
            let entry = match self.is_known(&dir, name, &path)? {
                Some(known) => Some(Entry::File(known)),
                None => read(&dir, name, &mut buffer)?,
            };
            entries.push((inside(&path), entry));
        }
        Ok(entries)
    }

    fn is_known(&self, dir: &OwnedFd, name: &CStr, path: &[u8]) -> io::Result<Option<FileEntry>> {
        let Some(Entry::File(known)) = self.known.get(path) else { return Ok(None) };
        let Some(noted) = known.identity else { return Ok(None) };
        let stat = stat(dir, name)?;
        let same = identity(&stat) == noted && stat.st_size as u64 == known.bytes;
        Ok((same && stat.st_mode & 0o7777 == known.mode).then(|| known.clone()))
    }
}

/// `None`: it is no regular file any more.
fn read(dir: &OwnedFd, name: &CStr, buffer: &mut [u8]) -> io::Result<Option<Entry>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | plain_file::FLAGS;
    let mut file = match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NXIO) => return Ok(None),
        file => File::from(file?),
    };
    let stat = rustix::fs::fstat(&file)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(None);
    }
    let (bytes, sha256) = hash(&mut file, buffer, |_| Ok(()))?;
    let mode = stat.st_mode & 0o7777;
    Ok(Some(Entry::File(FileEntry { mode, bytes, sha256, identity: Some(identity(&stat)) })))
}

/// Reads a file to its end; gives each piece away, too.
///
/// # Errors
/// Of reading, and those of `take`.
pub(super) fn hash(
    file: &mut File,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(u64, [u8; 32])> {
    let mut hash = Sha256::new();
    loop {
        let n = file.read(buffer)?;
        if n == 0 {
            return Ok((file.stream_position()?, hash.finalize().into()));
        }
        hash.update(&buffer[..n]);
        take(&buffer[..n])?;
    }
}

fn stat(dir: impl AsFd, name: &CStr) -> io::Result<Stat> {
    Ok(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn identity(stat: &Stat) -> Identity {
    let ctime_ns = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
    Identity { inode: stat.st_ino, ctime_ns }
}

fn joined(parent: &[u8], name: &CStr) -> Vec<u8> {
    if parent.is_empty() { name.to_bytes().to_vec() } else { [parent, b"/", name.to_bytes()].concat() }
}

fn inside(path: &[u8]) -> Inside {
    Inside::of(Path::new(OsStr::from_bytes(path)))
}

/// The directories above a path.
pub(super) fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    ends.map(|(end, _)| &path[..end])
}

fn locked(found: &Mutex<Found>) -> std::sync::MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
