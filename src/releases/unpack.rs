//! Unpacking an archive that nobody vouches for. What is refused: absolute paths, `..`, links that
//! lead out of the tree (also through each other), devices, fifos, sparse files, parts of several volumes, an
//! archive without its end or with more behind it, and whatever exceeds the limits. What is ignored:
//! owners, times, extended attributes (macOS puts them into files of their own, `._name`), labels, and the setuid,
//! setgid and sticky bits (directories of a developer's machine often carry setgid; nobody means it).
//!
//! Of what GNU tar and bsdtar unpack without a complaint, the rest becomes the same tree. Where two readers may
//! see two trees in one archive, it is refused.

use std::{
    ffi::OsString,
    io::{self, BufReader, Read},
    path::Path,
};

use super::{
    Limits, MARKER,
    decoder::decoder,
    inside::{Inside, names},
    layout::{Layout, Link},
    manifest::{MANIFEST, Manifest},
    pax::{Extended, VALUE_BYTES_MAX},
    spare::Before,
    tar_stream::{BLOCK_BYTES, Header, TarStream, fill, text},
    tree::Tree,
    tree_finish::Finished,
    unpack_error::UnpackError,
    writers::Writers,
};
use crate::{
    failpoint,
    store::{ArchiveKind, CallOff},
};

/// Where the test of a kill in the middle stops.
const MIDDLE_ENTRY: u64 = 2;
/// What a file of macOS's attributes begins with.
const APPLE_DOUBLE: [u8; 4] = [0x00, 0x05, 0x16, 0x07];
/// How well an archive is packed does not matter below this.
const SMALL_BYTES: u64 = 256 << 20;
/// What is larger is never in memory as a whole.
const PIECE_BYTES: u64 = 1 << 20;
/// Only a file of so many bytes needs another size than its header's own.
const LARGE_BYTES: u64 = 8 << 30;

/// An archive, to be read once.
#[derive(Debug)]
pub struct Archive<R> {
    /// Its bytes.
    pub reader: R,
    /// How many these are.
    pub bytes: u64,
    /// How it is compressed.
    pub kind: ArchiveKind,
}

/// Where an archive is unpacked.
#[derive(Debug)]
pub enum Destination<'a> {
    /// It is only checked, and what is in it noted.
    Nowhere,
    /// A directory. What has to leave it is put beside it, into the directory above.
    Tree {
        /// It is empty, unless there is a `spare`.
        dir: &'a Path,
        /// So many operations at once.
        in_flight: usize,
        /// What is in the directory already.
        spare: Option<Manifest>,
    },
}

/// What holds for an archive.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// What it may be, at most.
    pub limits: &'a Limits,
    /// What the release is given besides.
    pub layout: &'a Layout,
    /// Calls it off.
    pub off: &'a CallOff,
}

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
    /// Everything in the release.
    pub manifest: Manifest,
}

/// Unpacks an archive. When this ends, nothing writes any more.
///
/// # Errors
/// [`UnpackError`]; the directory then holds a part of it.
pub fn unpack(
    archive: Archive<impl Read>,
    into: Destination<'_>,
    rules: &Rules<'_>,
) -> Result<Unpacked, UnpackError> {
    let limits = rules.limits.of_archive(archive.bytes, SMALL_BYTES);
    let plain = decoder(rules.off.reader(archive.reader), archive.kind)?;
    unpack_tar(plain, into, &Rules { limits: &limits, ..*rules })
}

fn unpack_tar(tar: impl Read, into: Destination<'_>, rules: &Rules<'_>) -> Result<Unpacked, UnpackError> {
    let Rules { limits, layout, off } = *rules;
    let tree = into.tree(layout, off)?;
    tree.allow_copies(limits.unpacked_bytes, limits.unpacked_bytes);
    let next = Next::default();
    let mut unpacking = Unpacking { tree, limits, entries: 0, bytes: 0, next, last: None };
    // A few bytes of an archive may be minutes of work.
    unpacking.read_all(off.reader(tar))?;
    let Unpacking { mut tree, entries, bytes, .. } = unpacking;
    if entries == 0 {
        return Err(UnpackError::Refused("it is empty".into()));
    }
    let prefix = tree.strip_prefix(layout.strip_prefix)?;
    if let Some(name) = [MARKER, MANIFEST].into_iter().find(|name| tree.has(name)) {
        return Err(UnpackError::Refused(format!("it has a {name}, a name kept for pitstop's own proof")));
    }
    tree.allow_copies(limits.unpacked_bytes - bytes, limits.unpacked_bytes);
    let Finished { links, manifest, copied_bytes } = tree.finish(layout, off)?;
    Ok(Unpacked { entries, bytes: bytes + copied_bytes, prefix, links, manifest })
}

