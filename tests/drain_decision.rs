//! The drain's decision against a simulated Puma that knows the truth. Time is data: nothing waits.
//!
//! Each case draws senders with their rates and the moment at which each of them stops (the
//! removal from the endpoints spreads at its own pace), the workers' check-in interval, and which
//! witnesses there are. The drain sees what it would see: numbers as old as the last check-in, and
//! socket rows of this very moment.

use std::net::IpAddr;

use pitstop::core::{
    AppServer, Connection, Cwd, Generation, GenerationKey, Moment, Observation, Process, ProcessKey, Sight,
    Sockets, Traffic, WorkerLoad,
    drain::{Answer, Budget, Drain, DrainCommand, DrainEffect, DrainResult, Origin},
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// The pod has served for this long when the drain begins.
const BEGIN_MS: u64 = 30_000;
const WORKERS: u64 = 2;

#[derive(Debug, Clone)]
struct Sender {
    mean_gap_ms: u64,
    request_ms: u64,
    /// A connection for each request, or some that are kept.
    fresh_connections: bool,
    /// How long each request waits in the accept queue (fresh connections only).
    queued_ms: u64,
    /// The next request comes as soon as the last one is answered.
    closed_loop: bool,
    /// Answers trickle out all the time instead of coming at the end.
    streams: bool,
    starts_ms: u64,
    /// After the drain's begin.
    stops_after_ms: u64,
}

impl Sender {
    fn gap_ms(&self) -> u64 {
        if self.closed_loop { self.request_ms + self.queued_ms } else { self.mean_gap_ms }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Witnesses {
    Both,
    Sockets,
    Control,
    Neither,
}

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    senders: Vec<Sender>,
    long_request: Option<(u64, u64)>,
    check_interval_ms: u64,
    witnesses: Witnesses,
    counts_at_start: bool,
    max_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    sender: usize,
    connection: u64,
    worker: u64,
    arrives: u64,
    starts: u64,
    ends: u64,
    streams: bool,
}

struct World {
    case: Case,
    requests: Vec<Request>,
}

/// SplitMix64: the case's seed alone decides.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn exponential(&mut self, mean: u64) -> u64 {
        let unit = ((self.next() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        (-unit.ln() * mean as f64) as u64
    }
}

impl World {
    fn new(case: Case) -> Self {
        let mut requests = Vec::new();
        let mut dice = Dice(case.seed);
        for (index, sender) in case.senders.iter().enumerate() {
            Self::send(index, sender, &mut dice, &mut requests);
        }
        if let Some((after, length)) = case.long_request {
            let arrives = BEGIN_MS + after;
            let (connection, streams) = (999_999, false);
            requests.push(Request {
                sender: 99,
                connection,
                worker: 0,
                arrives,
                starts: arrives,
                ends: arrives + length,
                streams,
            });
        }
        requests.sort_by_key(|r| r.arrives);
        Self { case, requests }
    }

    fn send(index: usize, sender: &Sender, dice: &mut Dice, requests: &mut Vec<Request>) {
        let mut at = sender.starts_ms + dice.next() % (sender.gap_ms() + 1);
        // When each kept connection is free again.
        let mut kept: Vec<u64> = Vec::new();
        let mut number = 0;
        while at < BEGIN_MS + sender.stops_after_ms {
            let queued = if sender.fresh_connections { sender.queued_ms } else { 0 };
            let ends = at + queued + 1 + dice.exponential(sender.request_ms).min(10_000);
            let slot = match kept.iter().position(|&free| free <= at) {
                Some(slot) if !sender.fresh_connections => slot as u64,
                _ => {
                    number += 1;
                    kept.push(0);
                    number - 1
                }
            };
            kept[slot as usize] = ends;
            requests.push(Request {
                sender: index,
                connection: (index as u64 + 1) * 100_000 + slot,
                worker: dice.next() % WORKERS,
                arrives: at,
                starts: at + queued,
                ends,
                streams: sender.streams,
            });
            at = if sender.closed_loop { ends } else { at + 1 + dice.exponential(sender.mean_gap_ms) };
        }
    }

    /// Requests in flight. Without a socket table nobody can know of one that a worker has taken
    /// since its last check-in.
    fn in_flight(&self, at: u64) -> usize {
        let knowable =
            |r: &Request| self.case.witnesses != Witnesses::Control || r.starts <= self.pushed(r.worker, at);
        self.requests.iter().filter(|r| r.arrives <= at && at < r.ends && knowable(r)).count()
    }

    /// When the worker last checked in.
    fn pushed(&self, worker: u64, at: u64) -> u64 {
        let interval = self.case.check_interval_ms;
        let phase = worker * interval / WORKERS + self.case.seed % interval;
        if at < phase { 0 } else { (at - phase) / interval * interval + phase }
    }

    fn last_arrival(&self, sender: usize) -> Option<u64> {
        self.requests.iter().filter(|r| r.sender == sender).map(|r| r.arrives).max()
    }

    fn truth_ends(&self) -> u64 {
        self.requests.iter().map(|r| r.ends).max().unwrap_or(0)
    }

    fn look(&self, at: u64) -> Observation {
        let (control, sockets) = match self.case.witnesses {
            Witnesses::Both => (true, true),
            Witnesses::Sockets => (false, true),
            Witnesses::Control => (true, false),
            Witnesses::Neither => (false, false),
        };
        Observation {
            began: Moment(at),
            sight: Sight::Seen(server()),
            probe: None,
            traffic: Traffic {
                workers: control.then(|| (0..WORKERS).map(|w| self.worker(w, at)).collect()),
                sockets: sockets.then(|| self.sockets(at)),
            },
        }
    }

    /// What the worker pushed at its last check-in.
    fn worker(&self, worker: u64, at: u64) -> WorkerLoad {
        let pushed = self.pushed(worker, at);
        let mine = || self.requests.iter().filter(move |r| r.worker == worker);
        let busy = mine().filter(|r| r.starts <= pushed && pushed < r.ends).count();
        let counted =
            |r: &&Request| if self.case.counts_at_start { r.starts <= pushed } else { r.ends <= pushed };
        WorkerLoad {
            key: ProcessKey(worker),
            requests: mine().filter(counted).count() as u64,
            busy: busy as u32,
            backlog: 0,
            checkin: pushed / 1000,
        }
    }

    fn sockets(&self, at: u64) -> Sockets {
        let queued = self.requests.iter().filter(|r| r.arrives <= at && at < r.starts).count();
        let mut connections: Vec<Connection> = Vec::new();
        for request in self.requests.iter().filter(|r| r.starts <= at) {
            let fresh = self.case.senders.get(request.sender).is_some_and(|s| s.fresh_connections);
            if fresh && request.ends <= at {
                continue;
            }
            let known = connections.iter().position(|c| c.key == request.connection);
            let row = match known {
                Some(row) => &mut connections[row],
                None => {
                    connections.push(connection(request.connection, request.sender));
                    connections.last_mut().unwrap()
                }
            };
            show(row, request, at);
        }
        Sockets { accept_queue: queued as u32, connections, closed: false }
    }
}

fn connection(key: u64, sender: usize) -> Connection {
    Connection {
        key,
        peer: peer(sender),
        unread: 0,
        unsent: 0,
        received: Some(0),
        sent: Some(0),
        last_received_ms: Some(u64::MAX),
        last_sent_ms: Some(u64::MAX),
    }
}

/// By the kernel's clock, which ticks each 4 ms.
fn age(at: u64, then: u64) -> u64 {
    at / 4 * 4 - then / 4 * 4
}

fn show(row: &mut Connection, request: &Request, at: u64) {
    row.received = row.received.map(|n| n + 200);
    row.last_received_ms = Some(age(at, request.starts));
    if at >= request.ends {
        row.sent = row.sent.map(|n| n + 500);
        row.last_sent_ms = Some(age(at, request.ends));
    } else if request.streams {
        let chunks = (at - request.starts) / 250;
        row.sent = row.sent.map(|n| n + chunks);
        if chunks > 0 {
            row.last_sent_ms = Some(age(at, request.starts + chunks * 250));
        }
    }
}

fn peer(sender: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, sender as u8 + 1])
}

