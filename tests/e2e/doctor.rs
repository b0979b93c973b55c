//! `pitstop doctor` in real pods: a healthy one, and one for each way to be set up wrong.

use std::path::Path;

use pitstop_rig::{App, Directory, Pod, Setup, until};
use serde_json::Value;

use crate::new_pod;

/// Puma was born with `v1`, and where it has another user the agent has that one as well. No agent yet.
fn born(setup: Setup) -> Pod {
    let mut pod = new_pod(setup);
    if let Some(uid) = pod.puma.setup().uid {
        pod.agent.run_as(&pod.puma, Some(uid));
    }
    pod.born()
}

/// Exit code and report.
#[track_caller]
fn doctor(pod: &Pod, args: &[&str]) -> (Option<i32>, Value) {
    let output = pod.agent.command(&[&["doctor", "--json"], args].concat()).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

/// What the volume and the pod's own directory hold, to see that nothing is left behind.
fn left_behind(pod: &Pod) -> Vec<String> {
    let places = [pod.puma.deploy_to(), pod.puma.releases(), pod.agent.state_dir()];
    let names = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut left: Vec<String> = places
        .iter()
        .flat_map(|dir| names(dir))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.contains("doctor"))
        .collect();
    left.sort();
    left
}

fn codes(report: &Value, severity: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap();
    let codes = findings.iter().filter(|finding| finding["severity"] == severity);
    codes.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

fn about(report: &Value, list: &str) -> Vec<String> {
    report[list].as_array().unwrap().iter().map(|line| line["about"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn e2e_a_healthy_pod_is_found_healthy_and_left_as_it_was() {
    let pod = new_pod(Setup::default()).in_sync();
    let (code, report) = doctor(&pod, &[]);
    assert_eq!(
        (code, codes(&report, "broken"), codes(&report, "risky")),
        (Some(0), vec![], vec![]),
        "{report:#}"
    );
    assert_eq!(report["unknown"], serde_json::json!([]), "{report:#}");
    for part in ["Puma", "restarts", "control server", "health path", "volume", "store", "pod", "agent"] {
        assert!(
            about(&report, "fine").iter().any(|about| about == part),
            "{part} was not looked at: {report:#}"
        );
    }
    assert_eq!(left_behind(&pod), [""; 0]);
    let said = pod.agent.must(&["doctor"]);
    let found = said.lines().any(|line| line.starts_with("fine    Puma: ") && line.contains(" found: pid "));
    assert!(found && said.contains("0 broken, 0 risky"), "{said}");
}

#[test]
fn e2e_what_doctor_finds_of_puma_is_what_status_shows() {
    let setup = Setup { preload: Some(true), control: false, state_file: false, ..Setup::default() };
    let pod = new_pod(Setup { directory: Directory::Pinned, ..setup }).in_sync();
    let (code, report) = doctor(&pod, &[]);
    assert_eq!((code, codes(&report, "broken")), (Some(0), vec![]), "{report:#}");
    let status = until("the findings on /status", || {
        pod.agent.status().filter(|status| status["findings"].as_array().is_some_and(|f| f.len() >= 3))
    });
    for code in ["CONTROL_SERVER_ABSENT", "RESTART_DIR_UNPROVEN", "PHASED_RESTART_UNAVAILABLE"] {
        let of = |value: &Value| {
            let findings = value["findings"].as_array().unwrap();
            findings.iter().filter(|finding| finding["code"] == code).cloned().collect::<Vec<_>>()
        };
        assert_eq!(of(&report).len(), 1, "{code}: {report:#}");
        assert_eq!(of(&report), of(&status), "{code}");
    }
    // What the agent tells, the configuration's notes among it, is not said a second time.
    let all: Vec<_> = report["findings"].as_array().unwrap().iter().map(|finding| &finding["code"]).collect();
    let once: std::collections::BTreeSet<_> = all.iter().map(|code| code.as_str()).collect();
    assert_eq!(all.len(), once.len(), "{all:?}");
}

#[test]
fn e2e_a_newborn_pod_without_a_pointer_says_that_and_not_that_puma_is_missing() {
    let mut pod = new_pod(Setup::default());
    std::fs::create_dir_all(pod.agent.store().join("releases")).unwrap();
    pod.agent.start();
    let startup = until("the probe's reason", || {
        let answer = pod.agent.get("/startup").ok()?;
        let body: Value = serde_json::from_str(&answer.body).ok()?;
        (body["reason"] == "pointer_unreadable").then_some(body)
    });
    assert!(startup["message"].as_str().unwrap().contains("pitstop promote"), "{startup}");
    // Also when the app server was looked at.
    let seen = r#"pitstop_reason{reason="app_server_missing"}"#;
    let series = r#"pitstop_reason{reason="pointer_unreadable"}"#;
    until("the metric", || (pod.agent.metric(series) == Some(1.0)).then_some(()));
    assert_eq!(pod.agent.metric(seen), None);
    let status = pod.agent.status().unwrap();
    assert_eq!(status["reason"], "pointer_unreadable", "{status:#}");
    let (code, report) = doctor(&pod, &[]);
    assert_eq!((code, codes(&report, "broken")), (Some(1), vec!["POINTER_UNREADABLE".into()]), "{report:#}");
    assert!(about(&report, "unknown").contains(&"Puma".to_owned()), "{report:#}");
    assert!(!codes(&status, "broken").contains(&"APP_SERVER_MISSING".to_owned()), "{status:#}");
    // A release makes it whole.
    pod.deploy(App::Good, "v1");
    until("the release", || (pod.agent.get("/startup").ok()?.status == 200).then_some(()));
    pod.puma.run();
    pod.agent.wait_in_sync("v1");
}

#[test]
fn e2e_a_puma_of_another_user_is_broken_and_says_who_is_who() {
    pitstop_rig::needs_root!();
    let mut pod = born(Setup { uid: Some(65534), ..Setup::default() });
    pod.agent.run_as(&pod.puma, Some(65533));
    pod.agent.start();
    let (code, report) = doctor(&pod, &[]);
    assert_eq!(
        (code, codes(&report, "broken")),
        (Some(1), vec!["APP_SERVER_NOT_PERMITTED".into()]),
        "{report:#}"
    );
    let message = report["findings"][0]["message"].as_str().unwrap();
    assert!(message.contains("user 65534") && message.contains("user 65533"), "{message}");
}

#[test]
fn e2e_without_an_agent_and_with_a_puma_from_elsewhere_everything_is_named_at_once() {
    let mut pod = born(Setup::default());
    let elsewhere = pod.puma.scratch().join("other/app");
    std::fs::create_dir_all(&elsewhere).unwrap();
    pod.agent.env.push(("PITSTOP_DEPLOY_TO".into(), elsewhere.display().to_string()));
    let (code, report) = doctor(&pod, &[]);
    assert_eq!(code, Some(1));
    assert_eq!(codes(&report, "broken"), ["NOT_FROM_CURRENT", "AGENT_NOT_RUNNING"], "{report:#}");
}

#[test]
fn e2e_before_puma_neither_it_nor_the_agent_is_missed() {
    let pod = new_pod(Setup::default());
    let (code, report) = doctor(&pod, &["--init"]);
    assert_eq!((code, codes(&report, "broken")), (Some(1), vec!["STORE_UNREACHABLE".into()]), "{report:#}");
    pod.deploy(App::Good, "v1");
    let (code, report) = doctor(&pod, &["--init"]);
    assert_eq!((code, codes(&report, "broken")), (Some(0), vec![]), "{report:#}");
    assert_eq!(about(&report, "unknown"), ["Puma", "health path", "agent"]);
    let (code, report) = doctor(&pod, &[]);
    assert_eq!(
        (code, codes(&report, "broken")),
        (Some(1), vec!["APP_SERVER_MISSING".into(), "AGENT_NOT_RUNNING".into()])
    );
}
