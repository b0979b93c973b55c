//! The agent dies and is started again; the container stays.

use std::{fs, net::TcpStream, os::unix::fs::MetadataExt, time::Duration};

use pitstop_rig::{Signal, http, signal, until, wait_until};

use super::container::{Pod, Running};

/// Kills the agent and waits for another.
fn another(running: &Running) -> i32 {
    let killed = until("an agent", || running.agent());
    signal(killed, Signal::KILL);
    until("another agent", || running.agent().filter(|agent| *agent != killed))
}

#[test]
fn an_agent_that_is_killed_four_times_is_started_again_after_pauses_and_the_container_stays() {
    let pod = Pod::new();
    let mut running = pod.start(&[]);
    for _ in 0..4 {
        another(&running);
        // Never refused: who asks between two agents waits for the next one.
        until("the next agent answers", || running.status("/live").filter(|status| *status == 200));
    }
    assert!(running.ended().is_none());
    let log = running.log();
    let pauses: Vec<u64> = log
        .lines()
        .filter_map(|line| line.split_once("pause_ms=")?.1.split_whitespace().next()?.parse().ok())
        .collect();
    assert!(pauses.len() == 4 && pauses.is_sorted() && pauses[0] < pauses[3], "{pauses:?}\n{log}");
    let status = http::get(pod.port, "/status").unwrap().body;
    assert!(status.contains("AGENT_DIED") && status.contains("died 4 times"), "{status}");
    running.signal(Signal::TERM);
    assert_eq!(running.wait_for_end().code(), Some(0), "{}", running.log());
}

#[test]
fn a_request_that_comes_between_two_agents_is_answered_by_the_next() {
    let pod = Pod::new();
    let running = pod.start(&[]);
    for _ in 0..3 {
        another(&running);
    }
    let agent = running.agent().unwrap();
    signal(agent, Signal::KILL);
    until("no agent", || running.agent().is_none().then_some(()));
    let answer = http::get_within(pod.port, "/prestop", Duration::from_secs(20)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn sigterm_between_two_agents_is_the_next_ones_end() {
    let pod = Pod::new();
    let mut running = pod.start(&[]);
    for _ in 0..3 {
        another(&running);
    }
    let agent = until("an agent", || running.agent());
    signal(agent, Signal::KILL);
    running.signal(Signal::TERM);
    assert_eq!(running.wait_for_end().code(), Some(0), "{}", running.log());
}

#[test]
fn sigterm_in_its_first_moment_ends_it_as_any_other() {
    let pod = Pod::new();
    let mut running = pod.launch(&[], "log");
    until("an agent", || running.agent());
    running.signal(Signal::TERM);
    assert_eq!(running.wait_for_end().code(), Some(0), "{}", running.log());
}

#[test]
fn the_agent_ends_with_its_parent() {
    let pod = Pod::new();
    let mut running = pod.start(&[]);
    running.signal(Signal::KILL);
    assert_eq!(running.wait_for_end().code(), None);
    // Its first thread may be gone before those that hold the listener.
    wait_until("the agent's end", || TcpStream::connect(("127.0.0.1", pod.port)).is_err());
}

#[test]
fn a_configuration_that_cannot_work_is_the_containers_end() {
    let pod = Pod::new().set("PITSTOP_SOURCE", "nowhere");
    let mut running = pod.launch(&[], "log");
    assert_eq!(running.wait_for_end().code(), Some(64));
    assert!(running.log().contains("source"), "{}", running.log());
}

#[test]
fn a_second_agent_in_the_pod_says_so_and_touches_nothing() {
    let pod = Pod::new();
    let first = pod.start(&[]);
    let state = pod.dir.path().join("state");
    fs::write(state.join("drain.json"), "the first one's").unwrap();
    let socket = || fs::symlink_metadata(state.join("admin.sock")).map(|found| found.ino());
    let before = until("the admin socket", || socket().ok());
    let other = Pod::new().set("PITSTOP_STATE_DIR", &state.display().to_string());
    let mut second = other.launch(&[], "log");
    assert_eq!(second.wait_for_end().code(), Some(64));
    assert!(second.log().contains("another agent already runs in this pod"), "{}", second.log());
    assert_eq!(socket().unwrap(), before);
    assert_eq!(fs::read_to_string(state.join("drain.json")).unwrap(), "the first one's");
    assert_eq!(first.status("/live"), Some(200));
}
