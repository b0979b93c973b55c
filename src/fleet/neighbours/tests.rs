//! What the reports of a fleet add up to, for each of its pods.

use std::{collections::BTreeMap, sync::Mutex};

use futures_util::future::BoxFuture;
use proptest::prelude::*;

use super::*;
use crate::{
    fleet::{
        LIVE, Rejected,
        report::tests::{moved, report},
    },
    store::{Body, Condition, Found, Listed, Object, Version},
};

#[test]
fn live_reports_of_other_pods_add_up() {
    let at = humantime::parse_rfc3339("2026-11-21T10:01:00Z").unwrap();
    let pod = |name: &str, report: Report| Report { pod: name.into(), ..report };
    let proving = Report { stage: "verifying".into(), ..report(false, 8) };
    let rejected = vec![Rejected { revision: moved(6), reason: "boot_failed".into() }];
    let reports = [
        pod("own", report(true, 9)),
        pod("web-1", report(true, 7)),
        pod("web-2", proving),
        pod("web-3", Report { rejected, ..report(false, 7) }),
        pod("gone", Report { leaving: true, ..report(true, 5) }),
    ];
    let fleet = add_up(reports.iter(), "own", None, at);
    assert_eq!((fleet.others, fleet.well), (3, [moved(7)].into()));
    assert_eq!((fleet.proving, fleet.rejected), ([moved(8)].into(), [moved(6)].into()));
    assert_eq!(add_up(reports.iter(), "own", None, at + LIVE * 2), Fleet { first: true, ..Fleet::default() });
}

#[test]
fn one_pod_of_a_fleet_comes_first_and_none_that_is_held() {
    let at = humantime::parse_rfc3339("2026-11-21T10:01:00Z").unwrap();
    let held = |held: Option<&str>| {
        let all = ["a", "b", "c", "d"].map(|pod| {
            let reason = held.filter(|held| *held == pod).map(|_| "held".to_owned());
            Report { pod: pod.into(), reason, ..report(true, 7) }
        });
        let first = |pod: &&str| add_up(all.iter(), pod, None, at).first;
        ["a", "b", "c", "d"].into_iter().filter(first).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = held(None);
    assert_eq!(first.len(), 1);
    assert_eq!(held(Some(&first[0])).len(), 2, "it is first itself once it is not held any more");
}

#[test]
fn the_first_pod_of_a_canary_is_one_that_is_in_it() {
    let at = humantime::parse_rfc3339("2026-11-21T10:01:00Z").unwrap();
    let names = ["a", "b", "c", "d", "e"];
    for chosen in 1_u32..1 << names.len() {
        let is_in = |n: usize| chosen & 1 << n != 0;
        let all: Vec<_> = (0..names.len())
            .map(|n| {
                let pod = names[n].to_owned();
                Report { pod, canary: Some(is_in(n)), canary_sequence: Some(8), ..report(true, 7) }
            })
            .collect();
        let first = |sequence: u64, n: &usize| {
            is_in(*n) && add_up(all.iter(), names[*n], Some(&moved(sequence)), at).first
        };
        let firsts = |sequence| (0..names.len()).filter(|n| first(sequence, n)).count();
        assert_eq!(firsts(8), 1, "{chosen:b}");
        assert!(firsts(9) <= 1, "what they say of one canary means nothing for the next move");
    }
}

/// The reports of a fleet, in memory; counts what is asked.
#[derive(Default)]
struct Shelf {
    reports: Mutex<BTreeMap<String, Report>>,
    reads: Mutex<usize>,
}

impl Shelf {
    fn set(&self, report: Report) {
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        self.reports.lock().unwrap().insert(report.pod.clone(), Report { at, ..report });
    }
}

impl Store for Shelf {
    fn get<'a>(
        &'a self,
        key: &'a str,
        _: Option<&'a Version>,
        _: u64,
    ) -> BoxFuture<'a, Result<Found, StoreError>> {
        *self.reads.lock().unwrap() += 1;
        let pod = key.rsplit('/').next().unwrap();
        let report = self.reports.lock().unwrap().get(pod).map(|report| serde_json::to_vec(report).unwrap());
        let found =
            report.map_or(Found::Absent, |bytes| Found::Object { version: Version("1".into()), bytes });
        Box::pin(async { Ok(found) })
    }

    fn read<'a>(
        &'a self,
        key: &'a str,
        _: u64,
        _: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Object, StoreError>> {
        Box::pin(async move { Err(StoreError::Missing(key.into())) })
    }

    fn put<'a>(&'a self, _: &'a str, _: Body, _: Condition) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async { Ok(Version("1".into())) })
    }

    fn list_dated<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        let pods = self.reports.lock().unwrap().keys().cloned().collect::<Vec<_>>();
        let listed = pods
            .into_iter()
            .map(|pod| Listed { key: format!("{prefix}{pod}"), written_s: 1, bytes: 0 })
            .collect();
        Box::pin(async { Ok(listed) })
    }

    fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

/// What a pod of the fleet finds.
fn finds(shelf: &Arc<Shelf>, pod: &str, at_once: PodCount) -> Fleet {
    finds_by(shelf, pod, at_once, &Reading { claimed: true, ..reading() })
}

fn reading() -> Reading {
    Reading { each_ms: 1, revision: Some(moved(8)), max_unavailable: None, claimed: false }
}

fn finds_by(shelf: &Arc<Shelf>, pod: &str, at_once: PodCount, reading: &Reading) -> Fleet {
    let store: Arc<dyn Store> = shelf.clone();
    let reader = Reader { store, pointer: "p".into(), pod: pod.into(), max_unavailable: at_once };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Neighbours::of(reader).look(reading)).unwrap().unwrap()
}

