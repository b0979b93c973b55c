//! Passenger as Debian ships it, under load: what a deploy, a broken release and the end of the pod do there.

use std::fs;

use pitstop_rig::{
    App, Directory, Load, Pod, Setup,
    load::{Plan, Record},
    passenger, until,
};

use crate::new_pod;

fn unborn(setup: Setup) -> Pod {
    new_pod(setup).with("PITSTOP_RESTART_TIMEOUT", "10s")
}

/// Proven, and no process of an older release is left.
#[track_caller]
fn is_at_rest_on(pod: &Pod, id: &str) {
    pod.agent.wait_in_sync(id);
    pod.wait_for_workers(id, 2..);
    until("the stage steady", || (pod.status()["stage"] == "steady").then_some(()));
    pod.puma.wait_for_release(id);
}

/// The deploy fails and the pod is back. The reason.
#[track_caller]
fn survives(pod: &Pod, app: App, id: &str) -> String {
    pod.deploy(app, id);
    pod.wait_for_rejection(id)
}

/// By the agent's own metric.
fn in_flight(pod: &Pod) -> bool {
    pod.metric("pitstop_puma_requests_in_flight").is_some_and(|count| count > 0.0)
}

#[test]
fn e2e_passenger_is_deployed_in_place_and_no_request_is_lost() {
    let pod = unborn(any_number_may_wait()).in_sync();
    let load = Load::start(Plan::modest(pod.puma.port()), "deploys");
    let slow = load.send("/slow?s=4");
    until("a request of the old release in flight", || in_flight(&pod).then_some(()));
    let core = passenger::core(&pod.puma);
    for id in ["v2", "v3"] {
        pod.deploy(App::Good, id);
        is_at_rest_on(&pod, id);
    }
    assert_eq!(slow.recv().unwrap().release.as_deref(), Some("v1"), "an old process ends what it has");
    load.finish().assert_nothing_lost();
    assert_eq!(passenger::core(&pod.puma), core, "the core goes on");
    let status = pod.status();
    assert_eq!(
        (&status["app_server"]["kind"], &status["app_server"]["pid"]),
        (&"passenger".into(), &core.into())
    );
    // Its core answers for all of them.
    assert_eq!(status["proof"], "some_workers", "{status}");
    let findings = pod.findings();
    for code in ["PHASED_RESTART_UNAVAILABLE", "STOP_CUTS_REQUESTS"] {
        assert!(findings.iter().any(|found| found == code), "{code} is not in {findings:?}");
    }
    assert!(!findings.iter().any(|found| found == "REQUEST_QUEUE_SHORT"), "{findings:?}");
}

fn any_number_may_wait() -> Setup {
    Setup { env: vec![("RIG_QUEUE".into(), "0".into())], ..passenger::setup() }
}

/// What Passenger cannot do: the old processes are put aside before the new release is known to boot. So
/// clients do get its error page; but only until pitstop has seen the first boot fail.
#[test]
fn e2e_passenger_goes_back_at_once_from_a_release_that_does_not_boot() {
    let pod = unborn(passenger::setup()).in_sync();
    let load = Load::start(Plan::modest(pod.puma.port()), "broken");
    assert_eq!(survives(&pod, App::RaisesOnBoot, "bad"), "boot_failed");
    let records = load.finish();
    let failures: Vec<_> = records.failures(&[]).collect();
    println!("{} of {} requests failed", failures.len(), records.requests().len());
    // 503 to those that find the queue full, on a machine that is slow to boot.
    let refused = |failure: &&Record| matches!(failure.status, Some(500 | 503));
    assert!(failures.iter().all(refused), "{:?}", failures.first());
    assert_eq!(survives(&pod, App::UnhealthyPath, "sick"), "probe_failed");
    pod.deploy(App::Good, "v2");
    is_at_rest_on(&pod, "v2");
}

#[test]
fn e2e_passenger_goes_back_from_a_release_that_hangs_on_boot() {
    let pod = unborn(passenger::setup()).in_sync();
    assert_eq!(survives(&pod, App::HangsOnBoot, "hung"), "boot_timeout");
}

#[test]
fn e2e_passenger_drain_is_answered_when_nothing_is_in_flight() {
    let mut pod = unborn(passenger::setup()).in_sync();
    let load =
        Load::start(Plan { keep_alive: 0, fresh_per_second: 0, ..Plan::modest(pod.puma.port()) }, "end");
    let slow = load.send("/slow?s=6");
    until("a request in flight", || in_flight(&pod).then_some(()));
    let answer = pod.agent.prestop().join().unwrap().unwrap();
    assert_eq!((&answer["result"], &answer["requests_left"]), (&"drained".into(), &0.into()), "{answer}");
    let waited_for = answer["waited_for"].as_array().unwrap();
    assert!(waited_for.contains(&"in_flight".into()), "{answer}");
    // As a kubelet does; Passenger would have cut the request.
    pod.puma.container().terminate();
    let record = slow.recv().unwrap();
    assert_eq!((record.status, record.release.as_deref()), (Some(200), Some("v1")), "{record:?}");
}

/// Everything in the same unprivileged user, and each release brings a file that makes Passenger restart.
#[test]
fn e2e_passenger_of_the_same_user_that_restarts_by_itself_ends_on_the_right_release() {
    pitstop_rig::needs_root!();
    let mut pod = unborn(Setup { uid: Some(65534), ..passenger::setup() });
    pod.agent.run_as(&pod.puma, Some(65534));
    let pod = pod.in_sync();
    for id in ["v2", "v3"] {
        pod.deploy_changed(id, |dir| {
            fs::create_dir(dir.join("tmp")).unwrap();
            fs::write(dir.join("tmp/restart.txt"), "").unwrap();
        });
        is_at_rest_on(&pod, id);
    }
    assert!(pod.found("RESTART_FILE_SHIPPED"), "{:?}", pod.findings());
}

#[test]
fn e2e_passenger_that_was_started_in_a_release_is_left_alone() {
    let pod = unborn(Setup { directory: Directory::Pinned, ..passenger::setup() }).in_sync();
    pod.deploy(App::Good, "v2");
    let status = pod.wait_for_reason("restart_dir_pinned");
    assert_eq!((&status["running"], &status["in_sync"]), (&"v1".into(), &false.into()), "{status}");
    assert_eq!(pod.puma.get("/").unwrap().release.as_deref(), Some("v1"));
    assert!(pod.puma.current().canonicalize().unwrap().ends_with("v1"), "nothing was changed");
    let doctor = pod.agent.command(&["doctor"]).unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    let said = String::from_utf8_lossy(&doctor.stdout);
    for code in ["PATH_NAMES_RELEASE", "REQUEST_QUEUE_SHORT"] {
        assert!(said.contains(code), "{code} is not in {said}");
    }
}
