//! A server that was live before, and an agent that is started anew while two stand.

use super::{beside::*, *};
use crate::core::ServerCommand;

/// v1 lingers: for how long nobody has waited in its queues, how old its oldest request is, how long ago the switch
/// was, and whether it is told to end.
#[test]
fn the_earlier_server_ends_when_what_ran_at_the_switch_is_answered_and_nobody_waits() {
    for (empty, request, after, ends) in [
        (1_000, None, 0, true),
        (299, None, 0, false),
        (0, None, 100_000, false),
        (1_000, Some(5_000), 500, false),
        (1_000, Some(200), 500, true),
        (1_000, Some(70_000), 60_000, true),
        (200, Some(70_000), 60_000, false),
    ] {
        let mut rig = Rig::deployed(Rig::quick());
        rig.look();
        rig.now += after;
        (rig.beside().lingering[0].queue_empty_ms, rig.beside().lingering[0].oldest_request_ms) =
            (empty, request);
        rig.look();
        let wanted = if ends { vec!["End 200".to_owned()] } else { vec![] };
        assert_eq!(rig.done(), wanted, "{empty} {request:?} {after}");
    }
}

#[test]
fn a_server_that_was_not_told_is_told_again_and_one_that_was_is_left_alone() {
    let mut rig = Rig::deployed(Rig::quick());
    rig.beside().lingering[0].queue_empty_ms = 1_000;
    rig.looks(5);
    assert_eq!(rig.done(), ["End 200"; 3]);
    rig.beside().lingering[0].told = true;
    rig.looks(10);
    assert_eq!(rig.done(), [""; 0]);
    assert!(rig.agent.cuts(), "what ends now without an answer was cut by us");
}

/// v2 is live, and v1 lingers with a request.
fn lingers_with_work() -> Rig {
    let mut rig = Rig::deployed(Rig::quick());
    (rig.beside().lingering[0].queue_empty_ms, rig.beside().lingering[0].oldest_request_ms) =
        (1_000, Some(50_000));
    rig.look();
    rig
}

#[test]
fn the_way_back_to_a_server_that_lingers_is_a_switch() {
    let mut rig = lingers_with_work();
    rig.point("v1", 3);
    rig.looks(3);
    assert_eq!(rig.done(), ["fetch v1", "attempt v1", "current v1", "Switch 200"]);
    rig.looks(6);
    assert_eq!(rig.done()[..2], ["verified v1", "= Verified"]);
    assert_eq!((rig.agent.view().running, rig.agent.view().in_sync), (Some(id("v1")), true));
}

#[test]
fn a_server_that_was_told_to_end_is_no_way_back() {
    let mut rig = lingers_with_work();
    rig.beside().lingering[0].told = true;
    rig.point("v1", 3);
    rig.look();
    assert_eq!(rig.done()[..2], ["fetch v1", "check beside=true"]);
}

#[test]
fn an_operators_revert_goes_back_by_a_switch_as_well() {
    let mut rig = lingers_with_work();
    rig.feed(Event::Operator(Operator::Revert));
    rig.looks(3);
    assert_eq!(rig.done(), ["fetch v1", "attempt v1", "current v1", "Switch 200"]);
}

#[test]
fn where_there_is_no_room_the_server_that_has_lingered_longest_ends_first() {
    let mut rig = lingers_with_work();
    rig.plan.make_room = true;
    rig.point("v3", 3);
    rig.looks(3);
    assert_eq!(rig.done(), ["fetch v3", "check beside=true", "End 200"], "whatever it has in work");
    rig.beside().lingering[0].told = true;
    rig.look();
    assert_eq!(reason(&rig.agent), Some(Reason::LongRequests));
    rig.now += 20_000;
    rig.look();
    assert_eq!(rig.done(), ["Kill 200"]);
    rig.beside().lingering.clear();
    rig.plan.make_room = false;
    rig.looks(4);
    assert_eq!(rig.done()[..2], ["check beside=true", "attempt v3"]);
}

