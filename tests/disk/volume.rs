//! Full, read-only and shared volumes; a store that is gone. The mounts need root.

use std::{fs, path::Path, process::Command};

use pitstop::{
    core::{Reason, Record},
    releases::{Limits, Releases},
    revision::{RecordEvent, Revision},
    revisions_log::{self, Log},
};

use crate::rig::{Rig, id};

/// A file system of its own, unmounted when dropped.
pub struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    pub fn tmpfs(at: &'a Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at));
        Self(at)
    }

    pub fn read_only(&self) {
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(self.0));
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?} (this test needs root)");
}

fn attempt() -> Record {
    let revision = Revision { release: id("v2"), sequence: Some(2) };
    Record { event: RecordEvent::Attempt, revision, reason: None, baseline: None, mode: None }
}

/// An archive that is much smaller than what it unpacks to, so that no check beforehand can know.
fn publish_big(rig: &Rig, release: &str, bytes: usize) {
    let app = rig.app(release);
    fs::write(app.join("big"), vec![7; bytes]).unwrap();
    rig.ok(&["publish", app.to_str().unwrap(), "--release", release]);
}

#[test]
fn a_volume_that_fills_up_while_unpacking_keeps_what_runs() {
    let rig = Rig::new();
    let _volume = Mounted::tmpfs(&rig.deploy_to, "2m");
    rig.promote("v1");
    rig.ok(&["fetch"]);
    publish_big(&rig, "v2", 8 << 20);
    let problem = rig.fetch("v2").unwrap_err();
    assert_eq!(problem.reason, Reason::NoSpace, "{}", problem.message);
    let first =
        format!("the volume at {} is full (0 of 2 MB free): free space on it", rig.deploy_to.display());
    assert!(problem.message.starts_with(&first), "{}", problem.message);
    assert!(!problem.message.contains("/proc/self"), "{}", problem.message);
    assert_eq!(rig.leftovers(), Vec::<String>::new());
    assert_eq!(rig.release_at_current().as_deref(), Some("v1"));
}

#[test]
fn a_volume_without_room_is_known_before_the_download() {
    let rig = Rig::new();
    let _volume = Mounted::tmpfs(&rig.deploy_to, "1m");
    let noise: Vec<u8> = (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let app = rig.app("v1");
    fs::write(app.join("noise"), noise).unwrap();
    rig.ok(&["publish", app.to_str().unwrap(), "--release", "v1"]);
    fs::write(rig.deploy_to.join("filler"), vec![0; 900 << 10]).unwrap();
    let problem = rig.fetch("v1").unwrap_err();
    assert_eq!(problem.reason, Reason::NoSpace);
    let first = format!("the volume at {} has no room for v1 (0 of 1 MB free)", rig.deploy_to.display());
    assert!(
        problem.message.starts_with(&first) && problem.message.contains("needs about"),
        "{}",
        problem.message
    );
}

#[test]
fn a_full_volume_refuses_the_journal_and_takes_it_again_later() {
    let rig = Rig::new();
    let _volume = Mounted::tmpfs(&rig.deploy_to, "1m");
    let path = revisions_log::path(&rig.deploy_to, "web-0");
    let (mut log, _) = Log::open(path.clone()).unwrap();
    log.append(&attempt()).unwrap();
    let filler = rig.deploy_to.join("filler");
    let _ = fs::write(&filler, vec![0; 2 << 20]);
    // A page holds some lines yet.
    let refused = (0..200).find_map(|_| log.append(&attempt()).err()).unwrap();
    assert_eq!(refused.reason, Reason::NoSpace);
    let first = format!("the volume at {} is full (0 of 1 MB free)", rig.deploy_to.display());
    assert!(refused.message.starts_with(&first), "{}", refused.message);
    let before = Log::open(path.clone()).unwrap().1.len();
    fs::remove_file(filler).unwrap();
    log.append(&attempt()).unwrap();
    assert_eq!(Log::open(path).unwrap().1.len(), before + 1);
}

#[test]
fn a_read_only_volume_is_named_and_still_read() {
    let rig = Rig::new();
    let volume = Mounted::tmpfs(&rig.deploy_to, "4m");
    rig.promote("v1");
    rig.ok(&["fetch"]);
    rig.promote("v2");
    let path = revisions_log::path(&rig.deploy_to, "web-0");
    Log::open(path.clone()).unwrap().0.append(&attempt()).unwrap();
    volume.read_only();
    let problem = rig.fetch("v2").unwrap_err();
    assert_eq!(problem.reason, Reason::VolumeUnavailable);
    assert!(problem.message.contains("read-only") && problem.message.contains("srv/"), "{}", problem.message);
    assert_eq!(rig.releases().publish(&id("v1")).unwrap_err().reason, Reason::VolumeUnavailable);
    let (mut log, records) = Log::open(path).unwrap();
    assert_eq!(records, [attempt()]);
    assert_eq!(log.append(&attempt()).unwrap_err().reason, Reason::VolumeUnavailable);
    assert_eq!(rig.releases().current(), Ok(Some(id("v1"))));
}

#[test]
fn a_store_that_is_gone_is_not_an_unknown_release() {
    let rig = Rig::new();
    rig.promote("v1");
    assert_eq!(rig.fetch("v9").unwrap_err().reason, Reason::ReleaseUnknown);
    fs::rename(rig.store_dir(), rig.dir.path().join("away")).unwrap();
    assert_eq!(rig.fetch("v9").unwrap_err().reason, Reason::StoreUnreachable);
    // As an unmounted share looks.
    fs::create_dir(rig.store_dir()).unwrap();
    assert_eq!(rig.fetch("v1").unwrap_err().reason, Reason::StoreUnreachable);
}

#[test]
fn agents_that_fetch_at_the_same_time_share_one_release() {
    let rig = Rig::new();
    rig.publish("v1");
    let fetched: Vec<_> = std::thread::scope(|scope| {
        let fetch = |pod: &'static str| {
            let rig = &rig;
            scope.spawn(move || {
                let releases = Releases::new(rig.deploy_to.clone(), rig.current(), pod, Limits::default());
                rig.fetch_with(&releases, "v1").unwrap()
            })
        };
        let all: Vec<_> = ["web-0", "web-1", "web-2"].map(fetch).into_iter().collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(fetched.iter().filter(|f| !f.was_there).count(), 1, "{fetched:?}");
    rig.releases().publish(&id("v1")).unwrap();
    assert_eq!(rig.release_at_current().as_deref(), Some("v1"));
    assert_eq!(rig.leftovers(), Vec::<String>::new());
}

#[test]
fn a_directory_of_somebody_else_is_neither_used_nor_deleted() {
    let rig = Rig::new();
    rig.publish("v1");
    let foreign = rig.deploy_to.join("releases/v1");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("mine"), "").unwrap();
    let problem = rig.fetch("v1").unwrap_err();
    assert!(problem.message.contains("was not made by pitstop; move it away"), "{}", problem.message);
    assert!(foreign.join("mine").exists());
}
