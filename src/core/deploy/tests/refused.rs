//! What a pod does not take: pointers from before, and what its volume does not take of it.

use super::*;

#[test]
fn a_pointer_with_a_lower_number_than_one_that_was_seen_is_refused_until_an_operator_accepts_it() {
    let mut agent = proven();
    agent.step(Moment(1), Event::Pointer(Ok(at("v1", 7))));
    let effects = agent.step(Moment(2), Event::Pointer(Ok(at("v0", 3))));
    assert_eq!((effects, reason(&agent)), (vec![], Some(Reason::Replayed)));
    let message = agent.view().problem.unwrap().message;
    for part in ["v0#3", "7", "pitstop sync --retry"] {
        assert!(message.contains(part), "{part} is missing in {message}");
    }
    agent.step(Moment(3), Event::Operator(Operator::Sync { retry: false }));
    assert_eq!((agent.view().desired, reason(&agent)), (Some(at("v1", 7).revision), Some(Reason::Replayed)));
    let effects = agent.step(Moment(4), Event::Operator(Operator::Sync { retry: true }));
    assert_eq!((fetched(&effects), reason(&agent)), (Some("v0"), None));
}

#[test]
fn the_journal_remembers_the_highest_number_and_what_an_operator_accepted() {
    let line = |release, sequence| Record::new(RecordEvent::Verified, at(release, sequence).revision);
    let pod = |records: Vec<Record>| {
        let recovered = Recovered { current: Some("v1".parse().unwrap()), records, ..Recovered::default() };
        let mut agent = recovered_agent(policy(), &recovered);
        agent.step(Moment(1), Event::Pointer(Ok(at("v3", 3))));
        reason(&agent)
    };
    assert_eq!(pod(vec![line("v1", 7)]), Some(Reason::Replayed));
    assert_eq!(pod(vec![line("v9", 9), line("v1", 2)]), None);
}

fn rejects(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Record { record, .. }] if record.event == RecordEvent::Rejected)
}

#[test]
fn a_rejection_that_could_not_be_written_is_written_when_the_volume_takes_it() {
    let (mut agent, _) = checking_v2();
    let unwritten = || failed(1, Step::Record(RecordEvent::Rejected), Reason::NoSpace);
    assert!(rejects(&agent.step(Moment(5), condemned())));
    agent.step(Moment(6), unwritten());
    assert_eq!((agent.view().stage, agent.view().rejected.len()), (Stage::Steady, 1));
    assert_eq!(agent.step(Moment(50), Event::Tick), []);
    assert_eq!(agent.deadline(Moment(50)), Some(Moment(106)));
    assert!(rejects(&agent.step(Moment(106), Event::Tick)));
    agent.step(Moment(107), unwritten());
    assert!(rejects(&agent.step(Moment(300), Event::Tick)));
    agent.step(Moment(301), done(Step::Record(RecordEvent::Rejected)));
    assert_eq!(agent.step(Moment(5_000), Event::Tick), []);
}

#[test]
fn after_a_flip_that_failed_the_disk_says_where_current_leads() {
    let mut agent = born();
    assert_eq!(agent.current_complete(), Some(true));
    agent = recovered_agent(policy(), &Recovered::default());
    agent.step(Moment(1), Event::Pointer(Ok(at("v1", 1))));
    agent.step(Moment(2), done(Step::Fetch));
    agent.step(Moment(4), look(4, Detection::Missing, None));
    agent.step(Moment(5), done(Step::Record(RecordEvent::Attempt)));
    agent.step(Moment(7), look(7, Detection::Missing, None));
    let flip = |current: Option<&str>| Event::Finished {
        attempt: Attempt(1),
        step: Step::Publish,
        outcome: Outcome::NotPublished {
            problem: Problem::new(Reason::VolumeUnavailable, "not synced"),
            current: current.map(|release| release.parse().unwrap()),
        },
    };
    agent.step(Moment(8), flip(Some("v1")));
    assert_eq!(agent.current_complete(), Some(true), "the link is there, though it was not synced");
    agent.step(Moment(200), look(200, Detection::Missing, None));
    agent.step(Moment(201), flip(None));
    assert_eq!(agent.current_complete(), Some(false));
}

#[test]
fn what_keeps_a_restart_from_being_planned_is_one_refusal_however_often_it_is_tried() {
    let mut agent = proven();
    agent.step(Moment(1), Event::Pointer(Ok(at("v2", 2))));
    agent.step(Moment(2), done(Step::Fetch));
    let mut refusals = 0;
    for (tries, now) in (1_u64..=3).zip((0_u64..).map(|n| 10 + n * 100_000)) {
        let effects = agent.step(Moment(now), look(now, serving(), None));
        let Some(Effect::Check { attempt, .. }) = effects.last() else { panic!("{tries}: {effects:?}") };
        let refused = failed(attempt.0, Step::Check, Reason::NoMemory);
        refusals += agent.step(Moment(now + 1), refused).len();
        assert_eq!(reason(&agent), Some(Reason::NoMemory));
    }
    assert_eq!(refusals, 1, "the deploy has ended in the log once");
}
