//! A share of the traffic: step by step, and whatever is wrong, it is taken back first.

use super::{
    beside::{LIVE, NEW, Rig, candidate, generation, id},
    *,
};
use crate::core::{
    ServerCommand, Shift,
    observation::{Candidate, Served},
};

const BAKE_MS: u64 = 1_000;
const TIMEOUT_MS: u64 = 9_000;
const TENTH: &str = "Share { permille: 100 } 150";
const HALF: &str = "Share { permille: 500 } 150";
const NONE: &str = "Share { permille: 0 } 150";

fn policy() -> Policy {
    let shift = Shift { steps: vec![100, 500], bake_ms: 0, requests: 20, timeout_ms: TIMEOUT_MS };
    Policy { shift, ..Rig::quick() }
}

fn baking() -> Policy {
    Policy { shift: Shift { bake_ms: BAKE_MS, ..policy().shift }, ..policy() }
}

/// v2 has passed its check, and has its first share.
fn shared(policy: Policy) -> Rig {
    let mut rig = Rig::candidate_boots(policy);
    rig.boots();
    rig.done.clear();
    rig.looks(5);
    assert_eq!(rig.done(), [TENTH]);
    serve(&mut rig, (0, 0), (0, 0));
    rig.look();
    rig
}

/// What both have served since their start, and what failed of it.
fn serve(rig: &mut Rig, of_candidate: (u64, u64), of_live: (u64, u64)) {
    let served = |(requests, errors)| Some(Served { requests, errors: Some(errors), p95_ms: None });
    rig.beside().served_by_live = served(of_live);
    of(rig).served = served(of_candidate);
}

fn of(rig: &mut Rig) -> &mut Candidate {
    rig.beside().candidate.as_mut().unwrap()
}

fn rejected(rig: &Rig) -> Vec<Reason> {
    rig.agent.view().rejected.into_iter().map(|(_, reason)| reason).collect()
}

#[test]
fn each_step_waits_for_requests_and_the_last_one_is_the_switch() {
    let mut rig = shared(policy());
    let view = rig.agent.view();
    assert_eq!((view.stage, view.running, view.in_sync), (Stage::Verifying, Some(id("v1")), false));
    let sharing = view.sharing.unwrap();
    assert_eq!((sharing.permille, sharing.step, sharing.steps), (100, 1, 2));
    assert!(!rig.agent.settled(), "a container that ends now would boot what is not verified");
    serve(&mut rig, (19, 0), (200, 0));
    rig.looks(20);
    assert_eq!(rig.done(), [""; 0]);
    serve(&mut rig, (20, 0), (210, 0));
    rig.looks(3);
    assert_eq!(rig.done(), [HALF], "what was served in a step counts for that one");
    serve(&mut rig, (40, 0), (230, 0));
    rig.looks(3);
    assert_eq!(rig.done(), ["Switch 150", "verified v2", "= Verified"]);
    assert_eq!(rig.agent.view().sharing, None);
}

#[test]
fn a_step_lasts_its_time_though_enough_was_served_and_ends_by_its_time_out() {
    let mut rig = shared(baking());
    serve(&mut rig, (100, 0), (200, 0));
    rig.looks(15);
    assert_eq!(rig.done(), [""; 0]);
    rig.looks(10);
    assert_eq!(rig.done(), [HALF]);
    let since = rig.now;
    while rig.done.is_empty() {
        rig.look();
    }
    assert!(rig.now - since >= TIMEOUT_MS - 600, "nothing was served: {}", rig.now - since);
    assert_eq!(rig.done()[0], "Switch 150");
}

#[test]
fn one_that_fails_more_often_than_the_live_server_is_taken_back_and_rejected() {
    let mut rig = shared(policy());
    serve(&mut rig, (15, 2), (140, 0));
    rig.looks(5);
    assert_eq!(rig.done(), [""; 0], "two errors prove nothing");
    serve(&mut rig, (18, 6), (150, 1));
    rig.look();
    assert_eq!(rig.done(), [NONE, "rejected v2", "current v1"]);
    rig.looks(20);
    assert_eq!(rig.done(), ["Abort(Beside) 150"], "its clients are waited for");
    rig.set_candidate(None);
    rig.looks(2);
    assert_eq!(rig.done(), ["reverted v1", "= Reverted"]);
    assert_eq!(rejected(&rig), [Reason::ProbeFailed]);
    let said = rig.agent.view().problem.unwrap().message;
    assert!(said.contains("6 of 18 requests failed (5xx), the live server's 1 of 150"), "{said}");
}

