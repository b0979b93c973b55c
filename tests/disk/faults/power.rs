//! The power is lost after each change: what was not synced is gone.

use pitstop_rig::{needs_root, slow_volume::Survives};

use super::{Work, tried};

fn lost_after_each_change(ran: &[&str]) -> u64 {
    let mut work = Work::fetch(ran);
    let volume = work.mount();
    volume.steps().start_recording();
    let mut running = work.start();
    assert!(running.0.wait().unwrap().success());
    let passed = volume.steps().fail_points();
    assert!(passed.iter().any(|point| point == "fetch.synced"), "{passed:?}");
    let recorded = volume.steps().recorded();
    drop(volume);
    assert!(recorded.len() >= 40, "only {}", recorded.len());
    for (at, snapshot) in recorded.iter().enumerate() {
        for survives in [Survives::Names, Survives::Nothing] {
            let context = format!("power lost after change {}, not synced survives: {survives:?}", at + 1);
            work.rig.deploy_to = work.rig.dir.path().join(format!("after-{at}-{survives:?}"));
            snapshot.write_to(&work.rig.deploy_to, survives);
            let current = work.rig.release_at_current();
            let allowed = current.as_deref().is_none_or(|is| is == "new" || ran.last() == Some(&is));
            assert!(allowed && (current.is_some() || ran.is_empty()), "{context}: {current:?}");
            work.rig.assert_whole();
            work.rig.assert_arrives(&context);
            std::fs::remove_dir_all(&work.rig.deploy_to).unwrap();
        }
    }
    recorded.len() as u64 * 2
}

#[test]
fn power_lost_after_each_change_of_a_fetch_leaves_current_complete_and_the_next_start_arrives() {
    needs_root!();
    let times = lost_after_each_change(&["v1"]);
    let test = "power_lost_after_each_change_of_a_fetch_leaves_current_complete_and_the_next_start_arrives";
    tried(test, "power lost after each change of `pitstop fetch`", times, "");
}

#[test]
fn power_lost_after_each_change_of_a_first_fetch_leaves_a_complete_release_or_none() {
    needs_root!();
    let times = lost_after_each_change(&[]);
    let test = "power_lost_after_each_change_of_a_first_fetch_leaves_a_complete_release_or_none";
    tried(test, "the same of the first one", times, "a complete release or none");
}
