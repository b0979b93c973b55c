//! The agent is kept alive beside the command.

use pitstop_rig::{Signal, signal, until};

use super::container::Recipe;

const SERVER: &str = "trap 'exit 5' TERM; echo >$DIR/up; while :; do sleep 0.05; done";

fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

#[test]
fn an_agent_that_dies_is_started_again_and_the_command_runs_on() {
    let mut running = Recipe::with_release().script(SERVER);
    running.wait_for_file("up");
    let (agent, command) = (running.agent(), running.child("trap"));
    kill(agent);
    until("another agent", || (running.agent() != agent).then_some(()));
    assert_eq!(running.child("trap"), command);
    running.wait_for_log("the agent exited unexpectedly; restarting it");
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(5));
}

#[test]
fn an_agent_that_dies_during_the_drain_is_started_again_and_asked_again() {
    let mut running = Recipe::with_release().env("PITSTOP_GRACE_PERIOD", "300s").script(SERVER);
    running.wait_for_file("up");
    let agent = running.agent();
    signal(agent, Signal::STOP);
    running.kill(Signal::TERM);
    running.wait_for_log("signal held until");
    kill(agent);
    assert_eq!(running.code(), Some(5));
    assert!(running.log().contains("drain=\"no_app_server\""), "{}", running.log());
}

#[test]
fn a_directory_that_cannot_be_written_does_not_cost_the_drain() {
    let recipe = Recipe::with_release().env("PITSTOP_STATE_DIR", "/proc/nowhere");
    let mut running = recipe.script(SERVER);
    running.wait_for_file("up");
    assert!(running.log().contains("state_dir is not writable"), "{}", running.log());
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(5));
    assert!(running.log().contains("drain=\"no_app_server\""), "{}", running.log());
}