/// Whether an agent would take the archive: reads all of it, and writes nothing.
///
/// # Errors
/// [`UnpackError`].
pub(crate) fn check(
    archive: Archive<impl Read>,
    limits: &Limits,
    layout: &Layout,
) -> Result<Unpacked, UnpackError> {
    unpack(archive, Destination::Nowhere, &Rules { limits, layout, off: &CallOff::default() })
}

/// The same of what is not compressed yet.
///
/// # Errors
/// [`UnpackError`].
pub(crate) fn check_tar(tar: impl Read, limits: &Limits, layout: &Layout) -> Result<Unpacked, UnpackError> {
    unpack_tar(tar, Destination::Nowhere, &Rules { limits, layout, off: &CallOff::default() })
}

impl Destination<'_> {
    fn tree(self, layout: &Layout, off: &CallOff) -> Result<Tree, UnpackError> {
        let Self::Tree { dir, in_flight, spare } = self else { return Ok(Tree::new(None, None)) };
        let writers = Writers::start(dir, in_flight, spare.is_some(), off)
            .map_err(|e| UnpackError::Disk(dir.display().to_string(), e))?;
        Ok(Tree::new(Some(writers), spare.map(|spare| Before::new(spare, layout.strip_prefix))))
    }
}

/// Reads to the end.
fn only_zeros(mut rest: impl Read) -> io::Result<bool> {
    let mut buffer = [0; 64 << 10];
    let mut zeros = true;
    loop {
        match fill(&mut rest, &mut buffer)? {
            0 => return Ok(zeros),
            n => zeros &= buffer[..n].iter().all(|byte| *byte == 0),
        }
    }
}

/// What other headers say about the entry that follows.
#[derive(Default)]
struct Next {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    extended: Option<Extended>,
}

struct Unpacking<'a> {
    tree: Tree,
    limits: &'a Limits,
    entries: u64,
    bytes: u64,
    next: Next,
    /// The entry that came last, for messages.
    last: Option<String>,
}

