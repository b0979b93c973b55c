//! SIGTERM to the container.

use pitstop_rig::{Setup, until};

use super::container::{Pod, exec_puma, puma_behind_a_shell};

fn sigterm_waits_for_a_long_request(script: String) {
    let pod = Pod::in_sync(Setup::default(), script);
    let request = pod.slow_request(6);
    pod.term();
    until("the drain", || pod.agent.status()?["drain"].is_object().then_some(()));
    // Puma serves on while it is held back.
    assert_eq!(pod.puma.get("/").unwrap().status, 200);
    pod.wait_for_end();
    assert_eq!(request.join().unwrap(), Some(200));
    let said = pod.said();
    assert!(said.contains(r#""drain":"drained""#), "{said}");
    assert!(!said.contains("SIGKILL"), "{said}");
}

#[test]
fn e2e_exec_sigterm_waits_for_a_long_request() {
    sigterm_waits_for_a_long_request(exec_puma());
}

#[test]
fn e2e_exec_sigterm_waits_for_a_long_request_behind_a_shell() {
    sigterm_waits_for_a_long_request(puma_behind_a_shell());
}

#[test]
fn e2e_exec_the_drain_survives_its_agent() {
    let pod = Pod::in_sync(Setup::default(), exec_puma());
    let request = pod.slow_request(6);
    pod.term();
    let drain = until("the drain", || pod.agent.status()?["drain"]["drain_id"].as_str().map(str::to_owned));
    until("its journal", || pod.agent.state_dir().join("drain.json").exists().then_some(()));
    let killed = pod.agent_pid();
    pod.kill_agent();
    until("another agent", || (pod.agent_pid() != killed).then_some(()));
    until("the same drain", || (pod.agent.status()?["drain"]["drain_id"] == drain.as_str()).then_some(()));
    pod.wait_for_end();
    assert_eq!(request.join().unwrap(), Some(200));
    assert!(pod.said().contains(r#""drain":"drained""#));
}
