//! An error, or no answer, at each single operation; then the volume is well again.

use pitstop_rig::{
    needs_root,
    slow_volume::{Among, Trouble},
};
use rustix::io::Errno;

use super::{Work, every, soon, tried, until_met};

/// Those that any operation may meet.
const ANYWHERE: [Errno; 4] = [Errno::IO, Errno::STALE, Errno::MFILE, Errno::ACCESS];
/// Those of a change, which go on until somebody does something about it.
const ON_A_CHANGE: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO];

/// Each trouble at each step until the work ends without it.
fn at_each(work: &Work, among: Among, troubles: &[Trouble]) -> u64 {
    let mut met = 0;
    for at in 1.. {
        let chosen = [troubles[at as usize % troubles.len()]];
        for trouble in if every() { troubles } else { &chosen } {
            let volume = work.mount();
            volume.steps().arm(among, at, *trouble);
            let mut running = work.start();
            if !until_met(&volume, &mut running) {
                return met;
            }
            met += 1;
            let context = format!("{trouble:?} at step {at} among {among:?}");
            if *trouble == Trouble::Stops {
                // Others see what there is.
                assert!(work.rig.release_at_current().is_some(), "{context}");
            } else {
                // It fails and says so, or does without.
                let ended = running.0.wait().unwrap();
                assert!(matches!(ended.code(), Some(0 | 1)), "{context}: {ended}");
            }
            volume.steps().heal();
            running.0.wait().unwrap();
            let current = work.rig.release_at_current();
            assert!(matches!(current.as_deref(), Some("v1" | "new")), "{context}: {current:?}");
            work.rig.assert_whole();
            work.rig.assert_arrives_at_last(&context);
        }
    }
    met
}

#[test]
fn an_error_at_any_operation_leaves_current_complete_and_the_next_start_arrives() {
    needs_root!();
    let work = Work::fetch(&["v1"]);
    let met = at_each(&work, Among::All, &ANYWHERE.map(|e| Trouble::Fails(e.raw_os_error())));
    assert!(met >= 100, "only {met}");
    let test = "an_error_at_any_operation_leaves_current_complete_and_the_next_start_arrives";
    tried(test, "EIO, ESTALE, EMFILE or EACCES at each operation of `pitstop fetch`", met, "");
}

#[test]
fn a_volume_that_refuses_all_changes_from_any_moment_on_and_heals_is_arrived_at() {
    needs_root!();
    let work = Work::fetch(&["v1"]);
    let met = at_each(&work, Among::Changes, &ON_A_CHANGE.map(|e| Trouble::FailsOn(e.raw_os_error())));
    assert!(met >= 40, "only {met}");
    let test = "a_volume_that_refuses_all_changes_from_any_moment_on_and_heals_is_arrived_at";
    tried(test, "ENOSPC, EDQUOT, EROFS or EIO from each change of it on", met, "");
}

#[test]
fn a_volume_that_stops_answering_at_any_change_is_waited_for() {
    needs_root!();
    let work = Work::fetch(&["v1"]);
    let met = at_each(&work, Among::Changes, &[Trouble::Stops]);
    assert!(met >= 40, "only {met}");
    let test = "a_volume_that_stops_answering_at_any_change_is_waited_for";
    tried(test, "no answer at each change of it", met, "");
    soon("nothing is left", || work.rig.leftovers().is_empty());
}
