//! How often a volume is asked: over a network each operation has its latency. Counted, not timed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pitstop_rig::{SlowVolume, needs_root};

use crate::rig::{Rig, at_once, id, nothing};

/// As many of both as a Rails release has, at a thirtieth of its size.
pub const FILES: u64 = 1_140;
const DIRECTORIES: u64 = 190;
/// For the lock, the lease, the marker, the renames and their directories.
pub const PER_FETCH: u64 = 100;

fn shell(at: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(at).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A release with a thousand small files in many directories, published and promoted.
pub fn large_app(rig: &Rig, release: &str) {
    promote(rig, release, &large_tree(rig, release));
}

fn promote(rig: &Rig, release: &str, app: &Path) {
    rig.ok(&["publish", app.to_str().unwrap(), "--release", release]);
    rig.ok(&["promote", release]);
}

fn large_tree(rig: &Rig, release: &str) -> PathBuf {
    let app = rig.app(release);
    for directory in 0..DIRECTORIES {
        let at = app.join(format!("vendor/area_{}/{directory}", directory % 7));
        fs::create_dir_all(&at).unwrap();
        for file in 0..FILES / DIRECTORIES {
            fs::write(at.join(format!("{file}.rb")), format!("{directory} {file}\n").repeat(40)).unwrap();
        }
    }
    app
}

#[test]
fn a_slow_volume_is_a_file_system_and_counts_what_it_is_asked() {
    needs_root!();
    let dir = tempfile::tempdir().unwrap();
    let volume = SlowVolume::mount(&dir.path().join("volume"), Duration::from_micros(100), 8);
    let script = "mkdir -p a/b; echo one > a/b/one; ln a/b/one two; ln -s a/b link; echo more >> link/one; mv a/b c; \
                  cat two; ls -R c; stat -c '%a %h %s' c/one; rm two; rmdir a; readlink link; stat -c %h c/one";
    let said = shell(volume.path(), script);
    assert_eq!(said, "one\nmore\nc:\none\n644 2 9\na/b\n1\n");
    let counts = volume.counts();
    let of = |name: &str| counts.by_name[name];
    assert_eq!(
        (of("create"), of("mkdir"), of("link"), of("symlink"), of("rename")),
        (1, 2, 1, 1, 1),
        "{counts}"
    );
    assert_eq!((of("unlink"), of("rmdir")), (1, 1), "{counts}");
    let other = volume.from_another_node(&dir.path().join("other"));
    assert_eq!(shell(other.path(), "cat c/one; echo three > c/three"), "one\nmore\n");
    assert_eq!(shell(volume.path(), "cat c/three"), "three\n");
    volume.reset();
    assert_eq!(volume.counts().operations, 0);
}

#[test]
fn a_first_fetch_asks_a_volume_about_twice_for_each_file() {
    needs_root!();
    let rig = Rig::new();
    large_app(&rig, "v1");
    let volume = SlowVolume::mount(&rig.deploy_to, Duration::ZERO, 64);
    rig.ok(&["fetch"]);
    let counts = volume.counts();
    assert_eq!(rig.release_at_current().as_deref(), Some("v1"));
    // One to create a file, one to write it, and the directories.
    let bound = FILES * 22 / 10 + PER_FETCH;
    assert!(counts.operations <= bound, "more than {bound}: {counts}");
}

#[test]
fn a_fetch_of_the_next_release_asks_a_volume_only_for_what_differs() {
    needs_root!();
    let rig = Rig::new();
    large_app(&rig, "v1");
    let volume = SlowVolume::mount(&rig.deploy_to, Duration::ZERO, 64);
    rig.ok(&["fetch"]);
    let spare = rig.releases().make_spare(&id("v1"), 5, &nothing, &at_once);
    assert!(spare.unwrap().is_some());
    let app = large_tree(&rig, "v2");
    // The rig's own app says in each of its files which release it is.
    let mut differ = 6;
    for directory in 0..48 {
        let at = app.join(format!("vendor/area_{}/{directory}", directory % 7));
        match directory {
            0..40 => fs::write(at.join("3.rb"), "changed").unwrap(),
            40..45 => fs::write(at.join("added.rb"), "added").unwrap(),
            _ => fs::remove_file(at.join("5.rb")).unwrap(),
        }
        differ += 1;
    }
    promote(&rig, "v2", &app);
    volume.reset();
    rig.ok(&["fetch"]);
    let counts = volume.counts();
    assert_eq!(rig.release_at_current().as_deref(), Some("v2"));
    let bound = differ * 55 / 10 + PER_FETCH;
    assert!(counts.operations <= bound, "more than {bound}: {counts}");
}
