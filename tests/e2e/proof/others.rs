//! Others restart Puma as well: at rest, and around a deploy at any moment.

use std::{process::Command, thread, time::Duration};

use pitstop_rig::{Dice, Signal, puma::TOKEN, signal};

use super::*;

const CODE: &str = "RESTARTED_BY_OTHERS";

/// `pumactl`, as somebody in the pod would call it.
fn pumactl(pod: &Pod, command: &str) -> bool {
    let (url, token) = (pod.puma.control_url(), TOKEN);
    let mut pumactl = Command::new("env");
    pod.puma.entrance()(&mut pumactl);
    pumactl.arg("pumactl").args(["--control-url", &url, "--control-token", token, command]);
    pumactl.output().is_ok_and(|output| output.status.success())
}

fn workers(pod: &Pod) -> Vec<i64> {
    let status = pod.status();
    let workers = status["app_server"]["workers"].as_array().cloned().unwrap_or_default();
    workers.iter().filter(|w| w["booted"] == true).filter_map(|w| w["pid"].as_i64()).collect()
}

#[test]
fn e2e_a_restart_by_others_at_rest_is_said_and_what_runs_is_proved_anew() {
    let pod = new_pod(Setup::default()).in_sync();
    for command in ["restart", "phased-restart"] {
        wait_for_proof(&pod, "v1", "every_worker");
        let before = workers(&pod);
        assert!(pumactl(&pod, command), "{command}");
        until(&format!("other workers after {command}"), || {
            let now = workers(&pod);
            (now.len() == 2 && now.iter().all(|pid| !before.contains(pid))).then_some(())
        });
        until("the finding", || pod.found(CODE).then_some(()));
        let shown = pod.agent.must(&["status"]);
        assert!(shown.contains("the app server was restarted at 2"), "{command}: {shown}");
    }
    let status = wait_for_proof(&pod, "v1", "every_worker");
    assert_eq!((&status["rejected"], pod.puma.starts()), (&serde_json::json!([]), 1));
    let log = pod.log();
    assert_eq!(log.matches("but not by pitstop; verifying").count(), 2, "{log}");
}

/// As Solid Queue's plugin does it when its own process ends, or a person: the release had booted by then.
#[test]
fn e2e_a_master_that_somebody_ends_in_a_deploy_is_not_the_releases_fault() {
    let setup = Setup { restarted: true, ..Setup::default() };
    let slowly = |yaml: String| yaml.replace("soak: 1s", "soak: 3s");
    let pod = new_pod(setup).configured(slowly).in_sync();
    pod.deploy(App::Good, "v2");
    let on_v2 = |worker: &serde_json::Value| worker["booted"] == true && worker["release"] == "v2";
    until("workers of v2", || {
        let status = pod.status();
        let there = status["app_server"]["workers"].as_array()?.iter().filter(|worker| on_v2(worker)).count();
        (status["stage"] == "verifying" && there == 2).then_some(())
    });
    signal(pod.puma.master().unwrap(), Signal::TERM);
    until("the finding", || pod.found("MASTER_ENDED").then_some(()));
    let status = wait_for_proof(&pod, "v2", "every_worker");
    assert_eq!((&status["rejected"], pod.puma.starts()), (&serde_json::json!([]), 2));
    let shown = pod.agent.must(&["status"]);
    assert!(shown.contains("the app server's master ended at 2"), "{shown}");
}

/// As many rounds as `RIG_OTHERS` says; each moves the pod to a new release, and somebody restarts Puma at
/// a random moment before, in the middle of it, or after.
#[test]
fn e2e_restarts_by_others_at_any_moment_neither_kill_puma_nor_condemn_a_release() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (rounds, seed) = (number("RIG_OTHERS").unwrap_or(2), number("RIG_SEED").unwrap_or(20_261_121));
    let setup = Setup { restarted: true, boot_seconds: 0.3, ..Setup::default() };
    let pod = new_pod(setup).in_sync();
    let mut dice = Dice(seed);
    for round in 2..rounds + 2 {
        let id = format!("v{round}");
        pod.agent.publish(&pod.puma, App::Good, &id);
        let command = ["restart", "phased-restart"][dice.below(2) as usize];
        let (ours, theirs) = (dice.below(700), dice.below(2_500));
        println!("seed {seed}, round {round}: promoted after {ours} ms, {command} after {theirs} ms");
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(theirs));
                pumactl(&pod, command)
            });
            thread::sleep(Duration::from_millis(ours));
            pod.agent.promote(&id);
        });
        pod.agent.wait_in_sync(&id);
        wait_for_proof(&pod, &id, "every_worker");
        assert_eq!(pod.puma.get("/").unwrap().release.as_deref(), Some(id.as_str()));
        assert_eq!((&pod.status()["rejected"], pod.puma.starts()), (&serde_json::json!([]), 1), "{id}");
    }
}

/// Worker 0 forks the others: a deploy moves them all, and a refork is nobody's restart.
#[test]
fn e2e_workers_that_a_worker_forks_are_moved_and_reforked() {
    let setup = Setup { workers: 3, config: "fork_worker".into(), ..Setup::default() };
    let pod = new_pod(setup).in_sync();
    wait_for_proof(&pod, "v1", "every_worker");
    let before = workers(&pod);
    signal(pod.puma.master().unwrap(), Signal::URG);
    until("a refork", || {
        let now = workers(&pod);
        let kept = now.iter().filter(|pid| before.contains(pid)).count();
        (now.len() == 3 && kept == 1).then_some(())
    });
    wait_for_proof(&pod, "v1", "every_worker");
    assert!(!pod.found(CODE), "{}", pod.status());
    pod.deploy(App::Good, "v2");
    wait_for_proof(&pod, "v2", "every_worker");
    assert_eq!(pod.status()["rejected"], serde_json::json!([]));
}
