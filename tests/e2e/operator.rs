//! The operator's commands in a pod with a real Puma: what they do, and what they say.

use std::path::Path;

use pitstop_rig::{AgentRig, App, PumaRig, Setup, until};
use serde_json::Value;

use crate::PITSTOP;

fn pod() -> (AgentRig, PumaRig) {
    let mut puma = PumaRig::empty(Setup::default());
    let mut agent = AgentRig::prepare(Path::new(PITSTOP), &puma);
    agent.start_from_v1(&mut puma);
    (agent, puma)
}

#[track_caller]
fn says(agent: &AgentRig, args: &[&str], parts: &[&str]) {
    let said = agent.must(args);
    for part in parts {
        assert!(said.contains(part), "{args:?}: {part:?} is missing in {said:?}");
    }
}

/// Exit code 1, nothing on standard output, and the reason on standard error.
#[track_caller]
fn refuses(agent: &AgentRig, args: &[&str], part: &str) {
    let output = agent.command(args).unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}");
    assert!(why.contains(part), "{args:?}: {part:?} is missing in {why:?}");
}

fn held(agent: &AgentRig) -> Option<Value> {
    agent.status().filter(|status| status["reason"] == "held")
}

#[test]
fn e2e_a_night_with_the_operators_commands() {
    let (agent, puma) = pod();
    refuses(&agent, &["revert"], "no release that was proved to run here before");
    refuses(&agent, &["undrain"], "nothing to undo");
    says(&agent, &["resume"], &["nothing was held"]);
    until("the proof is written down", || agent.status().filter(|status| status["stage"] == "steady"));
    says(&agent, &["status"], &["rig: in sync, for ", "running   v1", "next      the pointer's next move"]);

    says(&agent, &["pause", "--why", "a long import, until 9"], &["no deploy begins until `pitstop resume`"]);
    says(&agent, &["pause"], &["paused already"]);
    agent.publish(&puma, App::Good, "v2");
    agent.promote("v2");
    says(&agent, &["sync"], &["looking at the pointer", "paused"]);
    until("the move is known", || held(&agent).filter(|status| status["desired"]["release"] == "v2"));
    let output = agent.command(&["status"]).unwrap();
    let status = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "out of sync");
    for part in [
        "not in sync",
        "desired   v2 (move 2)",
        "(held, for ",
        "next      nothing until `pitstop resume`",
        "deploys are paused in this pod: `pitstop resume` goes on (since 20",
        ": a long import, until 9)",
    ] {
        assert!(status.contains(part), "{part:?} is missing in\n{status}");
    }
    says(&agent, &["resume"], &["with v2#2"]);
    agent.wait_in_sync("v2");

    // Sent back though deploys are paused; asked again, it is the same revert.
    agent.must(&["pause"]);
    says(&agent, &["revert"], &["back to v1"]);
    until("v1 serves again", || held(&agent).filter(|status| status["running"] == "v1"));
    says(&agent, &["revert"], &["sent back to v1 already"]);
    says(&agent, &["sync", "--retry"], &["nothing to try again", "sent back"]);
    assert_eq!(puma.get("/").unwrap().release.as_deref(), Some("v1"));
    says(&agent, &["resume"], &["with v2#2"]);
    agent.wait_in_sync("v2");
}

#[test]
fn e2e_a_drain_by_mistake_is_ended_and_deploys_go_on() {
    let (agent, puma) = pod();
    agent.publish(&puma, App::Good, "v2");
    agent.promote("v2");
    agent.wait_in_sync("v2");
    let hook = agent.prestop();
    until("the drain", || agent.status().filter(|status| !status["drain"].is_null()));
    refuses(&agent, &["revert"], "pitstop undrain");
    says(&agent, &["sync"], &["about to end"]);
    let status = agent.status().unwrap();
    assert!(status["next"].as_str().unwrap().contains("/prestop is answered"), "{status:#}");
    says(&agent, &["undrain"], &["the drain is undone"]);
    // Who waited is told so, and waits no longer.
    let _ = hook.join().unwrap();
    says(&agent, &["revert"], &["back to v1"]);
    until("v1 serves again", || held(&agent).filter(|status| status["running"] == "v1"));
}
