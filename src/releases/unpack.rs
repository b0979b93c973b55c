//! Unpacking an archive that nobody vouches for. What is refused: absolute paths, `..`, links that
//! lead out of the tree (also through each other), devices, fifos, sparse files, anything twice, an
//! archive without its end or with more behind it, and whatever exceeds the limits. What is ignored:
//! owners, times, extended attributes (macOS puts them into files of their own, `._name`), and the setuid,
//! setgid and sticky bits (directories of a developer's machine often carry setgid; nobody means it).
//!
//! Extended headers are read here and not by the tar library, which would take one of any size into memory.

use std::{
    cell::Cell,
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    rc::Rc,
};

use tar::{Archive, Entry, EntryType};

use super::{
    Limits, MARKER,
    layout::{Layout, Link},
    pax::Records,
    tree::{Inside, Tree},
    unpack_error::UnpackError,
};
use crate::{
    failpoint,
    store::{ArchiveKind, CallOff},
};

/// A long name or an extended header may be so long.
const HEADER_BYTES_MAX: u64 = 64 << 10;
/// zstd windows up to 128 MiB; the format allows gigabytes.
const WINDOW_LOG_MAX: u32 = 27;
/// Where the test of a kill in the middle stops.
const MIDDLE_ENTRY: u64 = 2;
/// Archives are made of blocks of so many bytes.
const BLOCK_BYTES: u64 = 512;
/// What a file of macOS's attributes begins with.
const APPLE_DOUBLE: [u8; 4] = [0x00, 0x05, 0x16, 0x07];
/// How well an archive is packed does not matter below this.
const SMALL_BYTES: u64 = 256 << 20;

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The directory that holds the release, where it is not the one that was unpacked into.
    pub prefix: Option<OsString>,
    /// The links to linked directories and files that it was given.
    pub links: Vec<Link>,
}

/// Unpacks an archive into an empty directory.
///
/// # Errors
/// [`UnpackError`]; the directory then holds a part of it.
pub fn unpack(
    archive: File,
    kind: ArchiveKind,
    into: &Path,
    limits: &Limits,
    layout: &Layout,
    off: &CallOff,
) -> Result<Unpacked, UnpackError> {
    let disk = |e| UnpackError::Disk(into.display().to_string(), e);
    let archive_bytes = archive.metadata().map_err(disk)?.len();
    let limits = limits.of_archive(archive_bytes, SMALL_BYTES);
    let tree = Tree::at(into).map_err(disk)?;
    let mut unpacking = Unpacking { tree, limits: &limits, entries: 0, bytes: 0, next: Extended::default() };
    read_all(decoder(off.reader(archive), kind)?, &mut unpacking)?;
    let Unpacking { mut tree, entries, bytes, .. } = unpacking;
    if entries == 0 {
        return Err(UnpackError::Refused("it is empty".into()));
    }
    let prefix = tree.strip_prefix(layout.strip_prefix)?;
    if tree.has(MARKER) {
        return Err(UnpackError::Refused(format!("it has a {MARKER}, a name kept for pitstop's own proof")));
    }
    let links = tree.finish(layout)?;
    Ok(Unpacked { entries, bytes, prefix, links })
}

/// Whether an agent would take the archive: unpacks it into a temporary directory.
///
/// # Errors
/// [`UnpackError`]; `TMPDIR` names a place with room for it.
pub fn check(archive: &Path, kind: ArchiveKind, limits: &Limits, layout: &Layout) -> Result<(), UnpackError> {
    let temporary = std::env::temp_dir();
    let failed = |e| UnpackError::Disk(temporary.display().to_string(), e);
    let dir = tempfile::Builder::new().prefix("pitstop-check-").tempdir().map_err(failed)?;
    let file = File::open(archive).map_err(|e| UnpackError::Disk(archive.display().to_string(), e))?;
    unpack(file, kind, dir.path(), limits, layout, &CallOff::default()).map(drop)
}

