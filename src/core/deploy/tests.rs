//! What no walk shows: how much evidence a verdict takes.

mod beside;
mod canary;
mod lingering;
mod looks;
mod newborn;
mod refused;
mod share;
mod spread;
mod stop;
mod strangers;

use crate::core::{
    Agent, Answer, AppServer, Attempt, Baseline, Cwd, DeployResult, Detection, Effect, Event, Generation,
    GenerationKey, Mode, Moment, Observation, Operator, Outcome, Plan, Policy, Probe, Problem, Process,
    ProcessKey, Reason, Record, Recovered, Shift, Stage, Step, Traffic,
    deploy::{stand_ins, state::Move, state::MoveStep},
    drain::{Budget, DrainCommand, Origin},
    history::{History, Neighbours},
    verdict::{Verdict, Watch},
};
use crate::revision::{Pointer, RecordEvent, ReleaseId, Revision};

pub(crate) fn policy() -> Policy {
    let drain = Budget { min_ms: 0, quiet_min_ms: 0, quiet_max_ms: 1, max_ms: 1000, ..Budget::default() };
    Policy {
        hot_timeout_ms: 10_000,
        phased_timeout_ms: 10_000,
        phased_worker_ms: 0,
        second_master: false,
        beside_only: false,
        shift: Shift::default(),
        in_place: true,
        settle_ms: 100,
        soak_ms: 100,
        probing: true,
        successes: 3,
        naming: false,
        evidence_ms: 0,
        long_request_ms: Some(30_000),
        wait_in_flight_ms: 0,
        spread_ms: Some(5_000),
        reports: false,
        wave: 0,
        fallback: false,
        unwell_ms: 1_000,
        unwell_max_ms: 4_000,
        retry_ms: 100,
        drain,
    }
}

fn look(began: u64, detection: Detection, probe: Option<Probe>) -> Event {
    let answers = probe.map(|probe| Answer { by: None, probe }).into_iter().collect();
    Event::Observed(Observation { answers, ..Observation::new(Moment(began), detection, Traffic::default()) })
}

fn serving() -> Detection {
    serving_from("v1")
}

fn serving_from(release: &str) -> Detection {
    let cwd = Cwd::Release(release.parse().unwrap());
    let process = Process { key: ProcessKey(2), cwd: cwd.clone(), booted: true };
    let generation = Generation {
        key: GenerationKey(1),
        master: ProcessKey(1),
        signalable: true,
        cwd,
        expected: 1,
        processes: vec![process],
    };
    Detection::Seen(AppServer { generations: vec![generation], old_workers: false, ..Default::default() })
}

fn done(step: Step) -> Event {
    Event::Finished { attempt: Attempt(1), step, outcome: Outcome::Done }
}

/// An agent that starts where the disk says this.
pub(crate) fn recovered_agent(policy: Policy, recovered: &Recovered) -> Agent {
    let unknown = Problem::new(Reason::VolumeUnavailable, "");
    let mut agent = Agent::new(policy.drain.clone(), None, unknown);
    agent.recover(policy, recovered, Moment(0));
    agent
}

/// A pod at its birth: v1 is published, and no app server is there yet.
fn born() -> Agent {
    let mut agent = recovered_agent(policy(), &Recovered::default());
    let revision = Revision { release: "v1".parse().unwrap(), sequence: Some(1) };
    agent.step(Moment(1), Event::Pointer(Ok(revision.into())));
    agent.step(Moment(2), done(Step::Fetch));
    agent.step(Moment(4), look(4, Detection::Missing, None));
    agent.step(Moment(5), done(Step::Record(RecordEvent::Attempt)));
    agent.step(Moment(7), look(7, Detection::Missing, None));
    agent.step(Moment(8), done(Step::Publish));
    agent.step(Moment(10), look(10, Detection::Missing, None));
    assert_eq!(agent.view().stage, Stage::Verifying);
    agent
}

