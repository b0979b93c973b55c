//! SIGTERM is held back for the drain, everything else is passed on, past shells.

use pitstop_rig::{Signal, signal, until};

use super::container::{Recipe, Running};

/// A server that ends with 5 on SIGTERM, with 6 on SIGINT, and notes SIGUSR1.
const SERVER: &str = "trap 'exit 5' TERM; trap 'exit 6' INT; trap 'echo >$DIR/usr1' USR1; echo >$DIR/up; \
                      while :; do sleep 0.05; done";

/// Behind a shell that a signal would kill.
fn behind_a_shell() -> String {
    format!("sh -c \"{SERVER}\"; exit $?")
}

fn up(recipe: Recipe, script: &str) -> Running {
    let running = recipe.script(script);
    running.wait_for_file("up");
    // So that the answer is the agent's.
    running.wait_for_log("the volume was read");
    running
}

fn term(pid: i32) {
    signal(pid, Signal::TERM);
}

#[test]
fn sigterm_reaches_the_command_after_the_drain() {
    let mut running = up(Recipe::with_release(), SERVER);
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(5));
    let log = running.log();
    assert!(log.contains("signal held until the drain is over"), "{log}");
    assert!(log.contains("drain=\"no_app_server\""), "{log}");
}

#[test]
fn a_shell_in_between_does_not_die_of_it() {
    let mut running = up(Recipe::with_release(), &behind_a_shell());
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(5));
}

#[test]
fn sigint_is_held_back_as_well() {
    let mut running = up(Recipe::with_release(), &behind_a_shell());
    running.kill(Signal::INT);
    assert_eq!(running.code(), Some(6));
    assert!(running.log().contains("signal held until"), "{}", running.log());
}

#[test]
fn a_command_that_nobody_taught_sigterm_ends_by_it() {
    let mut running = Recipe::with_release().script("echo >$DIR/up; sleep 60; true");
    running.wait_for_file("up");
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(143));
}

#[test]
fn other_signals_are_passed_on_at_once_past_the_shell() {
    let running = up(Recipe::with_release(), &behind_a_shell());
    // Nobody handles this one, and it would kill the shell.
    running.kill(Signal::USR2);
    running.wait_for_log("no process of the command handles it");
    running.kill(Signal::USR1);
    running.wait_for_file("usr1");
}

#[test]
fn below_tini_and_dumb_init_it_is_the_same() {
    for outer in ["tini", "dumb-init"] {
        let mut running = up(Recipe::with_release().below(&[outer, "--"]), &behind_a_shell());
        term(running.outermost());
        assert_eq!(running.code(), Some(5), "{outer}");
        assert!(running.log().contains("signal held until"), "{outer}: {}", running.log());
    }
}

#[test]
fn a_silent_agent_is_not_waited_for_beyond_the_drains_limit() {
    let recipe = Recipe::with_release().env("PITSTOP_DRAIN_MAX", "1s").env("PITSTOP_DRAIN_RESERVE", "1s");
    let mut running = up(recipe, SERVER);
    signal(running.agent(), Signal::STOP);
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(5));
    assert!(running.log().contains("did not answer in time"), "{}", running.log());
}

#[test]
fn a_second_sigterm_is_passed_on_at_once() {
    let recipe = Recipe::with_release().env("PITSTOP_GRACE_PERIOD", "300s");
    let mut running = up(recipe, SERVER);
    signal(running.agent(), Signal::STOP);
    running.kill(Signal::TERM);
    running.wait_for_log("signal held until");
    until("the command's end", || {
        running.kill(Signal::TERM);
        running.log().contains("signal received again").then_some(())
    });
    // A stopped agent takes no SIGTERM.
    signal(running.agent(), Signal::CONT);
    assert_eq!(running.code(), Some(5));
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_with_the_grace_period() {
    let recipe = Recipe::with_release().env("PITSTOP_GRACE_PERIOD", "4s").env("PITSTOP_DRAIN_RESERVE", "1s");
    let mut running = up(recipe, "trap '' TERM; echo >$DIR/up; while :; do sleep 0.1; done");
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(137));
    assert!(running.log().contains("sending SIGKILL to the remaining processes"), "{}", running.log());
}

#[test]
fn at_a_terminal_ctrl_c_is_for_the_command() {
    let mut running = Recipe::with_release().at_a_terminal(SERVER);
    running.wait_for_file("up");
    running.press(b"\x03");
    assert_eq!(running.code(), Some(6));
    let shown = std::fs::read_to_string(running.file("out")).unwrap();
    assert!(!shown.contains("signal held until"), "{shown}");
}
