//! The drain on what the adapter sees of a real Puma: no answer while a request is in flight.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use pitstop::{
    app_server::{AppServer, Location, puma},
    config::{self, RestartMode},
    core::{
        Moment, Observation,
        drain::{Answer, Budget, Drain, DrainCommand, DrainEffect, DrainResult, Evidence, Origin},
    },
};
use pitstop_rig::{Image, PATIENCE, PumaRig, Setup, is_root, puma::TOKEN};

fn watcher(rig: &PumaRig, control: bool) -> Arc<dyn AppServer> {
    let section = config::Puma {
        control_url: control.then(|| rig.control_url()),
        control_token: control.then(|| TOKEN.into()),
        ..config::Puma::default()
    };
    let location = Location {
        deploy_to: rig.deploy_to(),
        fallback: None,
        ports: Vec::new(),
        current: rig.deploy_to().join("current"),
        state_dir: "/nowhere".into(),
    };
    puma::start(section, RestartMode::Auto, false, location).unwrap()
}

/// Begins a drain and looks until it is answered; calls `each` before every look.
fn drain(puma: &dyn AppServer, mut each: impl FnMut()) -> Answer {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let budget = Budget {
        min_ms: 500,
        quiet_min_ms: 500,
        quiet_max_ms: 2000,
        max_ms: u64::try_from(PATIENCE.as_millis()).unwrap(),
        ..Budget::default()
    };
    let (mut drain, zero) = (Drain::new(budget, None), Instant::now());
    let now = || Moment(u64::try_from(zero.elapsed().as_millis()).unwrap());
    drain.command(now(), DrainCommand::Begin(Origin::PreStop));
    loop {
        each();
        let began = now();
        let look = runtime.block_on(puma.observe());
        let observation = Observation::new(began, look.detection, look.traffic);
        for effect in drain.observe(now(), &observation) {
            if let DrainEffect::Answer { answer, .. } = effect {
                return answer;
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Requests on one kept connection, each right after the answer before it; ends with the last answer.
fn ask(port: u16, paths: &'static [&'static str]) -> JoinHandle<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut ask = move |path: &str| {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut buffer = [0; 65_536];
        assert!(stream.read(&mut buffer).unwrap() > 0, "{path} was not answered");
    };
    // The first request is certainly there when the drain begins.
    ask("/up");
    thread::spawn(move || paths.iter().for_each(|path| ask(path)))
}

fn outlasts(control: bool, paths: &'static [&'static str]) -> Answer {
    outlasts_on(Setup::default(), control, paths)
}

fn outlasts_on(setup: Setup, control: bool, paths: &'static [&'static str]) -> Answer {
    let rig = PumaRig::start(setup);
    let requests = ask(rig.port(), paths);
    let answer = drain(&*watcher(&rig, control), || ());
    assert!(requests.is_finished(), "answered with a request in flight: {answer}");
    requests.join().unwrap();
    assert_eq!(answer.result, DrainResult::Drained, "{answer}");
    assert_eq!(answer.evidence, Evidence { control, sockets: true, ends: true });
    answer
}

#[test]
fn a_slow_request_is_waited_for() {
    outlasts(true, &["/slow?s=4"]);
}

#[test]
fn a_slow_request_right_behind_a_fast_one_is_waited_for() {
    outlasts(true, &["/up", "/up", "/slow?s=4"]);
}

#[test]
fn without_a_control_server_a_slow_request_is_waited_for_as_well() {
    outlasts(false, &["/slow?s=4"]);
}

/// Puma 6 and later take connections from the kernel before a thread is free.
#[test]
fn without_a_control_server_a_slow_request_is_waited_for_on_6_6() {
    if is_root() {
        outlasts_on(Setup::default().from(Image::Trixie), false, &["/up", "/slow?s=4"]);
    }
}

#[test]
fn a_request_that_is_never_sent_in_full_holds_the_drain() {
    let rig = PumaRig::start(Setup::default());
    let mut half = TcpStream::connect(("127.0.0.1", rig.port())).unwrap();
    half.write_all(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345").unwrap();
    let begun = Instant::now();
    let mut rest = Some(half.try_clone().unwrap());
    let answer = drain(&*watcher(&rig, true), || {
        if begun.elapsed() > Duration::from_secs(4)
            && let Some(mut stream) = rest.take()
        {
            stream.write_all(b"67890").unwrap();
        }
    });
    assert!(rest.is_none(), "answered with half a request received: {answer}");
    let mut buffer = [0; 4096];
    assert!(half.read(&mut buffer).unwrap() > 0);
    assert_eq!(answer.result, DrainResult::Drained, "{answer}");
}