fn behind(pod: &str) -> Report {
    Report { pod: pod.into(), ..report(true, 7) }
}

/// How a pod's restart ends, or that it does not restart any more.
fn ended(kind: usize, pod: &str) -> Report {
    let rejected = vec![Rejected { revision: moved(8), reason: "boot_failed".into() }];
    match kind {
        0 => Report { rejected, ..behind(pod) },
        1 => Report { reason: Some("held".into()), ..behind(pod) },
        2 => Report { canary: Some(false), canary_sequence: Some(8), ..behind(pod) },
        _ => Report { pod: pod.into(), ..report(true, 8) },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    /// However long each restart takes and however it ends: never too many at once, and everybody's turn comes.
    #[test]
    fn no_more_pods_restart_at_once_than_may(
        pods in 1_usize..16, count in 1_u32..6, percent in 1_u8..101, by_count: bool, seed: u64
    ) {
        let at_once = if by_count { PodCount::Pods(count) } else { PodCount::Percent(percent) };
        let mut dice = fastrand::Rng::with_seed(seed);
        let shelf = Arc::new(Shelf::default());
        let mut waiting: Vec<_> = (0..pods).map(|n| format!("web-{n}")).collect();
        waiting.iter().for_each(|pod| shelf.set(behind(pod)));
        let mut restarting = vec![];
        let most = at_once.down(pods);
        while !waiting.is_empty() || !restarting.is_empty() {
            let turn = |pod: &String| finds(&shelf, pod, at_once).lets_restart(&moved(8));
            let (starts, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(turn);
            waiting = rest;
            for pod in starts {
                shelf.set(Report { pod: pod.clone(), stage: "verifying".into(), ..report(false, 8) });
                restarting.push(pod);
            }
            prop_assert!(restarting.len() <= most, "{restarting:?} of {pods}, {at_once}");
            prop_assert!(!restarting.is_empty(), "nobody's turn comes: {waiting:?}");
            let pod = restarting.swap_remove(dice.usize(..restarting.len()));
            shelf.set(ended(dice.usize(..6), &pod));
        }
    }
}

#[test]
fn a_pod_that_ends_is_waited_for_no_more() {
    let shelf = Arc::new(Shelf::default());
    ["a", "b", "c"].iter().for_each(|pod| shelf.set(behind(pod)));
    let one = PodCount::Pods(1);
    let waits = |shelf| ["a", "b", "c"].map(|pod| !finds(shelf, pod, one).lets_restart(&moved(8)));
    let before = waits(&shelf);
    assert_eq!(before.iter().filter(|waits| **waits).count(), 2);
    let first = ["a", "b", "c"][before.iter().position(|waits| !waits).unwrap()];
    shelf.set(Report { leaving: true, ..behind(first) });
    assert_eq!(waits(&shelf).iter().filter(|waits| **waits).count(), 1, "the next one's turn has come");
}

/// A rollout goes from one share to the next, and pods read of it one after the other.
#[test]
fn pods_that_have_not_read_of_the_next_step_yet_are_waited_for() {
    let shelf = Arc::new(Shelf::default());
    let mut pods: Vec<_> = (0..12).map(|n| format!("web-{n}")).collect();
    pods.sort_by_key(|pod| order(pod));
    for (place, pod) in pods.iter().enumerate() {
        let out = Report { canary: Some(false), canary_sequence: Some(8), ..behind(pod) };
        shelf.set(if place < 3 { Report { pod: pod.clone(), ..report(true, 8) } } else { out });
    }
    let go = |claimed| {
        let reading = Reading { claimed, ..reading() };
        let may =
            |pod: &&String| finds_by(&shelf, pod, PodCount::Percent(25), &reading).lets_restart(&moved(8));
        pods[3..].iter().filter(may).count()
    };
    assert_eq!(go(false), 3, "a quarter of them, whoever reads of it first");
    assert_eq!(go(true), 9, "of claims, none is theirs");
}

#[test]
fn what_the_pointer_says_of_restarts_at_once_counts_more_than_the_pods_own_key() {
    let shelf = Arc::new(Shelf::default());
    ["a", "b", "c", "d"].iter().for_each(|pod| shelf.set(behind(pod)));
    let go = |said: Option<PodCount>| {
        let reading = Reading { max_unavailable: said, ..reading() };
        let may = |pod: &&&str| finds_by(&shelf, pod, PodCount::Pods(2), &reading).lets_restart(&moved(8));
        ["a", "b", "c", "d"].iter().filter(may).count()
    };
    assert_eq!([None, Some(PodCount::Pods(1)), Some(PodCount::Percent(100))].map(go), [2, 1, 4]);
}

#[test]
fn a_pod_of_a_large_fleet_reads_few_reports_for_its_turn() {
    let shelf = Arc::new(Shelf::default());
    (0..300).for_each(|n| shelf.set(behind(&format!("web-{n}"))));
    let waves: Vec<_> = (0..300)
        .map(|n| {
            *shelf.reads.lock().unwrap() = 0;
            let fleet = finds(&shelf, &format!("web-{n}"), PodCount::Percent(25));
            let reads = *shelf.reads.lock().unwrap();
            assert!(reads <= CHUNK + 1, "{reads}");
            assert_eq!((fleet.others, fleet.before.is_none()), (299, fleet.wave == 0));
            fleet.wave
        })
        .collect();
    assert_eq!([0, 1, 2, 3, 4].map(|wave| waves.iter().filter(|w| **w == wave).count()), [75, 75, 75, 75, 0]);
}
