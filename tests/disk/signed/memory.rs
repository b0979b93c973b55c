//! What a pod remembers of the newest statement, in `state_dir`: a kill or an error at each step of writing it never
//! makes the pod follow an older one that it had left behind, and never keeps it from starting.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use pitstop_rig::{
    SlowVolume, needs_root,
    slow_volume::{Among, Gone, Snapshot, Survives, Trouble},
    tried,
};
use rustix::io::Errno;
use serde_json::Value;

use super::Signed;
use crate::{faults::until_met, rig::Running};

/// A pod that has followed the pointer to v1 and is to follow it to v2.
struct Case {
    signed: Signed,
    place: PathBuf,
    before: Snapshot,
    old: Value,
    new: Value,
}

impl Case {
    fn new() -> Self {
        let signed = Signed::new();
        let place = signed.rig.dir.path().join("state");
        let volume = SlowVolume::mount(&place, Duration::ZERO, 16);
        signed.deploy("v1");
        signed.runs("v1");
        let (before, old) = (volume.snapshot(), signed.pointer());
        drop(volume);
        signed.deploy("v2");
        let new = signed.pointer();
        Self { signed, place, before, old, new }
    }

    /// The pod before it has seen the new pointer.
    fn pod(&self) -> SlowVolume {
        self.signed.put_pointer(&self.new);
        let _ = fs::remove_dir_all(&self.signed.rig.deploy_to);
        SlowVolume::mount_again(&self.place, &self.before)
    }

    fn start(&self) -> Running {
        let mut command = self.signed.command(&["fetch"]);
        let child: Child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Running(child)
    }

    fn current(&self) -> Option<String> {
        self.signed.rig.release_at_current()
    }

    /// Somebody puts the old pointer back, and then the new one, and the old one again.
    fn assert_never_back(&self, context: &str) {
        let followed = self.current().as_deref() == Some("v2");
        self.signed.put_pointer(&self.old);
        self.signed.run(&["fetch"]);
        // A pod that has seen the new pointer and nothing of the new release yet has nothing to run until it is back.
        let is = self.current();
        assert!(is.as_deref() == Some("v2") || !followed, "{context}: {is:?}");
        self.signed.put_pointer(&self.new);
        self.signed.ok(&["fetch"]);
        assert_eq!(self.current().as_deref(), Some("v2"), "{context}");
        self.signed.put_pointer(&self.old);
        self.signed.run(&["fetch"]);
        assert_eq!(self.current().as_deref(), Some("v2"), "{context}: it went back");
    }
}

#[test]
fn a_pod_killed_at_any_change_of_state_dir_follows_no_older_pointer_afterwards() {
    needs_root!();
    let case = Case::new();
    let mut kills = 0;
    for at in 1.. {
        let volume = case.pod();
        volume.steps().arm(Among::Changes, at, Trouble::Stops);
        let mut running = case.start();
        if !until_met(&volume, &mut running) {
            break;
        }
        let gone = if at % 2 == 0 { Gone::Written } else { Gone::Lost };
        let _ = running.0.kill();
        volume.steps().client_is_gone(gone);
        running.0.wait().unwrap();
        let left = volume.snapshot();
        drop(volume);
        let _volume = SlowVolume::mount_again(&case.place, &left);
        case.assert_never_back(&format!("killed at change {at} of state_dir, {gone:?}"));
        kills += 1;
    }
    assert!(kills >= 4, "only {kills}");
    let test = "a_pod_killed_at_any_change_of_state_dir_follows_no_older_pointer_afterwards";
    let seen = "no older signed pointer was followed";
    tried(test, "kill -9 before each change of `state_dir`", kills, seen);
}

#[test]
fn power_lost_after_any_change_of_state_dir_brings_no_older_pointer_back() {
    needs_root!();
    let case = Case::new();
    let volume = case.pod();
    volume.steps().start_recording();
    case.signed.runs("v2");
    let recorded = volume.steps().recorded();
    drop(volume);
    for (at, snapshot) in recorded.iter().enumerate() {
        for survives in [Survives::Names, Survives::Nothing] {
            // What is in deploy_to was synced before, or is on another machine.
            let is_last = at + 1 == recorded.len();
            let _ = fs::remove_dir_all(&case.place);
            snapshot.write_to(&case.place, survives);
            if !is_last {
                let _ = fs::remove_dir_all(&case.signed.rig.deploy_to);
            }
            case.assert_never_back(&format!("power lost after change {} of state_dir, {survives:?}", at + 1));
        }
    }
    assert!(recorded.len() >= 4, "only {}", recorded.len());
    let test = "power_lost_after_any_change_of_state_dir_brings_no_older_pointer_back";
    tried(test, "power lost after each change of it", recorded.len() as u64 * 2, "");
}

#[test]
fn a_state_dir_that_fails_at_any_change_keeps_no_pod_from_starting() {
    needs_root!();
    let case = Case::new();
    let errors = [Errno::NOSPC, Errno::IO, Errno::ROFS].map(|e| e.raw_os_error());
    let mut met = 0;
    for at in 1.. {
        let errno = errors[at as usize % errors.len()];
        let trouble = if at % 2 == 0 { Trouble::Fails(errno) } else { Trouble::FailsOn(errno) };
        let context = format!("{trouble:?} at change {at} of state_dir");
        let volume = case.pod();
        volume.steps().arm(Among::Changes, at, trouble);
        case.signed.ok(&["fetch"]);
        assert_eq!(case.current().as_deref(), Some("v2"), "{context}");
        if !volume.steps().is_met() {
            break;
        }
        volume.steps().heal();
        // What could not be remembered is, by the next start.
        case.signed.ok(&["fetch"]);
        case.assert_never_back(&context);
        met += 1;
    }
    assert!(met >= 4, "only {met}");
    let test = "a_state_dir_that_fails_at_any_change_keeps_no_pod_from_starting";
    tried(test, "ENOSPC, EIO or EROFS at each change of it", met, "the pod started");
}
