//! Deploys by a second server: nobody waits for a boot, and no client meets a release before it passed its check. In
//! both shapes: the agent below `pitstop exec`, and as a sidecar beside it.

use std::{
    fs,
    path::Path,
    thread::{JoinHandle, spawn},
    time::Duration,
};

use pitstop_rig::{App, ExecPod, Load, Setup, Signal, http, load::Plan, signal, until};

use super::{RECOVERY, master, slot, wait_until_no_server_is};
use crate::PITSTOP;

/// `v1` serves, and preloads: without a second server every deploy would be a hot restart. Control socket and state
/// file have fixed names, which two servers would fight over.
fn pod(sidecar: bool) -> ExecPod {
    let mut pod = ExecPod::prepare(Path::new(PITSTOP), Setup::preloading())
        .with("PITSTOP_RESTART_MODE", "beside")
        .with("PITSTOP_RESTART_TIMEOUT", "20s")
        .with("PITSTOP_WARMUP_REQUESTS", "/");
    pod.sidecar = sidecar;
    pod.parent_listens();
    let pod = pod.in_sync();
    until("Puma took the sockets", || slot(&pod, "live"));
    pod
}

/// A request that the server has, and answers when it is let go.
struct Held(JoinHandle<Option<u16>>);

impl Held {
    fn at(pod: &ExecPod) -> Self {
        let _ = fs::remove_file(pod.puma.run_dir().join("go"));
        let port = pod.puma.port();
        let ask = move || http::get_within(port, "/slow?s=0&after=go", Duration::from_secs(240)).ok();
        let request = spawn(move || Some(ask()?.status));
        until("the request in flight", || {
            (pod.metric("pitstop_puma_requests_in_flight")? >= 1.0).then_some(())
        });
        Self(request)
    }

    #[track_caller]
    fn let_go(self, pod: &ExecPod) {
        assert!(!self.0.is_finished(), "it was not waited for");
        fs::write(pod.puma.run_dir().join("go"), "").expect("the rig's own directory takes a file");
        assert_eq!(self.0.join().unwrap(), Some(200));
    }
}

fn load(pod: &ExecPod) -> Load {
    Load::start(Plan::modest(pod.puma.port()), "deploy")
}

/// Nothing failed, and only these releases have answered.
#[track_caller]
fn assert_unnoticed(load: Load, releases: &[&str]) {
    let records = load.finish();
    records.assert_nothing_lost();
    let strange: Vec<_> = records
        .requests()
        .iter()
        .filter(|one| !one.release.as_deref().is_some_and(|release| releases.contains(&release)))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

fn good_release(sidecar: bool) {
    let pod = pod(sidecar);
    assert_eq!(slot(&pod, "live").unwrap()["weight"], 1000);
    let request = Held::at(&pod);
    let load = load(&pod);
    pod.deploy(App::SlowBoot, "v2");
    pod.agent.wait_in_sync("v2");
    assert!(slot(&pod, "lingering").is_some(), "{}", pod.status());
    request.let_go(&pod);
    wait_until_no_server_is(&pod, "lingering");
    assert_eq!(pod.starts(), 1);
    assert_unnoticed(load, &["v1", "v2"]);
    let log = if sidecar { pod.log() } else { pod.said() };
    let mut rest = log.as_str();
    for part in [
        "starting a second server beside the one that serves",
        "the second server boots",
        "the second server has booted",
        "the second server is warmed up",
        "the second server passed its check",
        "the earlier server (v1) gets no new connection",
        "stopping the earlier server (v1)",
        "the earlier server (v1) has ended",
    ] {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("{part} is not said, or too early:\n{log}")).1;
    }
    // Once more, with what the first deploy has left behind.
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
}

#[test]
fn e2e_beside_a_good_release_is_met_by_nobody_before_its_check() {
    good_release(false);
}

#[test]
fn e2e_beside_a_good_release_is_met_by_nobody_before_its_check_with_a_sidecar() {
    good_release(true);
}

fn bad_releases(sidecar: bool, apps: &[(App, &str)]) {
    let pod = pod(sidecar);
    let (load, before) = (load(&pod), master(&pod));
    for (at, (app, reason)) in apps.iter().enumerate() {
        let id = format!("bad{at}");
        pod.deploy(*app, &id);
        assert_eq!(pod.wait_for_rejection(&id), *reason, "{app:?}");
        assert_eq!(master(&pod), before, "{app:?}");
        wait_until_no_server_is(&pod, "candidate");
        assert!(pod.current().ends_with("v1"));
    }
    assert_eq!(pod.starts(), 1);
    assert_unnoticed(load, &["v1"]);
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
}

