//! How it ends: the command's code, and nobody left behind.

use std::{fs, io::Write};

use pitstop::procs::ProcessId;
use pitstop_rig::{Signal, puma::children, until};

use super::container::Recipe;

fn code_of(script: &str) -> Option<i32> {
    Recipe::with_release().script(script).code()
}

#[test]
fn the_exit_code_is_the_commands() {
    assert_eq!(code_of("exit 0"), Some(0));
    assert_eq!(code_of("exit 7"), Some(7));
    assert_eq!(code_of("kill -KILL $$"), Some(137));
}

#[test]
fn a_stop_that_was_asked_for_ends_with_0_where_that_is_wanted() {
    for (wanted, code) in [("true", 0), ("false", 143)] {
        let recipe = Recipe::with_release().env("PITSTOP_EXEC_STOP_IS_SUCCESS", wanted);
        let mut running = recipe.script("echo >$DIR/up; exec sleep 60");
        running.wait_for_file("up");
        running.kill(Signal::TERM);
        assert_eq!(running.code(), Some(code), "{}", running.log());
    }
}

#[test]
fn a_command_that_cannot_be_run_ends_as_in_a_shell() {
    let mut missing = Recipe::with_release().run(&["no-such-program"]);
    assert_eq!(missing.code(), Some(127));
    assert!(missing.log().contains("no-such-program"), "{}", missing.log());
    assert_eq!(Recipe::with_release().run(&["/etc/passwd"]).code(), Some(126));
}

#[test]
fn the_commands_standard_streams_are_its_own() {
    let mut cat = Recipe::with_release().run(&["cat"]);
    cat.write("one\ntwo\n");
    assert_eq!(cat.code(), Some(0));
    assert_eq!(fs::read_to_string(cat.file("out")).unwrap(), "one\ntwo\n");
}

fn zombies(parent: i32) -> Vec<i32> {
    let zombie = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
    };
    children(parent).into_iter().filter(zombie).collect()
}

/// Twenty processes whose parent ends at once; they themselves a little later.
const ORPHANS: &str = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
    (sh -c 'echo >>$DIR/born; read line <$DIR/gate; echo >>$DIR/ended' &); done; echo >$DIR/all; exec sleep 60";

fn reaps_orphans(recipe: Recipe) {
    let lines = |text: &str| text.lines().count();
    let recipe = recipe.env("PITSTOP_GRACE_PERIOD", "20s");
    let running = recipe.script(&format!("mkfifo $DIR/gate; {ORPHANS}"));
    until("twenty orphans", || (lines(&running.wait_for_file("born")) == 20).then_some(()));
    // Two children of its own, and those that it adopted.
    until("their adoption", || (children(running.first()).len() >= 22).then_some(()));
    // Held open: one that comes late to the gate finds it open as well.
    let mut gate = fs::OpenOptions::new().read(true).write(true).open(running.file("gate")).unwrap();
    gate.write_all("go\n".repeat(40).as_bytes()).unwrap();
    until("no orphan, no zombie", || (children(running.first()).len() == 2).then_some(()));
    assert!(zombies(running.first()).is_empty());
}

#[test]
fn orphans_are_reaped_by_the_first_process() {
    reaps_orphans(Recipe::with_release());
}

#[test]
fn orphans_are_reaped_also_below_another_init() {
    reaps_orphans(Recipe::with_release().below(&["sh", "-c", "\"$@\"; exit $?", "-"]));
}

#[test]
fn what_the_command_leaves_behind_gets_sigterm_before_the_end() {
    let daemon = "trap 'echo >$DIR/termed; exit' TERM; echo >$DIR/up; while :; do sleep 0.1; done";
    let script = format!("(sh -c \"{daemon}\" &); until [ -e $DIR/up ]; do sleep 0.05; done; exit 3");
    let mut running = Recipe::with_release().script(&script);
    assert_eq!(running.code(), Some(3));
    running.wait_for_file("termed");
}

#[test]
fn a_daemon_that_ignores_sigterm_is_killed() {
    let daemon = "trap '' TERM; echo >$DIR/up; while :; do sleep 0.1; done";
    let script = format!("(sh -c \"{daemon}\" &); until [ -e $DIR/up ]; do sleep 0.05; done; exit 3");
    let recipe = Recipe::with_release().env("PITSTOP_DRAIN_RESERVE", "1s");
    let mut running = recipe.without_namespace().script(&script);
    assert_eq!(running.code(), Some(3));
    assert!(running.log().contains("sending SIGKILL to the remaining processes"), "{}", running.log());
}

#[test]
fn a_killed_init_takes_its_children_along() {
    let recipe = Recipe::with_release().without_namespace();
    let running =
        recipe.script("trap 'echo >$DIR/termed; exit' TERM; echo >$DIR/up; while :; do sleep 0.1; done");
    running.wait_for_file("up");
    let agent = running.agent();
    running.kill(Signal::KILL);
    running.wait_for_file("termed");
    until("the agent's end", || ProcessId::of(agent).is_err().then_some(()));
}
