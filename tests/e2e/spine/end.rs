//! The end of the pod: /prestop and SIGTERM.

use std::{io::Write, net::TcpStream, thread};

use pitstop_rig::{App, Setup, Signal, puma::children, signal, until};

use crate::new_pod;

#[test]
fn e2e_prestop_answers_after_the_last_request_and_every_caller() {
    let pod = new_pod(Setup::default()).in_sync();
    let request = pod.slow_request(3);
    let answers = thread::scope(|scope| {
        let calls: Vec<_> = (0..2).map(|_| scope.spawn(|| pod.prestop())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(request.is_finished(), "answered with a request in flight");
    assert_eq!(request.join().unwrap(), Some(200));
    assert_eq!(answers[0]["drain_id"], answers[1]["drain_id"], "one drain");
    assert_eq!((&answers[0]["result"], &answers[0]["requests_left"]), (&"drained".into(), &0.into()));
    assert_eq!(pod.metric(r#"pitstop_drains_total{result="drained"}"#), Some(1.0));
    let late = pod.prestop();
    assert_eq!(late["result"], "drained", "a late call is held anew");
    assert_ne!(late["drain_id"], answers[0]["drain_id"]);
}

#[test]
fn e2e_the_drain_goes_on_when_its_caller_hangs_up() {
    let pod = new_pod(Setup::default()).in_sync();
    let request = pod.slow_request(3);
    let mut caller = TcpStream::connect(("127.0.0.1", pod.agent.port())).unwrap();
    write!(caller, "GET /prestop HTTP/1.1\r\nHost: pod\r\nUser-Agent: kube-lifecycle/1.33\r\n\r\n").unwrap();
    until("the drain", || pod.status()["drain"].is_object().then_some(()));
    drop(caller);
    until("its end", || (pod.status()["drain"]["result"] == "drained").then_some(()));
    assert_eq!(request.join().unwrap(), Some(200));
}

#[test]
fn e2e_no_deploy_begins_while_draining_and_undrain_ends_it() {
    let pod = new_pod(Setup::default()).in_sync();
    assert_eq!(pod.prestop()["result"], "drained");
    pod.deploy(App::Good, "v2");
    pod.wait_for_reason("draining");
    pod.assert_runs("v1");
    pod.agent.must(&["undrain"]);
    pod.agent.wait_in_sync("v2");
    assert_eq!(pod.agent.command(&["undrain"]).unwrap().status.code(), Some(1), "nothing to undo");
}

#[test]
fn e2e_a_killed_agent_takes_the_drain_up_again() {
    let mut pod = new_pod(Setup::default()).in_sync();
    let request = pod.slow_request(3);
    let mut caller = TcpStream::connect(("127.0.0.1", pod.agent.port())).unwrap();
    write!(caller, "GET /prestop HTTP/1.1\r\nHost: pod\r\nUser-Agent: kube-lifecycle/1.33\r\n\r\n").unwrap();
    let drain = until("the drain", || pod.status()["drain"]["drain_id"].as_str().map(str::to_owned));
    until("its journal", || pod.agent.state_dir().join("drain.json").exists().then_some(()));
    pod.agent.kill();
    pod.agent.start();
    let answer = pod.prestop();
    assert_eq!((&answer["drain_id"], &answer["result"]), (&drain.into(), &"drained".into()));
    assert!(request.is_finished());
    assert_eq!(request.join().unwrap(), Some(200));
}

#[test]
fn e2e_an_agent_that_is_killed_four_times_in_its_container_goes_on_with_the_drain() {
    let mut pod = new_pod(Setup::default()).in_sync();
    pod.agent.kill();
    pod.agent.kept = true;
    pod.agent.start();
    pod.agent.wait_in_sync("v1");
    let request = pod.slow_request(12);
    let begun = pod.agent.prestop();
    let drain = until("the drain", || Some(pod.status()["drain"]["drain_id"].as_str()?.to_owned()));
    until("its journal", || pod.agent.state_dir().join("drain.json").exists().then_some(()));
    let container = pod.agent.pid().unwrap();
    for _ in 0..4 {
        let killed = until("an agent", || children(container).first().copied());
        signal(killed, Signal::KILL);
        let next = |agent: &i32| *agent != killed;
        until("the next agent", || children(container).first().copied().filter(next));
        until("it answers", || pod.agent.get("/ready").ok().filter(|answer| answer.status == 200));
    }
    assert!(begun.join().unwrap().is_err(), "the first agent took its call with it");
    assert_eq!(pod.agent.pid(), Some(container));
    let answer = pod.prestop();
    assert_eq!((&answer["drain_id"], &answer["result"]), (&drain.into(), &"drained".into()));
    assert_eq!(request.join().unwrap(), Some(200));
    signal(container, Signal::TERM);
    pod.puma.container().terminate();
    assert_eq!(pod.agent.wait_for_end(), Some(0));
}

#[test]
fn e2e_sigterm_waits_for_the_drain_and_for_the_end_of_puma() {
    let mut pod = new_pod(Setup::default()).in_sync();
    let request = pod.slow_request(3);
    let pid = pod.agent.pid().unwrap();
    signal(pid, Signal::TERM);
    until("the drain's answer", || (pod.status()["drain"]["result"] == "drained").then_some(()));
    assert_eq!(request.join().unwrap(), Some(200));
    assert!(!pod.agent.ended(), "Puma is still there");
    assert_eq!(pod.agent.get("/live").unwrap().status, 200);
    pod.puma.container().terminate();
    assert_eq!(pod.agent.wait_for_end(), Some(0));
}

#[test]
fn e2e_a_second_sigterm_ends_it_at_once() {
    let mut pod = new_pod(Setup::default()).in_sync();
    let pid = pod.agent.pid().unwrap();
    signal(pid, Signal::TERM);
    until("the drain", || pod.status()["drain"].is_object().then_some(()));
    signal(pid, Signal::TERM);
    assert_eq!(pod.agent.wait_for_end(), Some(0));
}

#[test]
fn e2e_an_agent_that_is_started_again_before_the_first_release_deploys_it() {
    // The startup probe ran out: the kubelet ends the sidecar's container, and starts it again in the same pod.
    let mut pod = new_pod(Setup::default());
    pod.agent.start();
    assert_eq!(pod.agent.get("/startup").unwrap().status, 503);
    assert_eq!(pod.agent.terminate(), Some(0));
    pod.agent.start();
    pod.deploy(App::Good, "v1");
    until("the app server may start", || (pod.agent.get("/startup").ok()?.status == 200).then_some(()));
    pod.puma.run();
    pod.agent.wait_in_sync("v1");
}

#[test]
fn e2e_sigterm_without_an_app_server_is_quick() {
    let mut pod = new_pod(Setup::default()).published();
    pod.agent.start();
    assert_eq!(pod.agent.terminate(), Some(0));
    assert!(pod.log().contains("no app server to drain"), "{}", pod.log());
    assert!(!pod.agent.state_dir().join("drain.json").exists(), "there is nothing to resume");
}