#[test]
fn one_failed_probe_condemns_nobody() {
    let mut agent = born();
    agent.step(Moment(20), look(20, serving(), None));
    for at in [30, 40] {
        agent.step(Moment(at), look(at, serving(), Some(Probe::Unhealthy)));
        assert_eq!(reason(&agent), None, "at {at}");
    }
    agent.step(Moment(50), look(50, serving(), Some(Probe::Unhealthy)));
    assert_eq!(reason(&agent), Some(Reason::ProbeFailed));
}

#[test]
fn one_answer_proves_nothing() {
    let mut agent = born();
    agent.step(Moment(20), look(20, serving(), Some(Probe::Healthy)));
    let effects = agent.step(Moment(500), look(500, serving(), Some(Probe::Healthy)));
    assert_eq!(effects, []);
    agent.step(Moment(600), look(600, serving(), Some(Probe::Healthy)));
    assert_eq!(agent.view().stage, Stage::Committing);
}

#[test]
fn a_probe_from_before_the_boot_does_not_count() {
    let mut agent = born();
    for at in [20, 30, 40, 50] {
        agent.step(Moment(at), look(15, serving(), Some(Probe::Unhealthy)));
    }
    assert_eq!(agent.view().stage, Stage::Verifying);
    let effects: Vec<Effect> = (0..3)
        .flat_map(|n| agent.step(Moment(200 + n), look(200 + n, serving(), Some(Probe::Healthy))))
        .collect();
    assert!(matches!(&effects[..], [Effect::Record { record, .. }] if record.event == RecordEvent::Verified));
}

/// An image without a process.
fn loading(image: u64, signalable: bool, expected: usize) -> Detection {
    let (key, master, cwd) = (GenerationKey(image), ProcessKey(image), Cwd::Release("v2".parse().unwrap()));
    let generation = Generation { key, master, signalable, cwd, expected, processes: vec![] };
    Detection::Seen(AppServer { generations: vec![generation], old_workers: false, ..Default::default() })
}

#[test]
fn a_container_that_is_quicker_than_the_looks_hides_no_lost_master() {
    let baseline = Baseline {
        at: Moment(0),
        boot_id: String::new(),
        mode: Mode::Hot,
        generations: vec![GenerationKey(1)],
        processes: vec![ProcessKey(2)],
        healthy: true,
    };
    let mut watch = Watch::new("v2".parse().unwrap(), Some(baseline), None);
    let mut look = |image: u64| {
        let look = Observation::new(Moment(image), loading(image, false, 1), Traffic::default());
        watch.observe(Moment(image), &look, &policy())
    };
    assert_eq!([look(10), look(11), look(12)], [Verdict::Undecided; 3]);
    assert_eq!(look(13), Verdict::Failed(Reason::MasterGone));
}

/// Passenger says so, and its clients get error pages until the way back is taken.
#[test]
fn a_server_that_says_that_it_has_given_up_is_not_waited_for() {
    let baseline = Baseline {
        at: Moment(0),
        boot_id: String::new(),
        mode: Mode::Hot,
        generations: vec![GenerationKey(1)],
        processes: vec![ProcessKey(2)],
        healthy: true,
    };
    let mut watch = Watch::new("v2".parse().unwrap(), Some(baseline), None);
    let mut look = |at: u64, image: u64, expected: usize| {
        let look = Observation::new(Moment(at), loading(image, true, expected), Traffic::default());
        watch.observe(Moment(at), &look, &policy())
    };
    assert_eq!(look(10, 1, 0), Verdict::Undecided, "that was before the restart");
    assert_eq!(look(11, 7, 2), Verdict::Undecided, "it boots");
    assert_eq!(look(12, 7, 0), Verdict::Failed(Reason::BootFailed));
}

