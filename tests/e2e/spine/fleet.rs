//! What the whole fleet runs, as `promote --wait` sees it.

use pitstop_rig::{App, Pod, Setup, until};
use serde_json::Value;

use crate::new_pod;

fn report(pod: &Pod) -> Value {
    let path = pod.agent.store().join("fleet/production/rig");
    let text = until("the pod's report", || std::fs::read(&path).ok());
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn e2e_promote_waits_until_the_fleet_has_arrived_or_a_pod_gives_up() {
    let mut pod = new_pod(Setup::default()).in_sync();
    until("the first report", || (report(&pod)["running"] == "v1").then_some(()));
    pod.agent.publish(&pod.puma, App::Good, "v2");
    let said = pod.agent.must(&["promote", "v2", "--wait", "--timeout", "60s"]);
    assert!(said.contains("all pods run v2 (1 of 1)"), "{said}");
    pod.assert_runs("v2");
    pod.agent.publish(&pod.puma, App::RaisesOnBoot, "v3");
    let output = pod.agent.command(&["promote", "v3", "--wait", "--timeout", "60s", "--json"]).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["release"], &answer["converged"]), (&"v3".into(), &false.into()));
    assert!(answer["failed"].as_str().unwrap().contains("rejected by rig: boot_"), "{answer}");
    let said = pod.agent.must(&["rollback", "--wait", "--timeout", "60s"]);
    assert!(said.contains("all pods run v2 (1 of 1)"), "{said}");
    pod.puma.container().terminate();
    pod.agent.terminate();
    assert_eq!(report(&pod)["leaving"], true);
    let output = pod.agent.command(&["promote", "v1", "--wait", "--timeout", "1s"]).unwrap();
    assert_eq!(output.status.code(), Some(3), "nobody is there");
}

#[test]
fn e2e_a_paused_fleet_starts_no_deploy_and_whoever_asks_sees_why() {
    let pod = new_pod(Setup::default()).in_sync();
    let said = |args: &[&str]| -> Value { serde_json::from_str(&pod.agent.must(args)).unwrap() };
    pod.agent.must(&["pause", "--fleet", "--why", "database", "--by", "ann"]);
    pod.deploy(App::Good, "v2");
    let held = |status: Value| {
        let named = status["desired"]["release"] == "v2" && status["reason"] == "held";
        (named && status["message"].as_str()?.contains("by ann: database")).then_some(())
    };
    until("the pause", || held(pod.status()));
    let asked = || said(&["fleet", "production", "--json"])["pointers"][0]["pods"][0].clone();
    let told = |pod: Value| pod["message"].as_str()?.contains("by ann: database").then_some(pod);
    let told = until("the report", || told(asked()));
    assert_eq!((&told["state"], &told["running"]), (&"behind".into(), &"v1".into()));
    assert_eq!(pod.attempts("v2"), 0);
    pod.agent.must(&["freeze", "production", "--why", "audit"]);
    assert_eq!(pod.agent.command(&["promote", "v1"]).unwrap().status.code(), Some(4));
    pod.agent.must(&["resume", "--fleet"]);
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
    let deployed = |pod: Value| (pod["last_deploy"]["release"] == "v2").then_some(pod);
    let deployed = until("the deploy's report", || deployed(asked()));
    assert_eq!(
        (&deployed["state"], &deployed["last_deploy"]["result"]),
        (&"in_sync".into(), &"verified".into())
    );
}

/// Another pod of the fleet is played by its report: that is all that pods know of each other.
fn other_pod_says(pod: &Pod, more: Value) {
    let mut report = serde_json::json!({
        "v": 1, "pod": "other", "running": "v1", "in_sync": false, "stage": "verifying",
        "desired": { "release": "v2", "sequence": 2 },
        "at": humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
    });
    report.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let fleet = pod.agent.store().join("fleet/production");
    std::fs::write(fleet.join(".other"), report.to_string()).unwrap();
    std::fs::rename(fleet.join(".other"), fleet.join("other")).unwrap();
}

#[test]
fn e2e_a_pod_lets_another_prove_a_release_first_and_does_not_try_what_was_rejected_there() {
    let mut pod = new_pod(Setup::default()).born();
    pod.set("PITSTOP_RESTART_SPREAD", "10m");
    let pod = pod.started();
    until("the first report", || (report(&pod)["running"] == "v1").then_some(()));
    other_pod_says(&pod, serde_json::json!({}));
    pod.deploy(App::Good, "v2");
    let waits =
        |status: Value| status["message"].as_str()?.contains("waits for this pod's turn").then_some(());
    until("the other pod's turn", || waits(pod.status()));
    let rejected = serde_json::json!([{ "release": "v2", "sequence": 2, "reason": "boot_loop" }]);
    other_pod_says(&pod, serde_json::json!({ "stage": "steady", "rejected": rejected }));
    assert!(
        pod.wait_for_reason("rejected")["message"]
            .as_str()
            .unwrap()
            .contains("another pod has rejected v2#2")
    );
    assert_eq!(pod.attempts("v2"), 0);
    pod.assert_runs("v1");
    other_pod_says(&pod, serde_json::json!({ "stage": "steady", "in_sync": true, "running": "v2" }));
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
}

#[test]
fn e2e_without_room_old_releases_go_but_never_what_the_lease_of_the_pod_names() {
    pitstop_rig::needs_root!();
    let mut pod = new_pod(Setup { volume_bytes: Some(6 << 20), ..Setup::default() }).born();
    pod.set("PITSTOP_VERIFY_SOAK", "100ms");
    let pod = pod.started();
    // Each takes a third of the volume, and its archive next to nothing.
    for id in ["v2", "v3", "v4"] {
        let dir = pod.agent.build(&pod.puma, App::Good, id);
        std::fs::write(dir.join("big"), vec![7; 2 << 20]).unwrap();
        pod.agent.must(&["publish", &dir.to_string_lossy(), "--release", id]);
        pod.agent.promote(id);
        if id == "v4" {
            // What runs and what ran before leave no room for a third.
            assert!(pod.wait_for_reason("no_space")["message"].as_str().unwrap().contains("free space"));
            pod.puma.small_volume().resize(8 << 20);
        }
        pod.agent.wait_in_sync(id);
    }
    pod.assert_runs("v4");
    assert!(!pod.puma.releases().join("v1").exists(), "nobody needed it any more");
    assert!(pod.puma.releases().join("v3").exists(), "the way back");
    let lease = pod.puma.deploy_to().join(".pitstop/leases/rig");
    let lease = until("the lease", || {
        let lease: Value = serde_json::from_slice(&std::fs::read(&lease).ok()?).ok()?;
        (lease["running"] == "v4" && lease["also"] == serde_json::json!([])).then_some(lease)
    });
    assert_eq!((&lease["previous"], &lease["desired"]), (&"v3".into(), &"v4".into()));
}
