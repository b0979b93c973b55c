//! The requests that a pod's first server is asked before the pod gets any.

use std::fs;

use pitstop_rig::{Pod, Setup, until};

use crate::new_pod;

/// The app answers this request once there is a file `go`.
fn warms_up(pod: Pod) -> Pod {
    pod.with("PITSTOP_WARMUP_REQUESTS", "/slow?s=0&after=go").with("PITSTOP_WARMUP_COUNT", "3")
}

fn ready(pod: &Pod) -> Option<(u16, String)> {
    let answer = pod.agent.get("/ready").ok()?;
    Some((answer.status, answer.body))
}

#[test]
fn e2e_a_pod_is_ready_once_its_first_server_is_warm_and_no_later_agent_asks_again() {
    let go = |pod: &Pod| pod.puma.run_dir().join("go");
    let mut pod = warms_up(new_pod(Setup::default())).with("PITSTOP_WARMUP_TIMEOUT", "10m").in_sync();
    let waits = |pod: &Pod| {
        let waits = ready(pod)? == (503, r#"{"pending":["warmup"]}"#.into());
        (waits && pod.status()["app_server"]["warmup"]["state"] == "running").then_some(())
    };
    until("the warm-up", || waits(&pod));
    pod.agent.kill();
    pod.agent.start();
    until("the warm-up anew, which nobody has seen end", || waits(&pod));
    fs::write(go(&pod), "").unwrap();
    until("a pod that is ready", || (ready(&pod)?.0 == 200).then_some(()));
    let status = pod.status();
    let warmup = &status["app_server"]["warmup"];
    assert_eq!(
        (&warmup["of"], &warmup["state"], &warmup["requests"]),
        (&"live".into(), &"done".into(), &3.into())
    );
    assert!(!pod.findings().contains(&"WARMUP_FAILED".into()), "{status}");
    until("the note for later agents", || pod.agent.state_dir().join("ready").exists().then_some(()));
    fs::remove_file(go(&pod)).unwrap();
    pod.agent.kill();
    pod.agent.start();
    until("ready at once", || (ready(&pod)?.0 == 200).then_some(()));
}

#[test]
fn e2e_a_warm_up_that_fails_keeps_no_pod_out_of_service() {
    let pod = warms_up(new_pod(Setup::default())).with("PITSTOP_WARMUP_TIMEOUT", "1s").in_sync();
    until("a pod that is ready", || (ready(&pod)?.0 == 200).then_some(()));
    let status = pod.status();
    let warmup = &status["app_server"]["warmup"];
    assert_eq!((&warmup["of"], &warmup["state"]), (&"live".into(), &"failed".into()), "{status}");
    let findings = status["findings"].as_array().unwrap();
    let failed = findings.iter().find(|finding| finding["code"] == "WARMUP_FAILED").unwrap();
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("gets requests though") && message.contains("GET /slow"), "{message}");
    assert_eq!(status["in_sync"], true, "no release is to blame: {status}");
}
