//! Archives of many makers, each beside the tree that GNU tar makes of it: path, kind, permissions, content
//! and link target.
//!
//! GNU tar, bsdtar, busybox and Python pack here. What node-tar, Go's `archive/tar` and .NET's
//! `System.Formats.Tar` write is written by hand, after their sources: none of them is among the tests' tools.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use tar::{EntryType, Header};

use crate::{rig::Rig, unpack::gzip};

/// What is below a directory: kind, permissions, number of names, content or target.
pub fn listing(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap().map(Result::unwrap) {
            let (path, meta) = (entry.path(), fs::symlink_metadata(entry.path()).unwrap());
            let mode = meta.permissions().mode() & 0o777;
            let what = if meta.is_symlink() {
                format!("-> {:?}", fs::read_link(&path).unwrap())
            } else if meta.is_dir() {
                open.push(path.clone());
                format!("directory {:o}", mode | 0o700)
            } else {
                let content = fs::read(&path).unwrap();
                let shown = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
                format!("file {:o} {} {shown:?} names {}", mode | 0o400, content.len(), meta.nlink())
            };
            found.insert(path.strip_prefix(dir).unwrap().to_path_buf(), what);
        }
    }
    found.remove(Path::new(".pitstop-release"));
    found.remove(Path::new(".pitstop-manifest"));
    found
}

/// What GNU tar makes of it, which must not complain.
fn as_gnu_tar(archive: &[u8]) -> BTreeMap<PathBuf, String> {
    let dir = tempfile::tempdir().unwrap();
    let (file, tree) = (dir.path().join("archive"), dir.path().join("tree"));
    fs::create_dir(&tree).unwrap();
    fs::write(&file, archive).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--no-same-owner", "--no-same-permissions", "-xzf"]).arg(&file).arg("-C").arg(&tree);
    let output = tar.env("LC_ALL", "C.UTF-8").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "GNU tar: {said}");
    listing(&tree)
}

/// Answers the tree, which is GNU tar's.
#[track_caller]
fn same_as_gnu_tar(what: &str, archive: &[u8]) -> BTreeMap<PathBuf, String> {
    let rig = Rig::new();
    rig.put_archive("v1", "tar.gz", archive);
    rig.fetch("v1").unwrap_or_else(|e| panic!("{what}: {}", e.message));
    let (ours, theirs) = (listing(&rig.deploy_to.join("releases/v1")), as_gnu_tar(archive));
    let differ: Vec<_> = ours.iter().filter(|(path, is)| theirs.get(*path) != Some(is)).collect();
    let missing: Vec<_> = theirs.keys().filter(|path| !ours.contains_key(*path)).collect();
    assert!(differ.is_empty() && missing.is_empty(), "{what}: {differ:?}, missing: {missing:?}");
    assert!(!ours.is_empty(), "{what}");
    ours
}