#[test]
fn errors_are_compared_over_all_steps_and_told_in_numbers() {
    let mut rig = shared(policy());
    serve(&mut rig, (20, 2), (180, 0));
    rig.looks(3);
    assert_eq!(rig.done(), [HALF]);
    serve(&mut rig, (30, 7), (190, 0));
    rig.look();
    let problem = rig.agent.view().problem.unwrap();
    assert_eq!(problem.message, "7 of 30 requests failed (5xx), the live server's 0 of 190");
    assert_eq!(rig.done()[0], NONE);
}

#[test]
fn a_bad_answer_takes_the_share_back_and_the_check_decides() {
    let mut rig = shared(policy());
    rig.candidate_answers = Some(Probe::Unhealthy);
    rig.look();
    assert_eq!(rig.done(), [NONE]);
    assert_eq!((rig.agent.view().stage, reason(&rig.agent)), (Stage::Verifying, Some(Reason::ProbeFailed)));
    rig.candidate_answers = Some(Probe::Healthy);
    rig.looks(5);
    assert_eq!(rig.done(), [TENTH], "it is well, and the steps start anew");
    rig.candidate_answers = Some(Probe::Unhealthy);
    rig.looks(5);
    assert_eq!(rig.done()[..4], [NONE, "rejected v2", "current v1", "Abort(Beside) 150"]);
    assert_eq!(rejected(&rig), [Reason::ProbeFailed]);
}

#[test]
fn the_third_doubt_rejects_it() {
    let mut rig = shared(policy());
    for _ in 0..2 {
        rig.candidate_answers = Some(Probe::Unhealthy);
        rig.look();
        rig.candidate_answers = Some(Probe::Healthy);
        rig.looks(6);
        assert_eq!(rig.done(), [NONE, TENTH]);
    }
    rig.candidate_answers = Some(Probe::Unhealthy);
    rig.look();
    assert_eq!(rig.done(), [NONE, "rejected v2", "current v1"]);
}

#[test]
fn a_worker_that_is_gone_takes_the_share_back_until_it_is_there_again() {
    let mut rig = shared(policy());
    let workers = std::mem::take(&mut of(&mut rig).generation.as_mut().unwrap().processes);
    rig.look();
    assert_eq!(rig.done(), [""; 0], "one look may have missed it");
    rig.look();
    assert_eq!(rig.done(), [NONE]);
    let again = workers.into_iter().map(|one| Process { key: ProcessKey(NEW + 7), ..one }).collect();
    of(&mut rig).generation.as_mut().unwrap().processes = again;
    rig.looks(8);
    assert_eq!(rig.done(), [TENTH]);
    assert_eq!(rejected(&rig), []);
}

#[test]
fn one_that_ends_with_its_share_is_started_once_more() {
    let mut rig = shared(policy());
    rig.set_candidate(Some(Candidate { ended: true, ..candidate(None) }));
    rig.looks(3);
    let until = [NONE, "current v1", "reverted v1", "= Reverted", "fetch v2", "check beside=true"];
    assert_eq!(rig.done()[..6], until);
    assert_eq!(rejected(&rig), []);
}

#[test]
fn the_live_servers_health_and_memory_take_the_share_back_and_reject_nothing() {
    let mut rig = shared(policy());
    rig.answers = Some(Probe::Unhealthy);
    rig.looks(4);
    assert_eq!(rig.done()[..3], [NONE, "current v1", "Abort(Beside) 150"]);
    assert_eq!(rejected(&rig), []);

    let mut rig = shared(policy());
    of(&mut rig).trouble = Some(Problem::new(Reason::NoMemory, "90 % of the memory limit"));
    rig.looks(2);
    assert_eq!(rig.done()[..3], [NONE, "current v1", "Abort(Beside) 150"]);
    assert_eq!(rejected(&rig), []);
}

