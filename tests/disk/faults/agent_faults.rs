//! A whole deploy of a real agent, with a fault at each of its steps.

use std::time::Duration;

use pitstop_rig::{
    needs_root, poll,
    slow_volume::{Among, Gone, Survives, Trouble},
};
use rustix::io::Errno;

use super::{
    agent::{Pod, said_so, side_by_side, steps_of_a_deploy},
    every, tried,
};
use crate::rig::Rig;

/// Those steps that are tried: all of them by `make test-edge`, or those in `RIG_STEP` (`7`, `1-250`).
fn chosen(steps: u64, one_in: u64) -> Vec<u64> {
    if let Ok(only) = std::env::var("RIG_STEP") {
        let (from, to) = only.split_once('-').unwrap_or((&only, &only));
        return (from.parse().unwrap()..=steps.min(to.parse().unwrap())).collect();
    }
    (1..=steps).step_by(if every() { 1 } else { one_in as usize }).collect()
}

/// A deploy to `to`, after which `at` runs.
fn killed_at_each_change(to: &str, at: &str, one_in: u64) -> u64 {
    let before = Pod::before(to);
    let steps = steps_of_a_deploy(&before, to, Among::Changes);
    let kills = side_by_side(6, chosen(steps, one_in), |step| {
        let mut pod = Pod::from(&before);
        pod.volume().steps().arm(Among::Changes, step, Trouble::Stops);
        pod.start();
        let gone = if step % 2 == 0 { Gone::Written } else { Gone::Lost };
        let context = format!("killed at change {step} of a deploy of {to}, {gone:?}");
        let met = pod.meets_trouble(&context);
        let _ = pod.process().0.kill();
        pod.volume().steps().client_is_gone(gone);
        pod.kill();
        pod.mount_anew();
        pod.assert_sound(to, &context);
        let is = pod.rig.release_at_current();
        assert!(
            is.as_deref() != Some(to) || said_so(&pod.rig.deploy_to, to),
            "{context}: moved without a word"
        );
        pod.start();
        pod.assert_arrives(at, &context);
        met
    });
    println!("a deploy of {to} has {steps} changes; killed at {kills} of them");
    kills as u64
}

#[test]
fn an_agent_killed_at_any_change_of_a_deploy_arrives_after_the_next_start() {
    needs_root!();
    let kills = killed_at_each_change("new", "new", 1);
    let test = "an_agent_killed_at_any_change_of_a_deploy_arrives_after_the_next_start";
    tried(test, "kill -9 of the agent before each change of a deploy", kills, "");
}

#[test]
fn an_agent_killed_at_any_change_of_a_deploy_that_fails_rejects_it_and_goes_back() {
    needs_root!();
    let kills = killed_at_each_change("bad", "v1", 4);
    let test = "an_agent_killed_at_any_change_of_a_deploy_that_fails_rejects_it_and_goes_back";
    tried(test, "the same of a deploy that fails", kills, "the failed one stayed rejected");
}

/// The volume is in trouble from a step on, and well again when the agent has met it a few times.
fn in_trouble_at_each(among: Among, troubles: &[Trouble], one_in: u64) -> u64 {
    let before = Pod::before("new");
    let steps = steps_of_a_deploy(&before, "new", among);
    let met = side_by_side(6, chosen(steps, one_in), |step| {
        let nth = if every() { step } else { step / one_in };
        let trouble = troubles[nth as usize % troubles.len()];
        let context = format!("{trouble:?} from step {step} among {among:?} on");
        let mut pod = Pod::from(&before);
        pod.volume().steps().arm(among, step, trouble);
        pod.start();
        let met = pod.meets_trouble(&context);
        if matches!(trouble, Trouble::FailsOn(_)) {
            poll(Duration::from_secs(2), || (pod.volume().steps().met() > 5).then_some(()));
        }
        assert!(["v1", "new"].contains(&&*pod.serves()), "{context}");
        pod.volume().steps().heal();
        pod.assert_sound("new", &context);
        pod.assert_arrives("new", &context);
        assert!(pod.process().0.try_wait().unwrap().is_none(), "{context}: the agent ended");
        met
    });
    println!("a deploy has {steps} steps among {among:?}; in trouble at {met} of them");
    met as u64
}

