//! What becomes of an app server that was told to restart and hangs in its stop, or waits in it.

use super::*;
use crate::core::{ServerCommand, WorkerLoad};

/// v1, which was told to restart onto v2.
fn told() -> Agent {
    let mut agent = checked(Mode::Hot);
    let acts = live(&mut agent, 10..5_500, serving, 0);
    assert_eq!((acts, agent.view().stage), (vec![ServerCommand::Restart(Mode::Hot)], Stage::Verifying));
    agent
}

/// It accepts nothing any more.
fn stopping() -> Detection {
    let Detection::Seen(mut server) = serving() else { unreachable!("it serves") };
    server.generations[0].signalable = false;
    server.generations[0].processes[0].booted = false;
    Detection::Seen(server)
}

/// Looks again and again while this is to be seen, with so many requests at work; every effect ends well. What
/// the app server was told.
fn live(
    agent: &mut Agent,
    time: std::ops::Range<u64>,
    detection: fn() -> Detection,
    busy: u32,
) -> Vec<ServerCommand> {
    let mut acts = vec![];
    for now in time.step_by(50) {
        let load = WorkerLoad { key: ProcessKey(2), requests: 9, busy, backlog: 0, checkin: now };
        let traffic = Traffic { workers: Some(vec![load]), sockets: None };
        let answers = vec![Answer { by: None, probe: Probe::Healthy }];
        let seen = Observation { answers, ..Observation::new(Moment(now), detection(), traffic) };
        let mut effects = agent.step(Moment(now), Event::Observed(seen));
        while let Some(effect) = effects.pop() {
            let mut outcome = Outcome::Done;
            let (attempt, step) = match effect {
                Effect::Fetch { attempt, .. } => (attempt, Step::Fetch),
                Effect::Check { attempt, .. } => {
                    outcome = Outcome::Checked(Plan::new(Mode::Hot));
                    (attempt, Step::Check)
                }
                Effect::Record { attempt, record } => (attempt, Step::Record(record.event)),
                Effect::Publish { attempt, .. } => (attempt, Step::Publish),
                Effect::Perform { attempt, command, .. } => {
                    acts.push(command);
                    (attempt, Step::Perform(command))
                }
                _ => continue,
            };
            let ended = Event::Finished { attempt, step, outcome };
            effects.extend(agent.step(Moment(now + 1), ended));
        }
    }
    acts
}

#[test]
fn who_hangs_in_its_stop_is_ended_once_restart_timeout_is_over() {
    let mut agent = told();
    assert_eq!(live(&mut agent, 5_500..15_000, stopping, 0), [], "it may still end");
    assert_eq!(live(&mut agent, 15_000..16_000, stopping, 0), [ServerCommand::Recover]);
    let problem = agent.view().problem.unwrap();
    assert_eq!(problem.reason, Reason::BootTimeout);
    assert!(problem.message.contains("never loaded"), "{problem:?}");
    assert_eq!(live(&mut agent, 16_000..16_500, || Detection::Missing, 0), []);
    live(&mut agent, 16_500..17_000, || serving_as(9), 0);
    assert_eq!((agent.view().stage, agent.view().running), (Stage::Steady, Some("v1".parse().unwrap())));
}

#[test]
fn who_waits_for_a_request_in_its_stop_is_left_alone_and_that_is_said() {
    let mut agent = told();
    assert_eq!(live(&mut agent, 5_500..60_000, stopping, 1), []);
    let view = agent.view();
    assert_eq!((view.stage, view.running), (Stage::Stranded, None));
    let problem = view.problem.unwrap();
    assert_eq!(problem.reason, Reason::BootTimeout);
    assert!(problem.message.contains("takes no requests"), "{problem:?}");
    live(&mut agent, 60_000..61_000, || serving_as(9), 0);
    assert_eq!((agent.view().stage, agent.view().running), (Stage::Steady, Some("v1".parse().unwrap())));
}

#[test]
fn a_newer_move_does_not_cut_off_the_request_that_is_waited_for() {
    let mut agent = told();
    live(&mut agent, 5_500..40_000, stopping, 1);
    agent.step(Moment(40_000), Event::Pointer(Ok(at("v3", 3))));
    assert_eq!(live(&mut agent, 40_050..200_000, stopping, 1), []);
    assert_eq!(agent.view().running, None);
}

#[test]
fn who_hangs_after_its_last_request_is_ended_as_well() {
    let mut agent = told();
    assert_eq!(live(&mut agent, 5_500..20_000, stopping, 1), []);
    assert_eq!(live(&mut agent, 20_000..21_000, stopping, 0), [ServerCommand::Recover]);
}