/// Every entry, and that the archive ends where it says.
fn read_all(plain: Box<dyn Read>, unpacking: &mut Unpacking<'_>) -> Result<(), UnpackError> {
    // Headers and padding count as well: more than this is a bomb of empty entries.
    let headers = unpacking.limits.entries.saturating_mul(2 * BLOCK_BYTES);
    let bound = unpacking.limits.unpacked_bytes.saturating_add(headers);
    let position = Rc::new(Cell::new(0));
    let counted = Counted { inner: plain.take(bound), position: position.clone() };
    let mut archive = Archive::new(counted);
    let mut end = 0;
    for entry in archive.entries().map_err(UnpackError::Archive)?.raw(true) {
        let entry = entry.map_err(UnpackError::Archive)?;
        let size = entry.header().entry_size().map_err(UnpackError::Archive)?;
        end = entry.raw_file_position().saturating_add(size.next_multiple_of(BLOCK_BYTES));
        unpacking.take(entry)?;
    }
    let refuse = |why: &str| Err(UnpackError::Refused(why.into()));
    if position.get() <= end && end > 0 {
        return refuse("it ends without tar's end mark: whatever packed it was interrupted");
    }
    // A damaged end shows only when it is read.
    if !only_zeros(archive.into_inner()).map_err(UnpackError::Archive)? {
        return refuse("there is more behind its end: are these two archives in one?");
    }
    if position.get() >= bound { refuse("it is endless") } else { Ok(()) }
}

/// Knows how much was read.
struct Counted<R> {
    inner: R,
    position: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.position.set(self.position.get() + n as u64);
        Ok(n)
    }
}

/// Reads to the end.
fn only_zeros(mut rest: impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    let mut zeros = true;
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(zeros),
            Ok(n) => zeros &= buffer[..n].iter().all(|byte| *byte == 0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn decoder(archive: impl Read + 'static, kind: ArchiveKind) -> Result<Box<dyn Read>, UnpackError> {
    let mut archive = BufReader::with_capacity(128 << 10, archive);
    let begins = ArchiveKind::of(archive.fill_buf().map_err(UnpackError::Archive)?);
    if begins != Some(kind) {
        let found = begins.map_or("neither zstd nor gzip", ArchiveKind::extension);
        let why = format!("it is named {}, but by its first bytes it is {found}", kind.extension());
        return Err(UnpackError::Refused(why));
    }
    match kind {
        ArchiveKind::TarGz => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(archive))),
        ArchiveKind::TarZst => {
            let zstd = zstd::Decoder::with_buffer(archive).and_then(|mut decoder| {
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Ok(decoder)
            });
            Ok(Box::new(Windowed(zstd.map_err(UnpackError::Archive)?)))
        }
    }
}

/// Says what to do about a window that is too large; zstd only names its memory.
struct Windowed<R>(R);

impl<R: Read> Read for Windowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|e| {
            if !e.to_string().contains("too much memory") {
                return e;
            }
            let why = "it was compressed with a window of more than 128 MiB; use at most `zstd --long=27`";
            io::Error::new(e.kind(), why)
        })
    }
}

/// What extended headers say about the entry that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

struct Unpacking<'a> {
    tree: Tree,
    limits: &'a Limits,
    entries: u64,
    bytes: u64,
    next: Extended,
}

