//! A share of the traffic: a release meets few clients before it meets all, and a bad one no more than those few.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

use pitstop_rig::{
    App, ExecPod, Load, Setup, Signal, http,
    load::{Plan, Records},
    puma::children,
    signal, until, until_within,
};
use serde_json::json;

use super::{
    container::{CLIENT, PROBE_SOURCE, Parent, plain},
    slot,
};
use crate::PITSTOP;

/// How long a step, or the way back, may take on a busy machine.
const RECOVERY: Duration = Duration::from_secs(200);

/// `v1` serves; a release gets its first clients in these steps, each of which waits for so many requests.
fn pod(steps: &str, requests: u32) -> ExecPod {
    let middleware = include_str!("../../../src/cli/middleware/pitstop_counts.rb");
    let setup = Setup { files: vec![("pitstop_counts.rb", middleware.to_owned())], ..Setup::preloading() };
    let mut pod = ExecPod::prepare(Path::new(PITSTOP), setup)
        .with("PITSTOP_RESTART_MODE", "beside")
        .with("PITSTOP_RESTART_SHIFT", steps)
        .with("PITSTOP_RESTART_SHIFT_REQUESTS", requests.to_string());
    pod.parent_listens();
    let pod = pod.in_sync();
    until("Puma took the sockets", || slot(&pod, "live"));
    pod
}

/// Waits until the candidate gets so many of 1000 new connections.
#[track_caller]
fn wait_for_share(pod: &ExecPod, permille: u32) {
    until_within(RECOVERY, "the share", || (slot(pod, "candidate")?["weight"] == permille).then_some(()));
}

/// Kept-alive clients, and many fresh ones.
fn load(pod: &ExecPod) -> Load {
    let plan = Plan { fresh_per_second: 100, at_most: RECOVERY * 2, ..Plan::modest(pod.puma.port()) };
    Load::start(plan, "deploy")
}

/// How many fresh clients met the release, and how many there were.
fn met(records: &Records, release: &str) -> (usize, usize) {
    let fresh = records.requests().iter().filter(|one| !one.reused);
    let met = fresh.clone().filter(|one| one.release.as_deref() == Some(release)).count();
    (met, fresh.count())
}

#[test]
fn e2e_shift_a_release_that_fails_one_request_in_twenty_is_taken_back_at_ten_per_cent() {
    let pod = pod("10%,100%", 5_000);
    let load = load(&pod);
    pod.deploy(App::FailsNowAndThen, "v2");
    wait_for_share(&pod, 100);
    load.phase("share");
    let shift = until("the step", || Some(pod.agent.status()?["shift"].clone()).filter(|it| !it.is_null()));
    assert_eq!((&shift["percent"], &shift["step"]), (&json!(10.0), &json!(1)), "{shift}");
    until_within(RECOVERY, "the way back", || slot(&pod, "candidate").is_none().then_some(()));
    load.phase("after");
    assert_eq!(pod.wait_for_rejection("v2"), "probe_failed");
    let said = pod.said();
    assert!(said.contains("requests failed (5xx), the live server's 0 of"), "{said}");
    assert!(said.contains("the second server gets no new connections any more"), "{said}");
    let records = load.finish();
    let tally = records.tally(&["v2"]);
    assert_eq!(tally.failed, 0, "nothing else failed");
    let (met, fresh) = met(&records, "v2");
    let failed = records.requests().iter().filter(|one| one.served_by(&["v2"])).count();
    println!("{met} of {fresh} fresh clients met the release, and {failed} of its answers were errors");
    assert!(met > 0 && met * 4 < fresh, "{met} of {fresh} met a share of 10 %");
    assert!(pod.current().ends_with("v1"));
    assert_eq!(pod.starts(), 1);
}

#[test]
fn e2e_shift_a_good_release_gets_all_clients_step_by_step() {
    let pod = pod("20%,50%", 20);
    let load = load(&pod);
    pod.deploy(App::Good, "v2");
    wait_for_share(&pod, 200);
    let series = "pitstop_slot_requests_total{release=\"v2\",slot=\"b\"}";
    until_within(RECOVERY, "the requests of v2", || (pod.metric(series)? > 0.0).then_some(()));
    pod.agent.wait_in_sync("v2");
    let records = load.finish();
    records.assert_nothing_lost();
    let said = pod.said();
    assert_eq!(said.matches("the second server gets a share of new connections").count(), 2, "{said}");
    assert!(said.contains("new connections go to it from now on"), "{said}");
    assert_eq!(pod.starts(), 1);
}

/// In the container's network as the kubelet is: its probes are new connections like any other.
struct Kubelet {
    over: Arc<AtomicBool>,
    /// How many failed in a row, at most.
    probes: JoinHandle<usize>,
}

