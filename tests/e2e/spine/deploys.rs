//! Releases that come, and how.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use pitstop_rig::{App, Pod, Setup, until};

use crate::new_pod;

#[test]
fn e2e_a_promoted_release_runs_in_the_pod_that_is_there() {
    let pod = new_pod(Setup::default()).in_sync();
    let master = pod.puma.master();
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
    assert_eq!(pod.puma.master(), master, "the same pod, the same master");
    assert_eq!(pod.metric(r#"pitstop_restarts_total{mode="phased",result="sent"}"#), Some(1.0));
    assert_eq!(pod.metric(r#"pitstop_release_info{release="v2",role="running"}"#), Some(1.0));
    assert_eq!(pod.status()["previous"], "v1");
    let spare = pod.puma.deploy_to().join(".pitstop/spare/release");
    until("the spare tree for the next deploy", || spare.join("config.ru").exists().then_some(()));
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
    pod.assert_runs("v3");
    until("the next spare tree", || spare.join("config.ru").exists().then_some(()));
    pod.agent.must(&["verify-tree", "v3"]);
}

/// An app that shares the volume has its first requests then.
#[test]
fn e2e_a_command_that_reads_the_volume_waits_for_a_restart_to_end() {
    let pod = new_pod(Setup::default()).with("PITSTOP_RESTART_TIMEOUT", "8s").in_sync();
    pod.deploy(App::HangsOnBoot, "v2");
    until("the look at the workers", || (pod.status()["stage"] == "verifying").then_some(()));
    let mut verify = pod.agent.prepared(&["verify-tree", "v1"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(verify.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("waiting: the agent of this pod restarts"), "{said}");
    assert!(verify.wait().unwrap().success());
    assert_eq!(pod.status()["stage"], "steady", "v2 was undone first");
}

#[test]
fn e2e_a_hot_restart_where_it_is_asked_for() {
    let mut pod = new_pod(Setup::default()).born();
    pod.set("PITSTOP_RESTART_MODE", "hot");
    let pod = pod.started();
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
    assert_eq!(pod.metric(r#"pitstop_restarts_total{mode="hot",result="sent"}"#), Some(1.0));
}

#[test]
fn e2e_the_first_release_is_there_before_the_app_server() {
    let mut pod = new_pod(Setup::default()).published();
    pod.agent.start();
    until("the startup probe", || (pod.agent.get("/startup").ok()?.status == 200).then_some(()));
    assert_eq!(pod.agent.get("/ready").unwrap().status, 503, "no app server yet");
    pod.puma.run();
    pod.agent.wait_in_sync("v1");
    pod.assert_runs("v1");
    assert_eq!(pod.agent.get("/ready").unwrap().status, 200);
}

#[test]
fn e2e_a_release_that_cannot_boot_is_undone_and_not_tried_again() {
    let pod = new_pod(Setup::default()).in_sync();
    pod.deploy(App::RaisesOnBoot, "v2");
    let status = pod.wait_for_reason("rejected");
    assert_eq!(status["rejected"][0]["release"], "v2");
    assert!(status["rejected"][0]["at"].is_string(), "{status}");
    until("v1 again", || {
        let status = pod.status();
        (status["running"] == "v1" && status["stage"] == "steady").then_some(())
    });
    pod.assert_runs("v1");
    let shown = pod.agent.command(&["status"]).unwrap();
    assert_eq!(shown.status.code(), Some(1), "out of sync");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("rejected"));
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
    pod.agent.must(&["status"]);
}

#[test]
fn e2e_a_rejected_move_is_tried_again_only_when_somebody_asks() {
    let mut pod = new_pod(Setup::default()).in_sync();
    pod.deploy(App::NeedsDatabase, "v2");
    let back_on_v1 = |pod: &Pod| {
        until("v1 again", || {
            let status = pod.status();
            let there = (&status["running"], &status["stage"]) == (&"v1".into(), &"steady".into());
            (there && status["reason"] == "rejected").then_some(())
        });
    };
    back_on_v1(&pod);
    assert_eq!(pod.attempts("v2"), 1);
    pod.agent.kill();
    pod.agent.start();
    back_on_v1(&pod);
    // A look that is asked for and two more change nothing.
    pod.agent.must(&["sync"]);
    let looks = |pod: &Pod| pod.metric(r#"pitstop_pointer_checks_total{result="ok"}"#).unwrap_or(0.0);
    let before = looks(&pod);
    until("further looks", || (looks(&pod) >= before + 3.0).then_some(()));
    assert_eq!(pod.attempts("v2"), 1, "not tried again");
    pod.agent.must(&["sync", "--retry"]);
    until("the second attempt", || (pod.attempts("v2") == 2).then_some(()));
    back_on_v1(&pod);
    std::fs::write(pod.puma.scratch().join("run/database"), "").unwrap();
    pod.agent.promote("v2");
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
    assert_eq!(pod.attempts("v2"), 3);
}

#[test]
fn e2e_operators_pause_resume_and_revert() {
    let pod = new_pod(Setup::default()).in_sync();
    pod.agent.must(&["pause"]);
    pod.deploy(App::Good, "v2");
    pod.wait_for_reason("held");
    pod.agent.must(&["resume"]);
    pod.agent.wait_in_sync("v2");
    pod.agent.must(&["revert"]);
    until("back on v1", || (pod.status()["running"] == "v1").then_some(()));
    pod.assert_runs("v1");
    pod.agent.must(&["resume"]);
    pod.agent.wait_in_sync("v2");
}
