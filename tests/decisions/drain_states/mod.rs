//! How a drain begins, ends and is undone, step by step. Time is data: nothing waits.

mod after;
mod calls;
mod hangs;
mod probes;
mod streams;

use std::net::IpAddr;

use pitstop::core::{
    AppServer, Connection, Cwd, Detection, Generation, GenerationKey, Moment, Observation, Process,
    ProcessKey, Sockets, Traffic, WorkerLoad,
    drain::{
        Answer, Budget, Drain, DrainCommand, DrainEffect, DrainResult, Evidence, Journal, Origin, Undone,
        Upgraded, WaitsFor,
    },
};

const BEGIN: u64 = 100_000;
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn budget() -> Budget {
    Budget { min_ms: 5000, quiet_min_ms: 2000, quiet_max_ms: 15_000, max_ms: 18_000, ..Budget::default() }
}

fn server(key: u64) -> Detection {
    let process = Process { key: ProcessKey(1), cwd: Cwd::Unknown, booted: true };
    let generation = Generation {
        key: GenerationKey(key),
        master: ProcessKey(key),
        signalable: true,
        cwd: Cwd::Unknown,
        expected: 1,
        processes: vec![process],
    };
    Detection::Seen(AppServer { generations: vec![generation], ..AppServer::default() })
}

fn look(at: u64, detection: Detection, traffic: Traffic) -> Observation {
    Observation::new(Moment(at), detection, traffic)
}

fn worker(checkin: u64, requests: u64, busy: u32) -> Option<Vec<WorkerLoad>> {
    Some(vec![WorkerLoad { key: ProcessKey(1), requests, busy, backlog: 0, checkin }])
}

fn silence() -> Option<Sockets> {
    Some(Sockets { ended: Some(Vec::new()), ..Sockets::default() })
}

fn kept(received: u64, age: u64) -> Connection {
    Connection {
        key: 7,
        peer: PEER,
        unread: 0,
        unsent: 0,
        received: Some(received),
        sent: Some(received),
        last_received_ms: Some(age),
        last_sent_ms: Some(age),
        ours: false,
        half_closed: false,
        lost: false,
    }
}

fn table(connections: Vec<Connection>) -> Option<Sockets> {
    Some(Sockets { connections, ended: Some(Vec::new()), ..Sockets::default() })
}

/// An idle server that checks in each second.
fn idle(at: u64) -> Observation {
    look(at, server(1), Traffic { workers: worker(at / 1000, 5, 0), sockets: silence() })
}