#[test]
fn a_second_app_server_does_not_keep_a_proven_deploy_open() {
    let mut agent = born();
    for at in [20, 400, 500, 600] {
        agent.step(Moment(at), look(at, serving(), Some(Probe::Healthy)));
    }
    agent.step(Moment(700), done(Step::Record(RecordEvent::Verified)));
    agent.step(Moment(800), look(800, Detection::Ambiguous, None));
    agent.step(Moment(900), look(900, Detection::Ambiguous, None));
    let view = agent.view();
    assert_eq!(
        (view.stage, view.problem.map(|t| t.reason)),
        (Stage::Steady, Some(Reason::AppServerAmbiguous))
    );
}

fn at(release: &str, sequence: u64) -> Pointer {
    Revision { release: release.parse().unwrap(), sequence: Some(sequence) }.into()
}

/// A pod that serves v1, proven, and v0 before it.
fn proven() -> Agent {
    let verified = |pointer: Pointer| Record::new(RecordEvent::Verified, pointer.revision);
    let records = vec![verified(at("v0", 0)), verified(at("v1", 1))];
    let current = Some("v1".parse().unwrap());
    let recovered = Recovered { current, records, ..Recovered::default() };
    recovered_agent(policy(), &recovered)
}

/// It has just found out how v2 can be restarted onto.
fn checked(mode: Mode) -> Agent {
    let mut agent = proven();
    agent.step(Moment(1), Event::Pointer(Ok(at("v2", 2))));
    agent.step(Moment(2), done(Step::Fetch));
    agent.step(Moment(4), look(4, serving(), None));
    agent.step(Moment(5), planned(1, mode));
    agent
}

fn planned(attempt: u64, mode: Mode) -> Event {
    Event::Finished {
        attempt: Attempt(attempt),
        step: Step::Check,
        outcome: Outcome::Checked(Plan::new(mode)),
    }
}

#[test]
fn a_move_that_came_just_after_the_proof_of_the_one_before_goes_back_to_what_was_proved() {
    let mut agent = checked(Mode::Phased);
    agent.step(Moment(6), look(6, loading(1, false, 1), None));
    agent.step(Moment(6), look(6, Detection::Missing, None));
    agent.step(Moment(6), done(Step::Record(RecordEvent::Attempt)));
    agent.step(Moment(8), look(8, Detection::Missing, None));
    agent.step(Moment(9), done(Step::Publish));
    agent.step(Moment(11), look(11, Detection::Missing, None));
    for at in [20, 400, 500] {
        agent.step(Moment(at), look(at, serving_from("v2"), Some(Probe::Healthy)));
    }
    agent.step(Moment(600), look(600, serving_from("v2"), Some(Probe::Healthy)));
    assert_eq!(agent.view().stage, Stage::Committing);
    agent.step(Moment(650), Event::Pointer(Ok(at("v3", 3))));
    agent.step(Moment(700), done(Step::Record(RecordEvent::Verified)));
    agent.step(Moment(800), look(800, serving_from("v2"), None));
    let Some(Move { target, step: MoveStep::Fetch, .. }) = agent.deploy.as_ref().unwrap().state.moving()
    else {
        panic!("{:?}", agent.view())
    };
    let named = |release: &Option<ReleaseId>| release.as_ref().map(|release| release.to_string());
    assert_eq!((target.revision.release.as_str(), named(&target.from)), ("v3", Some("v2".into())));
}

fn begins(effects: &[Effect]) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Record { record, .. } if record.event == RecordEvent::Attempt))
}

#[test]
fn a_hot_restart_waits_for_its_turn_and_says_until_when() {
    let mut agent = checked(Mode::Hot);
    assert_eq!(agent.view().turn, Some(Moment(5_005)));
    assert!(!begins(&agent.step(Moment(5_004), look(5_004, serving(), None))));
    assert_eq!(agent.deadline(Moment(5_004)), Some(Moment(5_005)));
    // The look that ends the wait is recent enough to tell of requests as well.
    assert!(begins(&agent.step(Moment(5_005), look(5_005, serving(), None))));
    assert_eq!(agent.view().turn, None);
}

