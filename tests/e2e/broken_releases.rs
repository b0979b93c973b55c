//! A bad release is undone without a human, whatever is bad about it: `pitstop run` beside a real
//! Puma, one test for each way in which a release breaks. Each ends with the old release serving, the
//! move rejected with a fitting reason, and tried once only.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use pitstop_rig::{AgentRig, App, Image, PumaRig, Setup, http, poll, until};
use serde_json::Value;

use crate::PITSTOP;

/// A pod on `v1`, proven; the volume, Puma and the agent.
struct Pod {
    puma: PumaRig,
    agent: AgentRig,
}

/// How the restart is asked for, and how long it may take.
const PHASED: &str = "phased";
const HOT: &str = "hot";
const TIMEOUT: &str = "8s";
/// Elsewhere a worker now and then stops only after its time-out, in each of two restarts.
const TIMEOUT_IN_AN_IMAGE: &str = "15s";

/// A hung image is given time to show that it moves, before and after the flip, until it is ended.
const RECOVERY: Duration = Duration::from_secs(120);

impl Pod {
    fn start(setup: Setup, mode: &str) -> Self {
        Self::start_from(App::Good, setup, mode)
    }

    fn start_from(app: App, setup: Setup, mode: &str) -> Self {
        // Below the restart's time: now and then a worker of Puma 6.6 or 8.0 stops only when it is ended.
        let mut puma = PumaRig::empty(Setup { restarted: true, worker_shutdown_timeout: 3, ..setup });
        let timeout = if puma.setup().image == Image::Machine { TIMEOUT } else { TIMEOUT_IN_AN_IMAGE };
        let mut agent = AgentRig::prepare(Path::new(PITSTOP), &puma);
        agent.env.push(("PITSTOP_RESTART_MODE".into(), mode.into()));
        agent.env.push(("PITSTOP_RESTART_TIMEOUT".into(), timeout.into()));
        // Some tests want a restart with a request in flight.
        agent.env.push(("PITSTOP_RESTART_LONG_REQUESTS".into(), "proceed".into()));
        agent.start_from(&mut puma, app);
        Self { puma, agent }
    }

    /// Deploys the broken release and waits until the pod is back; the reason of the rejection.
    fn survives(&self, app: App) -> String {
        self.agent.publish(&self.puma, app, "v2");
        self.agent.promote("v2");
        let back = |status: &Value| {
            rejection(status).is_some() && status["running"] == "v1" && status["stage"] == "steady"
        };
        let status =
            poll(RECOVERY, || self.agent.status().filter(back)).expect("v2 is rejected and v1 runs again");
        self.puma.wait_for_release("v1");
        assert_eq!(status["in_sync"], false);
        assert_eq!(status["reason"], "rejected", "{status}");
        assert_eq!(self.attempts("v2"), 1, "the move was tried once");
        rejection(&status).unwrap()
    }

    fn attempts(&self, release: &str) -> usize {
        let log = self.puma.deploy_to().join(".pitstop/pods/rig/revisions.log");
        let log = fs::read_to_string(log).expect("revisions.log");
        let records = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
        records.filter(|record| record["event"] == "attempt" && record["release"] == release).count()
    }

    fn agent_said(&self, what: &str) -> bool {
        fs::read_to_string(self.agent.log()).expect("the agent's log").contains(what)
    }

    /// Both the status and the log name the exception.
    fn tells(&self, exception: &str) {
        let status = self.agent.status().unwrap();
        assert!(status["message"].as_str().unwrap().contains(exception), "{status}");
        assert!(self.agent_said(exception), "the log names it as well");
    }

    /// After all that, a good release goes out as ever.
    fn takes_a_good_release(&self) {
        self.agent.publish(&self.puma, App::Good, "v3");
        self.agent.promote("v3");
        self.agent.wait_in_sync("v3");
        self.puma.wait_for_release("v3");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- /status: {:?}", self.agent.status());
        }
    }
}

fn rejection(status: &Value) -> Option<String> {
    let rejected = status["rejected"].as_array()?.iter().find(|rejected| rejected["release"] == "v2")?;
    Some(rejected["reason"].as_str()?.to_owned())
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
    let pod = Pod::start(Setup::default(), PHASED);
    let client = Client::of(&pod);
    assert_eq!(pod.survives(App::RaisesOnBoot), "boot_loop");
    assert_eq!(client.bad_answers(), Vec::<String>::new());
    pod.tells("an exception at config.ru:2:in `block in <main>' (this Puma does not log its message)");
    pod.takes_a_good_release();
}

#[test]
fn phased_and_hangs_on_boot_nobody_notices() {
    let pod = Pod::start(Setup::default(), PHASED);
    let client = Client::of(&pod);
    assert_eq!(pod.survives(App::HangsOnBoot), "boot_timeout");
    assert_eq!(client.bad_answers(), Vec::<String>::new());
    pod.takes_a_good_release();
}

#[test]
fn hot_and_raises_on_boot() {
    let pod = Pod::start(Setup::default(), HOT);
    assert_eq!(pod.survives(App::RaisesOnBoot), "boot_loop");
    assert_eq!(pod.puma.starts(), 1, "no container restart was needed");
    pod.takes_a_good_release();
}