fn server() -> AppServer {
    let process = |key| Process { key: ProcessKey(key), cwd: Cwd::Unknown, booted: true };
    let generation = Generation {
        key: GenerationKey(1),
        signalable: true,
        cwd: Cwd::Unknown,
        expected: WORKERS as usize,
        processes: (0..WORKERS).map(process).collect(),
    };
    AppServer { generations: vec![generation], old_workers: false }
}

fn budget(max_ms: u64) -> Budget {
    Budget { min_ms: 5000, quiet_min_ms: 2000, quiet_max_ms: 15_000, max_ms, ignore_peers: Vec::new() }
}

/// Runs the drain until it answers; says when the deciding look was.
fn drain(world: &World, budget: Budget) -> (u64, Answer) {
    let max_ms = budget.max_ms;
    let mut drain = Drain::new(budget, None);
    for at in (0..BEGIN_MS).step_by(1000) {
        assert!(drain.observe(Moment(at), &world.look(at)).is_empty());
    }
    drain.command(Moment(BEGIN_MS), DrainCommand::Begin(Origin::PreStop));
    for at in (BEGIN_MS..=BEGIN_MS + max_ms + 100).step_by(100) {
        for effect in drain.observe(Moment(at), &world.look(at)) {
            if let DrainEffect::Answer(answer) = effect {
                return (at, answer);
            }
        }
    }
    panic!("never answered");
}

