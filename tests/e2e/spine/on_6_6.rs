//! The same circle on Debian's Puma 6.6, in a mount namespace of its own. Needs root.

use std::thread;

use pitstop_rig::{App, Image, Pod, Setup, http, is_root, until};

use super::recovers;
use crate::new_pod;

/// How many restarts were sent: phased, hot.
fn sent(pod: &Pod) -> [f64; 2] {
    ["phased", "hot"].map(|mode| {
        pod.metric(&format!(r#"pitstop_restarts_total{{mode="{mode}",result="sent"}}"#)).unwrap_or(0.0)
    })
}

/// Born on Puma 6.6 with these keys, and proven; nothing without root.
fn on_6_6(setup: Setup, keys: &[(&str, &str)]) -> Option<Pod> {
    if !is_root() {
        return None;
    }
    let mut pod = new_pod(Setup { restarted: true, ..setup.from(Image::Trixie) }).born();
    keys.iter().for_each(|(name, value)| pod.set(name, *value));
    Some(pod.started())
}

#[test]
fn e2e_auto_is_phased_and_hot_where_the_bundle_changed_on_6_6() {
    let Some(pod) = on_6_6(Setup::default(), &[]) else { return };
    let master = pod.puma.master();
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
    assert_eq!(sent(&pod), [1.0, 0.0]);
    let dir = pod.agent.build(&pod.puma, App::Good, "v3");
    std::fs::write(dir.join("Gemfile.lock"), "changed\n").unwrap();
    pod.agent.must(&["publish", &dir.to_string_lossy(), "--release", "v3"]);
    pod.agent.promote("v3");
    pod.agent.wait_in_sync("v3");
    pod.assert_runs("v3");
    assert_eq!(sent(&pod), [1.0, 1.0]);
    assert_eq!((pod.puma.master(), pod.puma.starts()), (master, 1), "the same pod, the same master");
}

/// A release that cannot boot is undone; how often the container was started for it. Now and then a
/// worker of 6.6 does not stop by itself: the restart's time must have room for Puma to end it.
fn undone(setup: Setup, mode: &str) -> Option<usize> {
    let setup = Setup { worker_shutdown_timeout: 3, ..setup };
    let pod = on_6_6(setup, &[("PITSTOP_RESTART_MODE", mode), ("PITSTOP_RESTART_TIMEOUT", "8s")])?;
    pod.deploy(App::RaisesOnBoot, "v2");
    until("v1 again", || {
        let status = pod.status();
        let back = (status["running"] == "v1", status["stage"] == "steady", status["reason"] == "rejected");
        (back == (true, true, true)).then_some(())
    });
    pod.assert_runs("v1");
    assert_eq!(pod.attempts("v2"), 1);
    let starts = pod.puma.starts();
    recovers(&pod);
    Some(starts)
}

#[test]
fn e2e_phased_and_raises_on_boot_goes_back_on_6_6() {
    assert!(undone(Setup::default(), "phased").is_none_or(|starts| starts == 1));
}

#[test]
fn e2e_hot_and_raises_on_boot_goes_back_on_6_6() {
    assert!(undone(Setup::default(), "hot").is_none_or(|starts| starts == 1));
}

#[test]
fn e2e_hot_and_raises_in_preload_a_new_container_boots_good_code_on_6_6() {
    assert!(undone(Setup::preloading(), "hot").is_none_or(|starts| starts > 1));
}

#[test]
fn e2e_a_drain_waits_for_a_long_request_and_is_answered_on_6_6() {
    let Some(pod) = on_6_6(Setup::default(), &[]) else { return };
    let port = pod.puma.port();
    let slow = thread::spawn(move || http::get(port, "/slow?s=6"));
    let in_flight = |pod: &Pod| pod.metric("pitstop_puma_requests_in_flight").unwrap_or(0.0);
    until("the request is counted", || (in_flight(&pod) == 1.0).then_some(()));
    let told = pod.prestop();
    assert!(slow.is_finished(), "answered with a request in flight: {told}");
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
    assert_eq!((&told["result"], &told["requests_left"]), (&"drained".into(), &0.into()), "{told}");
}

#[test]
fn e2e_a_puma_that_would_die_of_sigusr2_gets_only_phased_restarts_on_6_6() {
    let env = vec![("PUMA_SKIP_SIGUSR2".to_owned(), "1".to_owned())];
    let Some(mut pod) = on_6_6(Setup { env, ..Setup::default() }, &[]) else { return };
    let found = pod.status()["findings"].to_string();
    assert!(found.to_lowercase().contains("hot_restart_unavailable"), "{found}");
    pod.deploy(App::RaisesOnBoot, "bad");
    pod.wait_for_reason("rejected");
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    pod.agent.kill();
    pod.set("PITSTOP_RESTART_MODE", "hot");
    pod.agent.start();
    pod.deploy(App::Good, "v3");
    let status = pod.wait_for_reason("config_invalid");
    assert!(status["message"].as_str().unwrap().contains("PUMA_SKIP_SIGUSR2"), "{status}");
    pod.assert_runs("v2");
    assert_eq!((sent(&pod), pod.puma.starts()), ([0.0, 0.0], 1), "it was never signalled");
}
