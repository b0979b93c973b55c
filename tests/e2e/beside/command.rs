//! A server that pitstop knows nothing of, beside itself: it takes its socket over by systemd's protocol (`LISTEN_FDS`).
//! Here it is a Puma that is not known to be one.

use std::{path::Path, thread::spawn};

use pitstop_rig::{App, ExecPod, Load, Setup, http, load::Plan, until, until_within};
use serde_json::json;

use super::{RECOVERY, assert_unnoticed, container::ask, slot, wait_until_no_server_is};
use crate::PITSTOP;

fn pod(script: &str) -> ExecPod {
    let setup = Setup { server: "command", control: false, state_file: false, ..Setup::default() };
    let mut pod = ExecPod::prepare(Path::new(PITSTOP), setup)
        .with("PITSTOP_COMMAND_RESTART", "echo this server cannot be restarted; false")
        .with("PITSTOP_COMMAND_MATCH", "puma: cluster worker")
        .with("PITSTOP_RESTART_TIMEOUT", "20s");
    pod.parent_listens();
    pod.script = script.into();
    pod.in_sync()
}

#[test]
fn e2e_beside_command_a_good_release_is_met_after_its_check_and_a_bad_one_by_nobody() {
    let pod = pod(r#"cd "$CURRENT" && exec puma -C config/puma.rb"#);
    let port = pod.puma.port();
    until("the server accepts", || {
        let list = &ask(&pod.agent.state_dir(), &json!({ "do": "list" }))["list"];
        (list["slots"][0]["run"]["inherited"] == true).then_some(())
    });
    let load = Load::start(Plan::modest(port), "deploys");
    pod.deploy(App::SlowBoot, "v2");
    until("the candidate", || slot(&pod, "candidate"));
    let request = spawn(move || http::get_within(port, "/slow?s=6", RECOVERY).ok());
    until_within(RECOVERY, "the switch", || (pod.agent.status()?["running"] == "v2").then_some(()));
    wait_until_no_server_is(&pod, "lingering");
    assert_eq!(request.join().unwrap().map(|answer| answer.status), Some(200), "it was waited for");
    for (id, app, reason) in
        // Its master goes on and starts workers that end: of a server of any kind nobody knows that.
        [("bad1", App::RaisesOnBoot, "boot_timeout"), ("bad2", App::UnhealthyPath, "probe_failed")]
    {
        pod.deploy(app, id);
        until_within(RECOVERY, "the rejection", || {
            let rejected = pod.agent.status()?["rejected"].clone();
            let found = rejected.as_array()?.iter().find(|one| one["release"] == id)?.clone();
            assert_eq!(found["reason"], reason, "{found}");
            Some(())
        });
        wait_until_no_server_is(&pod, "candidate");
    }
    assert!(pod.current().ends_with("v2"));
    assert_unnoticed(load, &["v1", "v2"]);
    assert_eq!(pod.starts(), 1);
}

#[test]
fn e2e_beside_command_a_server_that_leaves_its_sockets_is_restarted_as_ever() {
    let pod = pod(r#"cd "$CURRENT" && unset LISTEN_FDS && exec puma -C config/puma.rb"#);
    let said = || pod.said().contains("the command exited");
    until("it was started once more, without sockets", || said().then_some(()));
    pod.puma.wait_for_release("v1");
    until("it is said", || pod.found("BESIDE_UNAVAILABLE").then_some(()));
    assert_eq!(pod.starts(), 1);
}
