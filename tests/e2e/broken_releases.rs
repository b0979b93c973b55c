//! A bad release is undone without a human, whatever is bad about it: `pitstop run` beside a real
//! Puma, one test for each way in which a release breaks. Each ends with the old release serving, the
//! move rejected with a fitting reason, and tried once only.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use pitstop_rig::{App, Image, Pod, Setup, http, until, until_within};
use serde_json::Value;

use crate::new_pod;

/// How the restart is asked for, and how long it may take.
const PHASED: &str = "phased";
const HOT: &str = "hot";
const TIMEOUT: &str = "8s";
/// Elsewhere a worker now and then stops only after its time-out, in each of two restarts.
const TIMEOUT_IN_AN_IMAGE: &str = "15s";

/// A hung image is given time to show that it moves, before and after the flip, until it is ended.
const RECOVERY: Duration = Duration::from_secs(120);

fn in_sync(setup: Setup, mode: &str) -> Pod {
    unborn(setup, mode).in_sync()
}

fn unborn(setup: Setup, mode: &str) -> Pod {
    // Below the restart's time: now and then a worker of Puma 6.6 or 8.0 stops only when it is ended.
    let setup = Setup { restarted: true, worker_shutdown_timeout: 3, ..setup };
    let timeout = if setup.image == Image::Machine { TIMEOUT } else { TIMEOUT_IN_AN_IMAGE };
    new_pod(setup)
        .with("PITSTOP_RESTART_MODE", mode)
        .with("PITSTOP_RESTART_TIMEOUT", timeout)
        // Some tests want a restart with a request in flight.
        .with("PITSTOP_RESTART_LONG_REQUESTS", "proceed")
}

/// Deploys the broken release as `v2`, and waits until the pod is back. The reason of the rejection.
#[track_caller]
fn survives(pod: &Pod, app: App) -> String {
    pod.deploy(app, "v2");
    let reason = pod.wait_for_rejection("v2");
    let status = pod.status();
    assert_eq!((&status["in_sync"], &status["reason"]), (&false.into(), &"rejected".into()), "{status}");
    assert_eq!(pod.attempts("v2"), 1, "the move was tried once");
    reason
}

/// Both the status and the log name the exception.
#[track_caller]
fn tells(pod: &Pod, exception: &str) {
    let status = pod.status();
    assert!(status["message"].as_str().unwrap().contains(exception), "{status}");
    assert!(pod.log().contains(exception), "the log names it as well");
}

/// After all that, a good release is deployed.
#[track_caller]
fn takes_a_good_release(pod: &Pod) {
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
    pod.puma.wait_for_release("v3");
}

/// Asks again and again, until it is dropped; every answer must be a good one of `v1`'s.
struct Client {
    over: Arc<AtomicBool>,
    asking: Option<thread::JoinHandle<Vec<String>>>,
}

