//! Archives that no ordinary tool writes, and that are not hostile in the plain way either.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use pitstop::releases::{Limits, layout::Layout};
use tar::{Builder, EntryType, Header};

use crate::{
    rig::Rig,
    unpack::{Evil, gzip, refused, refused_by},
};

/// An archive of one file with an extended header of our own in front.
fn extended(records: &[u8], kind: EntryType) -> Evil {
    Evil::new().entry("PaxHeaders/a", kind, "", 0o644, records).file("a")
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let bare = key.len() + value.len() + 3;
    let length = (1..).find(|length: &usize| *length == bare + length.to_string().len()).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn arrives(archive: Evil) -> Rig {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.zst", &archive.zst());
    rig.fetch("v1").unwrap_or_else(|e| panic!("{}", e.message));
    rig
}

#[test]
fn what_nobody_may_read_is_read_by_its_owner() {
    let archive = Evil::new()
        .entry("d", EntryType::Directory, "", 0o000, b"")
        .entry("d/f", EntryType::Regular, "", 0o000, b"x")
        .entry("e", EntryType::Directory, "", 0o000, b"");
    let rig = arrives(archive);
    for (name, mode) in [("d", 0o700), ("d/f", 0o400), ("e", 0o700)] {
        let meta = fs::metadata(rig.deploy_to.join("releases/v1").join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{name}");
    }
}

#[test]
fn a_directory_that_comes_after_its_content_gets_its_mode() {
    let rig = arrives(Evil::new().file("d/f").entry("d", EntryType::Directory, "", 0o750, b""));
    let meta = fs::metadata(rig.deploy_to.join("releases/v1/d")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o750);
}

#[test]
fn times_that_are_none_do_not_matter() {
    for mtime in [[0xff; 12], [0x80; 12], *b"777777777777", *b"-00000000001"] {
        let mut tar = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_size(0);
        header.set_mode(0o644);
        header.as_old_mut().mtime = mtime;
        header.set_cksum();
        tar.append(&header, &b""[..]).unwrap();
        arrives(Evil(tar));
    }
    arrives(extended(&record("mtime", b"-99999999999999999999.9"), EntryType::XHeader));
}

#[test]
fn extended_headers_that_mean_nothing_to_us_are_passed_over() {
    let binary = b"\x01\0\0\x02=\n12 path=evil\n\xff";
    for key in
        ["SCHILY.xattr.security.capability", "LIBARCHIVE.xattr.com.apple", "SCHILY.acl.access", "comment"]
    {
        let rig = arrives(extended(&record(key, binary), EntryType::XHeader));
        assert_eq!(
            fs::read_dir(rig.deploy_to.join("releases/v1")).unwrap().count(),
            3,
            "the file, the marker and the manifest"
        );
    }
    arrives(extended(&record("comment", b"1a2b3c"), EntryType::XGlobalHeader));
    let rig = arrives(extended(&record("path", b"from\nthe header"), EntryType::XHeader));
    assert!(rig.deploy_to.join("releases/v1/from\nthe header").exists());
}

#[test]
fn extended_headers_that_mislead_are_refused() {
    refused(extended(&record("size", b"1"), EntryType::XHeader), "an extended size");
    refused(extended(&record("GNU.sparse.major", b"1"), EntryType::XHeader), "a sparse file");
    refused(extended(&record("path", b"a\0b"), EntryType::XHeader), "a NUL");
    refused(extended(&record("path", b"../outside"), EntryType::XHeader), "has a `..`");
    refused(extended(&record("path", b""), EntryType::XHeader), "without a name");
    refused(
        extended(&record("GNU.volume.offset", b"5"), EntryType::XHeader),
        "\"a\" is a part of an archive in several",
    );
    refused(extended(&record("path", b"b"), EntryType::XGlobalHeader), "gives all entries one path");
    let two = |kind, other: &[u8]| {
        let both = Evil::new().entry("x", EntryType::XHeader, "", 0o644, &record("path", b"a"));
        both.entry("x", kind, "", 0o644, other).file("c")
    };
    refused(two(EntryType::XHeader, &record("path", b"b")), "two names");
    refused(two(EntryType::GNULongName, b"b\0"), "two names");
    let last = Evil::new().file("a").entry("x", EntryType::XHeader, "", 0o644, &record("path", b"a"));
    refused(last, "ends where an entry should follow");
    refused(extended(b"999 path=a\n", EntryType::XHeader), "a damaged extended header");
}

#[test]
fn kinds_that_a_release_has_no_use_for() {
    for kind in [b'N', b'Z', b'9', 0xff] {
        refused(
            Evil::new().entry("a", EntryType::new(kind), "", 0o644, b""),
            "\"a\" is of a kind that a release must not have",
        );
    }
    refused(
        Evil::new().entry("a", EntryType::new(b'M'), "", 0o644, b"x"),
        "\"a\" is a part of an archive in several volumes",
    );
    refused(
        Evil::new().entry("label", EntryType::new(b'V'), "", 0o644, b"x").file("a"),
        "a volume label with content",
    );
    let rig = arrives(Evil::new().entry("a", EntryType::Continuous, "", 0o644, b"x"));
    assert_eq!(fs::read_to_string(rig.deploy_to.join("releases/v1/a")).unwrap(), "x");
}

#[test]
fn hard_links_go_through_no_link_and_to_no_directory() {
    let hard = |archive: Evil, to: &str| archive.entry("x", EntryType::Link, to, 0o644, b"");
    refused(hard(Evil::new().file("b/f").link("a", "b"), "a/f"), "which is no file before it");
    refused(hard(Evil::new().file("b/f"), "b"), "which is no file before it");
    refused(hard(Evil::new().file("b/f"), "b/f/g"), "needs a directory");
    refused(hard(Evil::new(), "x"), "which is no file before it");
}

#[test]
fn headers_that_do_not_add_up() {
    let mut tar = Evil::new().file("a").0.into_inner().unwrap();
    tar[0] ^= 1;
    let rig = Rig::new();
    rig.put_archive("v1", "tar.gz", &gzip(&tar));
    refused_by(&rig, &rig.releases(), "checksum mismatch");
    let endless = |kind| {
        let mut header = Header::new_gnu();
        header.set_path("d").unwrap();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(u64::MAX / 2);
        header.set_cksum();
        let mut tar = Builder::new(Vec::new());
        tar.append(&header, &b""[..]).unwrap();
        Evil(tar)
    };
    refused(endless(EntryType::Regular), "unpacks to more than");
    refused(endless(EntryType::GNULongName), "a header of more than");
    refused(endless(EntryType::XHeader), "in the middle of an entry");
    arrives(endless(EntryType::Directory));
    for (field, bytes, why) in [
        (124, &b"000000000x "[..], "\"a\" has a size that is no number"),
        (124, b"            ", "\"a\" has a size that is no number"),
        (124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\"a\" has a size that is no number"),
        (100, b"rw-r--r-", "\"a\" has permissions that are no number"),
    ] {
        let mut header = Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_mode(0o644);
        header.set_size(0);
        header.as_mut_bytes()[field..field + bytes.len()].copy_from_slice(bytes);
        header.set_cksum();
        let mut tar = Builder::new(Vec::new());
        tar.append(&header, &b""[..]).unwrap();
        refused(Evil(tar), why);
    }
}

#[test]
fn a_tree_a_hundred_directories_deep_comes_and_goes() {
    let deep = "d/".repeat(127) + "f";
    let rig = arrives(extended(&record("path", deep.as_bytes()), EntryType::XHeader));
    assert_eq!(fs::read_to_string(rig.deploy_to.join("releases/v1").join(&deep)).unwrap(), "evil");
    let too_deep = |depth| extended(&record("path", "d/".repeat(depth).as_bytes()), EntryType::XHeader);
    refused(too_deep(129), "more than 128 directories deep");
    refused(too_deep(513), "more than 1024 bytes");
}

#[test]
fn an_archive_that_grows_beyond_reason_stops_before_the_volume_is_full() {
    let zeros = vec![0; 300 << 20];
    let bomb = Evil::new().entry("zeros", EntryType::Regular, "", 0o644, &zeros).zst();
    let rig = Rig::new();
    rig.put_archive("v1", "tar.zst", &bomb);
    refused_by(&rig, &rig.releases(), "unpacks to more than");
    let trusting = rig.releases_with(Limits { expansion: u64::MAX, ..Limits::default() });
    rig.fetch_with(&trusting, "v1").unwrap();
}

#[test]
fn what_is_in_a_prefix_is_checked_against_the_release_it_becomes() {
    let stripping = |archive: Evil, why: &str| {
        let rig = Rig::new();
        rig.put_archive("v1", "tar.zst", &archive.zst());
        let layout = Layout { strip_prefix: true, ..Layout::default() };
        refused_by(&rig, &rig.releases().laid_out(layout), why);
    };
    stripping(Evil::new().file("app/Gemfile").link("app/x", "../app/Gemfile"), "leads out of the release");
    stripping(Evil::new().file("app/Gemfile").file("app/.pitstop-release"), "kept for pitstop's own proof");
    stripping(Evil::new().file("app/Gemfile").link("app/.pitstop-release", "Gemfile"), "pitstop's own proof");
}

#[test]
fn a_file_that_is_only_named_like_those_of_macos_stays() {
    let apple = [0, 5, 0x16, 7, 0, 2, 0, 0];
    let rig = arrives(
        Evil::new().file("._notes").entry("d/._f", EntryType::Regular, "", 0o644, &apple).file("d/f"),
    );
    let release = rig.deploy_to.join("releases/v1");
    assert!(
        release.join("._notes").exists() && !release.join("d/._f").exists() && release.join("d/f").exists()
    );
}

#[test]
fn a_digest_that_is_another_archives_is_shown_beside_the_real_one() {
    let rig = Rig::new();
    rig.put_archive("v2", "tar.zst", &Evil::new().file("b").zst());
    let other = fs::read_to_string(rig.store_dir().join("releases/v2.tar.zst.sha256")).unwrap();
    rig.put_archive_as("v1", "tar.zst", &Evil::new().file("a").zst(), &other);
    refused_by(&rig, &rig.releases(), &other);
}

#[test]
fn a_release_directory_that_is_somebodys_link_is_left_alone() {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.zst", &Evil::new().file("a").zst());
    fs::create_dir_all(rig.deploy_to.join("releases")).unwrap();
    fs::create_dir(rig.dir.path().join("theirs")).unwrap();
    symlink(rig.dir.path().join("theirs"), rig.deploy_to.join("releases/v1")).unwrap();
    assert!(rig.fetch("v1").unwrap_err().message.contains("was not made by pitstop"));
    assert_eq!(fs::read_dir(rig.dir.path().join("theirs")).unwrap().count(), 0);
}

#[test]
fn names_that_two_tars_read_in_two_ways_are_refused() {
    let dotted = "is no directory, but named as one";
    refused(Evil::new().file("a/."), dotted);
    refused(Evil::new().link("a/.", "b"), dotted);
    refused(
        Evil::new().file("a").entry("b", EntryType::Link, "a/", 0o644, b""),
        "a hard link to a directory",
    );
    let needed = "\"a\" needs a directory";
    refused(Evil::new().file("a").entry("a/./", EntryType::Directory, "", 0o755, b""), needed);
    arrives(Evil::new().file("a/b").entry("a/./", EntryType::Directory, "", 0o755, b""));
    let mut long =
        Evil::new().entry("x", EntryType::GNULongName, "", 0o644, b"ab").file("c").0.into_inner().unwrap();
    long.splice(124..136, *b"00000000001\0");
    let sum: u32 = long[..148].iter().chain(&long[156..512]).map(|byte| u32::from(*byte)).sum();
    long.splice(148..156, format!("{:06o}\0 ", sum + 8 * 32).into_bytes());
    let rig = Rig::new();
    rig.put_archive("v1", "tar.gz", &gzip(&long));
    refused_by(&rig, &rig.releases(), "a name that is longer than it says");
}
