//! Archives at random, damaged at random, read by pitstop and by GNU tar: each is refused with a reason, or becomes
//! the tree that GNU tar makes of it. `ARCHIVES=20000 cargo nextest run --test disk -E 'test(against_tar)'` tries as
//! many others.

use std::{
    cell::Cell,
    fs::{self, File},
    path::Path,
    process::Command,
};

use pitstop::{
    releases::{
        Limits,
        layout::Layout,
        unpack::{Archive, Destination, Rules, unpack},
    },
    store::{ArchiveKind, CallOff},
};
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{RngSeed, TestRunner},
};
use tar::Header;

use crate::{matrix::listing, unpack::gzip};

/// Of POSIX, GNU and the oldest tars.
const MAGICS: &[&[u8]] = &[b"ustar\x0000", b"ustar\x0000", b"ustar  \0", b"\0\0\0\0\0\0\0\0"];
/// What fields are overwritten with.
const PIECES: &[&[u8]] =
    &[b"\0", b" ", b"/", b"8", b"1", b"2", b"5", b"\x80", b"\xff", b"./", b"       ", b"00000000005", b"b\0"];

#[derive(Debug, Clone)]
struct Item {
    kind: u8,
    name: String,
    link: String,
    mode: u32,
    content: Vec<u8>,
    size: Option<u64>,
    magic: &'static [u8],
}

#[derive(Debug, Clone)]
struct Packed {
    items: Vec<Item>,
    /// In which header, where in it, and with what it is overwritten.
    fields: Vec<(Index, usize, &'static [u8])>,
    /// Bytes anywhere.
    flips: Vec<(Index, u8)>,
    /// Whether checksums fit afterwards.
    repaired: bool,
    end: usize,
}

fn path() -> impl Strategy<Value = String> {
    let names = prop::collection::vec(select(&["a", "a", "b", "b", "c", "d.", "é"][..]), 1..4);
    (names, select(&["", "", "", "./", ".//"][..]), select(&["", "", "", "", "", "", "", "", "/", "/."][..]))
        .prop_map(|(names, before, after)| format!("{before}{}{after}", names.join("/")))
}

fn records() -> impl Strategy<Value = Vec<u8>> {
    let record = prop_oneof![
        path().prop_map(|path| format!("path={path}")),
        path().prop_map(|path| format!("linkpath={path}")),
        select(
            &[
                "size=0",
                "size=5",
                "size=512",
                "comment=x",
                "mtime=1.5",
                "mtime=0",
                "atime=1",
                "comment=\n=\n"
            ][..]
        )
        .prop_map(String::from),
    ];
    let numbered = record.prop_map(|text| {
        let bare = text.len() + 2;
        let length = (1..).find(|length: &usize| *length == bare + length.to_string().len()).unwrap();
        format!("{length} {text}\n").into_bytes()
    });
    prop::collection::vec(numbered, 1..3).prop_map(|records| records.concat())
}

fn item() -> impl Strategy<Value = Item> {
    let content = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..6),
        1 => (0_usize..1100).prop_map(|long| vec![b'x'; long]),
        1 => Just(Vec::new()),
    ];
    let kind = select(&b"0000000000000000555555552222111xxLKVD7\0gS39"[..]);
    let size = prop::option::weighted(0.05, select(&[0, 1, 5, 512, 4096, 1 << 40][..]));
    let magic = select(MAGICS);
    (kind, path(), path(), any::<u32>(), content, records(), size, magic).prop_map(
        |(kind, name, link, mode, content, records, size, magic)| {
            let content = match kind {
                b'x' | b'g' => records,
                b'L' | b'K' => [link.as_bytes(), b"\0"].concat(),
                b'0' | b'7' | b'\0' if !name.ends_with('/') => content,
                b'D' => content,
                _ => Vec::new(),
            };
            Item { kind, name, link, mode, content, size, magic }
        },
    )
}

fn archive() -> impl Strategy<Value = Packed> {
    let places = select(&[0, 1, 99, 100, 107, 124, 130, 135, 148, 156, 157, 158, 257, 263, 345, 346][..]);
    let bytes = select(PIECES);
    (
        prop::collection::vec(item(), 1..7),
        prop::collection::vec((any::<Index>(), places, bytes), 0..2),
        prop::collection::vec((any::<Index>(), any::<u8>()), 0..2),
        prop::bool::weighted(0.8),
        select(&[1024, 1024, 1024, 1024, 1024, 10240, 512, 700, 0][..]),
    )
        .prop_map(|(items, fields, flips, repaired, end)| Packed { items, fields, flips, repaired, end })
}

