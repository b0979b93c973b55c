//! A server that pitstop knows nothing of: the user's commands restart and check it, and its processes prove
//! what it runs. Here it is Unicorn as Debian ships it, told to replace its workers (SIGHUP).

use std::{fs, path::Path, thread, time::Duration};

use pitstop_rig::{
    AgentRig, App, Load, PumaRig, Setup, http,
    kubelet::{self, Hook},
    load::{Plan, Records},
    poll, unicorn, until,
};
use serde_json::Value;

use crate::PITSTOP;

struct Pod {
    agent: AgentRig,
    server: PumaRig,
}

impl Pod {
    fn start(check: &str) -> Self {
        // A release's directory is left by its workers only where the configuration says so.
        let lines = "working_directory File.join(ENV.fetch('RIG_RUN'), '../app/current')\npid File.join(ENV.fetch('RIG_RUN'), 'unicorn.pid')\n";
        let mut server = PumaRig::empty(Setup { server: "command", ..unicorn::with(lines) });
        let mut agent = AgentRig::prepare(Path::new(PITSTOP), &server);
        let pid = server.run_dir().join("unicorn.pid").display().to_string();
        for (name, value) in [
            ("COMMAND_RESTART", format!("test ! -e refuses && kill -HUP $(cat {pid})")),
            ("COMMAND_CHECK", check.to_owned()),
            ("COMMAND_MATCH", "unicorn worker[".to_owned()),
            ("COMMAND_TIMEOUT", "12s".to_owned()),
        ] {
            agent.env.push((format!("PITSTOP_{name}"), value));
        }
        agent.start_from_v1(&mut server);
        Self { agent, server }
    }

    fn deploy(&self, app: App, id: &str) {
        self.agent.publish(&self.server, app, id);
        self.agent.promote(id);
    }

    fn reason_of_the_rejection(&self, id: &str) -> String {
        let back = |status: &Value| {
            (status["running"] == "v1" && status["stage"] == "steady")
                .then(|| rejection(status, id))
                .flatten()
        };
        let reason = poll(Duration::from_secs(90), || back(&self.agent.status()?));
        reason.unwrap_or_else(|| panic!("{id} is rejected and v1 runs: {:?}", self.agent.status()))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.agent.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            eprintln!("--- /status: {:?}", self.agent.status());
        }
    }
}

fn rejection(status: &Value, id: &str) -> Option<String> {
    let rejected = status["rejected"].as_array()?.iter().find(|rejected| rejected["release"] == id)?;
    Some(rejected["reason"].as_str()?.to_owned())
}

#[track_caller]
fn nothing_was_lost(records: &Records) {
    let failures: Vec<_> = records.failures(&[]).collect();
    assert!(records.requests().len() > 20, "a load of {} requests", records.requests().len());
    assert!(failures.is_empty(), "{} lost: {:?}", failures.len(), failures.first());
}

#[test]
fn e2e_command_restarts_checks_and_drains_a_server_and_no_request_is_lost() {
    let mut pod = Pod::start("grep -q v REVISION");
    let port = pod.server.port();
    let load = Load::start(Plan::modest(port), "deploy");
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    pod.server.wait_for_release("v2");
    let status = pod.agent.status().unwrap();
    assert_eq!(status["app_server"]["kind"], "command");
    assert_eq!(status["app_server"]["workers"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(status["proof"], "every_worker", "{status}");
    let slow = thread::spawn(move || http::get_within(port, "/slow?s=5", Duration::from_secs(60)));
    nothing_was_lost(&load.finish());
    let end = kubelet::end(&mut pod.server, Hook::HttpGet(pod.agent.port()), Duration::from_secs(60));
    assert!(slow.is_finished(), "SIGTERM came with a request in flight");
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
    assert_eq!(end.answer.unwrap()["result"], "drained");
}

#[test]
fn e2e_command_goes_back_by_the_same_command() {
    let pod = Pod::start("! test -e sick");
    // The health path, the check, and the command itself say no.
    pod.deploy(App::UnhealthyPath, "unhealthy");
    assert_eq!(pod.reason_of_the_rejection("unhealthy"), "probe_failed");
    for (file, reason) in [("refuses", "hook_failed"), ("sick", "boot_timeout")] {
        let dir = pod.agent.build(&pod.server, App::Good, file);
        fs::write(dir.join(file), "").unwrap();
        pod.agent.must(&["publish", &dir.to_string_lossy(), "--release", file]);
        pod.agent.promote(file);
        assert_eq!(pod.reason_of_the_rejection(file), reason, "{file}");
        until("v1 serves", || (pod.server.get("/").ok()?.release? == "v1").then_some(()));
    }
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
}
