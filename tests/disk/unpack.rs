//! Hostile and broken archives: refused with `release_corrupt`, nothing left, nothing outside touched.

use std::{fs, io::Write, os::unix::fs::PermissionsExt};

use pitstop::{
    core::Reason,
    releases::{Limits, Releases},
};
use tar::{Builder, EntryType, Header};

use crate::rig::Rig;

pub struct Evil(pub Builder<Vec<u8>>);

impl Evil {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// An entry whose name nobody checks while packing.
    pub fn entry(mut self, name: &str, kind: EntryType, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn file(self, name: &str) -> Self {
        self.entry(name, EntryType::Regular, "", 0o644, b"evil")
    }

    pub fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, target, 0o777, b"")
    }

    pub fn zst(self) -> Vec<u8> {
        zstd::encode_all(&self.0.into_inner().unwrap()[..], 3).unwrap()
    }
}

pub fn refused_by(rig: &Rig, releases: &Releases, why: &str) {
    let problem = rig.fetch_with(releases, "v1").unwrap_err();
    assert_eq!(problem.reason, Reason::ReleaseCorrupt, "{}", problem.message);
    assert!(problem.message.contains(why), "{:?} does not say {why:?}", problem.message);
    assert!(!rig.deploy_to.join("releases/v1").exists());
    assert_eq!(rig.leftovers(), Vec::<String>::new());
    assert!(!rig.dir.path().join("outside").exists());
}

pub fn refused(archive: Evil, why: &str) {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.zst", &archive.zst());
    refused_by(&rig, &rig.releases(), why);
}

#[test]
fn an_absolute_path() {
    refused(Evil::new().file("/tmp/evil"), "is an absolute path");
}

#[test]
fn a_path_with_dots() {
    refused(Evil::new().file("a/../../outside"), "has a `..`");
}

#[test]
fn links_out_of_the_tree() {
    refused(Evil::new().link("a", "/etc"), "leads out of the release");
    refused(Evil::new().link("a/b", "../../c"), "leads out of the release");
}

#[test]
fn a_chain_of_links_out_of_the_tree() {
    let chain = Evil::new().file("x/y/f").link("a", "x/y").link("b", "a/../..").link("c", "b/..");
    refused(chain, "leads out of the release");
    let deep = Evil::new().file("d1/d2/f").link("d1/d2/up", "../..").link("out", "d1/d2/up/..");
    refused(deep, "leads out of the release");
}

#[test]
fn links_in_a_circle() {
    refused(Evil::new().link("a", "b").link("b", "a"), "too many links");
}

#[test]
fn a_file_through_a_link() {
    let needed = "\"a/f\" needs a directory where the archive has a file or link";
    refused(Evil::new().link("a", "b").file("a/f").file("b/g"), needed);
    refused(
        Evil::new().file("b/g").entry("a", EntryType::Directory, "", 0o755, b"").link("a", "b").file("a/f"),
        needed,
    );
    refused(Evil::new().link("a", "b").link("a/f", "c"), needed);
    refused(
        Evil::new().file("a/f").link("a", "b"),
        "\"a\" is a file or link where the archive has a directory",
    );
}

#[test]
fn a_hard_link_out_of_the_tree() {
    refused(Evil::new().entry("a", EntryType::Link, "/etc/passwd", 0o644, b""), "is an absolute path");
    refused(Evil::new().entry("a", EntryType::Link, "../x", 0o644, b""), "has a `..`");
    refused(Evil::new().entry("a", EntryType::Link, "b", 0o644, b""), "which is no file before it");
}

#[test]
fn devices_and_fifos() {
    refused(Evil::new().entry("d", EntryType::Char, "", 0o644, b""), "is a device");
    refused(Evil::new().entry("d", EntryType::Block, "", 0o644, b""), "is a device");
    refused(Evil::new().entry("f", EntryType::Fifo, "", 0o644, b""), "is a fifo");
}

#[test]
fn a_directory_with_something_in_it_gives_way_to_nothing() {
    refused(Evil::new().file("a").file("a/b"), "\"a/b\" needs a directory");
    refused(Evil::new().file("a/b").file("a"), "\"a\" is a file or link where the archive has a directory");
}

#[test]
fn the_proof_itself() {
    refused(Evil::new().file(".pitstop-release"), "kept for pitstop's own proof");
    refused(Evil::new().file("./.pitstop-release/x"), "kept for pitstop's own proof");
}

#[test]
fn an_empty_archive() {
    refused(Evil::new(), "is empty");
}

