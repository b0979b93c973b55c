//! The operator's commands in a pod with a real Puma: what they do, and what they say.

use pitstop_rig::{App, Pod, Setup, until};
use serde_json::Value;

use crate::new_pod;

#[track_caller]
fn says(pod: &Pod, args: &[&str], parts: &[&str]) {
    let said = pod.agent.must(args);
    for part in parts {
        assert!(said.contains(part), "{args:?}: {part:?} is missing in {said:?}");
    }
}

/// Exit code 1, nothing on standard output, and the reason on standard error.
#[track_caller]
fn refuses(pod: &Pod, args: &[&str], part: &str) {
    let output = pod.agent.command(args).unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}");
    assert!(why.contains(part), "{args:?}: {part:?} is missing in {why:?}");
}

fn held(pod: &Pod) -> Option<Value> {
    pod.agent.status().filter(|status| status["reason"] == "held")
}

#[test]
fn e2e_a_night_with_the_operators_commands() {
    let pod = new_pod(Setup::default()).in_sync();
    refuses(&pod, &["revert"], "no earlier verified release");
    refuses(&pod, &["undrain"], "nothing to undo");
    says(&pod, &["resume"], &["deploys were not paused"]);
    until("the proof is written down", || pod.agent.status().filter(|status| status["stage"] == "steady"));
    says(
        &pod,
        &["status"],
        &["rig: in sync, for ", "running   v1", "next      the next move of the pointer"],
    );

    says(&pod, &["pause", "--why", "a long import, until 9"], &["no deploy starts until `pitstop resume`"]);
    says(&pod, &["pause"], &["already paused"]);
    pod.deploy(App::Good, "v2");
    says(&pod, &["sync"], &["reading the pointer", "paused"]);
    until("the move is known", || held(&pod).filter(|status| status["desired"]["release"] == "v2"));
    let output = pod.agent.command(&["status"]).unwrap();
    let status = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "out of sync");
    for part in [
        "not in sync",
        "desired   v2 (move 2)",
        "(held, for ",
        "next      nothing until `pitstop resume`",
        "deploys are paused in this pod: `pitstop resume` goes on (since 20",
        ": a long import, until 9)",
    ] {
        assert!(status.contains(part), "{part:?} is missing in\n{status}");
    }
    says(&pod, &["resume"], &["with v2#2"]);
    pod.agent.wait_in_sync("v2");

    // Sent back though deploys are paused; asked again, it is the same revert.
    pod.agent.must(&["pause"]);
    says(&pod, &["revert"], &["reverting to v1"]);
    until("v1 serves again", || held(&pod).filter(|status| status["running"] == "v1"));
    says(&pod, &["revert"], &["already reverted to v1"]);
    says(&pod, &["sync", "--retry"], &["nothing to retry", "reverted"]);
    assert_eq!(pod.puma.get("/").unwrap().release.as_deref(), Some("v1"));
    says(&pod, &["resume"], &["with v2#2"]);
    pod.agent.wait_in_sync("v2");
}

#[test]
fn e2e_a_drain_by_mistake_is_ended_and_deploys_go_on() {
    let pod = new_pod(Setup::default()).in_sync();
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    let hook = pod.agent.prestop();
    until("the drain", || pod.agent.status().filter(|status| !status["drain"].is_null()));
    refuses(&pod, &["revert"], "pitstop undrain");
    says(&pod, &["sync"], &["terminating"]);
    let status = pod.agent.status().unwrap();
    assert!(status["next"].as_str().unwrap().contains("/prestop is answered"), "{status:#}");
    says(&pod, &["undrain"], &["the drain is undone"]);
    // Who waited is told so, and waits no longer.
    let _ = hook.join().unwrap();
    says(&pod, &["revert"], &["reverting to v1"]);
    until("v1 serves again", || held(&pod).filter(|status| status["running"] == "v1"));
}
