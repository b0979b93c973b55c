//! A server that pitstop knows nothing of: the user's commands restart and check it, and its processes prove
//! what it runs. Here it is Unicorn as Debian ships it, told to replace its workers (SIGHUP).

use std::{fs, thread, time::Duration};

use pitstop_rig::{
    App, Load, Pod, Setup, http,
    kubelet::{self, Hook},
    load::Plan,
    unicorn,
};

use crate::new_pod;

fn in_sync(check: &str) -> Pod {
    // A release's directory is left by its workers only where the configuration says so.
    let lines = "working_directory File.join(ENV.fetch('RIG_RUN'), '../app/current')\npid File.join(ENV.fetch('RIG_RUN'), 'unicorn.pid')\n";
    let pod = new_pod(Setup { server: "command", ..unicorn::with(lines) });
    let pid = pod.puma.run_dir().join("unicorn.pid").display().to_string();
    pod.with("PITSTOP_COMMAND_RESTART", format!("test ! -e refuses && kill -HUP $(cat {pid})"))
        .with("PITSTOP_COMMAND_CHECK", check)
        .with("PITSTOP_COMMAND_MATCH", "unicorn worker[")
        .with("PITSTOP_COMMAND_TIMEOUT", "12s")
        .in_sync()
}

#[test]
fn e2e_command_restarts_checks_and_drains_a_server_and_no_request_is_lost() {
    let mut pod = in_sync("grep -q v REVISION");
    let port = pod.puma.port();
    let load = Load::start(Plan::modest(port), "deploy");
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    pod.puma.wait_for_release("v2");
    let status = pod.agent.status().unwrap();
    assert_eq!(status["app_server"]["kind"], "command");
    assert_eq!(status["app_server"]["workers"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(status["proof"], "every_worker", "{status}");
    let slow = thread::spawn(move || http::get_within(port, "/slow?s=5", Duration::from_secs(60)));
    load.finish().assert_nothing_lost();
    let end = kubelet::end(&mut pod.puma, Hook::HttpGet(pod.agent.port()), Duration::from_secs(60));
    assert!(slow.is_finished(), "SIGTERM came with a request in flight");
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
    assert_eq!(end.answer.unwrap()["result"], "drained");
}

#[test]
fn e2e_command_goes_back_by_the_same_command() {
    let pod = in_sync("! test -e sick");
    // The health path, the check, and the command itself say no.
    pod.deploy(App::UnhealthyPath, "unhealthy");
    assert_eq!(pod.wait_for_rejection("unhealthy"), "probe_failed");
    for (file, reason) in [("refuses", "hook_failed"), ("sick", "boot_timeout")] {
        pod.deploy_changed(file, |dir| fs::write(dir.join(file), "").unwrap());
        assert_eq!(pod.wait_for_rejection(file), reason, "{file}");
    }
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
}
