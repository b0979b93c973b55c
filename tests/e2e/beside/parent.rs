//! The parent: what it does when it is asked, and what it does when nobody asks.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::Command,
};

use pitstop_rig::{
    App, ExecPod, Image, Setup, Signal, SmallVolume, needs_root, puma::children, signal, until,
};
use rustix::net::{self, AddressFamily, SocketType, sockopt};
use serde_json::{Value, json};

use super::container::{CLIENT, FakeAgent, PROBE_SOURCE, Parent, ask, plain, read};
use crate::PITSTOP;

fn switches(parent: &Parent) {
    let run = parent.candidate_in("b");
    parent.assert_answers(CLIENT, "v1");
    parent.assert_answers(PROBE_SOURCE, "v2");
    parent.steer(run);
    parent.assert_answers(CLIENT, "v2");
    parent.assert_answers(PROBE_SOURCE, "v2");
    parent.stop(1);
    parent.wait_until_ended("a");
    parent.assert_answers(CLIENT, "v2");
}

#[test]
fn e2e_parent_a_second_server_is_checked_alone_then_steered_to_and_the_first_one_ended() {
    let parent = Parent::serving(Setup { preload: Some(true), ..plain() });
    switches(&parent);
    parent.term();
    parent.wait_for_end();
    assert!(parent.get(CLIENT).is_none());
}

#[test]
fn e2e_parent_a_second_server_is_checked_alone_then_steered_to_and_the_first_one_ended_on_6_6() {
    needs_root!();
    switches(&Parent::serving(plain().from(Image::Trixie)));
}

#[test]
fn e2e_parent_goes_back_and_forth_between_servers_and_a_third_slot_takes_the_next() {
    let parent = Parent::serving(Setup { host: "[::]".into(), ..Setup { workers: 0, ..plain() } });
    let second = parent.candidate_in("b");
    parent.steer(second);
    parent.assert_answers(CLIENT, "v2");
    parent.steer(1);
    parent.assert_answers(CLIENT, "v1");
    parent.puma.release("v3", App::Good);
    parent.puma.flip("v3");
    let third = parent.start_in("c", &[]);
    until("the third one's answer", || (parent.get(PROBE_SOURCE)? == "v3").then_some(()));
    parent.assert_answers(CLIENT, "v1");
    until("it is known to listen", || (parent.run("c")["inherited"] == true).then_some(()));
    parent.steer(third);
    parent.assert_answers(CLIENT, "v3");
    parent.term();
    parent.wait_for_end();
    assert!(parent.get(CLIENT).is_none(), "the end was for all three");
}

#[test]
fn e2e_parent_tells_a_server_to_stop_only_when_nobody_waits_in_its_queue() {
    let parent = Parent::serving(Setup { workers: 0, ..plain() });
    let (old, waits) = (parent.server(), "somebody waits");
    signal(old, Signal::STOP);
    let waiting = parent.asking(CLIENT).expect(waits);
    parent.candidate_in("b");
    parent.steer(2);
    parent.stop(1);
    parent.assert_answers(CLIENT, "v2");
    let told = |slot: &Value| slot["queue_empty_ms"] != 0 || slot["run"]["told_to_stop"] == true;
    for _ in 0..20 {
        assert!(!told(&parent.list()["slots"][0]), "{waits}");
        parent.assert_answers(CLIENT, "v2");
    }
    signal(old, Signal::CONT);
    assert_eq!(read(waiting).as_deref(), Some("v1"));
    parent.wait_until_ended("a");
}

#[test]
fn e2e_parent_leaves_no_connection_in_the_queue_of_a_slot_that_is_used_again() {
    let parent = Parent::serving(Setup { workers: 0, ..plain() });
    let candidate = parent.start_in("b", &[]);
    // It does not accept yet: this one waits in its queue.
    let planted = parent.asking(PROBE_SOURCE).expect("a connection");
    parent.must(&json!({ "do": "stop", "run": candidate, "kill": true }));
    parent.wait_until_ended("b");
    assert_eq!(read(planted), None, "closed, not left to the next one");
    parent.candidate_in("b");
    parent.assert_answers(PROBE_SOURCE, "v2");
}

