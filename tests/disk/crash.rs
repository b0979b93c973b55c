//! Killed at every fail point and started again.

use pitstop::releases::FAIL_POINTS;

use crate::rig::{Rig, Running, wait_until};

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
        assert_eq!(rig.leftovers(), Vec::<String>::new(), "{point}");
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
    rig.ok(&["fetch"]);
    assert_eq!(rig.leftovers().len(), 2, "the living one's directory and lock");
    running.kill();
    rig.releases().clean_leftovers().unwrap();
    assert_eq!(rig.leftovers(), Vec::<String>::new());
}
