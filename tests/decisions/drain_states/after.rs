//! What comes after the answer: the end, another call, or a pod that lives on.

use super::*;

#[test]
fn a_stray_call_does_not_freeze_the_pod() {
    let (mut drain, at, _) = answered();
    assert_eq!(drain.deadline(), Some(Moment(at + 60_000)));
    assert!(drain.observe(Moment(at + 59_900), &idle(at + 59_900)).is_empty());
    assert_eq!(undone(&drain.tick(Moment(at + 60_000))), Some(Undone::FalseDrain));
    assert!(!drain.blocks_deploys());
}

#[test]
fn a_server_that_is_stopping_or_has_just_gone_is_no_false_drain() {
    let closed = Some(Sockets { closed: true, ..Sockets::default() });
    let stopping = |at| look(at, server(1), Traffic { workers: None, sockets: closed.clone() });
    let gone = |at| look(at, Detection::Missing, Traffic::default());
    let (drain, at, _) = answered();
    for (seen, laters) in [(&stopping as &dyn Fn(u64) -> Observation, [100, 90_000]), (&gone, [100, 59_000])]
    {
        let mut drain = drain.clone();
        for later in laters {
            assert!(drain.observe(Moment(at + later), &seen(at + later)).is_empty());
        }
        assert!(drain.answered());
    }
}

#[test]
fn a_container_that_ended_in_a_pod_that_lives_on_is_deployed_to_again() {
    // A liveness probe's kill, and what is started after it does not boot: only a deploy can help.
    let (mut drain, at, _) = answered();
    let gone = |at| look(at, Detection::Missing, Traffic::default());
    drain.observe(Moment(at + 500), &gone(at + 500));
    assert_eq!(undone(&drain.tick(Moment(at + 60_000))), Some(Undone::FalseDrain));
    // Where the agent is told to end as well, the pod ends.
    let (mut drain, at, _) = answered();
    drain.observe(Moment(at + 500), &gone(at + 500));
    drain.command(Moment(at + 600), DrainCommand::Begin(Origin::Term));
    assert!(drain.tick(Moment(at + 90_000)).is_empty() && drain.answered());
}

#[test]
fn a_call_after_a_stray_one_gets_a_drain_of_its_own() {
    let (mut drain, at, stray) = answered();
    // The server serves on: nobody sent SIGTERM.
    for later in (100..10_000).step_by(100) {
        assert!(drain.observe(Moment(at + later), &idle(at + later)).is_empty());
    }
    let effects = drain.command(Moment(at + 10_000), DrainCommand::Begin(Origin::PreStop));
    let [DrainEffect::Journal(Some(journal))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(journal.deadline, Moment(at + 28_000));
    let (after, answer) = watch(&mut drain, at + 10_100, at + 30_000, idle).expect("an answer");
    assert_eq!((BEGIN + after, answer.result), (at + 15_000, DrainResult::Drained));
    assert_ne!(answer.drain_id, stray.drain_id);
}

#[test]
fn a_call_while_the_server_stops_gets_the_answer_that_stopped_it() {
    let closed = Some(Sockets { closed: true, ..Sockets::default() });
    let (mut drain, at, answer) = answered();
    let stopping = look(at + 100, server(1), Traffic { workers: None, sockets: closed });
    drain.observe(Moment(at + 100), &stopping);
    let again = drain.command(Moment(at + 5000), DrainCommand::Begin(Origin::PreStop));
    let called = Moment(at + 5000);
    assert_eq!(again, [DrainEffect::Answer { called, ends: false, answer }]);
}

#[test]
fn a_container_that_is_restarted_in_the_middle_of_our_own_restart_undoes_the_drain() {
    let (mut drain, at, _) = answered();
    drain.expect_image_change(true);
    let gone = look(at + 500, Detection::Missing, Traffic::default());
    assert!(drain.observe(Moment(at + 500), &gone).is_empty());
    let new = Observation { detection: server(2), ..idle(at + 2000) };
    assert_eq!(undone(&drain.observe(Moment(at + 2000), &new)), Some(Undone::NewImage));
}

#[test]
fn sigterm_to_the_agent_means_that_the_drain_is_true() {
    let (mut drain, at, _) = answered();
    drain.command(Moment(at + 10), DrainCommand::Begin(Origin::Term));
    assert!(drain.observe(Moment(at + 90_000), &idle(at + 90_000)).is_empty());
    assert_eq!(drain.deadline(), None);
    let mut drain = begun(budget());
    let joined = drain.command(Moment(BEGIN + 10), DrainCommand::Begin(Origin::Term));
    assert!(matches!(&joined[..], [DrainEffect::Journal(Some(_))]), "{joined:?}");
    let (after, _) = watch(&mut drain, BEGIN + 100, BEGIN + 20_000, idle).unwrap();
    let (after, _) = watch(&mut drain, BEGIN + after + 100, BEGIN + 20_000, idle).unwrap();
    let later = BEGIN + after + 90_000;
    assert!(drain.observe(Moment(later), &idle(later)).is_empty());
}

#[test]
fn a_new_image_after_the_answer_means_that_the_pod_lives_on() {
    let (mut drain, at, _) = answered();
    let new = |at| Observation { detection: server(2), ..idle(at) };
    assert!(drain.observe(Moment(at + 500), &new(at - 1)).is_empty(), "a look from before the answer");
    assert_eq!(undone(&drain.observe(Moment(at + 500), &new(at + 500))), Some(Undone::NewImage));
}

#[test]
fn a_new_image_of_our_own_restart_undoes_nothing() {
    let (mut drain, at, _) = answered();
    let new = |at| Observation { detection: server(2), ..idle(at) };
    drain.expect_image_change(true);
    assert!(drain.observe(Moment(at + 500), &new(at + 500)).is_empty());
    drain.expect_image_change(false);
    assert!(drain.observe(Moment(at + 600), &new(at + 600)).is_empty(), "it belongs to the pod now");
    assert!(drain.answered());
}

#[test]
fn a_new_image_before_the_answer_undoes_nothing() {
    let (_, answer) = drained(budget(), |at| Observation {
        detection: server(if at < BEGIN + 3000 { 1 } else { 2 }),
        ..idle(at)
    });
    assert_eq!(answer.result, DrainResult::Drained);
}
