//! What the system refuses the parent, or a candidate refuses it: no client notices, and the same is done once it works.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pitstop_rig::{
    App, ExecPod, Load, PATIENCE, Setup, SmallVolume, load::Plan, needs_root, pod::rejection, poll, until,
    until_within,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

use super::{
    RECOVERY, assert_unnoticed,
    container::{CLIENT, PUMA, Parent, plain},
    kills::never_well_and_never_over,
    nginx::Nginx,
    slot, wait_until_no_server_is,
};
use crate::PITSTOP;

/// Room for so many more descriptors.
fn limit_descriptors(pid: i32, more: u64) {
    let open = |number: &u64| fs::symlink_metadata(format!("/proc/{pid}/fd/{number}")).is_ok();
    let free = (0..).filter(|number| !open(number)).nth(more as usize).expect("a number");
    set_limit(pid, free);
}

fn set_limit(pid: i32, limit: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let pid = Pid::from_raw(pid);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum })
        .expect("its limit is ours to set");
}

/// No descriptors are left for the candidate's output.
#[test]
fn e2e_parent_without_descriptors_refuses_a_start_and_nothing_has_changed() {
    for kind in ["puma", "command"] {
        let mut parent = Parent::prepare(Setup { workers: 0, ..plain() });
        parent.set("PITSTOP_APP_SERVER", kind);
        parent.set("PITSTOP_COMMAND_RESTART", "false");
        parent.set("PITSTOP_COMMAND_MATCH", "puma");
        parent.script = PUMA.into();
        parent.start();
        parent.puma.wait_for_release("v1");
        until("it takes its sockets", || (parent.run("a")["inherited"] == true).then_some(()));
        let pid = parent.first();
        limit_descriptors(pid, 3);
        let why = parent.refused(&json!({ "do": "start", "slot": "b", "release": "v2", "aside": [] }));
        assert!(why.contains("cannot be started") && why.contains("Too many open files"), "{why}");
        assert_eq!(parent.run("b"), json!(null));
        parent.assert_answers(CLIENT, "v1");
        let third = fs::read_link(format!("/proc/{pid}/fd/3")).unwrap_or_default();
        assert!(
            kind == "puma" || !third.starts_with("socket:"),
            "{kind}: it keeps what nobody got: {third:?}"
        );
        set_limit(pid, 1024);
        let run = parent.candidate_in("b");
        parent.steer(run);
        parent.assert_answers(CLIENT, "v2");
    }
}

/// A control group that has no more processes and threads than it was made for; `None` where none can be made.
struct Processes(PathBuf);

impl Processes {
    fn of(pid: i32, more: u64) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let root = if root.join("cgroup.controllers").exists() { root.to_owned() } else { root.join("pids") };
        let _ = fs::write(root.join("cgroup.subtree_control"), "+pids");
        let group = Self(root.join(format!("pitstop-pids-{}", std::process::id())));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join("cgroup.procs"), pid.to_string()).ok()?;
        let now: u64 = fs::read_to_string(group.0.join("pids.current")).ok()?.trim().parse().ok()?;
        fs::write(group.0.join("pids.max"), (now + more).to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("pids.max"), "max");
        let _ = poll(PATIENCE, || fs::remove_dir(&self.0).ok());
    }
}

/// One thread is left, for the question: none is for the candidate's output.
#[test]
fn e2e_parent_without_processes_refuses_a_start_and_nothing_has_changed() {
    needs_root!();
    let parent = Parent::serving(Setup { workers: 0, ..plain() });
    parent.list();
    let Some(group) = Processes::of(parent.first(), 1) else {
        return println!("no control group of processes can be made here");
    };
    let why = parent.refused(&json!({ "do": "start", "slot": "b", "release": "v2", "aside": [] }));
    assert!(why.contains("cannot be started") && why.contains("temporarily unavailable"), "{why}");
    assert_eq!(parent.run("b"), json!(null));
    parent.assert_answers(CLIENT, "v1");
    fs::write(group.0.join("pids.max"), "max").expect("no limit any more");
    let run = parent.candidate_in("b");
    parent.steer(run);
    parent.assert_answers(CLIENT, "v2");
    drop(parent);
}

