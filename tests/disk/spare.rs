//! A release unpacked onto a spare tree is the same as one unpacked into an empty directory, and only what differs
//! was written.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use pitstop::{
    releases::{
        Limits,
        layout::Layout,
        manifest::Manifest,
        unpack::{Archive, Destination, Rules, Unpacked, unpack},
        unpack_error::UnpackError,
    },
    store::{ArchiveKind, CallOff},
};
use pitstop_rig::{SlowVolume, needs_root};
use proptest::prelude::*;
use tar::EntryType;

use crate::{
    matrix::listing,
    random::{cases, item, layout, tar},
    unpack::{Evil, gzip},
};

struct Trees(tempfile::TempDir);

impl Trees {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, tree: &str) -> PathBuf {
        self.0.path().join(tree).join("tree")
    }

    fn unpack(
        &self,
        tree: &str,
        archive: &[u8],
        layout: &Layout,
        spare: Option<Manifest>,
    ) -> Result<Unpacked, UnpackError> {
        fs::create_dir_all(self.at(tree)).unwrap();
        let archive = Archive { reader: archive, bytes: archive.len() as u64, kind: ArchiveKind::TarGz };
        let into = Destination::Tree { dir: &self.at(tree), in_flight: 8, spare };
        unpack(archive, into, &Rules { limits: &Limits::default(), layout, off: &CallOff::default() })
    }
}

fn packed(archive: Evil) -> Vec<u8> {
    gzip(&archive.0.into_inner().unwrap())
}

/// Which file each path is, and since when.
fn identities(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let all = listing(dir).into_keys().map(|path| {
        let meta = fs::symlink_metadata(dir.join(&path)).unwrap();
        (path, (meta.ino(), meta.ctime(), meta.ctime_nsec()))
    });
    all.collect()
}

fn large(byte: u8, bytes: usize) -> Vec<u8> {
    let mut content = vec![byte; bytes];
    content[0] = 1;
    content
}

fn file(archive: Evil, name: &str, content: &[u8]) -> Evil {
    archive.entry(name, EntryType::Regular, "", 0o644, content)
}

fn first() -> Evil {
    let mut archive = Evil::new();
    for (name, content) in [
        ("config.ru", &b"run"[..]),
        ("a/same", b"same"),
        ("a/other", b"one"),
        ("a/gone", b"gone"),
        ("b/deep/er/file", b"deep"),
        ("c/becomes_a_directory", b"x"),
        ("d/becomes_a_file/x", b"x"),
        ("e/becomes_a_link", b"x"),
        ("large/same", &large(2, 3 << 20)),
        ("large/other", &large(2, 3 << 20)),
        ("large/longer", &large(2, 3 << 20)),
        ("huge/same", &large(3, 12 << 20)),
        ("huge/other", &large(3, 12 << 20)),
        ("log/.keep", b""),
    ] {
        archive = file(archive, name, content);
    }
    archive
        .link("link/same", "../a")
        .link("link/other", "../a")
        .link("link/becomes_a_file", "../a")
        .entry("a/name", EntryType::Link, "a/same", 0o644, b"")
        .entry("modes", EntryType::Directory, "", 0o755, b"")
        .entry("run", EntryType::Regular, "", 0o644, b"#!")
}

fn second() -> Evil {
    let mut archive = Evil::new();
    for (name, content) in [
        ("config.ru", &b"run"[..]),
        ("a/same", b"same"),
        ("a/other", b"two"),
        ("a/new", b"new"),
        ("new/dir/file", b"new"),
        ("c/becomes_a_directory/x", b"x"),
        ("d/becomes_a_file", b"x"),
        ("link/becomes_a_file", b"x"),
        ("large/same", &large(2, 3 << 20)),
        ("large/other", &large(4, 3 << 20)),
        ("large/longer", &large(2, 4 << 20)),
        ("huge/same", &large(3, 12 << 20)),
        ("huge/other", &large(5, 12 << 20)),
        ("log/.keep", b""),
    ] {
        archive = file(archive, name, content);
    }
    archive
        .link("e/becomes_a_link", "../a")
        .link("link/same", "../a")
        .link("link/other", "../c")
        .entry("a/name", EntryType::Link, "a/same", 0o644, b"")
        .entry("modes", EntryType::Directory, "", 0o750, b"")
        .entry("run", EntryType::Regular, "", 0o755, b"#!")
}

