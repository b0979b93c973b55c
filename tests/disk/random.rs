//! Archives at random: whatever they hold, nothing panics and nothing happens outside of the tree.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

use pitstop::{
    releases::{
        Limits,
        layout::Layout,
        unpack::{Archive, Destination, Rules, unpack},
    },
    store::{ArchiveKind, CallOff},
};
use proptest::{prelude::*, sample::select};
use tar::{Builder, EntryType, Header};

use crate::unpack::gzip;

const KINDS: &[u8] = b"0000555512222234567DLKSgxxZ\0";
const NAMES: &[&str] =
    &["a", "a", "b", "b", "c", "..", ".", "", "Gemfile", ".pitstop-release", ".pitstop-manifest", "._a"];

#[derive(Debug, Clone)]
pub struct Item {
    kind: u8,
    name: String,
    link: String,
    mode: u32,
    content: Vec<u8>,
}

fn path() -> impl Strategy<Value = String> {
    let names = prop::collection::vec(select(NAMES), 1..4);
    (names, prop::bool::weighted(0.1)).prop_map(|(names, absolute)| {
        let path = names.join("/");
        if absolute { format!("/{path}") } else { path }
    })
}

pub fn item() -> impl Strategy<Value = Item> {
    let content = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..600),
        path().prop_map(|path| format!("{} path={path}\n", path.len() + 9).into_bytes()),
    ];
    (select(KINDS), path(), path(), any::<u32>(), content)
        .prop_map(|(kind, name, link, mode, content)| Item { kind, name, link, mode, content })
}

pub fn tar(items: &[Item]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for item in items {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(item.kind));
        header.set_mode(item.mode & 0o7777);
        header.set_size(item.content.len() as u64);
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..item.name.len()].copy_from_slice(item.name.as_bytes());
        raw.linkname[..item.link.len()].copy_from_slice(item.link.as_bytes());
        header.set_cksum();
        tar.append(&header, &item.content[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Unpacks beside things that must stay as they are; where it succeeds, no link leads out.
fn harms_nothing(tar: &[u8], layout: &Layout) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("stage/tree")).unwrap();
    fs::write(at("a"), "outside").unwrap();
    symlink("a", at("b")).unwrap();
    fs::write(at("archive"), gzip(tar)).unwrap();
    let limits = Limits { unpacked_bytes: 1 << 20, entries: 50, ..Limits::default() };
    let reader = File::open(at("archive")).unwrap();
    let archive = Archive { bytes: reader.metadata().unwrap().len(), reader, kind: ArchiveKind::TarGz };
    let into = Destination::Tree { dir: &at("stage/tree"), in_flight: 4, spare: None };
    let unpacked = unpack(archive, into, &Rules { limits: &limits, layout, off: &CallOff::default() });
    assert_eq!(fs::read_to_string(at("a")).unwrap(), "outside");
    assert_eq!(fs::metadata(at("a")).unwrap().nlink(), 1, "no further name");
    assert_eq!(fs::read_link(at("b")).unwrap(), Path::new("a"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing new outside");
    let Ok(unpacked) = unpacked else { return false };
    let mut root = at("stage/tree").canonicalize().unwrap();
    root.extend(&unpacked.prefix);
    let linked = unpacked.links.iter().map(|link| root.join(&link.path)).collect::<Vec<_>>();
    check_inside(&root, &root, &linked);
    true
}

fn check_inside(root: &Path, dir: &Path, linked: &[std::path::PathBuf]) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            check_inside(root, &path, linked);
        } else if entry.file_type().unwrap().is_symlink() && !linked.contains(&path) {
            let target = path.canonicalize();
            assert!(target.as_ref().map_or(true, |t| t.starts_with(root)), "{path:?} leads to {target:?}");
        }
    }
}

pub fn layout() -> impl Strategy<Value = Layout> {
    (any::<bool>(), any::<bool>()).prop_map(|(strip_prefix, linked)| Layout {
        strip_prefix,
        linked_dirs: linked.then(|| "c/d".into()).into_iter().collect(),
        ..Layout::default()
    })
}

pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn entries_in_any_order_harm_nothing(items in prop::collection::vec(item(), 1..8), layout in layout()) {
        harms_nothing(&tar(&items), &layout);
    }

    #[test]
    fn flipped_bytes_harm_nothing(
        items in prop::collection::vec(item(), 1..5),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        layout in layout(),
    ) {
        let mut tar = tar(&items);
        for (at, byte) in flips {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        if let Some(cut) = cut {
            tar.truncate(cut.index(tar.len()));
        }
        harms_nothing(&tar, &layout);
    }
}

#[test]
fn the_archives_at_random_are_not_all_refused() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let items = prop::collection::vec(item(), 1..4);
    let taken = (0..300)
        .filter(|_| harms_nothing(&tar(&items.new_tree(&mut runner).unwrap().current()), &Layout::default()));
    assert!(taken.count() > 10);
}
