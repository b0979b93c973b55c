//! The agent is killed at each step of a deploy, and started again.

use std::fs;

use pitstop::effects::FAIL_POINTS;
use pitstop_rig::{App, Setup, until};

use crate::pod::Pod;

/// Kills the agent where it has just blocked, and starts a new one.
fn kill_at(pod: &mut Pod, point: &str, app: App, id: &str) {
    let marks = pod.puma.scratch().join("marks");
    fs::create_dir_all(&marks).unwrap();
    pod.agent.env.retain(|(name, _)| !name.starts_with("PITSTOP_FAILPOINT"));
    pod.set("PITSTOP_FAILPOINTS", point);
    pod.set("PITSTOP_FAILPOINT_DIR", marks.to_string_lossy());
    pod.agent.kill();
    pod.agent.start();
    pod.deploy(app, id);
    until(&format!("the agent at {point}"), || marks.join(point).exists().then_some(()));
    pod.agent.env.retain(|(name, _)| !name.starts_with("PITSTOP_FAILPOINT"));
    pod.agent.kill();
    fs::remove_file(marks.join(point)).unwrap();
    assert!(pod.puma.current().join("REVISION").exists(), "current dangles after a kill at {point}");
    pod.agent.start();
}

fn on_the_way_back(point: &str) -> bool {
    point.contains("rejected") || point.contains("reverted")
}

#[test]
fn e2e_killed_at_any_step_forward_a_good_release_arrives() {
    let mut pod = Pod::born(Setup::default());
    // After a kill between the `signalled` line and the signal nobody knows whether it was sent: the
    // restart is asked for again when its time has run out.
    pod.set("PITSTOP_RESTART_TIMEOUT", "5s");
    let mut pod = pod.started();
    let forward = FAIL_POINTS.iter().filter(|point| !on_the_way_back(point));
    for (number, point) in forward.enumerate() {
        let id = format!("v{}", number + 2);
        kill_at(&mut pod, point, App::Good, &id);
        pod.agent.wait_in_sync(&id);
        pod.assert_runs(&id);
    }
}

#[test]
fn e2e_killed_at_any_step_back_a_bad_release_stays_rejected() {
    let mut pod = Pod::born(Setup::default()).started();
    for (number, point) in FAIL_POINTS.iter().filter(|point| on_the_way_back(point)).enumerate() {
        let id = format!("bad{number}");
        kill_at(&mut pod, point, App::RaisesOnBoot, &id);
        until(&format!("v1 again after a kill at {point}"), || {
            let status = pod.status();
            (status["running"] == "v1" && status["stage"] == "steady" && status["reason"] == "rejected")
                .then_some(())
        });
        pod.assert_runs("v1");
    }
}
