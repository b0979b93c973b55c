//! What two servers side by side cannot both have is no fault of a release: it is deployed without a second server.

use std::{fs, path::PathBuf};

use pitstop_rig::{App, ExecPod, Setup, needs_root, until};

use crate::{PITSTOP, memory_group::MemoryGroup};

const GIB: u64 = 1 << 30;

/// `v1` serves, and a second server could be started beside it.
fn pod(setup: Setup, mode: &str, change: impl FnOnce(&mut ExecPod)) -> ExecPod {
    let mut pod = ExecPod::prepare(PITSTOP.as_ref(), setup).with("PITSTOP_RESTART_MODE", mode);
    pod.parent_listens();
    change(&mut pod);
    let pod = pod.in_sync();
    until("Puma took the sockets", || {
        let parent = pod.servers();
        (parent.iter().any(|server| server.role == "live") && !pod.found("BESIDE_UNAVAILABLE")).then_some(())
    });
    pod
}

/// It was restarted in its slot, no attempt was rejected, and the container is the same.
#[track_caller]
fn assert_hot(pod: &ExecPod, words: &str) {
    let said = pod.said();
    assert!(said.contains(words), "{said}");
    assert!(!pod.revisions_log().contains("rejected"), "{}", pod.revisions_log());
    let hot = pod.metric(r#"pitstop_restarts_total{mode="hot",result="sent"}"#);
    assert_eq!((hot, pod.starts()), (Some(1.0), 1), "{said}");
    assert_eq!(pod.servers().iter().map(|server| server.role.as_str()).collect::<Vec<_>>(), ["live"]);
}

#[test]
fn e2e_beside_a_port_of_the_apps_own_makes_the_deploy_hot_and_rejects_nothing() {
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
    let config = format!("require 'socket'\n$own_port ||= TCPServer.new('127.0.0.1', {free})\n");
    let pod = pod(Setup { config, ..Setup::preloading() }, "auto", |_| ());
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    assert_hot(&pod, "needs a port that the first server holds");
    // The next one would get no further.
    until("the finding", || pod.found("BESIDE_UNAVAILABLE").then_some(()));
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
    let starts = || pod.said().matches("starting a second server beside the one that serves").count();
    assert_eq!((starts(), pod.starts()), (1, 1));
    // With another configuration it may.
    pod.deploy_changed("v4", |dir| {
        let config = dir.join("config/puma.rb");
        let text = fs::read_to_string(&config).expect("the configuration");
        let own: Vec<_> = text.lines().filter(|line| !line.contains("$own_port")).collect();
        fs::write(&config, own.join("\n")).expect("one without the port");
    });
    pod.agent.wait_in_sync("v4");
    assert_eq!((starts(), pod.starts()), (2, 1));
    until("nothing is wrong any more", || (!pod.found("BESIDE_UNAVAILABLE")).then_some(()));
}

#[test]
fn e2e_beside_a_database_that_refuses_connections_is_waited_for() {
    let pod = pod(Setup::preloading(), "auto", |_| ());
    let database = pod.puma.run_dir().join("database");
    let refused = format!(
        "raise 'could not connect to server: Connection refused (PG::ConnectionBad)' unless File.exist?('{}')\n",
        database.display()
    );
    pod.deploy_changed("v2", |dir| {
        let file = dir.join("config.ru");
        let text = fs::read_to_string(&file).expect("the app");
        fs::write(&file, refused + &text).expect("one that needs a database");
    });
    let status = pod.wait_for_reason("boot_failed");
    assert!(status["message"].as_str().unwrap().contains("refuses connections"), "{status}");
    assert_eq!(status["rejected"], serde_json::json!([]));
    pod.assert_runs("v1");
    fs::write(&database, "").expect("the rig's own directory takes a file");
    pod.agent.wait_in_sync("v2");
    let hot = pod.metric(r#"pitstop_restarts_total{mode="hot",result="sent"}"#);
    assert_eq!((hot.unwrap_or(0.0), pod.starts()), (0.0, 1));
}

/// What the servers see as the control group of their container, with this limit.
fn container_of(pod: &mut ExecPod, limit: u64, taken: Option<u64>) -> PathBuf {
    let group = pod.puma.scratch().join("cgroup");
    fs::create_dir(&group).expect("the control group");
    fs::write(group.join("memory.max"), limit.to_string()).expect("its limit");
    if let Some(taken) = taken {
        fs::write(group.join("memory.current"), taken.to_string()).expect("what is taken");
        fs::write(group.join("memory.stat"), "inactive_file 0\n").expect("of what");
    }
    pod.script = format!("mount --bind {} /sys/fs/cgroup && {}", group.display(), pod.script);
    group
}

#[test]
fn e2e_beside_waits_for_the_memory_that_it_needs_and_names_the_limit_that_would_do() {
    needs_root!();
    let mut group = PathBuf::new();
    let pod = pod(Setup::preloading(), "beside", |pod| group = container_of(pod, 16 << 20, None));
    until("the finding", || pod.found("BESIDE_NO_MEMORY").then_some(()));
    pod.deploy(App::Good, "v2");
    let status = pod.wait_for_reason("no_memory");
    assert!(status["message"].as_str().unwrap().contains("raise the memory limit"), "{status}");
    pod.assert_runs("v1");
    fs::write(group.join("memory.max"), (8 * GIB).to_string()).expect("a higher limit");
    pod.agent.wait_in_sync("v2");
    let hot = pod.metric(r#"pitstop_restarts_total{mode="hot",result="sent"}"#);
    assert_eq!((hot.unwrap_or(0.0), pod.starts()), (0.0, 1));
    assert!(!pod.revisions_log().contains("rejected"), "{}", pod.revisions_log());
}

#[test]
fn e2e_beside_a_candidate_that_uses_up_the_memory_is_ended_and_not_rejected() {
    needs_root!();
    let mut group = PathBuf::new();
    let pod = pod(Setup::preloading(), "auto", |pod| group = container_of(pod, 8 * GIB, Some(GIB)));
    let (current, nearly_all) = (group.join("memory.current"), 8 * GIB - 1);
    pod.deploy_changed("v2", |dir| {
        let config = dir.join("config/puma.rb");
        let text = fs::read_to_string(&config).expect("the configuration");
        let grows = format!(
            "if ENV['PITSTOP_SLOT'] != 'a'\n  File.write('{}', '{nearly_all}')\n  sleep\nend\n",
            current.display()
        );
        fs::write(&config, format!("{text}\n{grows}")).expect("a longer one");
    });
    pod.agent.wait_in_sync("v2");
    assert_hot(&pod, "before the kernel ends the first one");
}

/// The kernel kills the process that takes most: here it does.
#[test]
fn e2e_beside_a_candidate_that_the_kernel_kills_for_its_memory_is_not_rejected() {
    needs_root!();
    let group = MemoryGroup::new().expect("this test needs a control group of memory that it may write");
    assert!(group.limit(Some(512 << 20)));
    let pod = pod(Setup::preloading(), "auto", |pod| {
        // What the agent sees leaves it without a reason to end the server first.
        container_of(pod, 8 * GIB, Some(GIB));
        let real = pod.puma.scratch().join("real");
        fs::create_dir(&real).expect("a place for the control group that the kernel looks at");
        let (group, real) = (group.dir.display(), real.display());
        let reach = format!("{{ [ -e {real}/cgroup.procs ] || mount --bind {group} {real}; }}");
        pod.script = format!("{reach} && echo 0 > {real}/cgroup.procs && {}", pod.script);
    });
    pod.deploy_changed("v2", |dir| {
        let config = dir.join("config/puma.rb");
        let text = fs::read_to_string(&config).expect("the configuration");
        let grows = "$all = Array.new(64) { 'x' * (32 << 20) } if ENV['PITSTOP_SLOT'] != 'a'\n";
        fs::write(&config, format!("{text}\n{grows}")).expect("a longer one");
    });
    pod.agent.wait_in_sync("v2");
    assert_hot(&pod, "the second server was killed (SIGKILL)");
}
