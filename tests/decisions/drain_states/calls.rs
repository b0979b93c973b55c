//! Who calls, and how often: each call has a clock of its own.

use super::*;

fn call(drain: &mut Drain, at: u64, origin: Origin) -> Vec<DrainEffect> {
    drain.command(Moment(at), DrainCommand::Begin(origin))
}

/// Looks ten times a second and says which calls are answered when, how, and whether the drain ends with it.
fn answers(
    drain: &mut Drain,
    from: u64,
    until: u64,
    seen: impl Fn(u64) -> Observation,
) -> Vec<(u64, u64, DrainResult, bool)> {
    let mut answers = Vec::new();
    for at in (from..=until).step_by(100) {
        for effect in drain.observe(Moment(at), &seen(at)) {
            if let DrainEffect::Answer { called, ends, answer } = effect {
                assert_eq!(answer.held_ms, at - called.0);
                answers.push((called.0, at, answer.result, ends));
            }
        }
    }
    answers
}

/// Somebody who never falls silent.
fn chatty(at: u64) -> Observation {
    look(
        at,
        server(1),
        Traffic { workers: worker(at / 1000, at / 100, 0), sockets: table(vec![kept(at, 0)]) },
    )
}

#[test]
fn each_call_is_held_for_the_minimum_from_its_own_begin() {
    let mut drain = begun(budget());
    assert!(watch(&mut drain, BEGIN + 100, BEGIN + 4400, idle).is_none());
    call(&mut drain, BEGIN + 4500, Origin::PreStop);
    let told = answers(&mut drain, BEGIN + 4600, BEGIN + 20_000, idle);
    let (first, second) = (BEGIN + 5000, BEGIN + 9500);
    assert_eq!(
        told,
        [(BEGIN, first, DrainResult::Drained, false), (BEGIN + 4500, second, DrainResult::Drained, true)]
    );
}

#[test]
fn each_call_has_a_deadline_of_its_own() {
    for stray in [true, false] {
        let mut drain = Drain::new(budget(), None);
        drain.observe(Moment(BEGIN - 1000), &idle(BEGIN - 1000));
        call(&mut drain, BEGIN, if stray { Origin::Stray } else { Origin::PreStop });
        let early = answers(&mut drain, BEGIN + 100, BEGIN + 17_400, chatty);
        assert_eq!(early, []);
        call(&mut drain, BEGIN + 17_500, Origin::PreStop);
        let told = answers(&mut drain, BEGIN + 17_600, BEGIN + 40_000, chatty);
        let deadlines = [(BEGIN, BEGIN + 18_000), (BEGIN + 17_500, BEGIN + 35_500)];
        let expected = deadlines.map(|(called, at)| (called, at, DrainResult::Deadline, called != BEGIN));
        assert_eq!(told, expected, "stray: {stray}");
    }
}

#[test]
fn a_call_right_after_the_answer_is_held_as_long_as_any() {
    let (mut drain, at, first) = answered();
    // Nothing has been seen of SIGTERM yet.
    let effects = call(&mut drain, at + 50, Origin::PreStop);
    assert!(matches!(&effects[..], [DrainEffect::Journal(Some(j))] if j.answer.is_none()), "{effects:?}");
    assert!(!drain.answered());
    let told = answers(&mut drain, at + 100, at + 20_000, idle);
    assert_eq!(told, [(at + 50, at + 5100, DrainResult::Drained, true)]);
    assert_eq!(first.result, DrainResult::Drained);
}

#[test]
fn calls_at_the_same_moment_are_one() {
    let mut drain = Drain::new(budget(), None);
    drain.observe(Moment(BEGIN - 1000), &idle(BEGIN - 1000));
    call(&mut drain, BEGIN, Origin::Stray);
    call(&mut drain, BEGIN, Origin::PreStop);
    call(&mut drain, BEGIN, Origin::Stray);
    assert_eq!(answers(&mut drain, BEGIN + 100, BEGIN + 20_000, idle).len(), 1);
    assert!(drain.answered());
}

#[test]
fn a_stray_call_is_held_and_means_nothing() {
    let mut drain = Drain::new(budget(), None);
    drain.observe(Moment(BEGIN - 1000), &idle(BEGIN - 1000));
    assert_eq!(call(&mut drain, BEGIN, Origin::Stray), [], "no journal");
    assert!(!drain.blocks_deploys() && drain.watches(), "deploys go on");
    assert!(!drain.view(Moment(BEGIN)).unwrap().meant);
    let told = answers(&mut drain, BEGIN + 100, BEGIN + 20_000, idle);
    assert_eq!(told, [(BEGIN, BEGIN + 5000, DrainResult::Drained, false)]);
    assert!(!drain.answered() && !drain.watches() && drain.deadline().is_none());
}