/// Its first process has ended, and the server goes on in the background, with its sockets.
#[test]
fn e2e_parent_leaves_no_server_in_a_slot_whose_command_has_ended() {
    let mut parent = Parent::prepare(Setup { workers: 0, ..plain() });
    parent.script = r#"cd "$CURRENT"; case "$PITSTOP_SLOT-$(readlink "$CURRENT")" in
        b-*v2) puma -C config/puma.rb & until [ -e "$RIG_RUN/go" ]; do sleep 0.1; done ;;
        *) exec puma -C config/puma.rb ;;
    esac"#
        .into();
    parent.start();
    parent.puma.wait_for_release("v1");
    parent.candidate_in("b");
    fs::write(parent.puma.run_dir().join("go"), "").unwrap();
    parent.wait_until_ended("b");
    until("nobody is left in its slot", || (parent.get(PROBE_SOURCE)? == "v1").then_some(()));
    until("its processes are gone", || (children(parent.first()).len() == 1).then_some(()));
    parent.puma.release("v3", App::Good);
    parent.puma.flip("v3");
    parent.start_in("b", &[]);
    until("the next one's answer", || (parent.get(PROBE_SOURCE)? == "v3").then_some(()));
    parent.assert_answers(PROBE_SOURCE, "v3");
}

/// Sockets and names take no space; what is written there is not needed for a switch.
#[test]
fn e2e_parent_switches_with_a_full_state_dir() {
    needs_root!();
    let mut parent = Parent::prepare(Setup { workers: 0, ..plain() });
    let state = SmallVolume::mount(&parent.state_dir(), 64 << 10);
    state.fill();
    parent.agent = FakeAgent::start(&parent.state_dir());
    parent.start();
    parent.puma.wait_for_release("v1");
    switches(&parent);
    parent.term();
    parent.wait_for_end();
}

#[test]
fn e2e_parent_keeps_what_a_candidate_said_that_raises_and_nobody_else_notices() {
    let parent = Parent::serving(Setup { preload: Some(true), ..plain() });
    parent.puma.release("v3", App::RaisesOnBoot);
    parent.puma.flip("v3");
    parent.start_in("b", &[]);
    until("its end", || {
        parent.assert_answers(CLIENT, "v1");
        (parent.run("b")["ended"] == json!({ "code": 1 })).then_some(())
    });
    let tail = parent.run("b")["tail"].to_string();
    assert!(tail.contains("this release is broken on purpose"), "{tail}");
    assert!(parent.said().contains("this release is broken on purpose"), "it is in the log as well");
    parent.assert_answers(PROBE_SOURCE, "v1");
}

#[test]
fn e2e_parent_ends_with_its_only_server_and_refuses_connections_at_once() {
    let parent = Parent::serving(plain());
    signal(parent.server(), Signal::KILL);
    until("connections are refused", || parent.connect(CLIENT).is_none().then_some(()));
    assert_eq!(parent.wait_for_end(), Some(137));
}

#[test]
fn e2e_parent_ends_a_candidate_when_the_live_server_ends_and_nobody_steers() {
    let parent = Parent::serving(Setup { workers: 0, ..plain() });
    let live = parent.server();
    parent.candidate_in("b");
    signal(live, Signal::KILL);
    assert_eq!(parent.wait_for_end(), Some(137));
    assert!(parent.connect(CLIENT).is_none());
}

#[test]
fn e2e_parent_names_an_address_that_another_process_has_also_where_it_would_share_it() {
    for shared in [false, true] {
        let mut parent = Parent::prepare(plain());
        let other = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseport(&other, shared).unwrap();
        net::bind(&other, &std::net::SocketAddr::from(([0, 0, 0, 0], parent.puma.port()))).unwrap();
        net::listen(&other, 1).unwrap();
        parent.script = "exec sleep 600".into();
        parent.start();
        until("the command runs", || (parent.run("a")["pid"].as_u64()? > 0).then_some(()));
        let list = parent.list();
        let unfit = list["unfit"].as_str().unwrap();
        assert!(unfit.contains(&format!("tcp://0.0.0.0:{}", parent.puma.port())), "{unfit}");
        assert_eq!(list["addresses"], json!([]));
    }
}

