//! What a tree holds: every path with its kind, permissions, size and digest.
//!
//! A release on the volume keeps its manifest beside its marker, as [`MANIFEST`]: everything in the tree but these
//! two, the links that it was given included, with the permissions as they are on disk. Releases of older agents
//! have none, and are as good as before.
//!
//! The file is text, compressed by zstd. A line names a path and what is there; blanks, control characters and `%`
//! are written as `%20` in paths and targets, and readers ignore further words at a line's end:
//! ```text
//! pitstop-manifest 1 3                  the format's version, and how many lines follow
//! app d 755
//! app/job.rb f 644 1204 9f86d081…       size, SHA-256; behind it the inode and ctime (ns), where noted
//! bin/rails l ../vendor/rails           where the link leads
//! ```

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    ops::Bound,
};

use super::inside::Inside;
use crate::store::dir::hex;

/// The name of the manifest in a complete release.
pub const MANIFEST: &str = ".pitstop-manifest";

const FORMAT: &str = "pitstop-manifest 1";
const LEVEL: i32 = 3;
/// Of a file that somebody else may have written, no more is read.
const BYTES_MAX: u64 = 512 << 20;
const LINE_BYTES_MAX: u64 = 64 << 10;
const PATH_BYTES_MAX: usize = 4096;

/// The entries of a tree by their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest(BTreeMap<Inside, Entry>);

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Directory { mode: u32 },
    File(FileEntry),
    Link { target: Box<[u8]> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileEntry {
    pub(crate) mode: u32,
    pub(crate) bytes: u64,
    /// The SHA-256 of its content.
    pub(crate) sha256: [u8; 32],
    /// Which file it was, where somebody looked: content that was changed has another one.
    pub(crate) identity: Option<Identity>,
}

/// Which file it is, and since when it is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    /// The last change of the inode.
    pub(crate) ctime_ns: i128,
}

impl From<&std::fs::Metadata> for Identity {
    fn from(meta: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let ctime_ns = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
        Self { inode: meta.ino(), ctime_ns }
    }
}

impl Manifest {
    /// Notes what is at a path; what was noted before is replaced.
    pub(crate) fn insert(&mut self, path: Inside, entry: Entry) {
        self.0.insert(path, entry);
    }

    pub(crate) fn remove(&mut self, path: &[u8]) -> Option<Entry> {
        self.0.remove(path)
    }

    /// Forgets all that is below a path.
    pub(crate) fn remove_below(&mut self, path: &[u8]) {
        let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
        let range = (Bound::Excluded(&from[..]), Bound::Excluded(&to[..]));
        let below: Vec<Inside> = self.0.range::<[u8], _>(range).map(|(path, _)| path.clone()).collect();
        for path in below {
            self.0.remove(&path);
        }
    }

    /// What is at a path.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.0.get(path)
    }

    /// All entries by path, byte by byte.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Inside, &Entry)> {
        self.0.iter()
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Writes the manifest as a file has it.
    ///
    /// # Errors
    /// What the writer says.
    pub(crate) fn write(&self, to: impl Write) -> io::Result<()> {
        let mut zstd = zstd::Encoder::new(to, LEVEL)?;
        zstd.include_checksum(true)?;
        let mut out = io::BufWriter::with_capacity(64 << 10, zstd);
        writeln!(out, "{FORMAT} {}", self.0.len())?;
        for (path, entry) in &self.0 {
            out.write_all(&escaped(path.as_bytes()))?;
            match entry {
                Entry::Directory { mode } => writeln!(out, " d {mode:o}")?,
                Entry::File(FileEntry { mode, bytes, sha256, identity }) => {
                    write!(out, " f {mode:o} {bytes} {}", hex(sha256))?;
                    if let Some(Identity { inode, ctime_ns }) = identity {
                        write!(out, " {inode} {ctime_ns}")?;
                    }
                    writeln!(out)?;
                }
                Entry::Link { target } => {
                    out.write_all(b" l ")?;
                    out.write_all(&escaped(target))?;
                    writeln!(out)?;
                }
            }
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?.flush()
    }

    /// Reads what [`Manifest::write`] wrote.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for anything else, also for a part of one.
    pub(crate) fn read(from: impl Read) -> io::Result<Self> {
        let mut lines = BufReader::new(zstd::Decoder::new(from)?.take(BYTES_MAX));
        let mut line = Vec::new();
        let mut next = move || -> io::Result<Option<Vec<u8>>> {
            line.clear();
            (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            match line.split_last() {
                None => Ok(None),
                Some((b'\n', text)) => Ok(Some(text.to_vec())),
                Some(_) => Err(damaged()),
            }
        };
        let first = next()?.ok_or_else(damaged)?;
        let count = first.strip_prefix(FORMAT.as_bytes()).and_then(|rest| rest.strip_prefix(b" "));
        let count: usize = count.and_then(number).ok_or_else(damaged)?;
        let mut entries = BTreeMap::new();
        while let Some(line) = next()? {
            let (path, entry) = parse(&line).ok_or_else(damaged)?;
            entries.insert(path, entry);
        }
        if entries.len() == count { Ok(Self(entries)) } else { Err(damaged()) }
    }
}

impl FromIterator<(Inside, Entry)> for Manifest {
    fn from_iter<T: IntoIterator<Item = (Inside, Entry)>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl Extend<(Inside, Entry)> for Manifest {
    fn extend<T: IntoIterator<Item = (Inside, Entry)>>(&mut self, entries: T) {
        self.0.extend(entries);
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the manifest is damaged, or of a newer version")
}

fn parse(line: &[u8]) -> Option<(Inside, Entry)> {
    let mut words = line.split(|byte| *byte == b' ');
    let path = Inside::parse(&plain(words.next()?)?, PATH_BYTES_MAX).ok()?;
    let mode = |word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 8).ok();
    let entry = match words.next()? {
        b"d" => Entry::Directory { mode: mode(words.next()?)? },
        b"f" => {
            let (mode, bytes) = (mode(words.next()?)?, number(words.next()?)?);
            let sha256 = digest(words.next()?)?;
            let identity = match (words.next(), words.next()) {
                (Some(inode), Some(ctime)) => {
                    Some(Identity { inode: number(inode)?, ctime_ns: number(ctime)? })
                }
                _ => None,
            };
            Entry::File(FileEntry { mode, bytes, sha256, identity })
        }
        b"l" => Entry::Link { target: plain(words.next()?)?.into() },
        _ => return None,
    };
    (!path.is_root()).then_some((path, entry))
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn digest(word: &[u8]) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let (pairs, rest) = word.as_chunks::<2>();
    if pairs.len() != digest.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        *byte = hex_pair(*pair)?;
    }
    Some(digest)
}

fn hex_pair([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn escaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            0..=b' ' | b'%' | 0x7f => out.extend(format!("%{byte:02x}").into_bytes()),
            _ => out.push(*byte),
        }
    }
    out
}

