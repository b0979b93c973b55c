//! Killed at every fail point and started again.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use pitstop::{
    core::Record,
    releases::FAIL_POINTS,
    revision::{RecordEvent, Revision},
    revisions_log::{self, Log},
};
use pitstop_rig::wait_until;

use crate::rig::{Rig, Running, at_once, id};

/// Those that `pitstop fetch` passes.
fn points_of_fetch() -> impl Iterator<Item = &'static str> {
    FAIL_POINTS.iter().copied().filter(|name| !name.starts_with("prune."))
}

fn kill_at(rig: &Rig, point: &str) {
    let hits = rig.dir.path().join("hits");
    std::fs::create_dir_all(&hits).unwrap();
    let mut command = rig.command(&["fetch"]);
    command.env("PITSTOP_FAILPOINTS", point).env("PITSTOP_FAILPOINT_DIR", &hits);
    let mut running = Running(command.spawn().unwrap());
    wait_until(point, || {
        // What an app server would see at this very moment.
        rig.release_at_current();
        hits.join(point).exists()
    });
    running.kill();
}

#[test]
fn current_is_complete_at_every_moment_and_the_next_start_completes() {
    for point in points_of_fetch() {
        let rig = Rig::new();
        rig.promote("v1");
        rig.ok(&["fetch"]);
        rig.promote("v2");
        kill_at(&rig, point);
        let after_kill = rig.release_at_current();
        assert!(matches!(after_kill.as_deref(), Some("v1" | "v2")), "{point}: {after_kill:?}");
        rig.ok(&["fetch"]);
        assert_eq!(rig.release_at_current().as_deref(), Some("v2"), "{point}");
        assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()), "{point}");
    }
}

#[test]
fn the_first_fetch_of_a_volume_is_complete_or_absent_as_well() {
    for point in points_of_fetch() {
        let rig = Rig::new();
        rig.promote("v1");
        kill_at(&rig, point);
        rig.release_at_current();
        rig.ok(&["fetch"]);
        assert_eq!(rig.release_at_current().as_deref(), Some("v1"), "{point}");
    }
}

#[test]
fn cleaning_up_spares_what_a_living_process_works_on() {
    let rig = Rig::new();
    rig.promote("v1");
    let hits = rig.dir.path().join("hits");
    std::fs::create_dir_all(&hits).unwrap();
    let mut command = rig.command(&["fetch"]);
    command.env("PITSTOP_FAILPOINTS", "fetch.unpacked").env("PITSTOP_FAILPOINT_DIR", &hits);
    let mut running = Running(command.spawn().unwrap());
    wait_until("the first to unpack", || hits.join("fetch.unpacked").exists());
    rig.promote("v2");
    rig.ok(&["fetch"]);
    assert_eq!(rig.leftovers().len(), 2, "the living one's directory and lock");
    running.kill();
    assert_eq!(rig.releases().clean_leftovers(&at_once), Ok(1));
    assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()));
}

#[test]
fn a_fetch_that_fails_moves_what_it_made_aside_and_deletes_none_of_it() {
    let rig = Rig::new();
    rig.put_archive_as("v1", "tar.zst", &[0; 1000], &"0".repeat(64));
    rig.fetch("v1").unwrap_err();
    assert_eq!((rig.leftovers(), rig.abandoned().len()), (Vec::new(), 1));
    let trash = rig.deploy_to.join(".pitstop/trash").join(&rig.abandoned()[0]);
    assert!(std::fs::read_dir(trash).unwrap().count() > 0, "as it was");
    // By any pod.
    assert_eq!(rig.of_pod("web-7").clean_leftovers(&at_once), Ok(1));
    assert_eq!(rig.abandoned(), Vec::<String>::new());
}

/// Runs the same test once more, as a process that can be killed, until it stops at a fail point.
pub fn kill_myself_at(test: &str, rig: &Rig, point: &str) {
    let hits = rig.dir.path().join("hits");
    std::fs::create_dir_all(&hits).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact"]).env(CHILD, &rig.deploy_to).stdout(Stdio::null());
    command.env("PITSTOP_FAILPOINTS", point).env("PITSTOP_FAILPOINT_DIR", &hits);
    let mut running = Running(command.spawn().unwrap());
    wait_until(point, || hits.join(point).exists());
    running.kill();
}

pub const CHILD: &str = "DISK_TEST_CHILD_DEPLOY_TO";

fn record(event: RecordEvent) -> Record {
    let revision = Revision { release: id("v1"), sequence: Some(1) };
    Record { event, revision, reason: None, baseline: None, mode: None }
}

#[test]
fn a_journal_killed_in_an_append_has_the_line_or_not_and_takes_the_next() {
    if let Some(deploy_to) = std::env::var_os(CHILD) {
        let path = revisions_log::path(Path::new(&deploy_to), "web-0");
        return Log::open(path).unwrap().0.append(&record(RecordEvent::Verified)).unwrap();
    }
    let test = "crash::a_journal_killed_in_an_append_has_the_line_or_not_and_takes_the_next";
    let (attempt, verified) = (record(RecordEvent::Attempt), record(RecordEvent::Verified));
    for point in revisions_log::FAIL_POINTS {
        let rig = Rig::new();
        let path = revisions_log::path(&rig.deploy_to, "web-0");
        Log::open(path.clone()).unwrap().0.append(&attempt).unwrap();
        kill_myself_at(test, &rig, point);
        let (mut log, mut expected) = Log::open(path.clone()).unwrap();
        let whole = [attempt.clone(), verified.clone()];
        assert_eq!(expected, whole[..if *point == "journal.half_written" { 1 } else { 2 }], "{point}");
        let rejected = record(RecordEvent::Rejected);
        log.append(&rejected).unwrap();
        expected.push(rejected);
        assert_eq!(Log::open(path).unwrap().1, expected, "{point}");
    }
}
