//! A pointer that names a canary, and takes it back.

use super::*;
use crate::revision::{Aborted, Canary, PodCount};

/// v1 for all pods, v2#2 for the canaries.
fn canary(chosen: bool, sequence: Option<u64>) -> Pointer {
    let share = PodCount::Pods(1);
    let release = "v2".parse().unwrap();
    let canary =
        Canary { release, sequence, sha256: None, share, max_unavailable: None, rollout: None, chosen };
    Pointer { canary: Some(Box::new(canary)), ..at("v1", 1) }
}

fn desired(agent: &Agent) -> (String, Option<bool>) {
    let view = agent.view();
    (view.desired.unwrap().to_string(), view.canary.map(|(_, chosen)| chosen))
}

fn reads(agent: &mut Agent, now: u64, pointer: Pointer) -> (String, Option<bool>) {
    agent.step(Moment(now), Event::Pointer(Ok(pointer)));
    desired(agent)
}

#[test]
fn a_pod_follows_its_canary_or_all_others() {
    let mut agent = proven();
    assert_eq!(reads(&mut agent, 1, canary(false, Some(2))), ("v1#1".into(), Some(false)));
    assert_eq!(reads(&mut agent, 2, canary(true, Some(2))), ("v2#2".into(), Some(true)));
    assert_eq!(
        reads(&mut agent, 3, canary(false, Some(2))),
        ("v2#2".into(), Some(true)),
        "once in, always in"
    );
    assert_eq!(reads(&mut agent, 4, canary(false, Some(3))), ("v1#1".into(), Some(false)), "another one");
    // Written by hand: the number that follows.
    assert_eq!(reads(&mut agent, 5, canary(true, None)), ("v2#2".into(), Some(true)));
}

#[test]
fn a_canary_that_is_aborted_goes_back_though_the_number_falls() {
    let release = "v2".parse().unwrap();
    let aborted = Aborted { release, sequence: Some(2), why: None, at: None };
    let taken_back = [Pointer { aborted: Some(aborted), ..at("v1", 1) }, at("v1", 1)];
    for pointer in taken_back {
        let mut agent = proven();
        reads(&mut agent, 1, canary(true, Some(2)));
        assert_eq!(reads(&mut agent, 2, pointer), ("v1#1".into(), None));
        agent.step(Moment(10), look(10, serving(), None));
        assert_eq!((reason(&agent), agent.view().in_sync), (None, true));
    }
    // What is older than that is one that was put back.
    let mut agent = proven();
    reads(&mut agent, 1, canary(true, Some(2)));
    reads(&mut agent, 2, at("v0", 0));
    assert_eq!((desired(&agent).0.as_str(), reason(&agent)), ("v2#2", Some(Reason::Replayed)));
}

#[test]
fn a_pod_that_proved_the_canary_has_nothing_to_do_at_the_end_of_the_rollout() {
    let records = [("v1", 1), ("v2", 2)].map(|(release, sequence)| {
        let revision = at(release, sequence).revision;
        [RecordEvent::Attempt, RecordEvent::Verified].map(|event| Record::new(event, revision.clone()))
    });
    let current = Some("v2".parse().unwrap());
    let recovered = Recovered { current, records: records.concat(), ..Recovered::default() };
    let mut agent = recovered_agent(policy(), &recovered);
    // The agent was started anew, and does not know any more that it was chosen.
    assert_eq!(reads(&mut agent, 1, canary(false, Some(2))), ("v2#2".into(), Some(true)));
    for now in [10, 500, 1_000] {
        agent.step(Moment(now), look(now, serving_from("v2"), Some(Probe::Healthy)));
    }
    assert_eq!(reads(&mut agent, 2_000, at("v2", 2)), ("v2#2".into(), None));
    agent.step(Moment(2_010), look(2_010, serving_from("v2"), Some(Probe::Healthy)));
    assert_eq!((agent.view().stage, agent.view().attempt), (Stage::Steady, Attempt(0)));
}