impl Unpacking<'_> {
    /// Every entry, and that the archive ends where it says.
    fn read_all(&mut self, plain: impl Read) -> Result<(), UnpackError> {
        // Headers and padding count as well: more than this is a bomb of empty entries.
        let headers = self.limits.entries.saturating_mul(2 * BLOCK_BYTES);
        let bound = self.limits.unpacked_bytes.saturating_add(headers);
        let mut tar = TarStream::new(BufReader::with_capacity(64 << 10, plain.take(bound)));
        while let Some(header) = tar.next().map_err(|e| self.behind_last(e))? {
            self.take(&header, &mut tar)?;
        }
        let refuse = |why: &str| Err(UnpackError::Refused(why.into()));
        if self.next.name.is_some() || self.next.link.is_some() || self.next.extended.is_some() {
            return refuse("it ends where an entry should follow: whatever packed it was interrupted");
        }
        let mut rest = tar.into_rest();
        // A damaged end shows only when it is read.
        if !only_zeros(&mut rest).map_err(UnpackError::Archive)? {
            return refuse("there is more behind its end: are these two archives in one?");
        }
        if rest.into_inner().limit() == 0 { refuse("it is endless") } else { Ok(()) }
    }

    /// Says behind which entry the archive is not as it should be.
    fn behind_last(&self, error: UnpackError) -> UnpackError {
        match (error, &self.last) {
            (UnpackError::Refused(why), Some(last)) => UnpackError::Refused(format!("behind {last}, {why}")),
            (error, _) => error,
        }
    }

    fn take(&mut self, header: &Header, tar: &mut TarStream<impl Read>) -> Result<(), UnpackError> {
        let twice = || UnpackError::Refused("it has an entry with two names, one for each reader".into());
        match header.kind() {
            b'L' if self.next.name.is_some() => return Err(twice()),
            b'K' if self.next.link.is_some() => return Err(twice()),
            b'x' | b'X' if self.next.extended.is_some() => return Err(twice()),
            b'L' => self.next.name = Some(long_name(header, tar)?),
            b'K' => self.next.link = Some(long_name(header, tar)?),
            b'x' | b'X' => self.next.extended = Some(Extended::read(content(header, tar)?)?),
            // Comments for the whole archive: git writes the commit here.
            b'g' => {
                if !Extended::read(content(header, tar)?)?.says_nothing() {
                    let why = "it has a header that gives all entries one path, target or size, or that \
                               belongs to an archive of several volumes";
                    return Err(UnpackError::Refused(why.into()));
                }
            }
            // A label. What was said about the next entry was said about this.
            b'V' => {
                self.next = Next::default();
                if header.size() != Some(0) {
                    return Err(UnpackError::Refused("it has a volume label with content".into()));
                }
            }
            _ => self.make(header, tar)?,
        }
        Ok(())
    }

    fn make(&mut self, header: &Header, tar: &mut TarStream<impl Read>) -> Result<(), UnpackError> {
        let Next { name, link, extended } = std::mem::take(&mut self.next);
        let extended = extended.unwrap_or_default();
        let raw = one_of(extended.path, name)?.unwrap_or_else(|| header.name());
        let path = Inside::parse(&raw, self.limits.path_bytes)?;
        self.last = Some(path.show());
        let refuse = |why: &str| Err(UnpackError::Refused(format!("{} {why}", path.show())));
        if extended.sparse {
            return refuse(SPARSE);
        }
        if extended.part {
            return refuse(PART);
        }
        self.count(&path)?;
        let link = one_of(extended.link, link)?.unwrap_or_else(|| header.link_name());
        let Some(mode) = header.mode().map(|mode| mode as u32 & 0o777) else {
            return refuse("has permissions that are no number; pack it anew, with another tool");
        };
        // Of a hard link nobody reads it.
        let Some(size) = header.size().or((header.kind() == b'1').then_some(0)) else {
            return refuse("has a size that is no number; pack it anew, with another tool");
        };
        // `d/.` is the directory that is there, if one is.
        let dotted = names(&raw).next_back() == Some(b".");
        match header.kind() {
            b'0' | b'\0' | b'7' if dotted && !raw.ends_with(b"/") => refuse(NO_DIRECTORY),
            b'1' | b'2' if dotted => refuse(NO_DIRECTORY),
            b'1' if link.ends_with(b"/") || link.ends_with(b"/.") => refuse("is a hard link to a directory"),
            // As tar wrote directories before there was a type for them.
            b'0' | b'\0' | b'7' if raw.ends_with(b"/") => self.tree.directory(&path, mode, dotted),
            b'0' | b'\0' | b'7' => {
                let size = agreed(size, extended.size, &path)?;
                self.file(&path, mode, tar, size)
            }
            b'5' => self.tree.directory(&path, mode, dotted),
            // Of an incremental dump: what it lists is not for us.
            b'D' => tar.content(size).and_then(|_| self.tree.directory(&path, mode, dotted)),
            b'2' => self.symlink(path, &link),
            b'1' => self.hard_link(&path, &link),
            b'3' | b'4' => refuse("is a device; leave it out of the archive"),
            b'6' => refuse("is a fifo; leave it out of the archive"),
            b'S' => refuse(SPARSE),
            b'M' => refuse(PART),
            kind => refuse(&format!(
                "is of a kind that a release must not have ({:?}); pack it anew, with GNU tar or bsdtar",
                char::from(kind)
            )),
        }
    }

    fn count(&mut self, path: &Inside) -> Result<(), UnpackError> {
        if self.entries == MIDDLE_ENTRY {
            failpoint::hit("fetch.mid_unpack");
        }
        self.entries += u64::from(!path.is_root());
        if self.entries + self.tree.made() > self.limits.entries {
            return Err(UnpackError::Refused(format!("it has more than {} entries", self.limits.entries)));
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Inside,
        mode: u32,
        tar: &mut TarStream<impl Read>,
        size: u64,
    ) -> Result<(), UnpackError> {
        let mut content = tar.content(size)?;
        let mut piece = next_piece(&mut content, size)?;
        if path.is_apple_double() && piece.starts_with(&APPLE_DOUBLE) {
            self.entries -= 1;
            return Ok(());
        }
        self.grow(size)?;
        if size <= PIECE_BYTES {
            is_whole(&piece, size, path)?;
            return self.tree.file(path, mode, piece);
        }
        let mut large = self.tree.begin(path, mode, size)?;
        let mut left = size;
        while left > 0 {
            is_whole(&piece, left, path)?;
            left -= piece.len() as u64;
            self.tree.piece(&mut large, piece)?;
            piece = next_piece(&mut content, left)?;
        }
        self.tree.end(large)
    }

    fn grow(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.bytes = self.bytes.saturating_add(bytes);
        let limit = self.limits.unpacked_bytes;
        if self.bytes > limit {
            return Err(UnpackError::Refused(format!("it unpacks to more than {limit} bytes")));
        }
        Ok(())
    }

    fn hard_link(&mut self, path: &Inside, to: &[u8]) -> Result<(), UnpackError> {
        let to = Inside::parse(to, self.limits.path_bytes)?;
        self.tree.hard_link(path, &to, self.limits)
    }

    fn symlink(&mut self, path: Inside, target: &[u8]) -> Result<(), UnpackError> {
        if target.is_empty() || target.contains(&0) || target.len() > self.limits.path_bytes {
            return Err(UnpackError::Refused(format!("{} is a link without a proper target", path.show())));
        }
        self.tree.link(path, target, self.limits)
    }
}