#[test]
fn e2e_parent_starts_a_server_without_slots_that_knows_its_address_by_another_name() {
    let mut parent = Parent::prepare(plain());
    let port = parent.puma.port();
    parent.set("PITSTOP_EXEC_LISTEN", &format!("tcp://127.0.0.1:{port}?backlog=5"));
    parent.start();
    parent.puma.wait_for_release("v1");
    let listed = until("it is learnt", || {
        let list = parent.list();
        list["unfit"].as_str()?.contains("next start").then_some(list)
    });
    assert!(listed["unfit"].as_str().unwrap().contains(&format!("tcp://0.0.0.0:{port}")), "{listed}");
    parent.refused(&json!({ "do": "start", "slot": "b", "release": "v2", "aside": [] }));
    is_offered_from_the_next_start_on(&mut parent);
}

fn is_offered_from_the_next_start_on(parent: &mut Parent) {
    parent.term();
    parent.wait_for_end();
    parent.start();
    until("it takes its sockets", || (parent.run("a")["inherited"] == true).then_some(()));
    switches(parent);
}

#[test]
fn e2e_parent_learns_where_a_server_listens_for_the_next_start() {
    let mut parent = Parent::prepare(plain());
    parent.env.clear();
    // Nothing that could be read before.
    parent.script = r#"cd "$CURRENT" && exec puma -C "$CURRENT/config/puma.rb""#.into();
    parent.start();
    parent.puma.wait_for_release("v1");
    until("it is learnt", || parent.list()["unfit"].as_str()?.contains("next start").then_some(()));
    is_offered_from_the_next_start_on(&mut parent);
}

#[test]
fn e2e_parent_names_an_address_that_it_does_not_hold() {
    let config = "bind 'unix://{run}/shop.sock'".into();
    let parent = Parent::serving(Setup { config, ..plain() });
    let list = parent.list();
    assert!(list["unfit"].as_str().is_some_and(|why| why.contains("shop.sock")), "{list}");
    parent.assert_answers(CLIENT, "v1");
}

/// By other hands, say: `docker kill --signal USR2`.
#[test]
fn e2e_parent_keeps_a_server_in_its_slot_that_restarts_itself() {
    let parent = Parent::serving(plain());
    parent.puma.flip("v2");
    signal(parent.first(), Signal::USR2);
    until("v2 in the same slot", || (parent.get(CLIENT)? == "v2").then_some(()));
    assert_eq!(parent.run("a")["number"], 1);
    let run = parent.candidate_in("b");
    parent.steer(run);
    parent.stop(1);
    parent.wait_until_ended("a");
    parent.assert_answers(CLIENT, "v2");
}

#[test]
fn e2e_parent_reads_what_pumas_configuration_says_plainly() {
    let mut parent = Parent::prepare(plain());
    parent.env = vec![("PITSTOP_DEPLOY_TO".into(), parent.puma.deploy_to().display().to_string())];
    parent.start();
    until("it takes its sockets", || (parent.run("a")["inherited"] == true).then_some(()));
    switches(&parent);
}

#[test]
fn e2e_parent_says_why_a_server_on_a_unix_socket_has_no_second_one() {
    let config = "bind 'unix://{run}/shop.sock'".into();
    let mut parent = Parent::prepare(Setup { config, ..plain() });
    parent.env.clear();
    parent.start();
    parent.puma.wait_for_release("v1");
    until("the reason", || parent.list()["unfit"].as_str()?.contains("shop.sock").then_some(()));
}

