//! Unpacking an archive that nobody vouches for. What is refused: absolute paths, `..`, links that
//! lead out of the tree (also through each other), devices, fifos, sparse files, anything twice, and
//! whatever exceeds the limits. What is ignored: owners, times, extended attributes, and the setuid,
//! setgid and sticky bits (directories of a developer's machine often carry setgid; nobody means it).
//!
//! Extended headers are read here and not by the tar library, which would take one of any size into memory.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::{
    Limits, MARKER,
    tree::{Inside, Tree},
};
use crate::{failpoint, store::ArchiveKind};

/// A long name or an extended header may be so long.
const HEADER_BYTES_MAX: u64 = 64 << 10;
/// zstd windows up to 128 MiB; the format allows gigabytes.
const WINDOW_LOG_MAX: u32 = 27;
/// Where the test of a kill in the middle stops.
const MIDDLE_ENTRY: u64 = 2;

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
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
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
) -> Result<Unpacked, UnpackError> {
    let disk = |e| UnpackError::Disk(into.display().to_string(), e);
    let tree = Tree::at(into).map_err(disk)?;
    let plain = decoder(archive, kind).map_err(UnpackError::Archive)?;
    // Headers and padding count as well: more than this is a bomb of empty entries.
    let bound = limits.unpacked_bytes.saturating_add(limits.entries.saturating_mul(1024));
    let mut archive = Archive::new(plain.take(bound));
    let mut unpacking =
        Unpacking { tree, limits, done: Unpacked { entries: 0, bytes: 0 }, next: Extended::default() };
    for entry in archive.entries().map_err(UnpackError::Archive)?.raw(true) {
        unpacking.take(entry.map_err(UnpackError::Archive)?)?;
    }
    // A damaged end shows only when it is read.
    let rest = io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(UnpackError::Archive)?;
    if rest > 0 && rest >= bound {
        return Err(UnpackError::Refused("it is endless".into()));
    }
    unpacking.tree.finish()?;
    if unpacking.done.entries == 0 {
        Err(UnpackError::Refused("it is empty".into()))
    } else {
        Ok(unpacking.done)
    }
}

fn decoder(archive: File, kind: ArchiveKind) -> io::Result<Box<dyn Read>> {
    match kind {
        ArchiveKind::TarGz => Ok(Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::new(archive)))),
        ArchiveKind::TarZst => {
            let mut decoder = zstd::Decoder::new(archive)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Ok(Box::new(decoder))
        }
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
    done: Unpacked,
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
        for extension in PaxExtensions::new(header) {
            let extension = extension.map_err(UnpackError::Archive)?;
            match extension.key_bytes() {
                b"path" => self.next.path = Some(extension.value_bytes().into()),
                b"linkpath" => self.next.link = Some(extension.value_bytes().into()),
                // Files of 8 GiB and more, or a trick to make two readers see two archives.
                b"size" => return Err(UnpackError::Refused("it has a file with an extended size".into())),
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(UnpackError::Refused(
                        "it has a sparse file; pack it without --sparse".into(),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn make(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let Extended { path, link } = std::mem::take(&mut self.next);
        let path = path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let path = Inside::parse(&path, self.limits.path_bytes)?;
        self.count(&path)?;
        let mode = entry.header().mode().map_err(UnpackError::Archive)?;
        let link = link.or_else(|| entry.header().link_name_bytes().map(Into::into)).unwrap_or_default();
        match entry.header().entry_type() {
            EntryType::Directory => self.tree.directory(&path, mode),
            EntryType::Regular | EntryType::Continuous => self.file(&path, mode, &mut entry),
            EntryType::Symlink => self.symlink(path, &link),
            EntryType::Link => self.tree.hard_link(&path, &Inside::parse(&link, self.limits.path_bytes)?),
            kind => Err(UnpackError::Refused(format!("{} is {}", path.show(), name_of(kind)))),
        }
    }

    fn count(&mut self, path: &Inside) -> Result<(), UnpackError> {
        if self.done.entries == MIDDLE_ENTRY {
            failpoint::hit("fetch.mid_unpack");
        }
        self.done.entries += 1;
        if self.done.entries > self.limits.entries {
            return Err(UnpackError::Refused(format!("it has more than {} entries", self.limits.entries)));
        }
        if path.is_top(MARKER) {
            return Err(UnpackError::Refused(format!(
                "it has a {MARKER}, a name kept for pitstop's own proof"
            )));
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
        self.done.bytes = self.done.bytes.saturating_add(size);
        if self.done.bytes > self.limits.unpacked_bytes {
            let limit = self.limits.unpacked_bytes;
            return Err(UnpackError::Refused(format!("it unpacks to more than {limit} bytes")));
        }
        let mut file = self.tree.file(path, mode)?;
        let disk = |e| UnpackError::Disk(path.show(), e);
        let mut left = size;
        let mut buffer = [0; 64 << 10];
        while left > 0 {
            let n = entry.read(&mut buffer).map_err(UnpackError::Archive)?;
            if n == 0 {
                return Err(UnpackError::Refused(format!("it ends in the middle of {}", path.show())));
            }
            file.write_all(&buffer[..n]).map_err(disk)?;
            left -= n as u64;
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

fn name_of(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Block | EntryType::Char => "a device",
        EntryType::Fifo => "a fifo",
        EntryType::GNUSparse => "a sparse file; pack it without --sparse",
        _ => "of a kind that a release must not have",
    }
}