/// As much of a file as is in memory at once.
fn next_piece(content: &mut impl Read, left: u64) -> Result<Vec<u8>, UnpackError> {
    let mut piece = vec![0; left.min(PIECE_BYTES) as usize];
    let read = fill(content, &mut piece).map_err(UnpackError::Archive)?;
    piece.truncate(read);
    Ok(piece)
}

fn is_whole(piece: &[u8], left: u64, path: &Inside) -> Result<(), UnpackError> {
    if (piece.len() as u64) < left.min(PIECE_BYTES) {
        return Err(UnpackError::Refused(format!("it ends in the middle of {}", path.show())));
    }
    Ok(())
}

/// What two headers say about one entry.
fn one_of(extended: Option<Vec<u8>>, long: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, UnpackError> {
    match (extended, long) {
        (Some(a), Some(b)) if a != b => Err(UnpackError::Refused(format!(
            "{:?} has two names, one for each reader",
            String::from_utf8_lossy(&a)
        ))),
        (a, b) => Ok(a.or(b)),
    }
}

/// Some writers repeat the size in an extended header; a large one stands only there.
fn agreed(size: u64, extended: Option<u64>, path: &Inside) -> Result<u64, UnpackError> {
    match extended {
        Some(large) if large >= LARGE_BYTES && (size == 0 || size >= LARGE_BYTES - 1) => Ok(large),
        Some(other) if other != size => Err(UnpackError::Refused(format!(
            "{} has an extended size ({other}) that is not its size ({size}); pack it anew, with another tool",
            path.show()
        ))),
        _ => Ok(size),
    }
}

/// The content of a header that is about another entry.
fn content<'a, R: Read>(
    header: &Header,
    tar: &'a mut TarStream<R>,
) -> Result<impl Read + use<'a, R>, UnpackError> {
    let size = header.size().ok_or_else(|| UnpackError::Refused("it has a header of no size".into()))?;
    tar.content(size)
}

/// GNU's long names end with a NUL. GNU tar reads up to it and others as much as the header says: that has to be
/// the same.
fn long_name(header: &Header, tar: &mut TarStream<impl Read>) -> Result<Vec<u8>, UnpackError> {
    let refuse = |why: &str| Err(UnpackError::Refused(format!("it has a header of {why}")));
    let Some(size) = header.size() else { return refuse("no size") };
    if size > VALUE_BYTES_MAX {
        return refuse(&format!("more than {VALUE_BYTES_MAX} bytes"));
    }
    let mut blocks = vec![0; size.next_multiple_of(BLOCK_BYTES) as usize];
    let read = fill(&mut tar.content(blocks.len() as u64)?, &mut blocks).map_err(UnpackError::Archive)?;
    if read < blocks.len() {
        return Err(UnpackError::Refused("it ends in the middle of an entry".into()));
    }
    let name = text(&blocks);
    if name.len() as u64 > size { refuse("a name that is longer than it says") } else { Ok(name.into()) }
}

const NO_DIRECTORY: &str = "is no directory, but named as one; pack it anew, with another tool";
const SPARSE: &str = "is a sparse file; pack it without --sparse (bsdtar: with --no-read-sparse)";
const PART: &str = "is a part of an archive in several volumes; pack it as one (tar without -M)";

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// An archive of any kind, as its first bytes say.
    pub(crate) fn archive(bytes: &[u8]) {
        let limits = Limits { unpacked_bytes: 1 << 20, entries: 100, ..Limits::default() };
        let layout = Layout::default();
        let kind = match bytes {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(ArchiveKind::TarZst),
            [0x1f, 0x8b, ..] => Some(ArchiveKind::TarGz),
            _ => None,
        };
        let checked = match kind {
            Some(kind) => check(Archive { reader: bytes, bytes: bytes.len() as u64, kind }, &limits, &layout),
            None => check_tar(bytes, &limits, &layout),
        };
        if let Ok(unpacked) = checked {
            assert!(unpacked.bytes <= limits.unpacked_bytes && unpacked.entries <= limits.entries);
            for (path, _) in unpacked.manifest.iter() {
                assert!(!path.path().is_absolute() && !path.show().split('/').any(|name| name == ".."));
            }
        }
    }
}