/// An app with all that an archive can hold, by what its format can say.
fn app(dir: &Path, long_names: bool) -> PathBuf {
    let app = dir.join("app");
    for at in ["bin", "config/initializers", "log", "public", "tmp/pids"] {
        fs::create_dir_all(app.join(at)).unwrap();
    }
    for (path, text) in [
        ("Gemfile", "source 'https://rubygems.org'\n"),
        ("config.ru", "run App\n"),
        ("config/initializers/a b.rb", ""),
        ("log/.keep", ""),
        ("public/app.js", &"x".repeat(3 * 512)),
        ("bin/rails", "#!/usr/bin/env ruby\n"),
    ] {
        fs::write(app.join(path), text).unwrap();
    }
    let mode = |path: &str, mode| {
        fs::set_permissions(app.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("bin/rails", 0o755);
    mode("config.ru", 0o600);
    mode("tmp/pids", 0o750);
    symlink("../config.ru", app.join("bin/link")).unwrap();
    symlink("nothing", app.join("dangling")).unwrap();
    fs::hard_link(app.join("bin/rails"), app.join("bin/rake")).unwrap();
    if long_names {
        let deep = app.join("n".repeat(120)).join("m".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("grün.txt"), "grün").unwrap();
        symlink("t".repeat(150), app.join("long link")).unwrap();
        fs::hard_link(deep.join("grün.txt"), app.join("to a long name")).unwrap();
    }
    app
}

/// Runs a script in the app's directory; `$OUT` is what it has to write.
fn packed(app: &Path, script: &str) -> Vec<u8> {
    let out = app.with_file_name("out");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(app).env("OUT", &out).env("LC_ALL", "C.UTF-8");
    let run = bash.output().unwrap();
    assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
    fs::read(out).unwrap()
}

const PYTHON: &str = "import sys, tarfile; t = tarfile.open(sys.argv[1], 'w:gz', format=getattr(tarfile, sys.argv[2])); \
                      t.add('.'); t.close()";

#[test]
fn every_writer_and_format() {
    let python = |format: &str| format!("python3 -c \"{PYTHON}\" $OUT {format}");
    let short: Vec<String> = ["--format=v7", "--format=ustar"]
        .iter()
        .flat_map(|format| [format!("tar {format} -czf $OUT ."), format!("bsdtar {format} -czf $OUT .")])
        .filter(|script| script != "bsdtar --format=v7 -czf $OUT .")
        .chain([python("USTAR_FORMAT"), "git init -q . && git add -A . && git -c user.name=ci -c user.email=c@i commit -qm 1 && git archive --format=tar.gz -o $OUT HEAD && rm -r .git".into()])
        .collect();
    let long = [
        "tar --format=gnu -czf $OUT .",
        "tar --format=oldgnu -czf $OUT .",
        "tar --format=pax -czf $OUT .",
        "tar --format=pax --pax-option=globexthdr.comment=x,delete=mtime -czf $OUT *",
        "tar --format=gnu --record-size=512 -czf $OUT .",
        "bsdtar --format=gnutar -czf $OUT .",
        "bsdtar --format=pax -czf $OUT .",
        "bsdtar -czf $OUT *",
        "busybox tar -czf $OUT .",
        "busybox tar -cf - * | gzip > $OUT",
    ];
    let long = long.into_iter().map(String::from).chain([python("GNU_FORMAT"), python("PAX_FORMAT")]);
    for (script, long_names) in short.into_iter().map(|s| (s, false)).chain(long.map(|s| (s, true))) {
        let dir = tempfile::tempdir().unwrap();
        let app = app(dir.path(), long_names);
        let tree = same_as_gnu_tar(&script, &packed(&app, &script));
        let all = if script.contains("git archive") { tree.clone() } else { listing(&app) };
        assert_eq!(tree, all, "{script}");
    }
}

#[test]
fn what_people_do_to_archives() {
    let oddities = [
        ("a label", "tar --label=release-1 -czf $OUT ."),
        ("a label in pax", "tar --format=pax --label=release-1 -czf $OUT ."),
        ("an incremental dump", "tar --listed-incremental=../dump -czf $OUT ."),
        (
            "a second dump",
            "tar -g ../dump -cf /dev/null . && echo 1 > Rakefile && tar -g ../dump -czf $OUT .",
        ),
        ("a dump in pax", "tar --format=pax -g ../dump -czf $OUT ."),
        ("padding after gzip", "tar -cz . | dd conv=sync bs=7000 iflag=fullblock status=none > $OUT"),
        ("blocks after gzip", "tar -czf $OUT . && truncate -s '>1M' $OUT"),
        (
            "appended twice",
            "tar -cf ../t . && echo new > Gemfile && tar -rf ../t ./Gemfile ./bin && gzip < ../t > $OUT",
        ),
        (
            "appended by another",
            "bsdtar -cf ../t . && echo new > Gemfile && tar -rf ../t Gemfile && gzip < ../t > $OUT",
        ),
        (
            "a link that became a file, and back",
            "tar -cf ../t . && rm dangling && echo 1 > dangling && tar -rf ../t ./dangling && \
             rm config.ru && ln -s Gemfile config.ru && tar -rf ../t ./config.ru && gzip < ../t > $OUT",
        ),
        (
            "a directory that became a link, and a file a directory",
            "tar -cf ../t . && rmdir tmp/pids && ln -s ../log tmp/pids && rm config.ru && mkdir config.ru && \
             touch config.ru/x && tar -rf ../t ./tmp/pids ./config.ru && gzip < ../t > $OUT",
        ),
        ("many small members", "tar -cf ../t . && split -b 700 --filter=gzip ../t > $OUT"),
        (
            "concatenated by tar",
            "tar -cf ../t Gemfile && tar -cf ../u config.ru bin && tar -Af ../t ../u && gzip < ../t > $OUT",
        ),
        ("a star's header", "tar --format=ustar -cf - . | gzip > $OUT"),
        (
            "attributes",
            "setfattr -n user.a -v 1 Gemfile 2>/dev/null || true; tar --xattrs --format=pax -czf $OUT .",
        ),
    ];
    for (what, script) in oddities {
        let dir = tempfile::tempdir().unwrap();
        same_as_gnu_tar(what, &packed(&app(dir.path(), !what.contains("star")), script));
    }
}

/// An archive by hand.
#[derive(Default)]
struct Hand(Vec<u8>);

impl Hand {
    /// A header with these fields, then content: `size` is what the header says.
    fn entry(mut self, header: &Header, content: &[u8]) -> Self {
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn gz(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        gzip(&self.0)
    }
}

fn header(mut raw: Header, name: &str, kind: u8, size: u64) -> Header {
    let bytes = raw.as_mut_bytes();
    bytes[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
    raw.set_entry_type(EntryType::new(kind));
    raw.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
    raw.set_size(size);
    raw.set_mtime(0);
    raw.set_cksum();
    raw
}

/// With other bytes in a field.
fn with(mut header: Header, at: usize, bytes: &[u8]) -> Header {
    header.as_mut_bytes()[at..at + bytes.len()].copy_from_slice(bytes);
    header.set_cksum();
    header
}

fn record(key: &str, value: &str) -> String {
    let bare = key.len() + value.len() + 3;
    let length = (1..).find(|length: &usize| *length == bare + length.to_string().len()).unwrap();
    format!("{length} {key}={value}\n")
}

fn pax(records: &[(&str, &str)]) -> String {
    records.iter().map(|(key, value)| record(key, value)).collect()
}

const SIZE: usize = 124;
const UID: usize = 108;

#[test]
fn sizes_on_entries_without_content_hide_nothing() {
    for ustar in [true, false] {
        let new = || if ustar { Header::new_ustar() } else { Header::new_gnu() };
        for (kind, link, size) in
            [(b'5', "", 4096), (b'2', "Gemfile", 7), (b'1', "Gemfile", 3000), (b'0', "", 512)]
        {
            let name = if kind == b'0' { "public/" } else { "public" };
            let odd = with(header(new(), name, kind, size), 157, link.as_bytes());
            let archive = Hand::default()
                .entry(&header(new(), "Gemfile", b'0', 3), b"gem")
                .entry(&odd, b"")
                .entry(&header(new(), "config.ru", b'0', 3), b"run");
            let many = (0..20)
                .fold(archive, |hand, n| hand.entry(&header(new(), &format!("config/{n}.rb"), b'0', 0), b""));
            let tree = same_as_gnu_tar(&format!("{name} of kind {}", char::from(kind)), &many.gz());
            assert_eq!(tree.len(), 24);
        }
        // The size in an extended header hides nothing either.
        let extended = pax(&[("size", "4096")]);
        let archive = Hand::default()
            .entry(&header(new(), "x", b'x', extended.len() as u64), extended.as_bytes())
            .entry(&header(new(), "public", b'5', 0), b"")
            .entry(&header(new(), "config.ru", b'0', 3), b"run");
        assert_eq!(same_as_gnu_tar("pax size of a directory", &archive.gz()).len(), 2);
    }
}

#[test]
fn node_tar_says_the_size_twice() {
    let name = "public/grün.txt";
    let records = pax(&[
        ("mtime", "1700000000.5"),
        ("path", name),
        ("size", "6"),
        ("gid", "1000"),
        ("uid", "1000"),
        ("SCHILY.dev", "2049"),
        ("SCHILY.ino", "1"),
        ("SCHILY.nlink", "1"),
    ]);
    let archive = Hand::default()
        .entry(&header(Header::new_ustar(), "public/", b'5', 0), b"")
        .entry(
            &header(Header::new_ustar(), "PaxHeader/gr\u{fc}n.txt", b'x', records.len() as u64),
            records.as_bytes(),
        )
        .entry(&header(Header::new_ustar(), "public/gr?n.txt", b'0', 6), b"gruen\n");
    assert!(same_as_gnu_tar("node-tar", &archive.gz()).contains_key(Path::new(name)));
}

#[test]
fn what_dot_net_writes() {
    let blank = |name: &str, kind| with(header(Header::new_ustar(), name, kind, 0), SIZE, &[0; 12]);
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let records =
        pax(&[("path", &long), ("mtime", "1700000000.1234567"), ("ctime", "1700000000"), ("atime", "1")]);
    let target = pax(&[("path", "link"), ("linkpath", &long), ("mtime", "0")]);
    let extended = |text: &str| header(Header::new_ustar(), "./PaxHeaders.1/x", b'x', text.len() as u64);
    let archive = Hand::default()
        .entry(&blank("log/", b'5'), b"")
        .entry(&blank("log/.keep", b'0'), b"")
        .entry(&extended(&records), records.as_bytes())
        .entry(&header(Header::new_ustar(), &long, b'0', 4), b"long")
        .entry(&extended(&target), target.as_bytes())
        .entry(&with(blank("link", b'2'), 157, b"short"), b"");
    assert_eq!(same_as_gnu_tar(".NET, pax", &archive.gz()).len(), 5);
    let v7 = |name, kind, size| with(header(Header::new_old(), name, kind, size), UID, &[0; 16]);
    let archive = Hand::default().entry(&v7("a", 0, 1), b"x").entry(&v7("d/", b'5', 0), b"");
    same_as_gnu_tar(".NET, v7", &archive.gz());
}

#[test]
fn what_go_writes() {
    // A size beyond octal is said in binary (GNU), and is 0 beside an extended one (pax).
    let binary = |size: u8| {
        with(header(Header::new_gnu(), "binary", b'0', 0), SIZE, &{
            let mut field = [0; 12];
            (field[0], field[11]) = (0x80, size);
            field
        })
    };
    let long = "g".repeat(180);
    let name = format!("{long}\0");
    let records =
        pax(&[("GOLANG.pkg", "x"), ("mtime", "1.5"), ("path", "grün"), ("SCHILY.xattr.user.a", "b\n=")]);
    let archive = Hand::default()
        .entry(&binary(5), b"bytes")
        .entry(&header(Header::new_gnu(), "././@LongLink", b'L', name.len() as u64), name.as_bytes())
        .entry(&header(Header::new_gnu(), &long[..100], b'0', 1), b"x")
        .entry(&header(Header::new_gnu(), "././@LongLink", b'K', name.len() as u64), name.as_bytes())
        .entry(&with(header(Header::new_gnu(), "link", b'2', 0), 157, &long.as_bytes()[..100]), b"")
        .entry(
            &header(Header::new_ustar(), "PaxHeaders.0/gr", b'x', records.len() as u64),
            records.as_bytes(),
        )
        .entry(&header(Header::new_ustar(), "gr", b'0', 2), b"ok");
    assert_eq!(same_as_gnu_tar("Go", &archive.gz()).len(), 4);
}

#[test]
fn a_file_of_eight_gibibytes_and_more_has_its_size_in_the_extended_header() {
    let large = pax(&[("size", "17179869185")]);
    for size in [0, 0o77777777777] {
        let archive = Hand::default()
            .entry(&header(Header::new_ustar(), "x", b'x', large.len() as u64), large.as_bytes())
            .entry(&header(Header::new_ustar(), "big", b'0', size), b"");
        let rig = Rig::new();
        rig.put_archive("v1", "tar.gz", &archive.gz());
        // The size is believed: it is more than a release may have.
        crate::unpack::refused_by(&rig, &rig.releases(), "unpacks to more than");
    }
}

#[test]
fn large_attributes_of_macos_are_passed_over() {
    let fork = "r".repeat(3 << 20);
    let records = pax(&[
        ("LIBARCHIVE.xattr.com.apple.ResourceFork", &fork),
        ("path", "config.ru"),
        ("SCHILY.xattr.com.apple.ResourceFork", &fork),
    ]);
    let archive = Hand::default()
        .entry(&header(Header::new_ustar(), "x", b'x', records.len() as u64), records.as_bytes())
        .entry(&header(Header::new_ustar(), "config", b'0', 3), b"run");
    let tree = same_as_gnu_tar("macOS", &archive.gz());
    assert!(tree.contains_key(Path::new("config.ru")));
}

#[test]
fn what_a_header_may_leave_out() {
    let plain = || header(Header::new_ustar(), "a", b'0', 1);
    for (what, odd) in [
        ("a blank mode", with(plain(), 100, &[0; 8])),
        ("a blank time", with(plain(), 136, &[0; 12])),
        ("a kind of NUL", with(plain(), 156, &[0])),
        ("a contiguous file", with(plain(), 156, b"7")),
        ("no version", with(plain(), 263, b"\0\0")),
        ("a mode with its kind", with(plain(), 100, b"0100644\0")),
        ("numbers after blanks", with(plain(), SIZE, b"          1 ")),
        ("a prefix", with(plain(), 345, b"d/e")),
    ] {
        same_as_gnu_tar(what, &Hand::default().entry(&odd, b"x").gz());
    }
    let signed = |mut header: Header| {
        header.as_mut_bytes()[..2].copy_from_slice("ü".as_bytes());
        header.as_mut_bytes()[148..156].fill(b' ');
        let sum: i64 = header.as_bytes().iter().map(|byte| i64::from(byte.cast_signed())).sum();
        header.as_mut_bytes()[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    };
    same_as_gnu_tar("a signed checksum", &Hand::default().entry(&signed(plain()), b"x").gz());
}