fn plain(word: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = word.iter().copied();
    let mut plain = Vec::with_capacity(word.len());
    while let Some(byte) = bytes.next() {
        plain.push(if byte == b'%' { hex_pair([bytes.next()?, bytes.next()?])? } else { byte });
    }
    Some(plain)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A manifest that was read is written the same; so is each line of one that was not compressed.
    pub(crate) fn manifest(bytes: &[u8]) {
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(parse).collect();
        for read in Manifest::read(bytes).into_iter().chain([Manifest(lines)]) {
            let mut written = Vec::new();
            read.write(&mut written).expect("it is memory");
            assert_eq!(Manifest::read(&written[..]).expect("it was just written"), read);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inside(path: &[u8]) -> Inside {
        Inside::parse(path, 4096).unwrap()
    }

    fn written(manifest: &Manifest) -> Vec<u8> {
        let mut file = Vec::new();
        manifest.write(&mut file).unwrap();
        file
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let identity = proptest::option::of(
            (any::<u64>(), any::<i64>())
                .prop_map(|(inode, ctime)| Identity { inode, ctime_ns: ctime.into() }),
        );
        let file = (0..0o1000_u32, any::<u64>(), any::<[u8; 32]>(), identity);
        prop_oneof![
            (0..0o1000_u32).prop_map(|mode| Entry::Directory { mode }),
            file.prop_map(|(mode, bytes, sha256, identity)| {
                Entry::File(FileEntry { mode, bytes, sha256, identity })
            }),
            proptest::collection::vec(any::<u8>(), 1..40)
                .prop_map(|target| Entry::Link { target: target.into() }),
        ]
    }

    proptest! {
        #[test]
        fn a_manifest_is_read_as_it_was_written(
            entries in proptest::collection::btree_map("[a-z%/\n ÄÖ\u{7f}]{1,30}x", entry(), 0..20)
        ) {
            let entries = entries.into_iter();
            let manifest: Manifest = entries
                .map(|(path, entry)| (inside(path.trim_start_matches('/').as_bytes()), entry))
                .collect();
            prop_assert_eq!(Manifest::read(&written(&manifest)[..]).unwrap(), manifest);
        }
    }

    #[test]
    fn a_part_of_one_is_refused() {
        let entry = || Entry::Directory { mode: 0o755 };
        let manifest: Manifest = (0..100).map(|n| (inside(format!("d{n}").as_bytes()), entry())).collect();
        let whole = written(&manifest);
        for end in 0..whole.len() {
            assert!(Manifest::read(&whole[..end]).is_err(), "{end} of {}", whole.len());
        }
    }

    #[test]
    fn what_leads_out_or_means_nothing_is_refused() {
        let sum = "0".repeat(64);
        let read = |lines: &str, count: usize| {
            let text = format!("{FORMAT} {count}\n{lines}");
            Manifest::read(&zstd::encode_all(text.as_bytes(), 1).unwrap()[..])
        };
        assert_eq!(read(&format!("a f 644 3 {sum}\nb d 755\n"), 2).unwrap().len(), 2);
        assert_eq!(read("b d 755 and what a later version adds\n", 1).unwrap().len(), 1);
        for bad in [
            "../a d 755",
            "/a d 755",
            "a x 755",
            "a d 9",
            "a f 644 3 00",
            "a l",
            "%2e%2 d 755",
            "% d 755",
            "a%00 d 7",
        ] {
            assert!(read(&format!("{bad}\n"), 1).is_err(), "{bad}");
        }
        assert!(read("a d 755\n", 2).is_err(), "fewer than it says");
        assert!(read("a d 755\na d 755\n", 2).is_err(), "a path comes twice");
    }
}
