//! The other ways in which a container ends.

use std::{
    thread,
    time::{Duration, Instant},
};

use pitstop_rig::{
    App, Pod, Setup, Signal, http,
    kubelet::{self, Hook},
    poll, signal, until,
};

use crate::new_pod;

fn in_sync(setup: Setup, env: &[(&str, &str)]) -> Pod {
    env.iter().fold(new_pod(setup), |pod, (name, value)| pod.with(name, *value)).in_sync()
}

/// The drain on /status.
fn drain(pod: &Pod) -> serde_json::Value {
    pod.status()["drain"].take()
}

#[test]
fn e2e_puma_that_dies_by_itself_ends_the_drain() {
    let mut pod = in_sync(Setup::default(), &[("PITSTOP_DRAIN_MIN", "30s"), ("PITSTOP_DRAIN_QUIET", "15s")]);
    pod.puma.container().keep_ended();
    let call = pod.agent.prestop();
    until("the drain", || drain(&pod).is_object().then_some(()));
    signal(pod.puma.master().unwrap(), Signal::KILL);
    assert_eq!(call.join().unwrap().unwrap()["result"], "already_gone");
}

#[test]
fn e2e_a_hook_that_is_cut_off_is_followed_by_the_end() {
    // `--force --grace-period=0`: the hook is called, cut off after a second, and SIGTERM goes to all.
    let mut pod = in_sync(Setup::default(), &[]);
    let end = kubelet::end(&mut pod.puma, Hook::HttpGet(pod.agent.port()), Duration::from_secs(1));
    assert_eq!((end.answer, end.killed), (None, false));
    assert_eq!(pod.agent.terminate(), Some(0));
    assert!(pod.log().contains("ended by itself"), "{}", pod.log());
}

#[test]
fn e2e_a_classic_sidecar_gets_sigterm_with_the_hook_and_holds_it_all_the_same() {
    let mut pod = in_sync(Setup::default(), &[]);
    let request = pod.slow_request(5);
    signal(pod.agent.pid().unwrap(), Signal::TERM);
    let end = kubelet::end(&mut pod.puma, Hook::HttpGet(pod.agent.port()), Duration::from_secs(60));
    assert!(request.is_finished(), "SIGTERM came with a request in flight");
    assert_eq!(request.join().unwrap(), Some(200));
    assert_eq!(end.answer.unwrap()["result"], "drained");
    assert_eq!(pod.agent.wait_for_end(), Some(0));
}

#[test]
fn e2e_a_request_longer_than_the_time_there_is_is_cut_counted_and_named() {
    let mut pod = in_sync(Setup::default(), &[("PITSTOP_DRAIN_MAX", "3s"), ("PITSTOP_DRAIN_QUIET", "2s")]);
    let _request = pod.slow_request(40);
    let end = kubelet::end(&mut pod.puma, Hook::HttpGet(pod.agent.port()), Duration::from_secs(5));
    let answer = end.answer.unwrap();
    assert_eq!((&answer["result"], &answer["requests_left"]), (&"deadline".into(), &1.into()));
    assert!(end.killed, "Puma waits for its requests until the kubelet's patience ends");
    let metrics = pod.agent.get("/metrics").unwrap().body;
    assert!(metrics.contains("pitstop_drain_requests_left 1"), "{metrics}");
    assert!(pod.log().contains("still in flight: from 127.0.0.1, "), "{}", pod.log());
    let cut = "requests cut when the app server ended: from 127.0.0.1, ";
    until("what was really cut", || pod.log().contains(cut).then_some(()));
}

#[test]
fn e2e_status_shows_what_a_drain_waits_for() {
    let pod = in_sync(Setup::default(), &[]);
    let request = pod.slow_request(12);
    let call = pod.agent.prestop();
    let drain = until("a drain that waits for a request alone", || {
        let drain = drain(&pod);
        (drain["waits_for"] == serde_json::json!(["in_flight"])).then_some(drain)
    });
    assert_eq!((&drain["requests_in_flight"], &drain["result"]), (&1.into(), &serde_json::Value::Null));
    assert!(drain["seconds_left"].as_f64().unwrap() > 1.0, "{drain}");
    assert_eq!(call.join().unwrap().unwrap()["result"], "drained");
    assert_eq!(request.join().unwrap(), Some(200));
    assert!(pod.log().contains("for requests in flight"), "{}", pod.log());
}

#[test]
fn e2e_a_websocket_is_waited_for_or_ignored() {
    for policy in ["wait", "ignore"] {
        let pod = in_sync(Setup::default(), &[("PITSTOP_DRAIN_UPGRADED", policy)]);
        let port = pod.puma.port();
        // It ends by itself after 8 s; its server speaks all the time.
        let began = Instant::now();
        let socket = thread::spawn(move || http::get_within(port, "/socket?s=8", Duration::from_secs(60)));
        let call = pod.agent.prestop();
        until("the websocket on /status", || (drain(&pod)["upgraded"] == 1).then_some(()));
        assert_eq!(call.join().unwrap().unwrap()["result"], "drained", "{policy}");
        assert_eq!(socket.is_finished(), policy == "wait", "{policy} after {:?}", began.elapsed());
        let _ = socket.join();
    }
}

