//! Unicorn beside Unicorn: it takes its sockets over by `UNICORN_FD`, and finishes its requests on SIGQUIT.

use std::{path::Path, thread::spawn};

use pitstop_rig::{App, ExecPod, Load, http, load::Plan, unicorn, until, until_within};
use serde_json::json;

use super::{RECOVERY, assert_unnoticed, container::ask, master, slot, wait_until_no_server_is};
use crate::PITSTOP;

fn pod(lines: &str) -> ExecPod {
    let mut pod =
        ExecPod::prepare(Path::new(PITSTOP), unicorn::with(lines)).with("PITSTOP_RESTART_TIMEOUT", "20s");
    pod.script = r#"cd "$CURRENT" && exec unicorn -E deployment -c config/unicorn.rb"#.into();
    pod.parent_listens();
    let pod = pod.in_sync();
    until("Unicorn took the sockets", || {
        let list = &ask(&pod.agent.state_dir(), &json!({ "do": "list" }))["list"];
        (list["slots"][0]["run"]["inherited"] == true).then_some(())
    });
    pod
}

/// No master stays for the container's sake. (Right after a switch /status still shows the roles from before it.)
fn wait_for_one_master() {
    until_within(RECOVERY, "one master", || (unicorn::masters().len() == 1).then_some(()));
}

#[test]
fn e2e_beside_unicorn_a_good_release_is_met_by_nobody_before_its_check() {
    // A second Unicorn does not start beside a pid file that names the first.
    let dir = tempfile::tempdir().unwrap();
    let pod = pod(&format!("pid '{}'\n", dir.path().join("unicorn.pid").display()));
    let load = Load::start(Plan::modest(pod.puma.port()), "deploys");
    let port = pod.puma.port();
    for id in ["v2", "v3"] {
        pod.deploy(App::SlowBoot, id);
        until("the candidate", || slot(&pod, "candidate"));
        let request = spawn(move || http::get_within(port, "/slow?s=6", RECOVERY).ok());
        until_within(RECOVERY, "the switch", || (pod.agent.status()?["running"] == id).then_some(()));
        wait_until_no_server_is(&pod, "lingering");
        assert_eq!(request.join().unwrap().map(|answer| answer.status), Some(200), "SIGQUIT let it finish");
    }
    assert_eq!(pod.starts(), 1);
    wait_for_one_master();
    assert!(!pod.found("UNICORN_FIRST_MASTER_STAYS"), "{:?}", pod.findings());
    assert_unnoticed(load, &["v1", "v2", "v3"]);
}

#[test]
fn e2e_beside_unicorn_bad_releases_are_met_by_nobody() {
    let pod = pod("preload_app true\n");
    let load = Load::start(Plan::modest(pod.puma.port()), "bad releases");
    let before = master(&pod);
    for (at, (app, reason)) in
        [(App::RaisesOnBoot, "boot_failed"), (App::UnhealthyPath, "probe_failed")].into_iter().enumerate()
    {
        let id = format!("bad{at}");
        pod.deploy(app, &id);
        assert_eq!(pod.wait_for_rejection(&id), reason, "{app:?}");
        assert_eq!(master(&pod), before, "{app:?}");
        wait_until_no_server_is(&pod, "candidate");
        assert!(pod.current().ends_with("v1"));
    }
    assert_eq!(pod.starts(), 1);
    assert_unnoticed(load, &["v1"]);
}

#[test]
fn e2e_beside_unicorn_an_agent_that_is_killed_in_mid_deploy_goes_on() {
    let pod = pod("");
    let load = Load::start(Plan::modest(pod.puma.port()), "a crash");
    pod.deploy(App::SlowBoot, "v2");
    until("the candidate", || slot(&pod, "candidate"));
    pod.kill_agent();
    pod.agent.wait_in_sync("v2");
    wait_until_no_server_is(&pod, "lingering");
    wait_for_one_master();
    assert_eq!(pod.starts(), 1);
    assert_unnoticed(load, &["v1", "v2"]);
}

#[test]
fn e2e_beside_unicorn_the_end_of_the_container_lets_requests_finish() {
    let pod = pod("");
    let port = pod.puma.port();
    let request = spawn(move || http::get_within(port, "/slow?s=3", RECOVERY).ok());
    until("the request", || {
        // One of two workers is busy: the drain waits for it, and SIGQUIT lets it finish.
        (pod.status()["app_server"]["pid"].is_number() && !request.is_finished()).then_some(())
    });
    pod.term();
    assert_eq!(request.join().unwrap().map(|answer| answer.status), Some(200));
    pod.wait_for_end();
}
