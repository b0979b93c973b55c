//! Unicorn as Debian ships it, under load: a second master beside the first, proven before the first one lets
//! go; and the way back.

use std::{fs, path::Path, thread, time::Duration};

use pitstop_rig::{
    AgentRig, App, Load, PumaRig, Setup, http,
    kubelet::{self, Hook},
    load::{Plan, Records},
    poll, unicorn, until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::PITSTOP;

struct Pod {
    agent: AgentRig,
    server: PumaRig,
}

impl Pod {
    fn start(setup: Setup) -> Self {
        let mut server = PumaRig::empty(Setup { restarted: true, ..setup });
        let mut agent = AgentRig::prepare(Path::new(PITSTOP), &server);
        agent.env.push(("PITSTOP_RESTART_TIMEOUT".into(), "10s".into()));
        agent.start_from_v1(&mut server);
        Self { agent, server }
    }

    fn deploy(&self, app: App, id: &str) {
        self.agent.publish(&self.server, app, id);
        self.agent.promote(id);
    }

    fn status(&self) -> Value {
        self.agent.status().unwrap_or_default()
    }

    /// One master serves, and the container was never started anew.
    fn is_at_rest_on(&self, id: &str) {
        self.agent.wait_in_sync(id);
        until("one crew of workers", || {
            let status = self.status();
            let workers = status["app_server"]["workers"].as_array()?;
            let all = workers.iter().all(|worker| worker["release"] == id && worker["booted"] == true);
            (status["stage"] == "steady" && workers.len() == 2 && all).then_some(())
        });
        self.server.wait_for_release(id);
        assert_eq!(self.server.starts(), 1, "the container was started anew");
    }

    /// The deploy fails and the pod is back; the reason.
    fn survives(&self, app: App, id: &str) -> String {
        self.deploy(app, id);
        let status = poll(Duration::from_secs(90), || {
            self.agent.status().filter(|status| {
                rejection(status, id).is_some() && status["running"] == "v1" && status["stage"] == "steady"
            })
        });
        let status = status.unwrap_or_else(|| panic!("{id} is rejected and v1 runs: {}", self.status()));
        self.is_back_on("v1");
        rejection(&status, id).unwrap()
    }

    fn is_back_on(&self, id: &str) {
        until("one crew of workers", || {
            let status = self.status();
            let workers = status["app_server"]["workers"].as_array()?;
            let all = workers.iter().all(|worker| worker["release"] == id && worker["booted"] == true);
            (workers.len() == 2 && all).then_some(())
        });
        assert_eq!(self.server.starts(), 1, "the container was started anew");
    }

    fn findings(&self) -> Vec<String> {
        let status = self.status();
        let findings = status["findings"].as_array().into_iter().flatten();
        findings.filter_map(|finding| Some(finding["code"].as_str()?.to_owned())).collect()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.agent.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            eprintln!("--- /status: {}", self.status());
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
fn e2e_unicorn_is_deployed_beside_the_old_master_and_no_request_is_lost() {
    let mut pod = Pod::start(unicorn::setup());
    let first = pod.server.container().pid();
    let load = Load::start(Plan::modest(pod.server.port()), "deploys");
    // The first master stays for the container's sake; the second one goes in the next deploy.
    for id in ["v2", "v3"] {
        pod.deploy(App::Good, id);
        pod.is_at_rest_on(id);
        let masters = until("the master that holds the container, and the one that serves", || {
            Some(unicorn::masters()).filter(|masters| masters.len() == 2)
        });
        assert_eq!(Some(masters[0]), first);
    }
    nothing_was_lost(&load.finish());
    let status = pod.status();
    assert_eq!(
        (&status["app_server"]["kind"], &status["app_server"]["mode"]),
        (&"unicorn".into(), &"cluster".into())
    );
    assert_eq!(status["proof"], "every_worker", "{status}");
    let findings = pod.findings();
    for code in ["UNICORN_FIRST_MASTER_STAYS", "UNICORN_TERM_CUTS"] {
        assert!(findings.iter().any(|found| found == code), "{code} is not in {findings:?}");
    }
    // With the master that serves, everything would have ended without pitstop too: a new container serves.
    let serving = *unicorn::masters().last().unwrap();
    kill_process(Pid::from_raw(serving).unwrap(), Signal::KILL).unwrap();
    until("a new container", || (pod.server.starts() == 2).then_some(()));
    pod.agent.wait_in_sync("v3");
    pod.server.wait_for_release("v3");
}

#[test]
fn e2e_unicorn_serves_on_when_a_release_is_broken() {
    let pod = Pod::start(unicorn::setup());
    let load = Load::start(Plan::modest(pod.server.port()), "broken releases");
    // Workers that raise are respawned without end, mostly too quickly to be seen.
    let reasons = [
        (App::RaisesOnBoot, &["boot_failed", "boot_loop"][..]),
        // On a busy machine it may never be seen.
        (App::BadConfig, &["boot_failed", "boot_timeout"]),
        (App::UnhealthyPath, &["probe_failed"]),
    ];
    for (number, (app, reasons)) in reasons.into_iter().enumerate() {
        let reason = pod.survives(app, &format!("bad{number}"));
        assert!(reasons.contains(&reason.as_str()), "{app:?}: {reason}");
    }
    refuses_a_hook_that_ends_the_old_master(&pod);
    pod.deploy(App::Good, "v2");
    pod.is_at_rest_on("v2");
    nothing_was_lost(&load.finish());
}

fn refuses_a_hook_that_ends_the_old_master(pod: &Pod) {
    let dir = pod.agent.build(&pod.server, App::Good, "hook");
    let hook = "before_fork { |server, _| Process.kill(:QUIT, File.read(\"#{server.pid}.oldbin\").to_i) rescue nil }\n";
    fs::write(dir.join("config/unicorn.rb"), format!("{}{hook}", unicorn::CONFIG)).unwrap();
    pod.agent.must(&["publish", &dir.to_string_lossy(), "--release", "hook"]);
    pod.agent.promote("hook");
    let status =
        until("the refusal", || pod.agent.status().filter(|status| status["reason"] == "config_invalid"));
    assert!(status["message"].as_str().unwrap().contains(".oldbin"), "{status}");
    assert_eq!(status["running"], "v1");
}

#[test]
fn e2e_unicorn_that_preloads_loses_only_its_second_master() {
    let pod = Pod::start(unicorn::with("preload_app true\n"));
    let load = Load::start(Plan::modest(pod.server.port()), "broken releases");
    // On a busy machine its second master may never be seen.
    let reason = pod.survives(App::RaisesOnBoot, "bad");
    assert!(["boot_failed", "boot_timeout"].contains(&reason.as_str()), "{reason}");
    assert_eq!(pod.survives(App::HangsOnBoot, "hung"), "boot_failed");
    pod.deploy(App::Good, "v2");
    pod.is_at_rest_on("v2");
    nothing_was_lost(&load.finish());
}

#[test]
fn e2e_unicorn_an_agent_that_is_killed_between_the_two_signals_goes_on_where_it_was() {
    let mut pod = Pod::start(unicorn::setup());
    let load = Load::start(Plan::modest(pod.server.port()), "crashes");
    let marks = pod.server.scratch().join("marks");
    fs::create_dir_all(&marks).unwrap();
    for (number, point) in
        ["effects.after_signalled", "effects.after_signal", "effects.after_verified"].into_iter().enumerate()
    {
        pod.agent.env.push(("PITSTOP_FAILPOINTS".into(), point.into()));
        pod.agent.env.push(("PITSTOP_FAILPOINT_DIR".into(), marks.to_string_lossy().into_owned()));
        pod.agent.start();
        let id = format!("v{}", number + 2);
        pod.deploy(App::Good, &id);
        until(point, || marks.join(point).exists().then_some(()));
        pod.agent.env.retain(|(name, _)| !name.starts_with("PITSTOP_FAILPOINT"));
        pod.agent.kill();
        pod.agent.start();
        pod.is_at_rest_on(&id);
    }
    nothing_was_lost(&load.finish());
}

/// Whatever else may be found, this is.
fn told_of_others(pod: &Pod, times: usize) {
    until("it is said", || pod.findings().iter().any(|code| code == "RESTARTED_BY_OTHERS").then_some(()));
    until(&format!("it is said {times} times in the log"), || {
        let log = fs::read_to_string(pod.agent.log()).unwrap_or_default();
        (log.matches("and not by pitstop").count() == times).then_some(())
    });
}

#[test]
fn e2e_unicorn_a_restart_by_others_at_rest_is_said_and_what_runs_is_proved_anew() {
    let pod = Pod::start(unicorn::setup());
    pod.is_at_rest_on("v1");
    assert!(!pod.findings().iter().any(|code| code == "RESTARTED_BY_OTHERS"));
    let signal = |pid: i32, signal| kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    let first = unicorn::masters()[0];
    signal(first, Signal::USR2);
    until("both masters are seen", || {
        pod.findings().iter().any(|code| code == "UNICORN_TWO_MASTERS").then_some(())
    });
    signal(first, Signal::WINCH);
    told_of_others(&pod, 1);
    pod.is_at_rest_on("v1");
    assert_eq!(pod.status()["rejected"], serde_json::json!([]));
    // A deploy is none of theirs, and neither is a container that starts anew.
    pod.deploy(App::Good, "v2");
    pod.is_at_rest_on("v2");
    signal(*unicorn::masters().last().unwrap(), Signal::KILL);
    until("a new container", || (pod.server.starts() == 2).then_some(()));
    pod.agent.wait_in_sync("v2");
    pod.server.wait_for_release("v2");
    told_of_others(&pod, 1);
}

#[test]
fn e2e_unicorn_is_drained_before_sigterm_cuts_what_is_in_flight() {
    let mut pod = Pod::start(unicorn::setup());
    pod.deploy(App::Good, "v2");
    pod.is_at_rest_on("v2");
    let port = pod.server.port();
    let load = Load::start(Plan::modest(port), "before the end");
    let slow = thread::spawn(move || http::get_within(port, "/slow?s=5", Duration::from_secs(60)));
    until("some load", || (load.so_far().requests().len() > 50).then_some(()));
    nothing_was_lost(&load.finish());
    let end = kubelet::end(&mut pod.server, Hook::HttpGet(pod.agent.port()), Duration::from_secs(60));
    assert!(slow.is_finished(), "SIGTERM came with a request in flight");
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
    assert_eq!(end.answer.unwrap()["result"], "drained");
    assert!(!end.killed);
}