#[test]
fn e2e_a_liveness_kill_in_the_middle_of_a_hot_restart_leaves_a_pod_that_deploys() {
    let setup = Setup { boot_seconds: 2.0, restarted: true, ..Setup::default() };
    let mut pod = in_sync(setup, &[("PITSTOP_RESTART_MODE", "hot")]);
    pod.deploy(App::Good, "v2");
    until("the restart", || (pod.agent.status()?["stage"] == "verifying").then_some(()));
    let answer = pod.agent.prestop().join().unwrap().unwrap();
    assert!(["drained", "deadline"].contains(&answer["result"].as_str().unwrap()), "{answer}");
    // The kubelet ends the container only, and starts it anew.
    let starts = pod.puma.starts();
    signal(pod.puma.container().pid().unwrap(), Signal::TERM);
    until("the container's next start", || (pod.puma.starts() > starts).then_some(()));
    pod.agent.wait_in_sync("v2");
    assert!(drain(&pod).is_null(), "the drain is undone");
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
}

#[test]
fn e2e_a_drain_in_the_middle_of_a_phased_restart_waits_for_it_and_begins_nothing_else() {
    let setup = Setup { boot_seconds: 1.0, ..Setup::default() };
    let mut pod = in_sync(setup, &[("PITSTOP_RESTART_MODE", "phased")]);
    pod.deploy(App::Good, "v2");
    until("the restart", || (pod.agent.status()?["stage"] == "verifying").then_some(()));
    pod.agent.publish(&pod.puma, App::Good, "v3");
    let call = pod.agent.prestop();
    pod.agent.promote("v3");
    assert_eq!(call.join().unwrap().unwrap()["result"], "drained");
    let stable = poll(Duration::from_secs(2), || {
        let answer = pod.puma.get("/").ok()?;
        (answer.release.as_deref() == Some("v3")).then_some(())
    });
    assert!(stable.is_none(), "a deploy was begun in a pod that ends");
    let end = kubelet::end(&mut pod.puma, Hook::HttpGet(pod.agent.port()), Duration::from_secs(60));
    assert!(!end.killed);
}

/// The first block of Ruby in the page about drains.
fn middleware() -> String {
    let blocks = pitstop_rig::documents::blocks("docs/drain.md");
    blocks.into_iter().find(|block| block.info() == "ruby").expect("the middleware").text
}

#[test]
fn e2e_an_app_that_knows_of_the_drain_sends_its_clients_away() {
    let mut pod = new_pod(Setup::default());
    let file = pod.agent.state_dir().join("draining");
    pod.puma.set_env("PITSTOP_DRAIN_FILE", file.to_string_lossy());
    pod.deploy_changed("v1", |dir| {
        let app = std::fs::read_to_string(dir.join("config.ru")).unwrap();
        std::fs::write(dir.join("config.ru"), format!("{}\nuse DrainCloses\n{app}", middleware())).unwrap();
    });
    pod.boot();
    let pod = pod.started();
    let mut pooled = Pooled::connect(pod.puma.port());
    assert_eq!((pooled.ask(), pooled.ask()), (false, false), "nothing drains yet");
    // A stray call tells nobody to go.
    let stray = pod.agent.port();
    let stray = thread::spawn(move || http::get_within(stray, "/prestop", Duration::from_secs(60)));
    until("the stray call", || (pod.agent.status()?["drain"]["holds_deploys"] == false).then_some(()));
    assert!(!pooled.ask());
    let call = pod.agent.prestop();
    until("the client is sent away", || pooled.ask().then_some(()));
    assert_eq!(call.join().unwrap().unwrap()["result"], "drained");
    assert_eq!(stray.join().unwrap().unwrap().status, 200);
    pod.agent.must(&["undrain"]);
    until("the app serves on", || (!file.exists()).then_some(()));
    assert!(!Pooled::connect(pod.puma.port()).ask());
}

/// A client that keeps its connection.
struct Pooled(std::net::TcpStream);

impl Pooled {
    fn connect(port: u16) -> Self {
        Self(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    /// Whether the answer says that the connection ends with it.
    fn ask(&mut self) -> bool {
        use std::io::{Read, Write};
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap();
        let mut answer = [0; 4096];
        let read = self.0.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).to_lowercase();
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        answer.contains("connection: close")
    }
}

#[test]
fn e2e_the_command_holds_as_long_as_the_request_does() {
    let mut pod = in_sync(Setup::default(), &[]);
    let request = pod.slow_request(3);
    let told = pod.agent.must(&["drain"]);
    assert!(request.is_finished(), "it ended with a request in flight");
    assert!(told.starts_with("drained after"), "{told}");
    assert!(drain(&pod)["holds_deploys"] == true, "it is meant");
    // Without an agent it holds for drain.min, and says so.
    pod.agent.kill();
    let alone = pod.agent.command(&["drain"]).unwrap();
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert_eq!(alone.status.code(), Some(1), "{said}");
    assert!(said.contains("(drain.min) without a drain"), "{said}");
}