#[test]
fn more_entries_bytes_or_path_than_allowed() {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.zst", &Evil::new().file("a").file("b").file("c/d/e/f").zst());
    let with = |limits| rig.releases_with(limits);
    refused_by(&rig, &with(Limits { entries: 2, ..Limits::default() }), "more than 2 entries");
    refused_by(&rig, &with(Limits { unpacked_bytes: 7, ..Limits::default() }), "more than 7 bytes");
    refused_by(&rig, &with(Limits { path_bytes: 6, ..Limits::default() }), "more than 6 bytes");
    refused_by(&rig, &with(Limits { archive_bytes: 6, ..Limits::default() }), "larger than 6 bytes");
}

#[test]
fn a_bomb() {
    let rig = Rig::new();
    let zeros = vec![0; 64 << 20];
    let bomb = Evil::new().entry("zeros", EntryType::Regular, "", 0o644, &zeros).zst();
    rig.put_archive("v1", "tar.zst", &bomb);
    let limits = Limits { unpacked_bytes: 1 << 20, ..Limits::default() };
    refused_by(&rig, &rig.releases_with(limits), "unpacks to more than");
}

#[test]
fn a_bomb_in_a_header() {
    let zeros = vec![b'a'; 8 << 20];
    refused(Evil::new().entry("x", EntryType::GNULongName, "", 0o644, &zeros), "a header of more than");
    refused(Evil::new().entry("x", EntryType::XHeader, "", 0o644, &zeros), "a damaged extended header");
    let record = [b"1048590 path=".to_vec(), vec![b'a'; 1 << 20], b"\n".to_vec()].concat();
    refused(Evil::new().entry("x", EntryType::XHeader, "", 0o644, &record), "a header of more than");
}

#[test]
fn a_truncated_archive_with_a_fitting_digest() {
    for extension in ["tar.zst", "tar.gz"] {
        let rig = Rig::new();
        let noise: Vec<u8> =
            (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let tar = Evil::new().entry("noise", EntryType::Regular, "", 0o644, &noise).0.into_inner().unwrap();
        let packed = if extension == "tar.zst" { zstd::encode_all(&tar[..], 3).unwrap() } else { gzip(&tar) };
        rig.put_archive("v1", extension, &packed[..packed.len() / 2]);
        refused_by(&rig, &rig.releases(), "cannot be read");
    }
}

#[test]
fn a_wrong_digest_and_none() {
    let rig = Rig::new();
    rig.put_archive_as("v1", "tar.zst", &Evil::new().file("a").zst(), &"0".repeat(64));
    refused_by(&rig, &rig.releases(), "published was 0000");
    rig.put_archive_as("v1", "tar.zst", &Evil::new().file("a").zst(), "<html>");
    refused_by(&rig, &rig.releases(), "does not contain a SHA-256");
    fs::remove_file(rig.store_dir().join("releases/v1.tar.zst")).unwrap();
    rig.put_archive_as("v1", "tar.gz", b"no gzip", &"0".repeat(64));
    refused_by(&rig, &rig.releases(), "v1");
}

#[test]
fn setuid_setgid_and_owners_are_dropped() {
    let rig = Rig::new();
    let archive = Evil::new()
        .entry("bin", EntryType::Directory, "", 0o2755, b"")
        .entry("bin/su", EntryType::Regular, "", 0o6755, b"x")
        .zst();
    rig.put_archive("v1", "tar.zst", &archive);
    rig.fetch("v1").unwrap();
    for (name, mode) in [("bin", 0o755), ("bin/su", 0o755)] {
        let meta = fs::metadata(rig.deploy_to.join("releases/v1").join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{name}");
    }
}

#[test]
fn what_tars_in_the_wild_write_is_understood() {
    let rig = Rig::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o755);
    tar.append_data(&mut header.clone(), "./bin/rails", &b"ok"[..]).unwrap();
    tar.append_pax_extensions([("path", long.as_bytes()), ("mtime", b"1.5")]).unwrap();
    header.set_path("short").unwrap();
    header.set_cksum();
    tar.append(&header, &b"ok"[..]).unwrap();
    let mut hard = Header::new_gnu();
    hard.set_entry_type(EntryType::Link);
    hard.set_size(0);
    hard.set_mode(0o644);
    tar.append_link(&mut hard, "bin/rails2", "bin/rails").unwrap();
    rig.put_archive("v1", "tar.gz", &gzip(&tar.into_inner().unwrap()));
    rig.fetch("v1").unwrap();
    let release = rig.deploy_to.join("releases/v1");
    for name in ["bin/rails", "bin/rails2", &long] {
        assert_eq!(fs::read_to_string(release.join(name)).unwrap(), "ok", "{name}");
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