#[test]
fn a_newer_move_and_a_drain_take_the_share_back() {
    let mut rig = shared(policy());
    rig.point("v3", 3);
    assert_eq!(rig.done(), [NONE, "current v1"]);
    rig.look();
    rig.set_candidate(None);
    rig.look();
    assert_eq!(rig.done(), ["Abort(Beside) 150", "reverted v1", "= Superseded", "fetch v3"]);

    let mut rig = shared(policy());
    rig.feed(Event::Drain(DrainCommand::Begin(Origin::PreStop)));
    assert_eq!(rig.done(), [NONE, "current v1"]);
    rig.look();
    assert_eq!(rig.done(), ["Abort(Beside) 150"]);
}

#[test]
fn where_the_live_server_ends_the_one_that_has_passed_its_check_takes_its_place() {
    let mut rig = shared(policy());
    rig.server = None;
    rig.look();
    assert_eq!(rig.done(), ["Switch 150", "verified v2"]);
}

#[test]
fn a_pause_keeps_the_step() {
    let mut rig = shared(policy());
    rig.feed(Event::Operator(Operator::Pause));
    serve(&mut rig, (100, 0), (900, 0));
    rig.looks(300);
    assert_eq!(rig.done(), [""; 0]);
    rig.feed(Event::Operator(Operator::Resume));
    rig.look();
    assert_eq!(rig.done(), [HALF]);
}

#[test]
fn the_next_agent_goes_on_in_the_step_that_it_finds() {
    let mut rig = shared(policy());
    serve(&mut rig, (20, 0), (200, 0));
    rig.looks(2);
    assert_eq!(rig.done(), [HALF]);
    let mut rig = rig.restart(policy());
    rig.point("v2", 2);
    rig.looks(8);
    assert_eq!(rig.done(), [HALF], "its check goes on, and the share stays");
    serve(&mut rig, (39, 0), (300, 0));
    rig.looks(3);
    assert_eq!(rig.done(), [""; 0], "counted anew");
    serve(&mut rig, (40, 0), (300, 0));
    rig.looks(2);
    assert_eq!(rig.done()[..2], ["Switch 150", "verified v2"]);
}

#[test]
fn the_next_agent_takes_the_share_back_before_anything_else() {
    let mut rig = shared(policy()).restart(policy());
    rig.candidate_answers = Some(Probe::Unhealthy);
    rig.looks(3);
    assert_eq!(rig.done(), [NONE], "one bad answer is enough");
    rig.looks(6);
    assert_eq!(rig.done()[..3], ["rejected v2", "current v1", "Abort(Beside) 150"]);

    let mut rig = shared(policy()).restart(policy());
    of(&mut rig).generation.as_mut().unwrap().processes.clear();
    rig.looks(3);
    assert_eq!(rig.done(), [NONE], "a worker is gone");
}

#[test]
fn a_parent_that_knows_no_shares_gives_everything_at_once() {
    let mut rig = Rig::candidate_boots(policy());
    rig.boots();
    rig.done.clear();
    let old = Problem::new(Reason::ConfigInvalid, "it is of an earlier version");
    rig.fails = Some((ServerCommand::Share { permille: 100 }, old));
    rig.looks(6);
    assert_eq!(rig.done(), [TENTH, "Switch 150", "verified v2", "= Verified"]);
}

#[test]
fn a_share_that_the_parent_did_not_confirm_is_given_again() {
    let mut rig = Rig::candidate_boots(policy());
    rig.boots();
    rig.done.clear();
    let silent = Problem::new(Reason::Internal, "it did not answer");
    rig.fails = Some((ServerCommand::Share { permille: 100 }, silent));
    rig.looks(7);
    rig.fails = None;
    rig.looks(7);
    let done = rig.done();
    assert!(done.len() > 1 && done.iter().all(|done| done == TENTH), "{done:?}");
    assert_eq!(of(&mut rig).share, 100);
}

#[test]
fn a_candidate_that_nobody_waits_for_has_no_share_before_it_is_ended() {
    let mut rig = Rig::new(policy());
    let generation = generation(NEW, "v2", true);
    rig.set_candidate(Some(Candidate { share: 100, ..candidate(Some(generation)) }));
    rig.looks(2);
    assert_eq!(rig.done(), [NONE, "End 150"]);
    assert_eq!(rig.agent.view().running, Some(id("v1")));
    let Some(AppServer { generations, .. }) = &rig.server else { panic!("it is there") };
    assert_eq!(generations[0].key, GenerationKey(LIVE));
}