#[test]
fn a_failed_switch_is_repeated_as_long_as_the_candidate_is_there() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.boots();
    rig.done.clear();
    rig.fails = Some((ServerCommand::Switch, Problem::new(Reason::Internal, "no answer")));
    rig.looks(8);
    assert_eq!(rig.done(), ["Switch 150"; 3]);
    assert!(!rig.agent.settled());
    assert_eq!(rig.agent.view().problem.map(|problem| problem.message).as_deref(), Some("no answer"));
    rig.switch(GenerationKey(150));
    rig.looks(4);
    assert_eq!(rig.done()[..2], ["verified v2", "= Verified"]);
}

#[test]
fn a_newer_move_ends_a_candidate_that_cannot_be_switched_to() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.boots();
    rig.fails = Some((ServerCommand::Switch, Problem::new(Reason::Internal, "no answer")));
    rig.looks(8);
    rig.done.clear();
    rig.point("v1", 3);
    rig.looks(2);
    rig.set_candidate(None);
    rig.looks(2);
    assert_eq!(rig.done()[..2], ["current v1", "Abort(Beside) 150"]);
    assert_eq!((rig.agent.view().running, rig.agent.view().rejected), (Some(id("v1")), vec![]));
}

#[test]
fn an_agent_that_is_started_anew_goes_on_with_the_candidate_that_is_there() {
    let rig = Rig::candidate_boots(Rig::quick()).restart(Rig::quick());
    let mut rig = rig;
    rig.point("v2", 2);
    rig.look();
    assert_eq!((rig.agent.view().stage, rig.agent.settled()), (Stage::Verifying, false));
    rig.boots();
    rig.looks(6);
    assert_eq!(rig.done(), ["Switch 150", "verified v2", "= Verified"]);
}

#[test]
fn an_agent_that_is_started_anew_without_a_candidate_puts_current_back_and_starts_over() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.set_candidate(None);
    for cut in [3, 4] {
        // Between the flip and `signalled`, and between `signalled` and the start.
        let mut records = rig.records.clone();
        records.truncate(cut);
        let mut rig = Rig::started(Rig::quick(), records, "v2", rig.server.clone().unwrap());
        assert_eq!(rig.done(), ["current v1"], "{cut}");
        rig.point("v2", 2);
        rig.looks(5);
        let over = ["reverted v1", "= Reverted", "fetch v2", "check beside=true", "attempt v2", "current v2"];
        assert_eq!(rig.done()[..6], over, "{cut}");
    }
}

#[test]
fn an_agent_that_is_started_anew_after_the_switch_proves_what_serves() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.switch(GenerationKey(150));
    let mut rig = rig.restart(Rig::quick());
    rig.point("v2", 2);
    rig.looks(6);
    assert_eq!(rig.done()[..2], ["verified v2", "= Verified"]);
}

#[test]
fn what_fails_after_such_a_start_goes_back_to_the_server_that_lingers() {
    let mut rig = Rig::candidate_boots(Rig::quick());
    rig.switch(GenerationKey(150));
    let mut rig = rig.restart(Rig::quick());
    rig.point("v2", 2);
    rig.answers = Some(Probe::Unhealthy);
    rig.looks(10);
    assert_eq!(rig.done()[..3], ["rejected v2", "current v1", "Switch 200"]);
}

#[test]
fn a_candidate_that_nobody_waits_for_is_ended() {
    let mut rig = Rig::new(Rig::quick());
    rig.point("v1", 1);
    rig.set_candidate(Some(candidate(Some(generation(NEW, "v2", true)))));
    rig.look();
    assert_eq!(rig.done(), ["End 150"]);
}

#[test]
fn a_pod_without_anything_proved_is_planned_without_a_second_server() {
    let mut agent = recovered_agent(policy(), &Recovered::default());
    agent.step(Moment(1), Event::Pointer(Ok(at("v1", 1))));
    agent.step(Moment(2), done(Step::Fetch));
    let effects = agent.step(Moment(4), look(4, serving_from("v9"), None));
    assert!(matches!(&effects[..], [Effect::Check { beside: false, .. }]), "{effects:?}");
}
