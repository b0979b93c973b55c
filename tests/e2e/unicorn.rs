//! Unicorn as Debian ships it, under load: a second master beside the first, proven before the first one lets
//! go; and the way back.

use std::{fs, thread, time::Duration};

use pitstop_rig::{
    App, Load, PATIENCE, Pod, Setup, Signal, http,
    kubelet::{self, Hook},
    load::Plan,
    signal, unicorn, until,
};

use crate::new_pod;

fn in_sync(setup: Setup) -> Pod {
    new_pod(Setup { restarted: true, ..setup }).with("PITSTOP_RESTART_TIMEOUT", "10s").in_sync()
}

/// One master serves, and the container was never started anew.
#[track_caller]
fn is_at_rest_on(pod: &Pod, id: &str) {
    // A deploy waits for the disk a dozen times.
    pod.agent.wait_in_sync_within(PATIENCE * 4, id);
    pod.wait_for_workers(id, 2..=2);
    until("the stage steady", || (pod.status()["stage"] == "steady").then_some(()));
    pod.puma.wait_for_release(id);
    assert_eq!(pod.puma.starts(), 1, "the container was started anew");
}

/// The deploy fails, and the pod is back on `v1`, in the same container. The reason.
#[track_caller]
fn survives(pod: &Pod, app: App, id: &str) -> String {
    pod.deploy(app, id);
    let reason = pod.wait_for_rejection(id);
    pod.wait_for_workers("v1", 2..=2);
    assert_eq!(pod.puma.starts(), 1, "the container was started anew");
    reason
}

#[test]
fn e2e_unicorn_is_deployed_beside_the_old_master_and_no_request_is_lost() {
    let mut pod = in_sync(unicorn::setup());
    let first = pod.puma.container().pid();
    let load = Load::start(Plan::modest(pod.puma.port()), "deploys");
    // The first master stays for the container's sake; the second one goes in the next deploy.
    for id in ["v2", "v3"] {
        pod.deploy(App::Good, id);
        is_at_rest_on(&pod, id);
        let masters = until("the master that holds the container, and the one that serves", || {
            Some(unicorn::masters()).filter(|masters| masters.len() == 2)
        });
        assert_eq!(Some(masters[0]), first);
    }
    load.finish().assert_nothing_lost();
    let status = pod.status();
    assert_eq!(
        (&status["app_server"]["kind"], &status["app_server"]["mode"]),
        (&"unicorn".into(), &"cluster".into())
    );
    assert_eq!(status["proof"], "every_worker", "{status}");
    for code in ["UNICORN_FIRST_MASTER_STAYS", "UNICORN_TERM_CUTS"] {
        assert!(pod.found(code), "{code} is not in {:?}", pod.findings());
    }
    // With the master that serves, everything would have ended without pitstop too: a new container serves.
    let serving = *unicorn::masters().last().unwrap();
    signal(serving, Signal::KILL);
    until("a new container", || (pod.puma.starts() == 2).then_some(()));
    pod.agent.wait_in_sync("v3");
    pod.puma.wait_for_release("v3");
}

#[test]
fn e2e_unicorn_serves_on_when_a_release_is_broken() {
    let pod = in_sync(unicorn::setup());
    let load = Load::start(Plan::modest(pod.puma.port()), "broken releases");
    // Workers that raise are respawned without end, mostly too quickly to be seen.
    let reasons = [
        (App::RaisesOnBoot, &["boot_failed", "boot_loop"][..]),
        // On a busy machine it may never be seen.
        (App::BadConfig, &["boot_failed", "boot_timeout"]),
        (App::UnhealthyPath, &["probe_failed"]),
    ];
    for (number, (app, reasons)) in reasons.into_iter().enumerate() {
        let reason = survives(&pod, app, &format!("bad{number}"));
        assert!(reasons.contains(&reason.as_str()), "{app:?}: {reason}");
    }
    refuses_a_hook_that_ends_the_old_master(&pod);
    pod.deploy(App::Good, "v2");
    is_at_rest_on(&pod, "v2");
    load.finish().assert_nothing_lost();
}

fn refuses_a_hook_that_ends_the_old_master(pod: &Pod) {
    let hook = "before_fork { |server, _| Process.kill(:QUIT, File.read(\"#{server.pid}.oldbin\").to_i) rescue nil }\n";
    pod.deploy_changed("hook", |dir| {
        fs::write(dir.join("config/unicorn.rb"), format!("{}{hook}", unicorn::CONFIG)).unwrap();
    });
    let status = pod.wait_for_reason("config_invalid");
    assert!(status["message"].as_str().unwrap().contains(".oldbin"), "{status}");
    assert_eq!(status["running"], "v1");
}