impl Unpacking<'_> {
    fn take(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), UnpackError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.next.path = Some(text(&mut entry)?),
            EntryType::GNULongLink => self.next.link = Some(text(&mut entry)?),
            EntryType::XHeader => self.extend(&small(&mut entry)?)?,
            // Comments for the whole archive: git writes the commit here.
            EntryType::XGlobalHeader => drop(small(&mut entry)?),
            _ => self.make(entry)?,
        }
        Ok(())
    }

    fn extend(&mut self, header: &[u8]) -> Result<(), UnpackError> {
        for record in Records::of(header) {
            match record.map_err(UnpackError::Archive)? {
                (b"path", path) => self.next.path = Some(path.into()),
                (b"linkpath", link) => self.next.link = Some(link.into()),
                // Files of 8 GiB and more, or a trick to make two readers see two archives.
                (b"size", _) => {
                    return Err(UnpackError::Refused("it has a file with an extended size".into()));
                }
                (key, _) if key.starts_with(b"GNU.sparse") => {
                    return Err(UnpackError::Refused(format!("it has {SPARSE}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn make(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let Extended { path, link } = std::mem::take(&mut self.next);
        let path = path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        // As tar wrote directories before there was a type for them.
        let named_as_directory = path.ends_with(b"/");
        let path = Inside::parse(&path, self.limits.path_bytes)?;
        self.count(&path)?;
        let mode = entry.header().mode().map_err(UnpackError::Archive)?;
        let link = link.or_else(|| entry.header().link_name_bytes().map(Into::into)).unwrap_or_default();
        match entry.header().entry_type() {
            EntryType::Directory => self.tree.directory(&path, mode),
            EntryType::Regular if named_as_directory => self.tree.directory(&path, mode),
            EntryType::Regular | EntryType::Continuous => self.file(&path, mode, &mut entry),
            EntryType::Symlink => self.symlink(path, &link),
            EntryType::Link => self.tree.hard_link(path, &Inside::parse(&link, self.limits.path_bytes)?),
            kind => Err(UnpackError::Refused(format!("{} is {}", path.show(), name_of(kind)))),
        }
    }

    fn count(&mut self, path: &Inside) -> Result<(), UnpackError> {
        if self.entries == MIDDLE_ENTRY {
            failpoint::hit("fetch.mid_unpack");
        }
        self.entries += u64::from(!path.is_root());
        if self.entries > self.limits.entries {
            return Err(UnpackError::Refused(format!("it has more than {} entries", self.limits.entries)));
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Inside,
        mode: u32,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), UnpackError> {
        let size = entry.header().entry_size().map_err(UnpackError::Archive)?;
        let mut buffer = [0; 64 << 10];
        let mut n = fill(entry, &mut buffer).map_err(UnpackError::Archive)?;
        if path.is_apple_double() && buffer[..n].starts_with(&APPLE_DOUBLE) {
            self.entries -= 1;
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.unpacked_bytes {
            let limit = self.limits.unpacked_bytes;
            return Err(UnpackError::Refused(format!("it unpacks to more than {limit} bytes")));
        }
        let mut file = self.tree.file(path, mode)?;
        let disk = |e| UnpackError::Disk(path.show(), e);
        let mut left = size;
        while left > 0 {
            if n == 0 {
                return Err(UnpackError::Refused(format!("it ends in the middle of {}", path.show())));
            }
            file.write_all(&buffer[..n]).map_err(disk)?;
            left -= n as u64;
            n = fill(entry, &mut buffer).map_err(UnpackError::Archive)?;
        }
        // Network file systems report a full disk here.
        nix::unistd::close(file).map_err(|e| disk(e.into()))
    }

    fn symlink(&mut self, path: Inside, target: &[u8]) -> Result<(), UnpackError> {
        if target.is_empty() || target.contains(&0) || target.len() > self.limits.path_bytes {
            return Err(UnpackError::Refused(format!("{} is a link without a proper target", path.show())));
        }
        self.tree.link(path, target)
    }
}

/// Reads until the buffer is full or the entry ends: decoders give as little as they like.
fn fill(entry: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match entry.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn small(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    entry.take(HEADER_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(UnpackError::Archive)?;
    if bytes.len() as u64 > HEADER_BYTES_MAX {
        return Err(UnpackError::Refused(format!("it has a header of more than {HEADER_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// GNU's long names end with a NUL.
fn text(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = small(entry)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

const SPARSE: &str = "a sparse file; pack it without --sparse (bsdtar: with --no-read-sparse)";

fn name_of(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Block | EntryType::Char => "a device",
        EntryType::Fifo => "a fifo",
        EntryType::GNUSparse => SPARSE,
        _ => "of a kind that a release must not have",
    }
}