fn senders() -> impl Strategy<Value = Sender> {
    let gaps = prop_oneof![10..50u64, 50..300u64, 300..700u64, 700..20_000u64];
    let lengths = prop_oneof![1..20u64, 20..200u64, 200..3000u64];
    let closed_loop = proptest::bool::weighted(0.3);
    let starts = prop_oneof![3 => Just(0), 1 => 20_000..(BEGIN_MS + 2000)];
    (gaps, lengths, any::<bool>(), 0..100u64, closed_loop, any::<bool>(), starts, 0..20_000u64).prop_map(
        |(
            mean_gap_ms,
            request_ms,
            fresh_connections,
            queued_ms,
            closed_loop,
            streams,
            starts_ms,
            stops_after_ms,
        )| {
            Sender {
                mean_gap_ms,
                request_ms,
                fresh_connections,
                queued_ms,
                closed_loop,
                streams,
                starts_ms,
                stops_after_ms,
            }
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let witnesses = prop_oneof![
        4 => Just(Witnesses::Both),
        3 => Just(Witnesses::Sockets),
        2 => Just(Witnesses::Control),
        1 => Just(Witnesses::Neither),
    ];
    let long = proptest::option::of((0..8000u64, 3000..40_000u64));
    let intervals = prop_oneof![Just(1000u64), Just(5000u64), 1000..8000u64];
    let max = prop_oneof![Just(18_000u64), Just(60_000u64)];
    (any::<u64>(), proptest::collection::vec(senders(), 0..4), long, intervals, witnesses, any::<bool>(), max)
        .prop_map(|(seed, senders, long_request, check_interval_ms, witnesses, counts_at_start, max_ms)| {
            Case { seed, senders, long_request, check_interval_ms, witnesses, counts_at_start, max_ms }
        })
}

/// Whether this sender's silence can be proved by what is there to be seen.
fn provable(case: &Case, sender: &Sender) -> bool {
    let gap_ms = sender.gap_ms();
    match case.witnesses {
        // A look each 100 ms sees a short connection with this chance only.
        Witnesses::Both | Witnesses::Sockets if sender.fresh_connections => {
            gap_ms * 100 / sender.request_ms.min(100) <= 700
        }
        Witnesses::Both | Witnesses::Sockets => gap_ms <= 700,
        // All senders are one, and its silence need not last longer than `quiet_min`.
        Witnesses::Control => gap_ms <= 140,
        Witnesses::Neither => true,
    }
}

fn check(case: Case) -> Result<(), TestCaseError> {
    let world = World::new(case.clone());
    let (at, answer) = drain(&world, budget(case.max_ms));
    let limit = BEGIN_MS + case.max_ms;
    prop_assert!(at <= limit + 100, "answered late: {answer}");
    prop_assert!(at >= BEGIN_MS + 5000, "answered before drain.min: {answer}");
    if answer.result == DrainResult::Deadline {
        let bound = world.truth_ends().max(BEGIN_MS) + 3 * case.check_interval_ms + 15_000 + 300;
        prop_assert!(case.witnesses == Witnesses::Neither || bound >= limit, "waited for nothing: {answer}");
        return Ok(());
    }
    prop_assert_eq!(answer.result, DrainResult::Drained);
    prop_assert!(case.witnesses != Witnesses::Neither, "nothing to decide by");
    prop_assert_eq!(world.in_flight(at), 0, "answered at {} with requests in flight: {}", at, answer);
    for (index, sender) in case.senders.iter().enumerate() {
        let last = world.last_arrival(index).unwrap_or(0);
        prop_assert!(
            !provable(&case, sender) || last <= at,
            "{} of {:?} came after {at}: {answer}",
            last,
            sender
        );
    }
    Ok(())
}

/// Fixed seeds, so that a failure is the same everywhere.
fn run(
    seed: u8,
    cases: u32,
    strategy: impl Strategy<Value = Case>,
    test: impl Fn(Case) -> Result<(), TestCaseError>,
) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    if let Err(error) = TestRunner::new_with_rng(config, rng).run(&strategy, test) {
        panic!("seed {seed}: {error}");
    }
}

#[test]
fn never_with_a_request_in_flight_never_before_a_provable_sender_is_silent_never_too_late() {
    for seed in 1..=4 {
        run(seed, 150, cases(), check);
    }
}

fn dense() -> impl Strategy<Value = Case> {
    let senders =
        (5..100u64, 1..200u64, 2500..9000u64).prop_map(|(mean_gap_ms, request_ms, stops_after_ms)| Sender {
            mean_gap_ms,
            request_ms,
            fresh_connections: false,
            queued_ms: 0,
            closed_loop: false,
            streams: false,
            starts_ms: 0,
            stops_after_ms,
        });
    (any::<u64>(), proptest::collection::vec(senders, 1..4)).prop_map(|(seed, senders)| Case {
        seed,
        senders,
        long_request: None,
        check_interval_ms: 1000,
        witnesses: Witnesses::Both,
        counts_at_start: true,
        max_ms: 60_000,
    })
}

#[test]
fn dense_traffic_is_believed_to_be_over_after_a_few_seconds() {
    run(9, 100, dense(), |case| {
        let world = World::new(case.clone());
        let (at, answer) = drain(&world, budget(case.max_ms));
        prop_assert_eq!(answer.result, DrainResult::Drained);
        let bound = (BEGIN_MS + 5000).max(world.truth_ends() + 4500);
        prop_assert!(at <= bound, "{} ms after the end: {answer}", at - world.truth_ends());
        Ok(())
    });
}