/// `v1` serves behind nginx and a unix socket in a directory of its own.
fn behind_a_socket(dir: &Path) -> (ExecPod, Nginx) {
    let config = format!("clear_binds!\nbind 'unix://{}/puma.sock?umask=0111'\n", dir.display());
    let mut pod = ExecPod::prepare(PITSTOP.as_ref(), Setup { config, ..Setup::preloading() });
    pod.set("PITSTOP_EXEC_LISTEN", format!("unix://{}/puma.sock?umask=0111", dir.display()));
    pod.set("PITSTOP_VERIFY_URL", format!("unix://{}/puma.sock:/up", dir.display()));
    pod.set("PITSTOP_RESTART_MODE", "beside");
    let pod = pod.in_sync();
    until("Puma took the socket", || slot(&pod, "live"));
    let nginx = Nginx::start(&format!("unix:{}/puma.sock", dir.display()));
    (pod, nginx)
}

#[test]
fn e2e_beside_a_unix_socket_that_cannot_be_switched_leaves_clients_where_they_are_and_says_why() {
    needs_root!();
    let dir = tempfile::tempdir().expect("a directory");
    let volume = SmallVolume::mount(dir.path(), 1 << 20);
    let (pod, nginx) = behind_a_socket(dir.path());
    let load = Load::start(Plan::modest(nginx.port), "deploys");
    let says_why = || {
        until_within(RECOVERY, "the reason", || {
            let status = pod.agent.status()?;
            let message = status["message"].as_str()?;
            (message.contains("cannot be steered") && message.contains("Read-only")).then_some(())
        });
        assert_eq!(pod.status()["running"], "v1");
    };
    pod.deploy(App::SlowBoot, "v2");
    until("the candidate", || slot(&pod, "candidate"));
    volume.read_only();
    says_why();
    // The way back needs no switch.
    pod.agent.promote("v1");
    pod.agent.wait_in_sync_within(RECOVERY, "v1");
    wait_until_no_server_is(&pod, "candidate");
    pod.deploy(App::Good, "v3");
    says_why();
    volume.writable();
    pod.agent.wait_in_sync_within(RECOVERY, "v3");
    assert!(!pod.revisions_log().contains("rejected"), "{}", pod.revisions_log());
    assert_unnoticed(load, &["v1", "v3"]);
}

fn pod() -> ExecPod {
    let mut pod = ExecPod::prepare(PITSTOP.as_ref(), Setup::preloading())
        .with("PITSTOP_RESTART_MODE", "beside")
        .with("PITSTOP_VERIFY_TIMEOUT", "1s")
        .with("PITSTOP_RESTART_TIMEOUT", "20s");
    pod.parent_listens();
    let pod = pod.in_sync();
    until("Puma took the sockets", || slot(&pod, "live"));
    pod
}

/// It gets no answer from the candidate, and the candidate takes no notice of its end.
#[test]
fn e2e_beside_a_check_that_hangs_rejects_and_a_candidate_that_does_not_end_is_killed() {
    let pod = pod();
    let load = Load::start(Plan::modest(pod.puma.port()), "deploys");
    pod.deploy_changed("v2", never_well_and_never_over);
    until_within(RECOVERY, "the rejection", || {
        rejection(&pod.agent.status()?, "v2").filter(|reason| reason == "probe_failed")
    });
    wait_until_no_server_is(&pod, "candidate");
    until_within(RECOVERY, "one server", || (pod.servers().len() == 1).then_some(()));
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync_within(RECOVERY, "v3");
    assert_eq!(pod.starts(), 1);
    assert_unnoticed(load, &["v1", "v3"]);
}

/// The release lacks what the command starts.
#[test]
fn e2e_beside_a_command_that_is_not_there_is_said_and_met_by_nobody() {
    let mut pod = ExecPod::prepare(
        PITSTOP.as_ref(),
        Setup { files: vec![("serve", SERVE.into())], ..Setup::preloading() },
    )
    .with("PITSTOP_RESTART_MODE", "beside");
    pod.parent_listens();
    pod.script = r#"cd "$CURRENT" && exec sh ./serve"#.into();
    let pod = pod.in_sync();
    until("Puma took the sockets", || slot(&pod, "live"));
    let load = Load::start(Plan::modest(pod.puma.port()), "deploys");
    pod.deploy_changed("v2", |dir| fs::remove_file(dir.join("serve")).expect("it was there"));
    assert_eq!(pod.wait_for_rejection("v2"), "boot_failed");
    assert!(pod.said().contains("./serve"), "{}", pod.said());
    assert_unnoticed(load, &["v1"]);
}

const SERVE: &str = "exec puma -C config/puma.rb\n";
