//! Processes that are not ours, or that the kernel keeps from us.

use super::*;
use crate::core::ServerCommand;

fn publishes(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Publish { .. }))
}

/// A sidecar's Puma of another user, or two that nobody tells apart, before the pod has its first release.
#[test]
fn a_pod_is_born_though_somebody_elses_app_server_runs_in_it() {
    for theirs in [Detection::NotPermitted, Detection::Ambiguous] {
        let mut agent = recovered_agent(policy(), &Recovered::default());
        let revision = Revision { release: "v1".parse().unwrap(), sequence: Some(1) };
        agent.step(Moment(1), Event::Pointer(Ok(revision.into())));
        agent.step(Moment(2), done(Step::Fetch));
        agent.step(Moment(4), look(4, theirs.clone(), None));
        agent.step(Moment(5), done(Step::Record(RecordEvent::Attempt)));
        let effects = agent.step(Moment(7), look(7, theirs.clone(), None));
        assert!(publishes(&effects), "{theirs:?}: {effects:?}");
        agent.step(Moment(8), done(Step::Publish));
        for at in [10, 20_000, 200_000] {
            assert_eq!(agent.step(Moment(at), look(at, theirs.clone(), None)), [], "{theirs:?}");
        }
        assert_eq!(agent.view().stage, Stage::Verifying, "it waits for ours to start");
        let effects: Vec<Effect> = (300_000..301_000)
            .step_by(50)
            .flat_map(|at| agent.step(Moment(at), look(at, serving(), Some(Probe::Healthy))))
            .collect();
        assert!(
            matches!(&effects[..], [Effect::Record { record, .. }] if record.event == RecordEvent::Verified),
            "{effects:?}"
        );
    }
}

/// Once something is in place it may be ours.
#[test]
fn where_a_release_is_in_place_nothing_moves_beside_what_cannot_be_told() {
    let (mut agent, _) = checking_v2();
    agent.step(Moment(5), failed(1, Step::Check, Reason::Internal));
    for at in [500, 5_000, 50_000] {
        assert_eq!(agent.step(Moment(at), look(at, Detection::NotPermitted, None)), []);
    }
}

/// A security profile that lets SIGCONT pass and refuses the others.
#[test]
fn a_signal_that_the_kernel_refuses_is_tried_ever_more_seldom() {
    let (mut agent, _) = checking_v2();
    let (mut flips, mut said, mut now) = (vec![], vec![], 5);
    let mut open = vec![(Attempt(1), Step::Check)];
    while now < 60_000 {
        let (mut effects, mut next) = (vec![], vec![]);
        for (attempt, step) in open.drain(..) {
            let denied = || Outcome::Failed(Problem::new(Reason::NotPermitted, "EACCES"));
            let outcome = match step {
                Step::Perform(ServerCommand::Restart(_)) => denied(),
                Step::Check => Outcome::Checked(Plan::new(Mode::Phased)),
                _ => Outcome::Done,
            };
            effects.extend(agent.step(Moment(now), Event::Finished { attempt, step, outcome }));
        }
        now += 20;
        effects.extend(agent.step(Moment(now), look(now, serving(), Some(Probe::Healthy))));
        for effect in effects {
            match effect {
                Effect::Publish { attempt, release } => {
                    flips.extend((release.as_str() == "v2").then_some(now));
                    next.push((attempt, Step::Publish));
                }
                Effect::Check { attempt, .. } => next.push((attempt, Step::Check)),
                Effect::Fetch { attempt, .. } => next.push((attempt, Step::Fetch)),
                Effect::Record { attempt, record } => next.push((attempt, Step::Record(record.event))),
                Effect::Perform { attempt, command, .. } => next.push((attempt, Step::Perform(command))),
                _ => {}
            }
        }
        open = next;
        said.push((agent.view().stage, agent.view().problem.map(|problem| problem.reason)));
    }
    let pauses: Vec<u64> = flips.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() > 3 && pauses.windows(2).take(5).all(|pair| pair[0] < pair[1]), "{flips:?}");
    assert_eq!(agent.view().rejected, [], "the release is not to blame");
    assert!(said.contains(&(Stage::Steady, Some(Reason::NotPermitted))), "{said:?}");
}

/// The agent was killed three times in it.
#[test]
fn a_release_that_the_agent_does_not_survive_fetching_is_rejected() {
    let (mut agent, _) = checking_v2();
    let effects = agent.step(Moment(10), Event::Pointer(Ok(at("v3", 3))));
    assert_eq!(fetched(&effects), Some("v3"));
    let attempt = agent.view().attempt;
    let why = Problem::new(Reason::Internal, "the agent was killed 3 times during the fetch of v3");
    let condemned = Event::Finished { attempt, step: Step::Fetch, outcome: Outcome::Condemned(why) };
    let effects = agent.step(Moment(11), condemned);
    let [Effect::Record { record, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((record.event, record.revision.release.as_str()), (RecordEvent::Rejected, "v3"));
    let written = Step::Record(RecordEvent::Rejected);
    agent.step(Moment(12), Event::Finished { attempt, step: written, outcome: Outcome::Done });
    for moment in [500, 5_000, 50_000] {
        assert_eq!(agent.step(Moment(moment), look(moment, serving(), None)), [], "not tried again");
    }
    assert!(agent.view().problem.unwrap().message.contains("killed 3 times"));
}
