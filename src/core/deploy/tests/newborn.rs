//! A pod's first release whose health path fails.

use super::*;
use crate::core::Fleet;

/// v1 is in place and serves, and its health path fails; the pointer names v0 as the release before.
fn unwell(pointer: Pointer) -> Agent {
    let mut agent = born();
    agent.step(Moment(11), Event::Pointer(Ok(pointer)));
    agent.step(Moment(20), look(20, serving(), None));
    sick(&mut agent, 30);
    assert_eq!((agent.view().stage, reason(&agent)), (Stage::Verifying, Some(Reason::ProbeFailed)));
    agent
}

fn before(release: &str) -> Pointer {
    Pointer { previous: Some(release.parse().unwrap()), ..at("v1", 1) }
}

/// Enough failed probes for a verdict.
fn sick(agent: &mut Agent, from: u64) -> Vec<Effect> {
    (0..4)
        .flat_map(|n| agent.step(Moment(from + n), look(from + n, serving(), Some(Probe::Unhealthy))))
        .collect()
}

#[test]
fn a_newborn_pod_waits_for_its_release_and_rejects_nothing() {
    let mut agent = unwell(at("v1", 1));
    for from in [500, 1_500, 5_000, 50_000] {
        assert_eq!(sick(&mut agent, from), [], "at {from}");
    }
    assert_eq!((agent.view().rejected, agent.view().running), (vec![], None));
    for at in [60_000, 60_100, 60_200, 60_300] {
        agent.step(Moment(at), look(at, serving(), Some(Probe::Healthy)));
    }
    assert_eq!((agent.view().running, reason(&agent)), (Some("v1".parse().unwrap()), None));
}

#[test]
fn after_a_while_the_release_before_is_tried_unless_the_release_is_well_in_another_pod() {
    assert_eq!(fetched(&sick(&mut unwell(before("v0")), 500)), None, "it is early");
    assert_eq!(fetched(&sick(&mut unwell(before("v0")), 1_500)), Some("v0"));
    let mut agent = unwell(before("v0"));
    let well = Fleet { well: [at("v1", 1).revision].into(), ..Fleet::default() };
    agent.step(Moment(400), Event::Fleet(well));
    assert_eq!(sick(&mut agent, 1_500), []);
    agent.step(Moment(2_000), Event::Fleet(Fleet::default()));
    assert_eq!(fetched(&sick(&mut agent, 2_500)), Some("v0"));
}

#[test]
fn nothing_that_was_rolled_back_from_or_failed_elsewhere_is_tried() {
    let back = Pointer { rolled_back: vec!["v0".parse().unwrap()], ..before("v0") };
    assert_eq!(sick(&mut unwell(back), 1_500), []);
    let mut agent = unwell(before("v0"));
    let rejected = Fleet { rejected: [at("v0", 0).revision].into(), ..Fleet::default() };
    agent.step(Moment(400), Event::Fleet(rejected));
    assert_eq!(sick(&mut agent, 1_500), []);
}

#[test]
fn a_newer_move_ends_the_wait() {
    let mut agent = unwell(before("v0"));
    let effects = agent.step(Moment(500), Event::Pointer(Ok(at("v2", 2))));
    assert_eq!(fetched(&effects), Some("v2"));
    assert!(matches!(&effects[0], Effect::Conclude { result: DeployResult::Superseded, .. }));
}

/// A pod whose journal says this, and that serves v1 from `current`.
fn woken(events: &[RecordEvent]) -> Agent {
    let line = |event: &RecordEvent| Record::new(*event, at("v1", 1).revision);
    let current = Some("v1".parse().unwrap());
    let recovered = Recovered { current, records: events.iter().map(line).collect(), ..Recovered::default() };
    recovered_agent(policy(), &recovered)
}

#[test]
fn a_server_that_runs_the_release_stays_however_many_agents_have_ended() {
    let mut agent = woken(&[RecordEvent::Attempt; 5]);
    agent.step(Moment(1), Event::Pointer(Ok(before("v0"))));
    assert_eq!(agent.step(Moment(2), look(2, serving(), None)), []);
    for at in [100, 200, 300, 400] {
        agent.step(Moment(at), look(at, serving(), Some(Probe::Healthy)));
    }
    assert_eq!((agent.view().running, agent.view().rejected), (Some("v1".parse().unwrap()), vec![]));
}

#[test]
fn a_server_that_runs_something_else_after_many_deaths_goes_back() {
    let mut agent = woken(&[RecordEvent::Attempt; 3]);
    agent.step(Moment(1), Event::Pointer(Ok(before("v0"))));
    let effects = agent.step(Moment(2), look(2, serving_from("v0"), None));
    assert!(matches!(&effects[..], [Effect::Record { record, .. }] if record.event == RecordEvent::Rejected));
    assert_eq!(agent.view().rejected[0].1, Reason::Internal);
}

/// Nobody has proved v1 here; the pointer names what nobody published.
#[test]
fn what_stands_is_proved_while_something_else_is_waited_for() {
    let mut agent = woken(&[]);
    agent.step(Moment(1), Event::Pointer(Ok(at("v404", 2))));
    agent.step(Moment(2), failed(1, Step::Fetch, Reason::ReleaseUnknown));
    for at in [10, 20, 200, 300] {
        agent.step(Moment(at), look(at, serving(), None));
    }
    let view = agent.view();
    assert_eq!((view.running, view.in_sync), (Some("v1".parse().unwrap()), false));
    assert_eq!(view.problem.unwrap().reason, Reason::ReleaseUnknown);
}

#[test]
fn a_pod_that_is_paused_knows_what_it_runs() {
    let mut agent = woken(&[]);
    agent.step(Moment(1), Event::Operator(Operator::Pause));
    agent.step(Moment(2), Event::Pointer(Ok(at("v1", 1))));
    for at in [10, 20, 200, 300] {
        agent.step(Moment(at), look(at, serving(), None));
    }
    assert_eq!(agent.view().running, Some("v1".parse().unwrap()));
}