#[test]
fn an_agent_whose_volume_fails_at_any_operation_arrives_once_it_is_well() {
    needs_root!();
    let errors = [Errno::IO, Errno::STALE, Errno::MFILE];
    let met = in_trouble_at_each(Among::All, &errors.map(|e| Trouble::Fails(e.raw_os_error())), 16);
    let test = "an_agent_whose_volume_fails_at_any_operation_arrives_once_it_is_well";
    tried(test, "EIO, ESTALE or EMFILE at an operation of a deploy", met, "");
}

#[test]
fn an_agent_whose_volume_takes_no_change_from_any_moment_on_arrives_once_it_does() {
    needs_root!();
    let errors = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO];
    let met = in_trouble_at_each(Among::Changes, &errors.map(|e| Trouble::FailsOn(e.raw_os_error())), 6);
    let test = "an_agent_whose_volume_takes_no_change_from_any_moment_on_arrives_once_it_does";
    tried(test, "ENOSPC, EDQUOT, EROFS or EIO from a change of a deploy on", met, "");
}

/// Longer than the agent waits for one effect on the volume.
const HANG: Duration = Duration::from_secs(30);

#[test]
fn an_agent_whose_volume_hangs_for_half_a_minute_at_any_change_answers_meanwhile_and_arrives() {
    needs_root!();
    let before = Pod::before("new");
    let steps = steps_of_a_deploy(&before, "new", Among::Changes);
    let met = side_by_side(12, chosen(steps, 13), |step| {
        let context = format!("a hang at change {step}");
        let mut pod = Pod::from(&before);
        pod.volume().steps().arm(Among::Changes, step, Trouble::Stops);
        pod.start();
        let met = pod.meets_trouble(&context);
        poll(HANG, || {
            pod.wait("answering", &context, |_| true);
            assert!(["v1", "new"].contains(&&*pod.serves()), "{context}");
            None::<()>
        });
        pod.volume().steps().heal();
        pod.assert_sound("new", &context);
        pod.assert_arrives("new", &context);
        assert!(pod.process().0.try_wait().unwrap().is_none(), "{context}: the agent ended");
        met
    });
    let test = "an_agent_whose_volume_hangs_for_half_a_minute_at_any_change_answers_meanwhile_and_arrives";
    tried(test, "30 s without an answer at a change of a deploy", met as u64, "`/status` answered");
}

#[test]
fn power_lost_at_any_change_of_a_deploy_leaves_a_pod_that_arrives() {
    needs_root!();
    let before = Pod::before("new");
    let mut pod = Pod::from(&before);
    pod.volume().steps().start_recording();
    pod.start();
    pod.assert_arrives("new", "without any trouble");
    let recorded = pod.volume().steps().recorded();
    drop(pod);
    for (at, snapshot) in recorded.iter().enumerate() {
        for survives in [Survives::Names, Survives::Nothing] {
            let mut rig = Rig::new();
            let place = rig.dir.path().join("left");
            snapshot.write_to(&place, survives);
            rig.deploy_to = place.join("srv");
            let context = format!("power lost after change {}, not synced survives: {survives:?}", at + 1);
            let current = rig.release_at_current();
            assert!(matches!(current.as_deref(), Some("v1" | "new")), "{context}: {current:?}");
            rig.assert_whole();
            assert!(
                current.as_deref() == Some("v1") || said_so(&rig.deploy_to, "new"),
                "{context}: moved without a word"
            );
            // Whatever is left of a journal is read.
            std::os::unix::fs::symlink(place.join("store"), rig.store_dir()).unwrap();
            rig.assert_arrives(&context);
        }
    }
    let test = "power_lost_at_any_change_of_a_deploy_leaves_a_pod_that_arrives";
    tried(test, "power lost after each change of a deploy", recorded.len() as u64 * 2, "");
}