impl Packed {
    fn bytes(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        let mut headers = Vec::new();
        for item in &self.items {
            let mut header = Header::new_old();
            let raw = header.as_mut_bytes();
            raw[..item.name.len()].copy_from_slice(item.name.as_bytes());
            raw[157..157 + item.link.len()].copy_from_slice(item.link.as_bytes());
            raw[257..257 + item.magic.len()].copy_from_slice(item.magic);
            header.set_entry_type(tar::EntryType::new(item.kind));
            header.set_mode(item.mode & 0o7777);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(item.size.unwrap_or(item.content.len() as u64));
            header.set_cksum();
            headers.push(tar.len());
            tar.extend(header.as_bytes());
            tar.extend(&item.content);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        for (which, place, bytes) in &self.fields {
            let at = headers[which.index(headers.len())] + place;
            tar[at..at + bytes.len()].copy_from_slice(bytes);
        }
        for (at, byte) in &self.flips {
            let at = at.index(tar.len());
            tar[at] = *byte;
        }
        for at in headers.into_iter().filter(|_| self.repaired) {
            let block = &mut tar[at..at + 512];
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        tar.resize(tar.len() + self.end, 0);
        tar
    }
}

/// Reasons that are about no entry.
const OF_THE_WHOLE: &[&str] = &[
    "it is empty",
    "without tar's end mark",
    "checksum mismatch",
    "it ends in the middle of",
    "it ends where an entry should follow",
    "more behind its end",
    "a damaged extended header",
    "an entry with two names",
    "gives all entries one path",
    "a volume label with content",
    "without a name",
    "a header of no size",
    "endless size",
    "a header of more than",
    "a name that is longer than it says",
    "unpacks to more than",
];

/// Whether it was taken; if so, the tree is GNU tar's.
fn same_or_refused(tar: &[u8]) -> Result<bool, TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("ours")).unwrap();
    fs::create_dir(at("theirs")).unwrap();
    fs::write(at("archive.gz"), gzip(tar)).unwrap();
    let archive = File::open(at("archive.gz")).unwrap();
    let bytes = archive.metadata().unwrap().len();
    let archive = Archive { reader: archive, bytes, kind: ArchiveKind::TarGz };
    let (limits, layout, off) = (Limits::default(), Layout::default(), CallOff::default());
    let rules = Rules { limits: &limits, layout: &layout, off: &off };
    let into = Destination::Tree { dir: &at("ours"), in_flight: 4, spare: None };
    if let Err(refusal) = unpack(archive, into, &rules) {
        let said = refusal.to_string();
        let names_an_entry = said.matches('"').count() >= 2;
        prop_assert!(names_an_entry || OF_THE_WHOLE.iter().any(|reason| said.contains(reason)), "{said}");
        return Ok(false);
    }
    fs::write(at("archive"), tar).unwrap();
    let said = gnu_tar(&at("archive"), &at("theirs"));
    let (ours, theirs) = (listing(&at("ours")), listing(&at("theirs")));
    prop_assert_eq!(ours, theirs, "GNU tar said {}", said);
    Ok(true)
}

fn gnu_tar(archive: &Path, into: &Path) -> String {
    let mut tar = Command::new("tar");
    tar.args(["--no-same-owner", "--no-same-permissions", "-xf"]).arg(archive).arg("-C").arg(into);
    String::from_utf8_lossy(&tar.env("LC_ALL", "C.UTF-8").output().unwrap().stderr).into_owned()
}

#[test]
fn against_tar_every_archive_is_the_same_tree_or_refused() {
    let many = std::env::var("ARCHIVES").ok().map(|many| many.parse().unwrap());
    // Always the same ones, so that whoever sees a failure sees it again.
    let rng_seed = if many.is_some() { RngSeed::Random } else { RngSeed::Fixed(12) };
    let cases = many.unwrap_or(400);
    let config = ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() };
    let (taken, all) = (Cell::new(0), Cell::new(0));
    TestRunner::new(config)
        .run(&archive(), |archive| {
            all.set(all.get() + 1);
            taken.set(taken.get() + u32::from(same_or_refused(&archive.bytes())?));
            Ok(())
        })
        .unwrap();
    assert!(taken.get() * 8 > all.get(), "{} of {} were taken", taken.get(), all.get());
}