#[test]
fn e2e_unicorn_that_preloads_loses_only_its_second_master() {
    let pod = in_sync(unicorn::with("preload_app true\n"));
    let load = Load::start(Plan::modest(pod.puma.port()), "broken releases");
    // On a busy machine its second master may never be seen.
    let reason = survives(&pod, App::RaisesOnBoot, "bad");
    assert!(["boot_failed", "boot_timeout"].contains(&reason.as_str()), "{reason}");
    assert_eq!(survives(&pod, App::HangsOnBoot, "hung"), "boot_failed");
    pod.deploy(App::Good, "v2");
    is_at_rest_on(&pod, "v2");
    load.finish().assert_nothing_lost();
}

#[test]
fn e2e_unicorn_an_agent_that_is_killed_between_the_two_signals_goes_on_where_it_was() {
    let mut pod = in_sync(unicorn::setup());
    let load = Load::start(Plan::modest(pod.puma.port()), "crashes");
    let marks = pod.puma.scratch().join("marks");
    fs::create_dir_all(&marks).unwrap();
    for (number, point) in
        ["effects.after_signalled", "effects.after_signal", "effects.after_verified"].into_iter().enumerate()
    {
        pod.set("PITSTOP_FAILPOINTS", point);
        pod.set("PITSTOP_FAILPOINT_DIR", marks.to_string_lossy());
        pod.agent.start();
        let id = format!("v{}", number + 2);
        pod.deploy(App::Good, &id);
        until(point, || marks.join(point).exists().then_some(()));
        pod.agent.env.retain(|(name, _)| !name.starts_with("PITSTOP_FAILPOINT"));
        pod.agent.kill();
        pod.agent.start();
        is_at_rest_on(&pod, &id);
    }
    load.finish().assert_nothing_lost();
}

/// Whatever else may be found, this is.
fn told_of_others(pod: &Pod, times: usize) {
    until("the finding", || pod.found("RESTARTED_BY_OTHERS").then_some(()));
    until(&format!("it is said {times} times in the log"), || {
        (pod.log().matches("but not by pitstop; verifying").count() == times).then_some(())
    });
}

#[test]
fn e2e_unicorn_a_restart_by_others_at_rest_is_said_and_what_runs_is_proved_anew() {
    let pod = in_sync(unicorn::setup());
    is_at_rest_on(&pod, "v1");
    assert!(!pod.found("RESTARTED_BY_OTHERS"));
    let first = unicorn::masters()[0];
    signal(first, Signal::USR2);
    until("both masters are seen", || pod.found("UNICORN_TWO_MASTERS").then_some(()));
    signal(first, Signal::WINCH);
    told_of_others(&pod, 1);
    is_at_rest_on(&pod, "v1");
    assert_eq!(pod.status()["rejected"], serde_json::json!([]));
    // A deploy is none of theirs, and neither is a container that starts anew.
    pod.deploy(App::Good, "v2");
    is_at_rest_on(&pod, "v2");
    signal(*unicorn::masters().last().unwrap(), Signal::KILL);
    until("a new container", || (pod.puma.starts() == 2).then_some(()));
    pod.agent.wait_in_sync("v2");
    pod.puma.wait_for_release("v2");
    told_of_others(&pod, 1);
}

#[test]
fn e2e_unicorn_is_drained_before_sigterm_cuts_what_is_in_flight() {
    let mut pod = in_sync(unicorn::setup());
    pod.deploy(App::Good, "v2");
    is_at_rest_on(&pod, "v2");
    let port = pod.puma.port();
    let load = Load::start(Plan::modest(port), "before the end");
    let slow = thread::spawn(move || http::get_within(port, "/slow?s=5", Duration::from_secs(60)));
    until("some load", || (load.so_far().requests().len() > 50).then_some(()));
    load.finish().assert_nothing_lost();
    let end = kubelet::end(&mut pod.puma, Hook::HttpGet(pod.agent.port()), Duration::from_secs(60));
    assert!(slow.is_finished(), "SIGTERM came with a request in flight");
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
    assert_eq!(end.answer.unwrap()["result"], "drained");
    assert!(!end.killed);
}