#[test]
fn no_turn_is_waited_for_where_nothing_serves() {
    let mut agent = checked(Mode::Hot);
    assert!(begins(&agent.step(Moment(10), look(10, loading(1, false, 1), None))));
}

#[test]
fn a_newer_move_ends_the_wait_for_a_turn_and_a_drain_stops_it() {
    let mut agent = checked(Mode::Hot);
    let effects = agent.step(Moment(10), Event::Pointer(Ok(at("v3", 3))));
    assert!(
        matches!(&effects[..], [Effect::Conclude { .. }, Effect::Fetch { release, .. }] if release.as_str() == "v3")
    );
    let mut agent = checked(Mode::Hot);
    agent.step(Moment(10), Event::Drain(DrainCommand::Begin(Origin::PreStop)));
    assert_eq!(agent.view().turn, None);
    assert!(!begins(&agent.step(Moment(6_000), look(6_000, serving(), None))));
    assert!(!begins(&agent.step(Moment(6_001), look(6_001, serving(), None))));
}

#[test]
fn who_is_sent_back_by_an_operator_waits_for_no_turn() {
    let mut agent = proven();
    agent.step(Moment(1), Event::Pointer(Ok(at("v1", 1))));
    agent.step(Moment(6), Event::Operator(Operator::Revert));
    agent.step(Moment(7), done(Step::Fetch));
    agent.step(Moment(9), look(9, serving(), None));
    agent.step(Moment(10), planned(1, Mode::Hot));
    assert_eq!(agent.view().turn, None);
    assert!(begins(&agent.step(Moment(12), look(12, serving(), None))));
}

fn failed(attempt: u64, step: Step, reason: Reason) -> Event {
    let outcome = Outcome::Failed(crate::core::Problem::new(reason, "as the test wants it"));
    Event::Finished { attempt: Attempt(attempt), step, outcome }
}

fn serving_as(image: u64) -> Detection {
    let Detection::Seen(mut server) = serving() else { unreachable!("it serves") };
    server.generations[0].key = GenerationKey(image);
    Detection::Seen(server)
}

/// v2 needs what the image that serves v1 does not bring.
fn lacking() -> Agent {
    let mut agent = checked(Mode::Hot);
    agent.step(Moment(10), Event::Pointer(Ok(at("v3", 3))));
    agent
        .step(Moment(11), Event::Finished { attempt: Attempt(3), step: Step::Fetch, outcome: Outcome::Done });
    agent.step(Moment(13), look(13, serving(), None));
    let effects = agent.step(Moment(14), failed(3, Step::Check, Reason::NeedsImage));
    assert!(matches!(&effects[..], [Effect::Conclude { result: DeployResult::Refused(_), .. }]));
    agent.step(Moment(16), look(16, serving(), None));
    agent
}

fn reason(agent: &Agent) -> Option<Reason> {
    agent.view().problem.map(|problem| problem.reason)
}

#[test]
fn a_release_that_needs_another_image_waits_for_one_and_moves_nothing() {
    let mut agent = lacking();
    for (now, detection) in [(5_000, serving()), (6_000, Detection::Missing), (7_000, serving())] {
        assert_eq!(agent.step(Moment(now), look(now, detection, None)), [], "at {now}");
        assert_eq!(reason(&agent), Some(Reason::NeedsImage));
    }
    assert_eq!(agent.view().rejected, []);
    agent.step(Moment(8_000), look(8_000, serving_as(9), None));
    let effects = agent.step(Moment(8_001), look(8_001, serving_as(9), None));
    assert!(matches!(&effects[..], [Effect::Check { .. }]), "another image: it is looked into");
    assert_eq!(reason(&agent), Some(Reason::NeedsImage), "until it is known to be better");
}