#[test]
fn a_stray_call_beside_an_answer_is_held_while_the_pod_lives_on_or_ends() {
    let (mut drain, at, _) = answered();
    drain.observe(Moment(at + 100), &idle(at + 100));
    assert_eq!(call(&mut drain, at + 58_000, Origin::Stray), []);
    assert!(drain.answered(), "it takes no answer back");
    // The drain is found to be false meanwhile, and the call waits on.
    let told = answers(&mut drain, at + 58_100, at + 80_000, idle);
    assert_eq!(told, [(at + 58_000, at + 63_000, DrainResult::Drained, false)]);
    assert!(!drain.blocks_deploys());
}

#[test]
fn an_operator_ends_the_wait_of_stray_calls_too() {
    let mut drain = Drain::new(budget(), None);
    call(&mut drain, BEGIN, Origin::Stray);
    assert_eq!(undone(&drain.command(Moment(BEGIN), DrainCommand::Undrain)), Some(Undone::Operator));
    assert!(!drain.watches());
}

#[test]
fn no_app_server_is_answered_at_the_first_look() {
    let mut drain = Drain::new(budget(), None);
    drain.observe(Moment(BEGIN - 1), &look(BEGIN - 1, Detection::Missing, Traffic::default()));
    drain.command(Moment(BEGIN), DrainCommand::Begin(Origin::PreStop));
    let stale = look(BEGIN - 1, Detection::Missing, Traffic::default());
    assert!(drain.observe(Moment(BEGIN + 10), &stale).is_empty(), "older than the drain");
    let seen = |at| look(at, Detection::Missing, Traffic::default());
    let (after, answer) = watch(&mut drain, BEGIN + 100, BEGIN + 100, seen).unwrap();
    assert_eq!((after, answer.result), (100, DrainResult::NoAppServer));
}

#[test]
fn a_drain_that_no_app_server_was_there_for_leaves_nothing_behind() {
    let missing = |at| look(at, Detection::Missing, Traffic::default());
    for origin in [Origin::PreStop, Origin::Term] {
        let mut drain = Drain::new(budget(), None);
        let mut journal = call(&mut drain, BEGIN, origin);
        journal.extend(drain.observe(Moment(BEGIN + 100), &missing(BEGIN + 100)));
        let last = journal.iter().rev().find_map(|effect| match effect {
            DrainEffect::Journal(journal) => Some(journal.clone()),
            _ => None,
        });
        assert_eq!(last, Some(None), "{origin:?}");
        // What is to end is this process, if it was told so; else nothing is.
        assert_eq!(drain.blocks_deploys(), origin == Origin::Term);
    }
}

#[test]
fn a_journal_of_a_drain_without_an_app_server_freezes_no_pod() {
    let missing = |at| look(at, Detection::Missing, Traffic::default());
    let mut drain = Drain::new(budget(), None);
    let begun = call(&mut drain, BEGIN, Origin::Term);
    let [DrainEffect::Journal(Some(unanswered))] = &begun[..] else { panic!("{begun:?}") };
    // Killed before the first look.
    let mut resumed = Drain::new(budget(), Some(unanswered.clone()));
    resumed.observe(Moment(BEGIN + 900), &missing(BEGIN + 900));
    assert!(!resumed.blocks_deploys());
    // Written by an earlier version.
    let (_, _, answer) = answered();
    let answer = Some(Answer { result: DrainResult::NoAppServer, ..answer });
    let resumed = Drain::new(budget(), Some(Journal { answer, ..unanswered.clone() }));
    assert!(!resumed.blocks_deploys());
}

#[test]
fn an_answer_survives_a_crash_as_well() {
    let (_, at, _) = answered();
    let (mut drain, mut journal) = (begun(budget()), None);
    for at in (BEGIN + 100..=at).step_by(100) {
        for effect in drain.observe(Moment(at), &idle(at)) {
            if let DrainEffect::Journal(j) = effect {
                journal = j;
            }
        }
    }
    let mut restarted = Drain::new(budget(), journal);
    assert!(restarted.answered());
    let effects = restarted.observe(Moment(at + 60_000), &idle(at + 60_000));
    assert_eq!(undone(&effects), Some(Undone::FalseDrain));
}