/// Files, directories and links that are in both as they are.
const KEPT: &[&str] =
    &["config.ru", "a/same", "a/name", "large/same", "huge/same", "link/same", "a", "large", "huge"];

#[test]
fn every_kind_of_change_becomes_the_same_tree_and_the_rest_is_not_touched() {
    let layout = Layout { linked_dirs: vec!["log".into(), "public/uploads".into()], ..Layout::default() };
    let trees = Trees::new();
    let before = trees.unpack("spare", &packed(first()), &layout, None).unwrap();
    let was = identities(&trees.at("spare"));
    let onto = trees.unpack("spare", &packed(second()), &layout, Some(before.manifest)).unwrap();
    let new = trees.unpack("new", &packed(second()), &layout, None).unwrap();
    let without_names = |tree: &str| -> BTreeMap<PathBuf, String> {
        let all = listing(&trees.at(tree)).into_iter();
        all.map(|(path, what)| (path, what.split(" names ").next().unwrap().to_owned())).collect()
    };
    assert_eq!(without_names("spare"), without_names("new"));
    assert_eq!(onto, new);
    let is = identities(&trees.at("spare"));
    for path in KEPT.iter().map(Path::new) {
        let same = if trees.at("spare").join(path).is_dir() {
            was[path].0 == is[path].0
        } else {
            was[path] == is[path]
        };
        assert!(same, "{}", path.display());
    }
    // Nothing was written into a file that was there.
    for (path, (inode, ..)) in &was {
        let differs =
            fs::read(trees.at("new").join(path)).ok() != fs::read(trees.at("spare").join(path)).ok();
        assert!(!differs, "{}", path.display());
        let _ = inode;
    }
}

#[test]
fn a_directory_around_everything_is_the_spare_tree() {
    let layout = Layout { strip_prefix: true, ..Layout::default() };
    let app = |name: &str, content: &[u8]| {
        let archive = Evil::new().entry(&format!("{name}/"), EntryType::Directory, "", 0o700, b"");
        let archive = file(file(archive, &format!("{name}/Gemfile"), b"same"), &format!("{name}/x"), content);
        archive.link(&format!("{name}/link"), "Gemfile")
    };
    let trees = Trees::new();
    let before = trees.unpack("first", &packed(app("app-1", b"one")), &layout, None).unwrap();
    let tree = trees.at("first").join(before.prefix.unwrap());
    fs::create_dir_all(trees.at("spare").parent().unwrap()).unwrap();
    fs::rename(tree, trees.at("spare")).unwrap();
    let was = identities(&trees.at("spare"));
    let onto =
        trees.unpack("spare", &packed(app("app-2", b"two")), &layout, Some(before.manifest.clone())).unwrap();
    assert_eq!(onto.prefix, None);
    let is = identities(&trees.at("spare"));
    assert_eq!(fs::read(trees.at("spare").join("x")).unwrap(), b"two");
    for path in ["Gemfile", "link"].map(Path::new) {
        assert_eq!(was[path], is[path]);
    }
    assert_eq!(fs::metadata(trees.at("spare")).unwrap().mode() & 0o777, 0o755);
    // Without it, or with more beside it, the whole release is written.
    for other in [
        file(Evil::new(), "Gemfile", b"x"),
        file(app("app", b""), "beside", b"x"),
        app("app", b"").link("l", "app"),
    ] {
        let trees = Trees::new();
        let other = trees.unpack("spare", &packed(other), &layout, Some(Manifest::default()));
        assert!(matches!(other, Err(UnpackError::Spare(_))), "{other:?}");
    }
}