#[test]
fn an_image_that_came_right_after_the_check_is_not_missed() {
    let mut agent = checked(Mode::Hot);
    agent.step(Moment(10), Event::Pointer(Ok(at("v3", 3))));
    agent
        .step(Moment(11), Event::Finished { attempt: Attempt(3), step: Step::Fetch, outcome: Outcome::Done });
    agent.step(Moment(13), look(13, serving(), None));
    agent.step(Moment(14), failed(3, Step::Check, Reason::NeedsImage));
    agent.step(Moment(16), look(16, serving_as(9), None));
    let effects = agent.step(Moment(17), look(17, serving_as(9), None));
    assert!(matches!(&effects[..], [Effect::Check { .. }]));
}

#[test]
fn a_lack_is_looked_at_again_when_somebody_asks_and_left_by_a_newer_move() {
    let mut agent = lacking();
    agent.step(Moment(20), Event::Operator(Operator::Sync { retry: false }));
    let effects = agent.step(Moment(21), look(21, serving(), None));
    assert!(matches!(&effects[..], [Effect::Check { .. }]));
    let effects = lacking().step(Moment(20), Event::Pointer(Ok(at("v4", 4))));
    assert!(matches!(&effects[..], [Effect::Conclude { .. }, Effect::Fetch { .. }]));
}

#[test]
fn a_deploy_that_ended_as_refused_does_not_go_on_under_its_number() {
    let mut agent = checked(Mode::Hot);
    agent.step(Moment(10), Event::Pointer(Ok(at("v3", 3))));
    let effects = agent.step(Moment(11), failed(3, Step::Fetch, Reason::ReleaseUnknown));
    assert!(matches!(&effects[..], [Effect::Conclude { attempt: Attempt(3), .. }]));
    let effects = agent.step(Moment(500), Event::Tick);
    assert!(matches!(&effects[..], [Effect::Fetch { attempt: Attempt(4), .. }]));
}

fn recovered(neighbours: Neighbours) -> Agent {
    let policy = Policy { fallback: true, ..policy() };
    recovered_agent(policy, &Recovered { neighbours, ..Recovered::default() })
}

fn fetched(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Fetch { release, .. } => Some(release.as_str()),
        _ => None,
    })
}

#[test]
fn without_a_pointer_a_pod_is_born_on_what_its_neighbours_have_proved_else_on_the_images_code() {
    let proved = ["v7", "v6"].map(|id| id.parse().unwrap()).to_vec();
    let mut agent = recovered(Neighbours { verified: proved, ..Neighbours::default() });
    let away = crate::core::Problem::new(Reason::StoreUnreachable, "no answer");
    let effects = agent.step(Moment(1), Event::Pointer(Err(away)));
    assert_eq!(fetched(&effects), Some("v7"));
    let effects = agent.step(Moment(2), failed(1, Step::Fetch, Reason::VolumeUnavailable));
    assert_eq!(fetched(&effects), Some("v6"));
    let effects = agent.step(Moment(3), failed(2, Step::Fetch, Reason::VolumeUnavailable));
    assert_eq!(fetched(&effects), Some("(fallback_dir)"));
    assert_eq!(reason(&agent), Some(Reason::StoreUnreachable));
    let effects = agent.step(Moment(4), Event::Pointer(Ok(at("v8", 8))));
    assert_eq!(fetched(&effects), Some("v8"), "the store is back");
}

#[test]
fn nothing_stands_in_that_failed_here_or_elsewhere() {
    let [v1, v2, v3] = ["v1", "v2", "v3"].map(|id| id.parse().unwrap());
    let mut history = History::default();
    history.reject(&at("v1", 1).revision, Reason::BootLoop);
    let neighbours = Neighbours { verified: vec![v1, v3], failed: [v2.clone()].into() };
    let pointer = Pointer { previous: Some(v2.clone()), ..at("v4", 4) };
    let found = stand_ins(Reason::ReleaseCorrupt, Some(&pointer), &history, &neighbours, false);
    assert_eq!(found.iter().map(|r| r.as_str()).collect::<Vec<_>>(), ["v3"]);
}

