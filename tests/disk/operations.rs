//! How often a volume is asked: over a network each operation has its latency. Counted, not timed.

use std::{fs, path::Path, process::Command, time::Duration};

use pitstop_rig::{SlowVolume, is_root};

use crate::rig::Rig;

/// As many of both as a Rails release has, at a thirtieth of its size.
const FILES: u64 = 1_140;
const DIRECTORIES: u64 = 190;
/// For the lock, the lease, the marker, the renames and their directories.
pub const PER_FETCH: u64 = 100;

fn shell(at: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(at).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A release with a thousand small files in many directories.
pub fn large_app(rig: &Rig, release: &str) {
    let app = rig.app(release);
    for directory in 0..DIRECTORIES {
        let at = app.join(format!("vendor/area_{}/{directory}", directory % 7));
        fs::create_dir_all(&at).unwrap();
        for file in 0..FILES / DIRECTORIES {
            fs::write(at.join(format!("{file}.rb")), format!("{directory} {file}\n").repeat(40)).unwrap();
        }
    }
    rig.ok(&["publish", app.to_str().unwrap(), "--release", release]);
    rig.ok(&["promote", release]);
}

#[test]
fn a_slow_volume_is_a_file_system_and_counts_what_it_is_asked() {
    if !is_root() {
        return;
    }
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
    if !is_root() {
        return;
    }
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
