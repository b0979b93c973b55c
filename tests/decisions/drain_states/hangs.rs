//! Servers and peers that answer no more.

use super::*;

/// A server all of whose threads hang since then, and requests that wait.
fn hung(at: u64, since: u64, waiting: u32) -> Observation {
    let busy = |key| Connection { key, sent: Some(0), ..kept(200, at.saturating_sub(since)) };
    let sockets = Sockets {
        accept_queue: waiting,
        connections: vec![busy(1), busy(2)],
        ended: Some(Vec::new()),
        closed: false,
    };
    look(at, server(1), Traffic { workers: worker(at / 1000, 5, 2), sockets: Some(sockets) })
}

fn serves(drain: &mut Drain, from: u64, seen: impl Fn(u64) -> Observation) {
    for at in (from..BEGIN).step_by(1000) {
        assert!(drain.observe(Moment(at), &seen(at)).is_empty());
    }
    drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
}

fn patient() -> Budget {
    Budget { max_ms: 108_000, ..budget() }
}

#[test]
fn a_server_that_hangs_is_not_held_to_the_deadline() {
    // A liveness probe has found it out already.
    let mut drain = Drain::new(patient(), None);
    let seen = |at| hung(at, BEGIN - 30_000, 3);
    serves(&mut drain, BEGIN - 30_000, seen);
    let (after, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 110_000, seen).unwrap();
    assert_eq!((after, answer.result, answer.requests_left), (5000, DrainResult::Stuck, 5));
    let told = answer.to_string();
    assert!(told.contains("the app server hangs after 5.0s with 5 requests left"), "{told}");
    assert!(told.contains("no request was answered for 34.0s while requests waited"), "{told}");
    // It begins to hang in the drain.
    let mut drain = begun(patient());
    let (after, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 110_000, |at| hung(at, BEGIN, 3)).unwrap();
    assert_eq!((after, answer.result), (20_100, DrainResult::Stuck));
}

#[test]
fn without_a_control_server_a_hung_server_is_known_as_well() {
    let mut drain = Drain::new(patient(), None);
    let seen = |at| {
        let look = hung(at, BEGIN - 30_000, 1);
        Observation { traffic: Traffic { workers: None, ..look.traffic }, ..look }
    };
    serves(&mut drain, BEGIN - 30_000, seen);
    let (_, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 110_000, seen).unwrap();
    assert_eq!(answer.result, DrainResult::Stuck);
}

#[test]
fn a_long_request_beside_free_threads_is_waited_for() {
    let mut drain = Drain::new(patient(), None);
    let seen = |at| if at < BEGIN + 90_000 { hung(at, BEGIN - 30_000, 0) } else { idle(at) };
    serves(&mut drain, BEGIN - 30_000, seen);
    let (after, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 110_000, seen).unwrap();
    assert_eq!(answer.result, DrainResult::Drained);
    assert!(after >= 90_000);
}

#[test]
fn a_server_whose_requests_take_long_does_not_hang_yet() {
    // It was seen to answer after 25 s; so nobody is surprised that nothing is answered for 30.
    let mut drain = Drain::new(patient(), None);
    let long = |at: u64| match at {
        _ if at < BEGIN - 40_000 => hung(at, BEGIN - 65_000, 0),
        _ => hung(at, BEGIN - 30_000, 3),
    };
    for at in (BEGIN - 65_000..BEGIN - 40_000).step_by(1000) {
        drain.observe(Moment(at), &long(at));
    }
    drain.observe(Moment(BEGIN - 39_000), &idle(BEGIN - 39_000));
    let answers = |at: u64| {
        let done = [1, 2].map(|key| Connection { key, ..kept(200, 25_000) });
        look(at, server(1), Traffic { workers: worker(at / 1000, 7, 0), sockets: table(done.into()) })
    };
    drain.observe(Moment(BEGIN - 65_000 + 26_000), &long(BEGIN - 40_001));
    drain.observe(Moment(BEGIN - 38_000), &answers(BEGIN - 38_000));
    serves(&mut drain, BEGIN - 30_000, long);
    assert!(watch(&mut drain, BEGIN + 100, BEGIN + 15_000, long).is_none());
    let (_, answer) = watch(&mut drain, BEGIN + 15_100, BEGIN + 110_000, long).unwrap();
    assert_eq!(answer.result, DrainResult::Stuck);
}

#[test]
fn a_peer_that_is_gone_holds_nothing() {
    // Its answer is sent again and again.
    let gone = |at: u64| {
        let lost = Connection { unsent: 700, lost: at > BEGIN + 3000, ..kept(200, at - 80_000) };
        look(at, server(1), Traffic { workers: worker(at / 1000, 5, 0), sockets: table(vec![lost]) })
    };
    let (after, answer) = drained(budget(), gone);
    assert_eq!(answer.result, DrainResult::Drained);
    assert!(after <= 6000, "{after}");
}

#[test]
fn only_what_was_not_answered_after_sigterm_is_said_to_be_cut() {
    let work = |key, sent| Connection { key, sent: Some(sent), ..kept(200, 9000) };
    let with = |at: u64, connections: Vec<Connection>, ended: Vec<Connection>| {
        let sockets = Sockets { connections, ended: Some(ended), ..Sockets::default() };
        look(at, server(1), Traffic { workers: worker(at / 1000, 5, 2), sockets: Some(sockets) })
    };
    let mut drain = begun(budget());
    let both = |at| with(at, vec![work(1, 0), work(2, 0)], Vec::new());
    let (_, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 20_000, both).unwrap();
    assert_eq!((answer.result, answer.requests_left, answer.left.len()), (DrainResult::Deadline, 2, 2));
    // Puma finishes one of them within its stop time-out, and is killed with the other.
    let at = BEGIN + 18_000;
    let none = [
        drain.observe(Moment(at + 1000), &with(at + 1000, vec![work(2, 0)], vec![work(1, 500)])),
        drain.observe(Moment(at + 2000), &with(at + 2000, Vec::new(), vec![work(2, 0)])),
    ];
    assert_eq!(none, [[], []]);
    let gone = look(at + 3000, Detection::Missing, Traffic::default());
    let told = drain.observe(Moment(at + 3000), &gone);
    assert!(
        matches!(&told[..], [DrainEffect::Cut(cut)] if cut.len() == 1 && cut[0].peer == PEER),
        "{told:?}"
    );
    assert_eq!(drain.observe(Moment(at + 4000), &Observation { began: Moment(at + 4000), ..gone }), []);
}