#[test]
fn hot_and_raises_on_boot_in_preload_ends_the_master_and_the_container_boots_good_code() {
    let pod = Pod::start(Setup::preloading(), HOT);
    assert_eq!(pod.survives(App::RaisesOnBoot), "master_gone");
    pod.tells("RuntimeError: this release is broken on purpose (config.ru:2)");
    pod.takes_a_good_release();
}

#[test]
fn hot_and_a_bad_puma_configuration_ends_the_master_and_the_container_boots_good_code() {
    let pod = Pod::start(Setup::default(), HOT);
    assert_eq!(pod.survives(App::BadConfig), "master_gone");
    pod.takes_a_good_release();
}

#[test]
fn hot_and_hangs_on_boot() {
    let pod = Pod::start(Setup::default(), HOT);
    assert_eq!(pod.survives(App::HangsOnBoot), "boot_timeout");
    assert_eq!(pod.puma.starts(), 1, "no container restart was needed");
    pod.takes_a_good_release();
}

#[test]
fn hot_and_hangs_in_preload_only_a_new_container_helps() {
    let pod = Pod::start(Setup::preloading(), HOT);
    let reason = pod.survives(App::HangsOnBoot);
    assert!(["boot_timeout", "boot_failed"].contains(&reason.as_str()), "{reason}");
    assert_eq!(pod.puma.starts(), 2);
    pod.takes_a_good_release();
}

#[test]
fn hot_and_hangs_in_the_workers_of_a_preloading_cluster() {
    let pod = Pod::start(Setup::preloading(), HOT);
    assert_eq!(pod.survives(App::HangsInWorker), "boot_timeout");
    pod.takes_a_good_release();
}

#[test]
fn a_single_process_that_raises_ends_and_the_container_boots_good_code() {
    let pod = Pod::start(Setup::single(), HOT);
    assert_eq!(pod.survives(App::RaisesOnBoot), "master_gone");
    pod.takes_a_good_release();
}

#[test]
fn a_single_process_that_hangs_is_ended_and_the_container_boots_good_code() {
    let pod = Pod::start(Setup::single(), HOT);
    let reason = pod.survives(App::HangsOnBoot);
    assert!(["boot_timeout", "boot_failed"].contains(&reason.as_str()), "{reason}");
    assert_eq!(pod.puma.starts(), 2);
    pod.takes_a_good_release();
}

/// The release is well; the one before it takes the signal and accepts nothing from then on.
#[test]
fn a_single_process_that_hangs_in_its_stop_is_ended_and_the_container_boots_what_was_there() {
    let pod = Pod::start_from(App::NeverStops, Setup::single(), HOT);
    assert_eq!(pod.survives(App::Good), "boot_timeout");
    assert_eq!(pod.puma.starts(), 2);
    assert!(pod.agent_said("the release was never loaded"));
}

/// That one does not hang: whoever ended it would cut the request off.
#[test]
fn a_single_process_that_waits_for_a_request_in_its_stop_is_left_alone_until_it_is_back() {
    let pod = Pod::start(Setup::single(), HOT);
    let (port, held) = (pod.puma.port(), Duration::from_secs(200));
    let request = thread::spawn(move || http::get_within(port, "/slow?s=0&after=end", held));
    until("the request in flight", || {
        (pod.agent.metric("pitstop_puma_requests_in_flight")? >= 1.0).then_some(())
    });
    pod.agent.publish(&pod.puma, App::Good, "v2");
    pod.agent.promote("v2");
    let stranded = |status: &Value| status["stage"] == "stranded";
    let status = poll(RECOVERY, || pod.agent.status().filter(stranded)).expect("it gives up, and says so");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("takes no requests") && status["running"].is_null(), "{status}");
    assert_eq!(pod.agent.metric(r#"pitstop_stage{stage="stranded"}"#), Some(1.0));
    fs::write(pod.puma.run_dir().join("end"), "").unwrap();
    assert_eq!(request.join().unwrap().expect("an answer").status, 200);
    let back = |status: &Value| status["running"] == "v1" && status["stage"] == "steady";
    poll(RECOVERY, || pod.agent.status().filter(back)).expect("v1 runs again");
    assert_eq!(pod.puma.starts(), 1);
    pod.puma.wait_for_release("v1");
    pod.takes_a_good_release();
}

#[test]
fn an_unhealthy_release_is_taken_back() {
    for mode in [PHASED, HOT] {
        let pod = Pod::start(Setup::default(), mode);
        assert_eq!(pod.survives(App::UnhealthyPath), "probe_failed", "{mode}");
        let told = format!("GET /up on 127.0.0.1:{} answered 5", pod.puma.port());
        let status = pod.agent.status().unwrap();
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(&told) && message.contains("(wanted 2xx)"), "{status}");
        assert!(pod.agent_said(&told), "the log says what was asked and what came");
        pod.takes_a_good_release();
    }
}

#[test]
fn a_release_that_names_itself_otherwise_is_taken_back() {
    let pod = Pod::start(Setup::default(), PHASED);
    assert_eq!(pod.survives(App::Misnamed), "release_mismatch");
    pod.takes_a_good_release();
}
