//! The drain's decision against a simulated Puma that knows the truth. Time is data: nothing waits.
//!
//! Each case draws senders with their rates and the moment at which each of them stops (the
//! removal from the endpoints spreads at its own pace), the workers' check-in interval, and which
//! witnesses there are. The drain sees what it would see.

mod world;

use pitstop::core::{
    Moment,
    drain::{Answer, Budget, Drain, DrainCommand, DrainEffect, DrainResult, Origin},
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use world::{BEGIN_MS, Case, Sender, Witnesses, World};

fn budget(max_ms: u64) -> Budget {
    Budget { min_ms: 5000, quiet_min_ms: 2000, quiet_max_ms: 15_000, max_ms, ..Budget::default() }
}

/// Runs the drain until it answers; says when the deciding look was.
fn drain(world: &World, budget: Budget) -> (u64, Answer) {
    let max_ms = budget.max_ms;
    let mut drain = Drain::new(budget, None);
    for at in (0..BEGIN_MS).step_by(1000) {
        assert!(drain.observe(Moment(at), &world.look(at.saturating_sub(1000), at)).is_empty());
    }
    drain.command(Moment(BEGIN_MS), DrainCommand::Begin(Origin::PreStop));
    let mut since = BEGIN_MS - 1000;
    for at in (BEGIN_MS..=BEGIN_MS + max_ms + 100).step_by(100) {
        for effect in drain.observe(Moment(at), &world.look(since, at)) {
            if let DrainEffect::Answer { answer, .. } = effect {
                return (at, answer);
            }
        }
        since = at;
    }
    panic!("never answered");
}

fn senders() -> impl Strategy<Value = Sender> {
    let gaps = prop_oneof![10..50u64, 50..300u64, 300..700u64, 700..20_000u64];
    let lengths = prop_oneof![1..20u64, 20..200u64, 200..3000u64];
    let bursts = prop_oneof![3 => Just(1), 1 => 2..12u64];
    let shape = (any::<bool>(), 0..100u64, proptest::bool::weighted(0.3), any::<bool>());
    let starts = prop_oneof![3 => Just(0), 1 => 20_000..(BEGIN_MS + 2000)];
    (gaps, lengths, bursts, shape, starts, 0..20_000u64).prop_map(
        |(mean_gap_ms, request_ms, burst, shape, starts_ms, stops_after_ms)| {
            let (fresh_connections, queued_ms, closed_loop, streams) = shape;
            Sender {
                mean_gap_ms,
                burst,
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
    let seen = (proptest::bool::weighted(0.7), proptest::option::weighted(0.3, 950..2500u64));
    let senders = proptest::collection::vec(senders(), 0..4);
    (any::<u64>(), senders, long, intervals, witnesses, any::<bool>(), max, seen).prop_map(
        |(seed, senders, long_request, check_interval_ms, witnesses, counts_at_start, max_ms, seen)| {
            let (ends, prober) = seen;
            // Without all ends, or without the control server, a short probe is no pattern.
            let prober_ms = prober.filter(|_| ends && witnesses == Witnesses::Both);
            Case {
                seed,
                senders,
                prober_ms,
                ends,
                long_request,
                check_interval_ms,
                witnesses,
                counts_at_start,
                max_ms,
            }
        },
    )
}

/// Whether this sender's silence can be proved by what is there to be seen.
fn provable(case: &Case, sender: &Sender) -> bool {
    let gap_ms = sender.gap_ms();
    match case.witnesses {
        // A look each 100 ms sees a short connection with this chance only.
        Witnesses::Both | Witnesses::Sockets if sender.fresh_connections && !case.ends => {
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
    let longest_silence = 3 * case.check_interval_ms + 15_000 + 300;
    let bound = world.truth_ends().max(BEGIN_MS) + longest_silence;
    if answer.result == DrainResult::Deadline {
        prop_assert!(case.witnesses == Witnesses::Neither || bound >= limit, "waited for nothing: {answer}");
        return Ok(());
    }
    prop_assert!(at <= bound, "{} ms after the truth's end: {answer}", at - world.truth_ends());
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
        run(seed, 100, cases(), check);
    }
}

fn dense() -> impl Strategy<Value = Case> {
    let senders =
        (5..100u64, 1..200u64, 2500..9000u64).prop_map(|(mean_gap_ms, request_ms, stops_after_ms)| Sender {
            mean_gap_ms,
            burst: 1,
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
        prober_ms: None,
        ends: true,
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