#[test]
fn e2e_beside_a_release_that_does_not_boot_is_met_by_nobody() {
    bad_releases(false, &[(App::RaisesOnBoot, "boot_failed"), (App::HangsOnBoot, "boot_failed")]);
}

#[test]
fn e2e_beside_a_release_that_fails_its_check_is_met_by_nobody() {
    bad_releases(true, &[(App::UnhealthyPath, "probe_failed"), (App::Misnamed, "release_mismatch")]);
}

#[test]
fn e2e_beside_why_a_release_does_not_boot_is_said() {
    let pod = pod(false);
    pod.deploy(App::RaisesOnBoot, "v2");
    pod.wait_for_rejection("v2");
    let said = pod.said();
    assert!(said.contains("RuntimeError: this release is broken on purpose (config.ru:2)"), "{said}");
}

fn killed_agent(sidecar: bool) {
    let kill = |pod: &mut ExecPod| if sidecar { pod.kill_sidecar() } else { pod.kill_agent() };
    let mut pod = pod(sidecar);
    let load = load(&pod);
    pod.deploy(App::SlowBoot, "v2");
    until("the candidate", || slot(&pod, "candidate"));
    kill(&mut pod);
    pod.agent.wait_in_sync("v2");
    wait_until_no_server_is(&pod, "lingering");
    let request = Held::at(&pod);
    pod.deploy(App::Good, "v3");
    until("the switch", || slot(&pod, "lingering"));
    kill(&mut pod);
    pod.agent.wait_in_sync("v3");
    request.let_go(&pod);
    wait_until_no_server_is(&pod, "lingering");
    assert_eq!(pod.starts(), 1);
    assert_unnoticed(load, &["v1", "v2", "v3"]);
    assert!(!pod.revisions_log().contains("rejected"), "{}", pod.revisions_log());
}

#[test]
fn e2e_beside_an_agent_that_is_killed_in_mid_deploy_goes_on() {
    killed_agent(false);
}

#[test]
fn e2e_beside_a_sidecar_that_is_killed_in_mid_deploy_goes_on() {
    killed_agent(true);
}

/// Its servers end with it, and clients are refused instead of waiting for an answer that nobody gives.
#[test]
fn e2e_beside_a_parent_that_is_killed_takes_its_servers_along_and_the_next_one_starts_what_is_proved() {
    the_parent_is_killed(true);
}

/// The agent goes with it, and the next one finds a move that nobody has finished.
#[test]
fn e2e_beside_a_parent_that_is_killed_with_its_agent_starts_what_is_proved() {
    the_parent_is_killed(false);
}

fn the_parent_is_killed(sidecar: bool) {
    let mut pod = ExecPod::prepare(Path::new(PITSTOP), Setup::preloading());
    pod.sidecar = sidecar;
    pod.parent_listens();
    let mut pod = pod.published();
    pod.start_kept();
    pod.agent.wait_in_sync("v1");
    until("Puma took the sockets", || slot(&pod, "live"));
    pod.deploy(App::HangsOnBoot, "v2");
    until("the candidate", || slot(&pod, "candidate"));
    let servers: Vec<i64> = pod.servers().iter().map(|server| server.pid).collect();
    assert_eq!(servers.len(), 2);
    let parent = pod.first();
    signal(parent, Signal::KILL);
    until("the next container", || (pod.starts() == 2).then_some(()));
    let gone = |pid: &i64| fs::read_link(format!("/proc/{pid}/exe")).is_err();
    until("the servers are gone", || servers.iter().all(gone).then_some(()));
    until("v1 answers again", || (pod.puma.get("/").ok()?.release.as_deref() == Some("v1")).then_some(()));
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync_within(RECOVERY, "v3");
}

/// The server that lingers is still there: it gets the connections back, and nothing boots.
#[test]
fn e2e_beside_the_way_back_to_a_server_that_lingers_needs_no_boot() {
    let pod = pod(false);
    let (request, before) = (Held::at(&pod), master(&pod));
    let load = load(&pod);
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    assert_ne!(master(&pod), before);
    pod.agent.promote("v1");
    pod.agent.wait_in_sync("v1");
    assert_eq!(master(&pod), before);
    request.let_go(&pod);
    assert_unnoticed(load, &["v1", "v2"]);
    assert_eq!(pod.starts(), 1);
}