/// v1 is proved and runs; v2 is on the volume, and the check of it is under way.
fn checking_v2() -> (Agent, Vec<Effect>) {
    let lines =
        [RecordEvent::Attempt, RecordEvent::Verified].map(|event| Record::new(event, at("v1", 1).revision));
    let current = Some("v1".parse().unwrap());
    let recovered = Recovered { current, records: lines.to_vec(), ..Recovered::default() };
    let mut agent = recovered_agent(policy(), &recovered);
    agent.step(Moment(1), Event::Pointer(Ok(at("v2", 2))));
    agent.step(Moment(2), done(Step::Fetch));
    let effects = agent.step(Moment(4), look(4, serving(), None));
    (agent, effects)
}

fn condemned() -> Event {
    let why = Problem::new(Reason::HookFailed, "exit code 1: boom");
    Event::Finished { attempt: Attempt(1), step: Step::Check, outcome: Outcome::Condemned(why) }
}

#[test]
fn a_release_that_fails_its_trial_is_rejected_on_disk_and_nothing_is_moved() {
    let (mut agent, effects) = checking_v2();
    assert!(matches!(&effects[..], [Effect::Check { trial: true, .. }]), "{effects:?}");
    let effects = agent.step(Moment(5), condemned());
    let [Effect::Record { record, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((record.event, record.reason), (RecordEvent::Rejected, Some(Reason::HookFailed)));
    let effects = agent.step(Moment(6), done(Step::Record(RecordEvent::Rejected)));
    assert!(matches!(&effects[..], [Effect::Conclude { result: DeployResult::Refused(_), .. }]));
    for at in [10, 500, 5_000] {
        assert_eq!(agent.step(Moment(at), look(at, serving(), None)), [], "not tried again");
    }
    let view = agent.view();
    assert_eq!(
        (view.stage, view.rejected.len(), view.running),
        (Stage::Steady, 1, Some("v1".parse().unwrap()))
    );
    let problem = view.problem.unwrap();
    assert!(problem.reason == Reason::HookFailed && problem.message.contains("boom"), "{problem:?}");
    // Whoever goes back to what runs is in sync, and nothing is wrong any more.
    agent.step(Moment(6_000), Event::Pointer(Ok(at("v1", 3))));
    assert_eq!((agent.view().in_sync, agent.view().problem), (true, None));
}

#[test]
fn a_release_that_could_not_be_tried_is_not_rejected() {
    let (mut agent, _) = checking_v2();
    agent.step(Moment(5), failed(1, Step::Check, Reason::HookFailed));
    let view = agent.view();
    assert_eq!((view.rejected.len(), view.problem.unwrap().reason), (0, Reason::HookFailed));
    let effects = agent.step(Moment(500), look(500, serving(), None));
    assert!(matches!(&effects[..], [Effect::Check { trial: true, .. }]), "{effects:?}");
}

#[test]
fn what_was_condemned_is_written_down_even_while_the_pod_drains() {
    let (mut agent, _) = checking_v2();
    agent.step(Moment(5), Event::Drain(DrainCommand::Begin(Origin::PreStop)));
    let effects = agent.step(Moment(6), condemned());
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Record { record, .. } if record.event == RecordEvent::Rejected))
    );
}

#[test]
fn the_way_back_to_a_release_that_was_proved_here_needs_no_trial() {
    let verified =
        |release: &str, sequence| Record::new(RecordEvent::Verified, at(release, sequence).revision);
    let records = vec![verified("v1", 1), verified("v2", 2)];
    let recovered = Recovered { current: Some("v2".parse().unwrap()), records, ..Recovered::default() };
    let mut agent = recovered_agent(policy(), &recovered);
    agent.step(Moment(1), Event::Pointer(Ok(at("v1", 3))));
    agent.step(Moment(2), done(Step::Fetch));
    let effects = agent.step(Moment(4), look(4, serving(), None));
    assert!(matches!(&effects[..], [Effect::Check { trial: false, .. }]), "{effects:?}");
}
