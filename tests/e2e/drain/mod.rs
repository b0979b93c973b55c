//! Ends of real pods: a kubelet that keeps to the measured table, proxies that hear of the end too late,
//! and no request lost.
//!
//! Each end is drawn by its seed. `RIG_TERMINATIONS=200 RIG_SEED=1000` runs so many, from this seed on;
//! `RIG_AT_ONCE` at the same time, each pod having served for `RIG_SERVES` seconds.

mod ways;

use std::{env, path::Path, sync::Mutex, thread, time::Duration};

use pitstop_rig::{
    Image, Setup, Termination,
    termination::{GRACE_PERIOD, Outcome},
};

use crate::PITSTOP;

fn number(name: &str, fallback: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(fallback)
}

fn setup(image: Image) -> Setup {
    Setup { threads: (5, 5), ..Setup::default() }.from(image)
}

/// Runs the seeds, some at the same time, each in a pod of its own.
fn run(image: Image, seeds: Vec<u64>, at_once: u64) -> Vec<Outcome> {
    let (left, outcomes) = (Mutex::new(seeds.into_iter()), Mutex::new(Vec::new()));
    let take = || left.lock().unwrap().next();
    // Just long enough for a prober to be known as one.
    let serves = Duration::from_secs(number("RIG_SERVES", 14));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(seed) = take() {
                    let outcome =
                        Termination::draw(seed, serves).with_pitstop(Path::new(PITSTOP), setup(image));
                    println!("{outcome}");
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap()
}

fn no_request_is_lost(image: Image, count: u64) {
    let first = number("RIG_SEED", 1);
    let outcomes = run(image, (first..first + count).collect(), number("RIG_AT_ONCE", 4));
    let mut excess: Vec<f64> = outcomes.iter().map(Outcome::excess).collect();
    excess.sort_by(f64::total_cmp);
    let requests: usize = outcomes.iter().map(|outcome| outcome.requests).sum();
    let lost: usize = outcomes.iter().map(|outcome| outcome.lost.len()).sum();
    let broken: usize = outcomes.iter().map(Outcome::broken).sum();
    println!(
        "{count} ends from seed {first} on: {requests} requests, {lost} lost, {broken} of them against the promise; \
         median excess {:.1} s, longest {:.1} s",
        excess[excess.len() / 2],
        excess[excess.len() - 1]
    );
    assert!(requests > 0);
    for outcome in &outcomes {
        assert_eq!(outcome.broken(), 0, "{outcome}");
        assert!(!outcome.end.killed, "{outcome}");
        assert!(outcome.end.term < GRACE_PERIOD, "{outcome}");
    }
}

#[test]
fn e2e_no_request_is_lost_however_late_the_proxies_hear_of_the_end() {
    no_request_is_lost(Image::of_this_run(), number("RIG_TERMINATIONS", 4));
}

#[test]
fn e2e_no_request_is_lost_at_the_end_of_a_pod_on_6_6() {
    no_request_is_lost(Image::Trixie, 2);
}
