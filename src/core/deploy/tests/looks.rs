//! How many looks a deploy waits for until its signal.

use super::*;
use crate::core::ServerCommand;

/// How the effect ends, when all is well.
fn ended(effect: &Effect) -> Option<Event> {
    let outcome = match effect {
        Effect::Check { .. } => Outcome::Checked(Plan::new(Mode::Phased)),
        _ => Outcome::Done,
    };
    let (attempt, step) = match effect {
        Effect::Fetch { attempt, .. } => (*attempt, Step::Fetch),
        Effect::Check { attempt, .. } => (*attempt, Step::Check),
        Effect::Record { attempt, record } => (*attempt, Step::Record(record.event)),
        Effect::Publish { attempt, .. } => (*attempt, Step::Publish),
        _ => return None,
    };
    Some(Event::Finished { attempt, step, outcome })
}

#[test]
fn each_look_that_a_deploy_waits_for_is_asked_for_at_once_and_one_is_enough() {
    let v1 = Revision { release: "v1".parse().unwrap(), sequence: Some(1) };
    let records = vec![Record::new(RecordEvent::Verified, v1.clone())];
    let recovered = Recovered { current: Some(v1.release.clone()), records, ..Recovered::default() };
    let mut agent = recovered_agent(Policy { spread_ms: None, ..policy() }, &recovered);
    agent.step(Moment(1), Event::Pointer(Ok(v1.into())));
    agent.step(Moment(2), look(2, serving(), None));
    assert_eq!(agent.look_awaited(), None, "at rest nothing is waited for");

    let v2 = Revision { release: "v2".parse().unwrap(), sequence: Some(2) };
    let mut effects = agent.step(Moment(10), Event::Pointer(Ok(v2.into())));
    let (mut now, mut looks) = (Moment(10), Vec::new());
    while !matches!(effects[..], [Effect::Perform { .. }]) {
        now = now.plus(5);
        let event = match effects.first().and_then(ended) {
            Some(ended) => {
                assert_eq!(agent.look_awaited(), None, "the effect is waited for: {effects:?}");
                ended
            }
            None => {
                let began = agent.look_awaited().expect("a look is waited for");
                let early = look(began.0 - 1, serving(), Some(Probe::Healthy));
                assert_eq!(agent.step(now, early), [], "it is older than what it is to prove");
                looks.push(agent.view().stage);
                look(began.0, serving(), Some(Probe::Healthy))
            }
        };
        effects = agent.step(now, event);
    }
    assert_eq!(looks, [Stage::Checking, Stage::Checking, Stage::Publishing, Stage::Restarting]);
}

/// A server that is started anew in one way may not be able to in the other, or with a cost that nobody planned.
#[test]
fn a_restart_whose_signal_was_lost_with_the_agent_is_asked_for_again_in_the_same_way() {
    for mode in [Mode::Phased, Mode::Hot] {
        let (v1, v2) = (at("v1", 1).revision, at("v2", 2).revision);
        let baseline = Baseline {
            at: Moment(0),
            boot_id: String::new(),
            mode,
            generations: vec![GenerationKey(1)],
            processes: vec![ProcessKey(2)],
            healthy: true,
        };
        let mut signalled = Record::new(RecordEvent::Signalled, v2.clone());
        signalled.baseline = Some(baseline);
        let attempt = Record { mode: Some(mode), ..Record::new(RecordEvent::Attempt, v2.clone()) };
        let records = vec![Record::new(RecordEvent::Verified, v1), attempt, signalled];
        let recovered = Recovered { current: Some(v2.release.clone()), records, ..Recovered::default() };
        let mut agent = recovered_agent(Policy { spread_ms: None, ..policy() }, &recovered);
        let (mut now, mut effects) = (Moment(1), agent.step(Moment(1), Event::Pointer(Ok(v2.into()))));
        let command = loop {
            let performs = |effect: &Effect| match effect {
                Effect::Perform { command, .. } => Some(*command),
                _ => None,
            };
            if let Some(command) = effects.iter().find_map(performs) {
                break command;
            }
            assert!(now < Moment(60_000), "{mode:?}: {:?}", agent.view());
            now = now.plus(50);
            let event = effects.iter().find_map(ended);
            effects = agent.step(now, event.unwrap_or_else(|| look(now.0, serving(), Some(Probe::Healthy))));
        };
        assert_eq!(command, ServerCommand::Restart(mode));
    }
}
