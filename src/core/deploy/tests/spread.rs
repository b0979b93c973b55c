//! When a pod's restart begins among those of the fleet.

use super::*;
use crate::{
    core::Fleet,
    revision::{Canary, PodCount},
};

/// v2 is checked, and the reports say this; the pod's own place comes at 5,005.
fn told(mode: Mode, fleet: Fleet) -> Agent {
    let mut agent = checked(mode);
    agent.deploy.as_mut().unwrap().policy.reports = true;
    agent.step(Moment(6), Event::Fleet(fleet));
    agent
}

fn v2() -> std::collections::BTreeSet<Revision> {
    [at("v2", 2).revision].into()
}

fn among() -> Fleet {
    Fleet { others: 3, ..Fleet::default() }
}

/// Whether the move begins by then.
fn begins_by(agent: &mut Agent, now: u64) -> bool {
    let mut seen = |at| begins(&agent.step(Moment(at), look(at, serving(), None)));
    seen(now) | seen(now + 1)
}

#[test]
fn the_first_pod_begins_at_once_and_one_that_is_alone_as_well() {
    for mode in [Mode::Hot, Mode::Phased] {
        assert!(begins_by(&mut told(mode, Fleet { first: true, ..among() }), 10));
        assert!(begins_by(&mut told(mode, Fleet::default()), 10));
        assert!(!begins_by(&mut told(mode, Fleet { first: true, proving: v2(), ..among() }), 10));
    }
}

#[test]
fn the_others_wait_until_a_pod_has_proved_the_release_but_not_for_ever() {
    for mode in [Mode::Hot, Mode::Phased] {
        let mut agent = told(mode, Fleet { proving: v2(), ..among() });
        assert!(!begins_by(&mut agent, 6_000));
        assert_eq!(agent.view().turn, Some(Moment(15_005)));
        assert!(begins_by(&mut agent, 15_005));
    }
    let well = Fleet { well: v2(), ..among() };
    assert!(begins_by(&mut told(Mode::Phased, well.clone()), 10));
    let mut hot = told(Mode::Hot, well);
    assert!(!begins_by(&mut hot, 10), "pods that restart hot are kept apart");
    assert!(begins_by(&mut hot, 5_005));
}

#[test]
fn a_move_that_another_pod_has_rejected_is_not_tried_until_a_pod_runs_it() {
    let rejected = Fleet { rejected: v2(), first: true, ..among() };
    let mut agent = told(Mode::Phased, rejected.clone());
    assert!(!begins_by(&mut agent, 100_000));
    let problem = agent.view().problem.unwrap();
    assert!(problem.reason == Reason::Rejected && problem.message.contains("another pod"), "{problem:?}");
    agent.step(Moment(100_010), Event::Fleet(Fleet { well: v2(), ..rejected.clone() }));
    assert!(begins_by(&mut agent, 100_020));
    let mut agent = told(Mode::Phased, rejected);
    assert!(!begins_by(&mut agent, 10));
    agent.step(Moment(20), Event::Operator(Operator::Sync { retry: true }));
    assert!(begins_by(&mut agent, 30), "an operator wants it tried");
}

#[test]
fn without_reports_each_pod_waits_for_its_own_place_phased_as_well() {
    let mut agent = checked(Mode::Phased);
    assert!(!begins_by(&mut agent, 5_000));
    assert!(begins_by(&mut agent, 5_005));
}

#[test]
fn without_reports_restarts_that_expose_or_stall_come_in_waves() {
    for (mode, begins_at) in [(Mode::Phased, 25_005), (Mode::Hot, 25_005), (Mode::Beside, 5_005)] {
        let mut agent = checked(mode);
        agent.deploy.as_mut().unwrap().policy.wave = 2;
        assert!(!begins_by(&mut agent, begins_at - 2), "{mode:?}");
        assert!(begins_by(&mut agent, begins_at), "{mode:?}");
    }
}

#[test]
fn a_pod_waits_for_the_one_before_it_in_its_queue_and_not_for_ever() {
    let before = |done: &[Revision]| Some(done.iter().cloned().collect());
    let queued = |done: &[Revision]| Fleet { well: v2(), wave: 1, before: before(done), ..among() };
    let own = || at("v2", 2).revision;
    for (mode, waits) in [(Mode::Phased, true), (Mode::Hot, true), (Mode::Beside, false)] {
        let mut agent = told(mode, queued(&[]));
        assert_eq!(begins_by(&mut agent, 10), !waits, "{mode:?}");
        if waits {
            assert_eq!(
                agent.view().turn,
                Some(Moment(25_005)),
                "its own place, and twice a restart's time-out"
            );
            agent.step(Moment(5_500), Event::Fleet(queued(&[own()])));
            assert!(begins_by(&mut agent, 6_000), "{mode:?}");
            assert!(begins_by(&mut told(mode, queued(&[])), 25_005), "{mode:?}");
        }
    }
    let mut agent = told(Mode::Phased, queued(&[at("v1", 1).revision]));
    assert!(!begins_by(&mut agent, 10), "it is done with the move before only");
}

#[test]
fn what_was_proved_here_before_waits_for_nobody() {
    let mut agent = proven();
    agent.step(Moment(1), Event::Pointer(Ok(at("v0", 2))));
    agent.step(Moment(2), done(Step::Fetch));
    agent.step(Moment(4), look(4, serving(), None));
    agent.step(Moment(5), planned(1, Mode::Hot));
    assert!(begins_by(&mut agent, 7));
}

#[test]
fn the_only_pod_of_a_canary_waits_for_no_other_pod_to_prove_it() {
    let of = |share: PodCount, fleet: Fleet| {
        let mut agent = proven();
        agent.deploy.as_mut().unwrap().policy.reports = true;
        let canary = Canary {
            release: "v2".parse().unwrap(),
            sequence: Some(2),
            sha256: None,
            share,
            max_unavailable: Some(PodCount::Pods(3)),
            rollout: None,
            chosen: true,
        };
        let pointer = Pointer { canary: Some(Box::new(canary)), ..at("v1", 1) };
        agent.step(Moment(1), Event::Pointer(Ok(pointer)));
        agent.step(Moment(2), done(Step::Fetch));
        agent.step(Moment(4), look(4, serving(), None));
        agent.step(Moment(5), planned(1, Mode::Phased));
        let reading = agent.deploy.as_ref().unwrap().reads_fleet().unwrap();
        assert_eq!(reading.max_unavailable, Some(PodCount::Pods(3)), "as the pointer says");
        assert_eq!(reading.claimed, matches!(share, PodCount::Pods(_)));
        agent.step(Moment(6), Event::Fleet(fleet));
        agent
    };
    assert!(begins_by(&mut of(PodCount::Pods(1), among()), 10));
    // Of several, one comes first.
    for share in [PodCount::Pods(2), PodCount::Percent(25)] {
        assert!(!begins_by(&mut of(share, among()), 10));
        assert!(begins_by(&mut of(share, Fleet { first: true, ..among() }), 10));
    }
    // Its claim was another pod's before, which has rejected the release.
    let rejected = Fleet { rejected: v2(), ..among() };
    assert!(!begins_by(&mut of(PodCount::Pods(1), rejected), 100_000));
}