#[test]
fn e2e_parent_answers_no_other_user() {
    needs_root!();
    let parent = Parent::serving(plain());
    let socket = parent.state_dir().join("parent.sock");
    let ask = "s = UNIXSocket.new(ARGV[0]); s.puts('{\"do\":\"list\"}'); print s.read";
    let asked = |uid: u32| {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
        let output = command.args(["--", "ruby", "-rsocket", "-e", ask]).arg(&socket).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for dir in [parent.puma.scratch(), &parent.state_dir()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert!(asked(0).contains("queue_empty_ms"));
    assert_eq!(asked(65534), "", "closed to others");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(asked(65534), "", "and it looks who asks");
}

#[test]
fn e2e_parent_of_a_sidecar_starts_nothing_before_the_agent_agrees() {
    let mut parent = Parent::prepare(plain());
    parent.agent.says(false);
    parent.start();
    until("the agent was asked", || (parent.agent.asked() > 3).then_some(()));
    assert_eq!(parent.run("a"), Value::Null);
    parent.agent.says(true);
    parent.puma.wait_for_release("v1");
}

/// Its own files: `unix://` control sockets at one path, and one state file.
#[test]
fn e2e_parent_lets_each_of_two_servers_keep_its_control_socket_and_its_state_file() {
    let setup = Setup { control: true, state_file: true, workers: 0, ..plain() };
    let parent = Parent::serving(setup);
    let files = ["control.sock", "puma.state"].map(|name| parent.puma.run_dir().join(name));
    until("the first one's files", || files.iter().all(|file| file.exists()).then_some(()));
    parent.puma.flip("v2");
    let run = parent.start_in("b", &files);
    let places = |slot: &str| {
        let run = parent.run(slot);
        let places: Vec<(std::path::PathBuf, std::path::PathBuf)> =
            serde_json::from_value(run["aside"].clone()).unwrap_or_default();
        places.into_iter().map(|(_, place)| place).collect::<Vec<_>>()
    };
    until("the second one's files", || (places("b").len() == 2).then_some(()));
    until("it listens", || (parent.run("b")["inherited"] == true).then_some(()));
    let (first, second) = (places("a"), places("b"));
    assert_ne!(pid_in(&first[1]), pid_in(&second[1]));
    for place in [&first[0], &second[0]] {
        until("its control server answers", || controls(place).then_some(()));
    }
    parent.steer(run);
    parent.stop(1);
    parent.wait_until_ended("a");
    until("the names are the second one's", || places("b").is_empty().then_some(()));
    assert!(controls(&files[0]));
    let left: Vec<_> = fs::read_dir(parent.puma.run_dir()).unwrap().flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains("pitstop")), "{left:?}");
}

fn pid_in(state_file: &Path) -> Option<String> {
    let text = fs::read_to_string(state_file).ok()?;
    text.lines().find(|line| line.starts_with("pid:")).map(str::to_owned)
}

fn controls(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let request = format!("GET /stats?token={} HTTP/1.0\r\n\r\n", pitstop_rig::puma::TOKEN);
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.contains("started_at")
}

/// It is a child of the parent's here, which starts another one.
#[test]
fn e2e_parent_and_its_servers_survive_the_agent() {
    let pod = ExecPod::prepare(PITSTOP.as_ref(), Setup { workers: 0, ..plain() });
    let listen = format!("tcp://0.0.0.0:{}", pod.puma.port());
    let pod = pod.with("PITSTOP_EXEC_LISTEN", listen).in_sync();
    let list = || ask(&pod.agent.state_dir(), &json!({ "do": "list" }))["list"]["slots"].clone();
    until("it takes its sockets", || (list()[0]["run"]["inherited"] == true).then_some(()));
    let start = json!({ "do": "start", "slot": "b", "release": "v1", "aside": [] });
    let killed = pod.agent_pid();
    assert_eq!(ask(&pod.agent.state_dir(), &start)["error"], Value::Null);
    let pids = |slots: &Value| [0, 1].map(|slot: usize| slots[slot]["run"]["pid"].clone());
    let before = pids(&list());
    pod.kill_agent();
    let after = list();
    assert_eq!(pids(&after), before);
    assert_eq!([0, 1].map(|slot: usize| after[slot]["run"]["ended"].clone()), [Value::Null, Value::Null]);
    until("another agent", || (pod.agent_pid() != killed).then_some(()));
    pod.agent.wait_in_sync("v1");
    assert_eq!(pids(&list())[0], before[0]);
    pod.term();
    pod.wait_for_end();
}

/// Whatever happens to clients that say nothing.
#[test]
fn e2e_parent_answers_beside_clients_that_hang() {
    let parent = Parent::serving(plain());
    let hanging: Vec<_> =
        (0..8).map(|_| UnixStream::connect(parent.state_dir().join("parent.sock")).unwrap()).collect();
    assert_eq!(parent.list()["unfit"], Value::Null);
    drop(hanging);
    assert!(TcpListener::bind(("0.0.0.0", parent.puma.port())).is_err(), "the address is held");
}
