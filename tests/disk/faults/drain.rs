//! The agent of a pod that is about to end, killed at each change of the drain's journal.

use std::{fs, thread};

use pitstop_rig::{
    needs_root,
    slow_volume::{Among, Gone, Trouble},
};

use super::{agent::Pod, soon, tried};

#[test]
fn an_agent_killed_at_any_change_of_a_drain_goes_on_with_it_or_the_app_knows_of_none() {
    needs_root!();
    let before = Pod::before("v1");
    let mut resumed = 0;
    for at in 1..=8 {
        let context = format!("killed at change {at} of a drain");
        let mut pod = Pod::from(&before);
        pod.start();
        pod.wait_in_sync("v1", &context);
        pod.volume().steps().arm(Among::Changes, at, Trouble::Stops);
        let call = pod.prestop();
        // Few changes, and then the drain goes on without any.
        let drains = |status: Option<serde_json::Value>| status.is_some_and(|s| s["drain"].is_object());
        soon(&context, || pod.volume().steps().is_met() || (at > 4 && drains(pod.status())));
        let _ = pod.process().0.kill();
        pod.volume().steps().client_is_gone(Gone::Written);
        pod.kill();
        let _: thread::Result<_> = call.join();
        pod.mount_anew();
        let noted = fs::read(pod.state("drain.json"))
            .is_ok_and(|text| serde_json::from_slice::<serde_json::Value>(&text).is_ok());
        pod.start();
        if noted {
            resumed += 1;
            pod.wait("in the drain again", &context, |s| s["drain"].is_object());
            assert!(pod.state("draining").exists(), "{context}: the app is told");
        } else {
            pod.wait_in_sync("v1", &context);
            soon(&context, || !pod.state("draining").exists());
        }
    }
    assert!(resumed > 0, "a drain was gone on with");
    let test = "an_agent_killed_at_any_change_of_a_drain_goes_on_with_it_or_the_app_knows_of_none";
    tried(test, "kill -9 of the agent at each change of a drain", 8, "the next agent continued it");
}
