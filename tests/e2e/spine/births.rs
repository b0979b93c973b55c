//! Pods that are born in bad times.

use std::fs;

use pitstop_rig::{App, Pod, Setup, until};
use serde_json::Value;

use super::{point_to, recovers};
use crate::new_pod;

fn take_store_away(pod: &Pod) {
    fs::rename(pod.agent.store(), pod.puma.scratch().join("away")).unwrap();
}

fn give_store_back(pod: &Pod) {
    fs::rename(pod.puma.scratch().join("away"), pod.agent.store()).unwrap();
}

#[track_caller]
fn wait_for_startup(pod: &Pod) {
    until("the startup probe", || (pod.agent.get("/startup").ok()?.status == 200).then_some(()));
}

#[test]
fn e2e_a_pod_born_on_a_broken_release_goes_to_the_one_before() {
    let mut pod = new_pod(Setup { restarted: true, ..Setup::default() }).published();
    pod.deploy(App::RaisesOnBoot, "v2");
    pod.agent.start();
    wait_for_startup(&pod);
    pod.puma.run();
    let status = until("v1 in place of v2", || {
        pod.agent.status().filter(|s| s["running"] == "v1" && s["stage"] == "steady")
    });
    assert_eq!((&status["reason"], &status["rejected"][0]["release"]), (&"rejected".into(), &"v2".into()));
    pod.assert_runs("v1");
    assert_eq!(pod.attempts("v2"), 1);
    recovers(&pod);
}

#[test]
fn e2e_a_pod_born_beside_a_sick_dependency_rejects_nothing_and_arrives_by_itself() {
    let mut pod = new_pod(Setup::default()).published();
    pod.deploy(App::Good, "v2");
    let outage = pod.puma.run_dir().join("outage");
    fs::write(&outage, "").unwrap();
    // A quarter of it is the wait for v2, before v1 is tried.
    pod.set("PITSTOP_RESTART_TIMEOUT", "12s");
    pod.agent.start();
    wait_for_startup(&pod);
    pod.puma.run();
    let waits_for = |id| {
        let in_place = fs::canonicalize(pod.puma.current()).ok()? == pod.puma.releases().join(id);
        pod.agent.status().filter(|s| in_place && s["reason"] == "probe_failed")
    };
    let status = until("the wait for v2", || waits_for("v2"));
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("v2 is not rejected") && status["stage"] == "verifying", "{status}");
    until("the trial of v1", || waits_for("v1"));
    let status = until("v2 again", || waits_for("v2").filter(|s| s["stage"] == "verifying"));
    assert_eq!((&status["rejected"], &status["running"]), (&serde_json::json!([]), &Value::Null));
    fs::remove_file(outage).unwrap();
    pod.agent.wait_in_sync("v2");
    assert_eq!(pod.status()["rejected"], serde_json::json!([]));
    pod.assert_runs("v2");
}

#[test]
fn e2e_a_pod_born_on_a_release_that_cannot_be_had_runs_the_one_before() {
    let mut pod = new_pod(Setup::default()).published();
    point_to(&pod, r#"{"release":"v404","sequence":2,"previous":"v1"}"#);
    pod.agent.start();
    wait_for_startup(&pod);
    pod.puma.run();
    until("v1 for v404", || (pod.status()["running"] == "v1").then_some(()));
    let status = pod.wait_for_reason("release_unknown");
    assert_eq!((&status["in_sync"], &status["rejected"]), (&false.into(), &serde_json::json!([])));
    pod.assert_runs("v1");
    recovers(&pod);
}

#[test]
fn e2e_a_pod_born_without_a_store_runs_what_another_pod_of_the_volume_has_proved() {
    let mut pod = new_pod(Setup::default()).in_sync();
    pod.agent.kill();
    pod.puma.container().terminate();
    fs::remove_file(pod.puma.current()).unwrap();
    pod.set("PITSTOP_POD", "newborn");
    take_store_away(&pod);
    pod.agent.start();
    wait_for_startup(&pod);
    pod.puma.run();
    let status = until("v1", || pod.agent.status().filter(|s| s["running"] == "v1"));
    assert_eq!(status["reason"], "store_unreachable");
    pod.assert_runs("v1");
    give_store_back(&pod);
    pod.agent.wait_in_sync("v1");
    recovers(&pod);
}

#[test]
fn e2e_a_pod_born_with_nothing_left_runs_the_images_code_until_the_store_is_back() {
    let mut pod = new_pod(Setup::default()).published();
    let image = pod.puma.scratch().join("image");
    pod.puma.write_release(&image, "image", App::Good);
    pod.set("PITSTOP_FALLBACK_DIR", image.to_string_lossy());
    take_store_away(&pod);
    pod.agent.start();
    wait_for_startup(&pod);
    assert_eq!(fs::read_link(pod.puma.current()).unwrap(), image);
    pod.puma.run();
    let proved = |s: &Value| s["running"] == "(fallback_dir)" && s["stage"] == "steady";
    let status = until("the image's code", || pod.agent.status().filter(proved));
    assert_eq!((&status["in_sync"], &status["reason"]), (&false.into(), &"store_unreachable".into()));
    assert_eq!(pod.puma.get("/").unwrap().release.as_deref(), Some("image"));
    // An agent that starts again knows it as well.
    pod.agent.kill();
    pod.agent.start();
    until("it again", || pod.agent.status().filter(proved));
    give_store_back(&pod);
    pod.agent.wait_in_sync("v1");
    pod.assert_runs("v1");
    // The way back of the first bad release leads there.
    pod.deploy(App::RaisesOnBoot, "v2");
    until("v1 again", || {
        let status = pod.status();
        (status["running"] == "v1" && status["reason"] == "rejected").then_some(())
    });
}

#[test]
fn e2e_a_pod_born_with_nothing_at_all_says_why_and_starts_when_it_can() {
    let mut pod = new_pod(Setup::default()).published();
    take_store_away(&pod);
    let failed = pod.agent.command(&["fetch"]).unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("store_unreachable"), "{failed:?}");
    pod.agent.start();
    pod.wait_for_reason("store_unreachable");
    let startup = pod.agent.get("/startup").unwrap();
    assert_eq!(startup.status, 503);
    assert!(startup.body.contains("store_unreachable"), "{}", startup.body);
    give_store_back(&pod);
    wait_for_startup(&pod);
    pod.puma.run();
    pod.agent.wait_in_sync("v1");
}

#[test]
fn e2e_fetch_lets_a_pod_be_born_without_a_store_where_something_good_is_left() {
    let pod = new_pod(Setup::default()).in_sync();
    pod.deploy(App::RaisesOnBoot, "v2");
    pod.wait_for_reason("rejected");
    until("v1 again", || (pod.status()["running"] == "v1").then_some(()));
    // The same pod once more: what failed in it is not put in place again.
    let said = pod.agent.must(&["fetch"]);
    assert!(said.contains("current is v1") && said.contains("v2#2 failed"), "{said}");
    fs::remove_file(pod.puma.current()).unwrap();
    take_store_away(&pod);
    let said: Value = serde_json::from_str(&pod.agent.must(&["fetch", "--json"])).unwrap();
    assert_eq!((&said["release"], &said["reason"]), (&"v1".into(), &"store_unreachable".into()));
    assert_eq!(pod.current(), pod.puma.releases().join("v1"));
}
