//! Deploys below `pitstop exec`.

use pitstop_rig::{App, ExecPod, Setup, until};

use super::container::{Pod, puma_behind_a_shell};
use crate::PITSTOP;

#[test]
fn e2e_exec_boots_the_first_release_and_deploys_the_next_behind_a_shell() {
    let pod = Pod::in_sync(Setup::default(), puma_behind_a_shell());
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    pod.term();
    pod.wait_for_end();
    // Master, workers, shell, agent: a namespace that is gone has none of them.
    assert!(pod.puma.get("/").is_err());
}

/// With preload, a release that raises takes Puma down, and with it the container. It must boot the
/// release from before when the platform starts it again.
#[test]
fn e2e_exec_puts_current_back_before_the_container_ends() {
    // Beside the first one it would harm nobody.
    let mut pod = ExecPod::prepare(PITSTOP.as_ref(), Setup::preloading()).with("PITSTOP_RESTART_MODE", "hot");
    pod.script = puma_behind_a_shell();
    let mut pod = pod.in_sync();
    pod.deploy(App::RaisesOnBoot, "v2");
    assert_eq!(pod.wait_for_end(), Some(1), "Puma's exit code");
    assert!(pod.current().ends_with("v1"));
    assert!(pod.revisions_log().contains(r#""event":"rejected","release":"v2""#), "{}", pod.revisions_log());
    pod.start();
    pod.puma.wait_for_release("v1");
    until("v2 is not tried again", || (pod.agent.status()?["reason"] == "rejected").then_some(()));
}

/// A container that was killed in the middle of a deploy says nothing about the release.
#[test]
fn e2e_exec_a_container_killed_in_mid_restart_blames_no_release() {
    let mut pod = Pod::in_sync(Setup::default(), puma_behind_a_shell());
    pod.deploy(App::SlowBoot, "v2");
    until("the signal", || {
        pod.revisions_log().contains(r#""event":"signalled","release":"v2""#).then_some(())
    });
    pod.kill();
    pod.start();
    pod.agent.wait_in_sync("v2");
    assert!(!pod.revisions_log().contains("rejected"), "{}", pod.revisions_log());
}

#[test]
fn e2e_exec_beside_a_wrong_configuration_puma_runs_and_the_agent_still_drains() {
    let mut pod = Pod::in_sync(Setup::default(), puma_behind_a_shell());
    pod.term();
    pod.wait_for_end();
    pod.agent.env.push(("PITSTOP_NO_SUCH_KEY".into(), "1".into()));
    pod.start();
    pod.puma.wait_for_release("v1");
    until("the agent beside Puma", || (pod.agent.status()?["reason"] == "config_invalid").then_some(()));
    let request = pod.slow_request(4);
    pod.term();
    pod.wait_for_end();
    assert_eq!(request.join().unwrap(), Some(200));
}