fn begun(budget: Budget) -> Drain {
    let mut drain = Drain::new(budget, None);
    drain.observe(Moment(BEGIN - 1000), &idle(BEGIN - 1000));
    let effects = drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
    let [DrainEffect::Journal(Some(journal))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((journal.began, &journal.answer), (Moment(BEGIN), &None));
    drain
}

/// Looks ten times a second from `from` until the drain answers or `until` is over.
fn watch(
    drain: &mut Drain,
    from: u64,
    until: u64,
    seen: impl Fn(u64) -> Observation,
) -> Option<(u64, Answer)> {
    for at in (from..=until).step_by(100) {
        for effect in drain.observe(Moment(at), &seen(at)) {
            if let DrainEffect::Answer { answer, .. } = effect {
                return Some((at - BEGIN, answer));
            }
        }
    }
    None
}

fn drained(budget: Budget, seen: impl Fn(u64) -> Observation) -> (u64, Answer) {
    watch(&mut begun(budget), BEGIN + 100, BEGIN + 20_000, seen).expect("an answer")
}

/// An answered drain of an idle server.
fn answered() -> (Drain, u64, Answer) {
    let mut drain = begun(budget());
    let (after, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 20_000, idle).expect("an answer");
    (drain, BEGIN + after, answer)
}

fn undone(effects: &[DrainEffect]) -> Option<Undone> {
    match effects {
        [] => None,
        [DrainEffect::Undone(why), DrainEffect::Journal(None)] => Some(*why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_idle_server_is_held_for_the_minimum_and_no_longer() {
    let (after, answer) = drained(budget(), idle);
    assert_eq!((after, answer.result, answer.requests_left), (5000, DrainResult::Drained, 0));
    assert_eq!(answer.evidence, Evidence { control: true, sockets: true, ends: true });
}

#[test]
fn looks_from_before_the_drain_prove_nothing() {
    let mut drain = begun(budget());
    for late in 0..100 {
        assert!(drain.observe(Moment(BEGIN + 6000 + late), &idle(BEGIN - 1)).is_empty());
    }
    let waits_for = drain.view(Moment(BEGIN + 10)).unwrap().waits_for;
    assert_eq!(waits_for, [WaitsFor::Min, WaitsFor::Quiet, WaitsFor::InFlight]);
}

#[test]
fn unclear_looks_prove_nothing() {
    for detection in [Detection::Unclear, Detection::Ambiguous] {
        let (after, answer) =
            drained(budget(), |at| Observation { detection: detection.clone(), ..idle(at) });
        assert_eq!((after, answer.result), (18_000, DrainResult::Deadline));
    }
}

#[test]
fn a_worker_must_check_in_twice_after_the_last_traffic() {
    // The last request arrived 4.5 s after the begin; the worker checks in each 3 s.
    let seen = |at: u64| {
        let since = at - BEGIN;
        let connection = if since < 4500 { kept(200, 9000) } else { kept(400, since - 4500) };
        let requests = if since < 4500 { 5 } else { 6 };
        look(
            at,
            server(1),
            Traffic { workers: worker(at / 3000, requests, 0), sockets: table(vec![connection]) },
        )
    };
    let (after, answer) = drained(Budget { quiet_max_ms: 2000, ..budget() }, seen);
    let second_checkin = (BEGIN + 4500) / 3000 * 3000 + 6000 - BEGIN;
    assert_eq!(answer.result, DrainResult::Drained);
    assert!(after >= second_checkin, "answered {after} ms after the begin, before {second_checkin}");
}

#[test]
fn a_busy_worker_holds_until_the_deadline_and_is_counted() {
    let busy = |at| look(at, server(1), Traffic { workers: worker(at / 1000, 5, 2), sockets: silence() });
    let (after, answer) = drained(budget(), busy);
    assert_eq!((after, answer.result, answer.requests_left), (18_000, DrainResult::Deadline, 2));
    assert_eq!(answer.waited_for, [WaitsFor::Min, WaitsFor::Quiet, WaitsFor::InFlight]);
}

#[test]
fn idle_numbers_are_vetoed_by_a_busy_connection_and_by_the_accept_queue() {
    let half = Connection { sent: Some(0), ..kept(20, 60_000) };
    let queue = Some(Sockets { accept_queue: 1, ..Sockets::default() });
    for sockets in [table(vec![half]), queue] {
        let (_, answer) = drained(budget(), |at| {
            look(at, server(1), Traffic { workers: worker(at / 1000, 5, 0), sockets: sockets.clone() })
        });
        assert_eq!((answer.result, answer.requests_left), (DrainResult::Deadline, 1));
    }
}

#[test]
fn a_worker_that_tells_nothing_is_not_idle() {
    let (_, answer) =
        drained(budget(), |at| look(at, server(1), Traffic { workers: Some(vec![]), sockets: silence() }));
    assert_eq!(answer.result, DrainResult::Deadline);
}

#[test]
fn workers_of_an_ended_phase_are_waited_for() {
    let (_, answer) = drained(budget(), |at| {
        let Detection::Seen(server) = server(1) else { unreachable!() };
        Observation { detection: Detection::Seen(AppServer { old_workers: true, ..server }), ..idle(at) }
    });
    assert_eq!(
        (answer.result, &answer.waited_for[..]),
        (DrainResult::Deadline, &[WaitsFor::Min, WaitsFor::Quiet, WaitsFor::InFlight][..])
    );
}

#[test]
fn without_a_control_server_the_sockets_decide_alone() {
    let (after, answer) = drained(budget(), |at| {
        // The control server had answered before the drain: it is missed before it is given up.
        look(at, server(1), Traffic { workers: None, sockets: table(vec![kept(200, 60_000)]) })
    });
    assert_eq!((answer.result, answer.evidence.control), (DrainResult::Drained, false));
    assert!(after > 14_000, "given up after {after} ms");
    assert!(answer.to_string().contains("decided by the socket table only"), "{answer}");
}

#[test]
fn without_byte_counters_nothing_tells_a_silent_connection_from_a_busy_one() {
    let blind =
        Connection { received: None, sent: None, last_received_ms: None, last_sent_ms: None, ..kept(0, 0) };
    let mut drain = Drain::new(budget(), None);
    drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
    let seen = |at| look(at, server(1), Traffic { workers: None, sockets: table(vec![blind.clone()]) });
    let (_, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 20_000, seen).unwrap();
    assert_eq!(answer.result, DrainResult::Deadline);
}

#[test]
fn with_neither_witness_only_the_deadline_answers_and_says_so() {
    let (after, answer) = drained(budget(), |at| look(at, server(1), Traffic::default()));
    assert_eq!((after, answer.result), (18_000, DrainResult::Deadline));
    assert!(answer.to_string().contains("neither the control server nor the socket table"), "{answer}");
}

#[test]
fn the_deadline_needs_no_look() {
    let mut drain = begun(budget());
    assert_eq!(drain.deadline(), Some(Moment(BEGIN + 18_000)));
    assert!(drain.tick(Moment(BEGIN + 17_999)).is_empty());
    let effects = drain.tick(Moment(BEGIN + 18_000));
    assert!(
        matches!(&effects[..], [DrainEffect::Journal(Some(_)), DrainEffect::Answer { answer: a, .. }] if a.result == DrainResult::Deadline)
    );
    assert!(drain.answered() && drain.blocks_deploys());
}

#[test]
fn ignored_peers_hold_nothing_though_their_requests_are_counted() {
    let ignoring = Budget { ignore_peers: vec!["::ffff:10.0.0.1".parse().unwrap()], ..budget() };
    let chatty = |at: u64| {
        let traffic = Traffic { workers: worker(at / 1000, at / 1000, 0), sockets: table(vec![kept(at, 0)]) };
        look(at, server(1), traffic)
    };
    // Each check-in tells of a request, so that no two in a row are idle: only the count of requests
    // in flight is asked of the workers.
    let (_, answer) = drained(ignoring, chatty);
    assert_eq!(answer.last_peer, None);
    let (_, answer) = drained(budget(), chatty);
    assert_eq!((answer.result, answer.last_peer), (DrainResult::Deadline, Some(PEER)));
}

#[test]
fn an_app_server_that_may_not_be_looked_into_is_drained_by_the_sockets() {
    let seen = |at: u64| {
        let busy = Connection { sent: Some(0), ..kept(200, at - BEGIN) };
        let connections = if at < BEGIN + 7000 { vec![busy] } else { vec![] };
        look(at, Detection::NotPermitted, Traffic { workers: None, sockets: table(connections) })
    };
    let mut drain = Drain::new(budget(), None);
    drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
    let (after, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 20_000, seen).unwrap();
    // Nothing else is known of the peer: its silence must be the longest.
    assert_eq!((after, answer.result), (15_000, DrainResult::Drained));
    let in_flight = answer.waits.iter().find(|wait| wait.what == WaitsFor::InFlight).unwrap();
    assert_eq!(in_flight.until_ms, 7000);
}

/// A websocket whose server speaks each 3 s and whose client is silent.
fn websocket(at: u64) -> Connection {
    Connection { sent: Some(300 + at / 3000 * 20), last_sent_ms: Some(at % 3000), ..kept(200, 60_000) }
}

#[test]
fn a_websocket_is_counted_and_waited_for_or_not() {
    let seen = |at: u64| {
        let open = if at < BEGIN + 12_000 { vec![websocket(at)] } else { vec![] };
        look(at, server(1), Traffic { workers: worker(at / 1000, 5, 0), sockets: table(open) })
    };
    for (upgraded, expected) in [(Upgraded::Wait, 12_000), (Upgraded::Ignore, 5000)] {
        let mut drain = Drain::new(Budget { upgraded, ..budget() }, None);
        for at in (BEGIN - 20_000..BEGIN).step_by(1000) {
            drain.observe(Moment(at), &seen(at));
        }
        drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
        assert!(watch(&mut drain, BEGIN + 100, BEGIN + 1000, seen).is_none());
        assert_eq!(drain.view(Moment(BEGIN + 1000)).unwrap().upgraded, 1);
        let (after, answer) = watch(&mut drain, BEGIN + 1100, BEGIN + 20_000, seen).unwrap();
        assert_eq!((after, answer.result), (expected, DrainResult::Drained), "{upgraded:?}");
        let left = u32::from(upgraded == Upgraded::Ignore);
        assert_eq!(
            drain.view(Moment(BEGIN + 20_000)).unwrap().upgraded,
            left,
            "what was left open is still told"
        );
    }
}

#[test]
fn what_is_left_is_named_with_its_age() {
    let busy = |at: u64| {
        let connection = Connection { sent: Some(0), ..kept(200, at - BEGIN + 2000) };
        look(at, server(1), Traffic { workers: worker(at / 1000, 5, 1), sockets: table(vec![connection]) })
    };
    let (_, answer) = drained(budget(), busy);
    assert_eq!(answer.requests_left, 1);
    assert!(answer.to_string().contains("still in flight: from 10.0.0.1, 20.0s old"), "{answer}");
}

#[test]
fn a_kept_connection_that_its_proxy_closes_is_no_traffic() {
    // The proxy hears of the removal, and closes what it kept: the end mark counts as a byte.
    let seen = |at: u64| {
        let received = if at < BEGIN + 4500 { 200 } else { 201 };
        let closed = Connection { sent: Some(300), ..kept(received, at - 80_000) };
        let traffic = Traffic { workers: worker(at / 1000, 5, 0), sockets: table(vec![closed]) };
        look(at, server(1), traffic)
    };
    let (after, answer) = drained(budget(), seen);
    assert_eq!((after, answer.result), (5000, DrainResult::Drained));
}

#[test]
fn one_senders_silence_proves_nothing_about_another() {
    // One sends all the time and ceases at the begin; the other sends each 2.5 s and goes on.
    let other = |at: u64| Connection {
        key: 8,
        peer: "10.0.0.2".parse().unwrap(),
        ..kept(at / 2500 * (200 + at / 2500 % 7), at % 2500)
    };
    let seen = |at: u64| {
        let sockets = table(vec![kept(at.min(BEGIN), at.saturating_sub(BEGIN)), other(at)]);
        look(at, server(1), Traffic { workers: worker(at / 1000, 5, 0), sockets })
    };
    let mut drain = Drain::new(Budget { max_ms: 60_000, ..budget() }, None);
    for at in (0..BEGIN).step_by(1000) {
        drain.observe(Moment(at), &seen(at));
    }
    drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
    let (_, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 60_000, seen).unwrap();
    assert_eq!((answer.result, answer.last_peer), (DrainResult::Deadline, "10.0.0.2".parse().ok()));
}

#[test]
fn a_health_checker_as_regular_as_a_clock_holds_nothing() {
    let probe = |at: u64| Connection { key: 8, ..kept(at / 10_000 * 113, at % 10_000) };
    let seen = |at: u64| {
        let traffic = Traffic { workers: worker(at / 1000, at / 10_000, 0), sockets: table(vec![probe(at)]) };
        look(at, server(1), traffic)
    };
    let mut drain = Drain::new(budget(), None);
    let begin = BEGIN + 200_000;
    for at in (0..begin).step_by(1000) {
        drain.observe(Moment(at), &seen(at));
    }
    drain.command(Moment(begin), DrainCommand::Begin(Origin::PreStop));
    let (_, answer) = watch(&mut drain, begin + 100, begin + 20_000, seen).unwrap();
    assert_eq!(answer.result, DrainResult::Drained);
}

#[test]
fn a_health_checker_that_is_recognised_only_now_holds_no_longer_than_one_known_for_long() {
    let probe = |at: u64| Connection { key: 8, ..kept(at / 1000 * 113, at % 1000) };
    let seen = |at: u64| {
        let traffic = Traffic { workers: worker(at / 1000, at / 1000, 0), sockets: table(vec![probe(at)]) };
        look(at, server(1), traffic)
    };
    let mut drain = Drain::new(Budget { max_ms: 60_000, ..budget() }, None);
    let begin = BEGIN + 12_000;
    for at in (BEGIN + 450..begin).step_by(500) {
        drain.observe(Moment(at), &seen(at));
    }
    drain.command(Moment(begin), DrainCommand::Begin(Origin::PreStop));
    let (_, answer) = watch(&mut drain, begin + 100, begin + 50_000, seen).unwrap();
    assert_eq!(answer.result, DrainResult::Drained);
    assert!(answer.held_ms <= budget().min_ms + budget().quiet_min_ms, "{answer:?}");
}

#[test]
fn an_app_server_that_goes_by_itself_is_answered_at_once() {
    let mut drain = begun(budget());
    assert!(watch(&mut drain, BEGIN + 100, BEGIN + 1000, idle).is_none());
    let seen = |at| look(at, Detection::Missing, Traffic::default());
    let (after, answer) = watch(&mut drain, BEGIN + 1100, BEGIN + 1100, seen).unwrap();
    assert_eq!((after, answer.result), (1100, DrainResult::AlreadyGone));
}

#[test]
fn the_journal_carries_a_drain_over_a_crash_with_the_time_that_is_left() {
    let mut drain = Drain::new(budget(), None);
    drain.observe(Moment(BEGIN - 1000), &idle(BEGIN - 1000));
    let effects = drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
    let [DrainEffect::Journal(Some(journal))] = &effects[..] else { panic!("no journal") };
    let read: Journal = serde_json::from_str(&serde_json::to_string(journal).unwrap()).unwrap();
    let mut restarted = Drain::new(budget(), Some(read));
    assert_eq!((restarted.blocks_deploys(), restarted.deadline()), (true, Some(Moment(BEGIN + 18_000))));
    // It has to learn anew what it knew: the silence and the check-ins.
    let (after, answer) = watch(&mut restarted, BEGIN + 4000, BEGIN + 20_000, idle).unwrap();
    assert_eq!((answer.result, answer.drain_id), (DrainResult::Drained, journal.drain_id));
    assert!((6000..=7000).contains(&after), "{after}");
}

#[test]
fn an_operator_can_undo_a_drain_at_any_time() {
    assert!(Drain::new(budget(), None).command(Moment(1), DrainCommand::Undrain).is_empty());
    let (mut done, at, _) = answered();
    assert_eq!(undone(&done.command(Moment(at), DrainCommand::Undrain)), Some(Undone::Operator));
    let mut drain = begun(budget());
    assert_eq!(undone(&drain.command(Moment(BEGIN), DrainCommand::Undrain)), Some(Undone::Operator));
    let effects = drain.command(Moment(BEGIN + 70_000), DrainCommand::Begin(Origin::PreStop));
    assert!(matches!(&effects[..], [DrainEffect::Journal(Some(j))] if j.deadline == Moment(BEGIN + 88_000)));
}

#[test]
fn status_shows_what_is_waited_for() {
    let mut drain = begun(budget());
    assert!(Drain::new(budget(), None).view(Moment(0)).is_none());
    let busy = |at| {
        let request = Connection { sent: Some(0), ..kept(at, 0) };
        look(at, server(1), Traffic { workers: worker(at / 1000, 5, 1), sockets: table(vec![request]) })
    };
    watch(&mut drain, BEGIN + 100, BEGIN + 6000, busy);
    let view = drain.view(Moment(BEGIN + 6000)).unwrap();
    assert_eq!(view.waits_for, [WaitsFor::Quiet, WaitsFor::InFlight]);
    assert_eq!((view.peers_not_quiet, view.requests_in_flight, view.answered), (1, Some(1), false));
}

#[test]
fn the_answer_explains_its_length() {
    let seen = |at: u64| {
        let since = (at - BEGIN).min(6000);
        look(
            at,
            server(1),
            Traffic { workers: worker(at / 1000, 5, 0), sockets: table(vec![kept(since, 0)]) },
        )
    };
    let (_, answer) = drained(budget(), seen);
    insta::assert_snapshot!(answer.to_string(), @"drained after 8.0s; waited until 5.0s for drain.min, until 8.0s for silence (last sender: 10.0.0.1), until 8.0s for requests in flight");
}

#[test]
fn whom_the_drain_is_about_is_in_the_journal_as_soon_as_it_is_seen() {
    let mut drain = Drain::new(budget(), None);
    drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
    let effects = drain.observe(Moment(BEGIN + 100), &idle(BEGIN + 100));
    let [DrainEffect::Journal(Some(journal))] = &effects[..] else { panic!("{effects:?}") };
    let mut resumed = Drain::new(budget(), Some(journal.clone()));
    let gone = look(BEGIN + 300, Detection::Missing, Traffic::default());
    let effects = resumed.observe(Moment(BEGIN + 300), &gone);
    assert!(
        effects.iter().any(
            |e| matches!(e, DrainEffect::Answer { answer: a, .. } if a.result == DrainResult::AlreadyGone)
        ),
        "{effects:?}"
    );
}
