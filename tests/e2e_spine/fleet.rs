//! What the whole fleet runs, as `promote --wait` sees it.

use pitstop_rig::{App, until};
use serde_json::Value;

use crate::pod::Pod;

fn report(pod: &Pod) -> Value {
    let path = pod.agent.store().join("fleet/production/rig");
    let text = until("the pod's report", || std::fs::read(&path).ok());
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn e2e_promote_waits_until_the_fleet_has_arrived_or_a_pod_gives_up() {
    let mut pod = Pod::in_sync();
    until("the first report", || (report(&pod)["running"] == "v1").then_some(()));
    pod.agent.publish(&pod.puma, App::Good, "v2");
    let said = pod.agent.must(&["promote", "v2", "--wait", "--timeout", "60s"]);
    assert!(said.contains("all 1 pods run it"), "{said}");
    pod.assert_runs("v2");
    pod.agent.publish(&pod.puma, App::RaisesOnBoot, "v3");
    let output = pod.agent.command(&["promote", "v3", "--wait", "--timeout", "60s", "--json"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["release"], &answer["converged"]), (&"v3".into(), &false.into()));
    assert!(answer["failed"].as_str().unwrap().contains("rejected by rig: boot_"), "{answer}");
    let said = pod.agent.must(&["rollback", "--wait", "--timeout", "60s"]);
    assert!(said.contains("all 1 pods run it"), "{said}");
    pod.puma.container().terminate();
    pod.agent.terminate();
    assert_eq!(report(&pod)["leaving"], true);
    let output = pod.agent.command(&["promote", "v1", "--wait", "--timeout", "1s"]).unwrap();
    assert_eq!(output.status.code(), Some(1), "nobody is there");
}