#[test]
fn a_spare_tree_that_somebody_changed_is_given_up_and_leads_nowhere() {
    type Tamper = fn(&Path);
    let tampers: [(&str, Tamper); 7] = [
        ("a file to be replaced is gone", |at| fs::remove_file(at.join("a/other")).unwrap()),
        ("a file to be taken away is gone", |at| fs::remove_file(at.join("a/gone")).unwrap()),
        ("a new file is there", |at| fs::write(at.join("a/new"), "x").unwrap()),
        ("a new directory is there", |at| fs::create_dir(at.join("new")).unwrap()),
        ("a directory is gone", |at| fs::remove_dir_all(at.join("a")).unwrap()),
        ("a file became a directory", |at| {
            fs::remove_file(at.join("a/other")).unwrap();
            fs::create_dir(at.join("a/other")).unwrap();
        }),
        ("a directory became a link", |at| {
            fs::remove_dir_all(at.join("a")).unwrap();
            symlink(at.parent().unwrap().parent().unwrap().join("outside"), at.join("a")).unwrap();
        }),
    ];
    for (what, tamper) in tampers {
        let trees = Trees::new();
        let outside = trees.0.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for name in ["same", "other", "gone", "name"] {
            fs::write(outside.join(name), "outside").unwrap();
        }
        let layout = Layout::default();
        let before = trees.unpack("spare", &packed(first()), &layout, None).unwrap();
        tamper(&trees.at("spare"));
        let onto = trees.unpack("spare", &packed(second()), &layout, Some(before.manifest));
        assert!(matches!(onto, Err(UnpackError::Spare(_))), "{what}: {onto:?}");
        let left = listing(&outside);
        assert!(left.len() == 4 && left.values().all(|what| what.contains("outside")), "{what}: {left:?}");
    }
}

#[test]
fn a_change_costs_a_few_operations_and_what_stays_none() {
    needs_root!();
    let dir = tempfile::tempdir().unwrap();
    let volume = SlowVolume::mount(&dir.path().join("volume"), Duration::ZERO, 64);
    let tree = volume.path().join("stage/tree");
    fs::create_dir_all(&tree).unwrap();
    let archive = |changed: usize| {
        let path = |n: usize| format!("{}/{}/{n}", n % 7, n % 60);
        let content = |n: usize| if n < changed { "changed" } else { "same" };
        let all = (0..1_000).fold(Evil::new(), |tar, n| file(tar, &path(n), content(n).as_bytes()));
        packed(if changed == 0 { file(all, "gone", b"") } else { file(all, "new/file", b"") })
    };
    let unpack = |archive: &[u8], spare| {
        let archive = Archive { reader: archive, bytes: archive.len() as u64, kind: ArchiveKind::TarGz };
        let into = Destination::Tree { dir: &tree, in_flight: 48, spare };
        let (limits, layout, off) = (Limits::default(), Layout::default(), CallOff::default());
        unpack(archive, into, &Rules { limits: &limits, layout: &layout, off: &off }).unwrap()
    };
    let before = unpack(&archive(0), None);
    volume.reset();
    unpack(&archive(20), Some(before.manifest));
    let counts = volume.counts();
    // Twenty-two changes.
    assert!(counts.operations <= 22 * 11 / 2 + 20, "{counts}");
    assert_eq!(fs::read(tree.join("5/19/19")).unwrap(), b"changed");
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn whatever_was_there_the_tree_is_the_same(
        one in prop::collection::vec(item(), 1..8),
        other in prop::collection::vec(item(), 1..8),
        layout in layout(),
    ) {
        let trees = Trees::new();
        let one = gzip(&[tar(&one), vec![0; 1024]].concat());
        let other = gzip(&[tar(&other), vec![0; 1024]].concat());
        let Ok(before) = trees.unpack("one", &one, &layout, None) else { return Ok(()) };
        let mut spare = trees.at("one");
        spare.extend(&before.prefix);
        fs::create_dir_all(trees.at("spare").parent().unwrap()).unwrap();
        fs::rename(spare, trees.at("spare")).unwrap();
        let onto = trees.unpack("spare", &other, &layout, Some(before.manifest));
        let new = trees.unpack("new", &other, &layout, None);
        match (onto, new) {
            (Err(UnpackError::Spare(_)), _) => prop_assert!(layout.strip_prefix),
            (Err(_), new) => prop_assert!(new.is_err()),
            (Ok(onto), new) => {
                let new = new.unwrap();
                let root = |tree: &str, unpacked: &Unpacked| {
                    let mut root = trees.at(tree);
                    root.extend(&unpacked.prefix);
                    let all = listing(&root).into_iter();
                    all.map(|(path, what)| (path, what.split(" names ").next().unwrap().to_owned())).collect::<Vec<_>>()
                };
                prop_assert_eq!(root("spare", &onto), root("new", &new));
                prop_assert_eq!(onto.manifest, new.manifest);
                prop_assert_eq!((onto.entries, onto.bytes, onto.links), (new.entries, new.bytes, new.links));
            }
        }
    }
}