impl Client {
    fn of(pod: &Pod) -> Self {
        let (over, port) = (Arc::new(AtomicBool::new(false)), pod.puma.port());
        let asking = thread::spawn({
            let over = over.clone();
            move || {
                let mut bad = vec![];
                while !over.load(Ordering::SeqCst) {
                    match http::get(port, "/") {
                        Ok(answer) if answer.status == 200 && answer.release.as_deref() == Some("v1") => {}
                        other => bad.push(format!("{other:?}")),
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                bad
            }
        });
        Self { over, asking: Some(asking) }
    }

    fn bad_answers(mut self) -> Vec<String> {
        self.over.store(true, Ordering::SeqCst);
        self.asking.take().unwrap().join().unwrap()
    }
}

#[test]
fn phased_and_raises_on_boot_nobody_notices() {
    let pod = in_sync(Setup::default(), PHASED);
    let client = Client::of(&pod);
    assert_eq!(survives(&pod, App::RaisesOnBoot), "boot_loop");
    assert_eq!(client.bad_answers(), Vec::<String>::new());
    tells(&pod, "an exception at config.ru:2:in `block in <main>' (this Puma does not log its message)");
    takes_a_good_release(&pod);
}

#[test]
fn phased_and_hangs_on_boot_nobody_notices() {
    let pod = in_sync(Setup::default(), PHASED);
    let client = Client::of(&pod);
    assert_eq!(survives(&pod, App::HangsOnBoot), "boot_timeout");
    assert_eq!(client.bad_answers(), Vec::<String>::new());
    takes_a_good_release(&pod);
}

#[test]
fn hot_and_raises_on_boot() {
    let pod = in_sync(Setup::default(), HOT);
    assert_eq!(survives(&pod, App::RaisesOnBoot), "boot_loop");
    assert_eq!(pod.puma.starts(), 1, "no container restart was needed");
    takes_a_good_release(&pod);
}

#[test]
fn hot_and_raises_on_boot_in_preload_ends_the_master_and_the_container_boots_good_code() {
    let pod = in_sync(Setup::preloading(), HOT);
    assert_eq!(survives(&pod, App::RaisesOnBoot), "master_gone");
    tells(&pod, "RuntimeError: this release is broken on purpose (config.ru:2)");
    takes_a_good_release(&pod);
}

#[test]
fn hot_and_a_bad_puma_configuration_ends_the_master_and_the_container_boots_good_code() {
    let pod = in_sync(Setup::default(), HOT);
    assert_eq!(survives(&pod, App::BadConfig), "master_gone");
    takes_a_good_release(&pod);
}

#[test]
fn hot_and_hangs_on_boot() {
    let pod = in_sync(Setup::default(), HOT);
    assert_eq!(survives(&pod, App::HangsOnBoot), "boot_timeout");
    assert_eq!(pod.puma.starts(), 1, "no container restart was needed");
    takes_a_good_release(&pod);
}

#[test]
fn hot_and_hangs_in_preload_only_a_new_container_helps() {
    let pod = in_sync(Setup::preloading(), HOT);
    let reason = survives(&pod, App::HangsOnBoot);
    assert!(["boot_timeout", "boot_failed"].contains(&reason.as_str()), "{reason}");
    assert_eq!(pod.puma.starts(), 2);
    takes_a_good_release(&pod);
}

#[test]
fn hot_and_hangs_in_the_workers_of_a_preloading_cluster() {
    let pod = in_sync(Setup::preloading(), HOT);
    assert_eq!(survives(&pod, App::HangsInWorker), "boot_timeout");
    takes_a_good_release(&pod);
}

#[test]
fn a_single_process_that_raises_ends_and_the_container_boots_good_code() {
    let pod = in_sync(Setup::single(), HOT);
    assert_eq!(survives(&pod, App::RaisesOnBoot), "master_gone");
    takes_a_good_release(&pod);
}

#[test]
fn a_single_process_that_hangs_is_ended_and_the_container_boots_good_code() {
    let pod = in_sync(Setup::single(), HOT);
    let reason = survives(&pod, App::HangsOnBoot);
    assert!(["boot_timeout", "boot_failed"].contains(&reason.as_str()), "{reason}");
    assert_eq!(pod.puma.starts(), 2);
    takes_a_good_release(&pod);
}

/// The release is well; the one before it takes the signal and accepts nothing from then on.
#[test]
fn a_single_process_that_hangs_in_its_stop_is_ended_and_the_container_boots_what_was_there() {
    let pod = unborn(Setup::single(), HOT).born_from(App::NeverStops).started();
    assert_eq!(survives(&pod, App::Good), "boot_timeout");
    assert_eq!(pod.puma.starts(), 2);
    assert!(pod.log().contains("the release was never loaded"));
}

/// That one does not hang: whoever ended it would cut the request off.
#[test]
fn a_single_process_that_waits_for_a_request_in_its_stop_is_left_alone_until_it_is_back() {
    let pod = in_sync(Setup::single(), HOT);
    let (port, held) = (pod.puma.port(), Duration::from_secs(200));
    let request = thread::spawn(move || http::get_within(port, "/slow?s=0&after=end", held));
    until("the request in flight", || {
        (pod.agent.metric("pitstop_puma_requests_in_flight")? >= 1.0).then_some(())
    });
    pod.deploy(App::Good, "v2");
    let stranded = |status: &Value| status["stage"] == "stranded";
    let status = until_within(RECOVERY, "the stage stranded", || pod.agent.status().filter(stranded));
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("takes no requests") && status["running"].is_null(), "{status}");
    assert_eq!(pod.agent.metric(r#"pitstop_stage{stage="stranded"}"#), Some(1.0));
    fs::write(pod.puma.run_dir().join("end"), "").unwrap();
    assert_eq!(request.join().unwrap().expect("an answer").status, 200);
    let back = |status: &Value| status["running"] == "v1" && status["stage"] == "steady";
    until_within(RECOVERY, "v1 again", || pod.agent.status().filter(back));
    assert_eq!(pod.puma.starts(), 1);
    pod.puma.wait_for_release("v1");
    takes_a_good_release(&pod);
}

#[test]
fn an_unhealthy_release_is_taken_back() {
    for mode in [PHASED, HOT] {
        let pod = in_sync(Setup::default(), mode);
        assert_eq!(survives(&pod, App::UnhealthyPath), "probe_failed", "{mode}");
        let told = format!("GET /up on 127.0.0.1:{} answered 5", pod.puma.port());
        let status = pod.agent.status().unwrap();
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(&told) && message.contains("(wanted 2xx)"), "{status}");
        assert!(pod.log().contains(&told), "the log says what was asked and what came");
        takes_a_good_release(&pod);
    }
}

#[test]
fn a_release_that_names_itself_otherwise_is_taken_back() {
    let pod = in_sync(Setup::default(), PHASED);
    assert_eq!(survives(&pod, App::Misnamed), "release_mismatch");
    takes_a_good_release(&pod);
}
