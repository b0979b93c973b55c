//! Trial boots (`hooks.check`) beside a Puma that serves.

use std::{fs, path::PathBuf};

use pitstop_rig::{App, Pod, Setup, until};
use serde_json::Value;

use super::recovers;
use crate::new_pod;

/// Loads the app as Puma would, and says that it was asked.
const BOOT: &str = r#"echo "$PITSTOP_RELEASE" >> "$NOTES/asked"; env > "$NOTES/env";
ruby -r rack -e 'Rack::Builder.parse_file("config.ru")'"#;

/// v2 and v4 hang, with a process of their own; the others pass.
const HANGS: &str = r#"case $PITSTOP_RELEASE in
v2|v4) sleep 600 & echo $! > "$NOTES/$PITSTOP_RELEASE"; wait;;
esac"#;

/// A whole Puma, until the test says that it is enough.
const PUMA: &str = r#"puma -C - -b "unix://$NOTES/trial.sock" config.ru & trial=$!;
while ! test -e "$NOTES/enough"; do sleep 0.1; done; kill $trial; wait $trial; true"#;

/// v1 runs, and the agent tries what comes next by this command.
fn trying(command: &str) -> Pod {
    let mut pod = new_pod(Setup::default()).born();
    let notes = notes(&pod).display().to_string();
    pod.set("NOTES", notes);
    pod.set("PITSTOP_HOOKS_CHECK", command);
    pod.set("AWS_SECRET_ACCESS_KEY", "secret-of-the-agent");
    pod.started()
}

fn notes(pod: &Pod) -> PathBuf {
    pod.puma.run_dir()
}

fn asked(pod: &Pod) -> Vec<String> {
    let text = fs::read_to_string(notes(pod).join("asked")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn process_of(pod: &Pod, release: &str) -> i32 {
    until("the hook's own process", || fs::read_to_string(notes(pod).join(release)).ok()?.trim().parse().ok())
}

#[track_caller]
fn until_gone(pid: i32) {
    let gone = |stat: &str| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    until("the hook's own process is ended", || match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) if !gone(&stat) => None,
        _ => Some(()),
    });
}

#[test]
fn e2e_a_release_that_raises_fails_its_trial_and_is_never_served() {
    let mut pod = trying(BOOT);
    let master = pod.puma.master();
    pod.deploy(App::RaisesOnBoot, "v2");
    let status = pod.wait_for_reason("hook_failed");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("broken on purpose") && message.contains("v2"), "{message}");
    assert_eq!((pod.attempts("v2"), &status["running"]), (0, &Value::from("v1")));
    assert_eq!(status["rejected"][0]["reason"], "hook_failed");
    pod.assert_runs("v1");
    let env = fs::read_to_string(notes(&pod).join("env")).unwrap();
    assert!(env.contains("PITSTOP_RELEASE=v2") && env.contains("PITSTOP_RUNNING=v1"), "{env}");
    assert!(!env.contains("secret-of-the-agent") && !env.contains("PITSTOP_HOOKS"), "{env}");
    assert!(pod.log().contains("this release is broken on purpose"), "the whole output is in the log");
    // The verdict outlives the agent: the same move is not tried again.
    let journal = pod.puma.deploy_to().join(".pitstop/pods/rig/revisions.log");
    let written = || fs::read_to_string(&journal).is_ok_and(|lines| lines.contains(r#""event":"rejected""#));
    until("the rejection on disk", || written().then_some(()));
    pod.agent.kill();
    pod.agent.start();
    pod.wait_for_reason("rejected");
    assert_eq!((asked(&pod), pod.puma.master()), (vec!["v2".to_owned()], master), "Puma was left alone");
    recovers(&pod);
    assert_eq!(asked(&pod), ["v2", "v9"]);
}

#[test]
fn e2e_a_trial_that_hangs_gives_way_to_a_newer_move_and_to_the_end_of_the_pod() {
    let pod = trying(HANGS);
    pod.deploy(App::Good, "v2");
    let hanging = process_of(&pod, "v2");
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
    until_gone(hanging);
    pod.deploy(App::Good, "v4");
    let hanging = process_of(&pod, "v4");
    pod.assert_runs("v3");
    assert_eq!(pod.prestop()["result"], "drained");
    until_gone(hanging);
    assert_eq!((pod.attempts("v4"), &pod.status()["rejected"]), (0, &serde_json::json!([])));
}

#[test]
fn e2e_without_the_runtime_of_the_hook_nothing_is_moved_and_doctor_says_why() {
    let pod = trying("no-such-program --check");
    pod.deploy(App::Good, "v2");
    let status = pod.wait_for_reason("hook_failed");
    let broken = status["findings"].as_array().unwrap().iter().find(|f| f["severity"] == "broken").unwrap();
    assert_eq!(broken["code"], "HOOK_NO_RUNTIME");
    assert_eq!((pod.attempts("v2"), &status["rejected"]), (0, &serde_json::json!([])));
    pod.assert_runs("v1");
    let doctor = pod.agent.command(&["doctor"]).unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.status.code() == Some(1) && said.contains("no `no-such-program`"), "{said}");
}

#[test]
fn e2e_a_trial_that_is_a_whole_puma_is_not_taken_for_the_one_that_serves() {
    let pod = trying(PUMA);
    let master = pod.puma.master();
    pod.deploy(App::Good, "v2");
    let socket = notes(&pod).join("trial.sock");
    until("the Puma of the trial", || socket.exists().then_some(()));
    let read_at = || pod.metric("pitstop_pointer_last_success_timestamp_seconds").unwrap_or(0.0);
    let before = read_at();
    until("some more looks", || (read_at() >= before + 3.0).then_some(()));
    let status = pod.status();
    assert_eq!(status["app_server"]["pid"], Value::from(master.unwrap()), "{status}");
    assert_eq!((&status["reason"], &status["running"]), (&Value::Null, &Value::from("v1")), "{status}");
    fs::write(notes(&pod).join("enough"), "").unwrap();
    pod.agent.wait_in_sync("v2");
    pod.assert_runs("v2");
}