impl Kubelet {
    fn probing(port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let probes = spawn(move || {
            let (mut row, mut longest) = (0, 0);
            while !ended.load(Ordering::SeqCst) {
                let well = http::get(port, "/up").is_ok_and(|answer| answer.status == 200);
                row = if well { 0 } else { row + 1 };
                longest = longest.max(row);
                sleep(PERIOD);
            }
            longest
        });
        Self { over, probes }
    }
}

/// Kubernetes' own is 10 s. Three in a row take a pod out of service.
const PERIOD: Duration = Duration::from_secs(3);

#[test]
fn e2e_shift_a_release_whose_health_falls_with_its_clients_takes_no_pod_out_of_service() {
    let pod = pod("50%,100%", 5_000);
    let kubelet = Kubelet::probing(pod.puma.port());
    let load = load(&pod);
    pod.deploy(App::SickWithClients, "v2");
    assert_eq!(pod.wait_for_rejection("v2"), "probe_failed");
    load.finish().assert_nothing_lost();
    kubelet.over.store(true, Ordering::SeqCst);
    let failed = kubelet.probes.join().unwrap();
    assert!(failed < 3, "{failed} probes in a row failed");
    assert!(pod.said().contains("the second server gets no new connections any more"));
    assert_eq!(pod.starts(), 1);
}

#[test]
fn e2e_shift_an_agent_that_is_killed_in_a_step_goes_on_in_it_and_a_worker_that_ends_takes_the_share_back() {
    let pod = pod("10%,100%", 20);
    pod.deploy(App::Good, "v2");
    wait_for_share(&pod, 100);
    let agent = pod.agent_pid();
    pod.kill_agent();
    until("another agent", || (pod.agent_pid() != agent).then_some(()));
    until_within(RECOVERY, "the step", || {
        let shift = pod.agent.status()?["shift"].clone();
        (shift["step"] == 1 && shift["percent"] == 10.0).then_some(())
    });
    assert_eq!(slot(&pod, "candidate").unwrap()["weight"], 100);
    let page = pod.agent.get("/").unwrap().body;
    for shown in [r#"value="100" aria-label="Share of slot b""#, "is checked", "10 %"] {
        assert!(page.contains(shown), "the page shows the share: {shown}: {page}");
    }
    let master = slot(&pod, "candidate").and_then(|slot| pod.outside(slot["pid"].as_i64()?)).unwrap();
    signal(children(master)[0], Signal::KILL);
    until_within(RECOVERY, "the share is taken back", || {
        pod.said().contains("the second server gets no new connections any more").then_some(())
    });
    let load = load(&pod);
    pod.agent.wait_in_sync("v2");
    load.finish().assert_nothing_lost();
    assert!(!pod.revisions_log().contains("rejected"), "{}", pod.revisions_log());
    assert_eq!(pod.starts(), 1);
}

fn share(parent: &Parent, run: u64, permille: u32) {
    parent.must(&json!({ "do": "share", "run": run, "permille": permille }));
}

/// Five standard deviations: of a million such tests one fails.
#[test]
fn e2e_parent_a_candidate_gets_its_share_of_fresh_connections_until_it_ends() {
    const CLIENTS: u32 = 400;
    let parent = Parent::serving(Setup { preload: Some(true), ..plain() });
    let run = parent.candidate_in("b");
    for permille in [100, 500, 1_000, 0] {
        share(&parent, run, permille);
        let answers: Vec<_> = (0..CLIENTS).filter_map(|_| parent.get(CLIENT)).collect();
        assert_eq!(answers.len(), CLIENTS as usize, "each has its answer");
        let met = answers.iter().filter(|release| *release == "v2").count();
        let part = f64::from(permille) / 1000.0;
        let off = (met as f64 - f64::from(CLIENTS) * part).abs();
        assert!(
            off <= 5.0 * (f64::from(CLIENTS) * part * (1.0 - part)).sqrt(),
            "{met} at {permille} of 1000"
        );
        assert_eq!(parent.get(PROBE_SOURCE).as_deref(), Some("v2"));
    }
    // What it is told to end with a share, and what ends by itself with one, leaves nobody without an answer.
    share(&parent, run, 500);
    parent.stop(run);
    parent.assert_answers(CLIENT, "v1");
    parent.wait_until_ended("b");
    let next = parent.start_in("b", &[]);
    until("the next one's answer", || (parent.get(PROBE_SOURCE)? == "v2").then_some(()));
    until("it is known to listen", || (parent.run("b")["inherited"] == true).then_some(()));
    share(&parent, next, 500);
    let newest = children(parent.first()).into_iter().max().unwrap();
    signal(newest, Signal::KILL);
    parent.wait_until_ended("b");
    parent.assert_answers(CLIENT, "v1");
}
