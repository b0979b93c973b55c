//! `rails server`, which loads the app before Puma begins.

use std::fs;

use pitstop_rig::{Signal, signal, until};

use super::{app::Change, pod::Pod};

/// As every Rails before 7.1 has it, and later ones with this variable.
const PID_FILE: &str = "tmp/pids/server.pid";

#[test]
fn e2e_rails_server_with_a_pid_file_restarts_hot_and_may_not_come_back_after_a_kill() {
    let Some(pod) = Pod::in_sync_with("exec bin/rails server", &[("PIDFILE", PID_FILE)]) else { return };
    let found = pod.status()["findings"].to_string();
    assert!(found.contains("RAILS_PID_FILE_STAYS") && found.contains(PID_FILE), "{found}");
    let file = pod.puma.scratch().join("pod").join(PID_FILE);
    let number = || fs::read_to_string(&file).unwrap_or_default();
    let master = pod.puma.master().unwrap();
    assert_eq!(number(), master.to_string());
    // A hot restart is `bin/rails server --restart`: it takes the file away, and writes it anew.
    pod.deploy(Change::Code, "v2");
    pod.wait_in_sync("v2");
    pod.assert_serves("v2");
    assert_eq!((pod.puma.master(), number()), (Some(master), master.to_string()));
    // A number that lives when the next container starts: here, this test's.
    fs::write(&file, std::process::id().to_string()).unwrap();
    let before = pod.puma.starts();
    signal(master, Signal::KILL);
    until("further starts, which fail", || (pod.puma.starts() > before + 1).then_some(()));
    let log = fs::read_to_string(pod.puma.log()).unwrap();
    assert!(log.contains("A server is already running"), "{log}");
    // The remedy.
    fs::remove_file(&file).unwrap();
    pod.puma.wait_for_release("v2");
    pod.assert_serves("v2");
    pod.wait_in_sync("v2");
}

#[test]
fn e2e_rails_server_gets_hot_restarts_because_a_phased_one_would_keep_the_old_code() {
    let Some(pod) = Pod::in_sync("exec bin/rails server") else { return };
    let master = pod.puma.master();
    let found = pod.status()["findings"].to_string();
    assert!(found.contains("PHASED_RESTART_UNAVAILABLE") && found.contains("`rails server`"), "{found}");
    pod.deploy(Change::Code, "v2");
    pod.wait_in_sync("v2");
    pod.assert_serves("v2");
    // From now on without a control server that could be asked who started Puma.
    pod.shop.edit("config/puma.rb", |text| text.replace("activate_control_app", "# activate_control_app"));
    for (id, sent) in [("v3", [0.0, 2.0]), ("v4", [0.0, 3.0])] {
        pod.deploy(Change::Code, id);
        pod.wait_in_sync(id);
        pod.assert_serves(id);
        assert_eq!(pod.sent(), sent);
    }
    let found = pod.status()["findings"].to_string();
    assert!(found.contains("CONTROL_SERVER_ABSENT") && found.contains("loaded in Puma's master"), "{found}");
    assert_eq!((pod.puma.master(), pod.puma.starts()), (master, 1), "the same pod, the same master");
    pod.deploy(Change::BrokenInitializer, "v5");
    pod.wait_back_on("v4");
    pod.assert_serves("v4");
}
