//! What an operator may ask of a deploy, and what holds deploys afterwards.

use super::*;
use crate::core::Hold;

impl Deploy {
    pub(super) fn obey(&mut self, operator: Operator) {
        match operator {
            Operator::Sync { retry } => {
                self.retry_at = None;
                if let State::Moving(m) = &mut self.state
                    && matches!(m.step, MoveStep::Lacking { .. })
                {
                    (m.step, m.until) = (MoveStep::Look, None);
                }
                if let (true, Some(pointer)) = (retry, self.replayed.clone()) {
                    self.releases.history.sequence = pointer.revision.sequence;
                    self.read_pointer(&Ok(pointer));
                }
                if let State::Moving(Move { step: MoveStep::Spread(spread), .. }) = &mut self.state {
                    spread.at_once |= retry;
                }
                if let (true, Some(desired)) = (retry, &self.desired) {
                    self.releases.history.lift(&desired.revision);
                    self.slots.forget_trouble();
                }
            }
            Operator::Pause => self.paused = true,
            Operator::Resume => (self.paused, self.held) = (false, None),
            // Asked twice it is still the same revert: a second step back would be forward again.
            Operator::Revert if self.held.is_some() => {}
            Operator::Revert => {
                let against = self.desired.as_ref().map(|d| d.revision.clone());
                self.held = self.way_back_for_operators().map(|release| (release, against));
            }
        }
    }

    /// Where an operator's revert goes: while a move is under way, or has just failed, to what was proved
    /// before it; at rest to what ran before that.
    pub(super) fn way_back_for_operators(&self) -> Option<ReleaseId> {
        if let Some((release, _)) = &self.held {
            return Some(release.clone());
        }
        let verified = self.releases.history.verified.as_ref();
        let unproved = self.state.target().is_some_and(|target| Some(&target.revision.release) != verified);
        if unproved { verified.cloned() } else { self.releases.history.previous.clone() }
    }

    /// What holds deploys. A revert goes on in spite of a pause: it was asked for as well.
    pub(super) fn hold(&self) -> Option<Hold> {
        match (&self.held, self.paused) {
            (Some((release, _)), _) => Some(Hold::Reverted(release.clone())),
            (None, true) => Some(Hold::Paused),
            (None, false) => self.hold_by_pointer(),
        }
    }

    /// A pod that has never run anything starts all the same: without a release it would serve nobody.
    fn hold_by_pointer(&self) -> Option<Hold> {
        let born = self.releases.history.verified.is_some();
        let pointer = self.desired.as_ref().filter(|_| born)?;
        let expired = || pointer.expired.clone().map(Hold::SignatureExpired);
        pointer.paused.clone().map(Hold::FleetPaused).or_else(expired)
    }

    /// No forward step of the pointer's move begins.
    pub(super) fn pauses(&self) -> bool {
        matches!(self.hold(), Some(Hold::Paused | Hold::FleetPaused(_) | Hold::SignatureExpired(_)))
    }
}

impl Hold {
    /// Why nothing is deployed, for /status.
    pub(super) fn problem(&self) -> Problem {
        let message = match self {
            Self::Paused => "deploys are paused in this pod: `pitstop resume` goes on".to_owned(),
            Self::FleetPaused(note) => {
                format!("deploys are paused in all pods ({note}): `pitstop resume --fleet` goes on")
            }
            Self::SignatureExpired(at) => format!(
                "the pointer's signature expired at {at}, so no deploy starts: `pitstop sign --pointer` signs it again"
            ),
            Self::Reverted(release) => format!(
                "this pod was sent back to {release} by an operator, until the pointer moves: `pitstop resume` \
                 goes on before that"
            ),
        };
        Problem::new(Reason::Held, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        Agent,
        deploy::tests::{policy, recovered_agent},
    };
    use crate::revision::Note;

    fn line(event: RecordEvent, release: &str, sequence: u64) -> Record {
        Record { event, revision: revision(release, sequence), reason: None, baseline: None, mode: None }
    }

    fn revision(release: &str, sequence: u64) -> Revision {
        Revision { release: release.parse().unwrap(), sequence: Some(sequence) }
    }

    /// v1 ran, v2 runs; the pointer says what it says.
    fn pod(desired: &str, sequence: u64) -> Agent {
        let records = vec![line(RecordEvent::Verified, "v1", 1), line(RecordEvent::Verified, "v2", 2)];
        let current = Some("v2".parse().unwrap());
        let recovered = Recovered { current, records, ..Recovered::default() };
        let mut agent = recovered_agent(policy(), &recovered);
        let pointer = Pointer::from(revision(desired, sequence));
        agent.step(Moment(1), Event::Pointer(Ok(pointer)));
        agent
    }

    fn ask(agent: &mut Agent, operator: Operator) -> Vec<Effect> {
        agent.step(Moment(2), Event::Operator(operator))
    }

    fn fetched(effects: &[Effect]) -> Vec<&str> {
        effects.iter().filter_map(fetches).collect()
    }

    fn fetches(effect: &Effect) -> Option<&str> {
        match effect {
            Effect::Fetch { release, .. } => Some(release.as_str()),
            _ => None,
        }
    }

    #[test]
    fn at_rest_a_revert_goes_to_what_ran_before() {
        let mut agent = pod("v2", 2);
        assert_eq!(agent.view().back, Some("v1".parse().unwrap()));
        assert_eq!(fetched(&ask(&mut agent, Operator::Revert)), ["v1"]);
        assert_eq!(agent.view().hold, Some(Hold::Reverted("v1".parse().unwrap())));
    }

    #[test]
    fn in_the_middle_of_a_deploy_a_revert_goes_to_what_ran_before_the_deploy() {
        let mut agent = pod("v3", 3);
        assert_eq!(agent.view().stage, Stage::Fetching);
        assert_eq!(agent.view().back, Some("v2".parse().unwrap()));
        let effects = ask(&mut agent, Operator::Revert);
        assert_eq!(fetched(&effects), [""; 0], "v2 is in place");
        assert_eq!(agent.view().stage, Stage::Steady);
    }

    #[test]
    fn a_revert_asked_for_twice_is_one_revert() {
        let mut agent = pod("v2", 2);
        ask(&mut agent, Operator::Revert);
        let first = agent.view();
        assert_eq!(ask(&mut agent, Operator::Revert), []);
        assert_eq!(agent.view(), first);
    }

    #[test]
    fn a_revert_is_carried_out_though_deploys_are_paused() {
        let mut agent = pod("v2", 2);
        ask(&mut agent, Operator::Pause);
        assert_eq!(agent.view().hold, Some(Hold::Paused));
        assert_eq!(fetched(&ask(&mut agent, Operator::Revert)), ["v1"]);
        // The pointer's next move lifts the revert, and the pause stands.
        let pointer = Pointer::from(revision("v3", 3));
        let effects = agent.step(Moment(3), Event::Pointer(Ok(pointer)));
        assert_eq!(fetched(&effects), [""; 0]);
        assert_eq!(agent.view().hold, Some(Hold::Paused));
        assert_eq!(fetched(&ask(&mut agent, Operator::Resume)), ["v3"]);
    }

    fn fleet_paused(desired: &str, sequence: u64) -> Event {
        let paused = Some(Note { why: Some("incident 12".into()), by: Some("ann".into()), at: None });
        Event::Pointer(Ok(Pointer { paused, ..revision(desired, sequence).into() }))
    }

    #[test]
    fn a_pause_of_the_fleet_holds_deploys_until_the_pointer_says_otherwise() {
        let mut agent = pod("v2", 2);
        assert_eq!(fetched(&agent.step(Moment(2), fleet_paused("v3", 3))), [""; 0]);
        let problem = agent.view().problem.unwrap();
        assert_eq!(problem.reason, Reason::Held);
        assert!(problem.message.contains("in all pods (by ann: incident 12)"), "{}", problem.message);
        assert_eq!(fetched(&ask(&mut agent, Operator::Resume)), [""; 0], "it is not this pod's");
        let resumed = Pointer::from(revision("v3", 3));
        assert_eq!(fetched(&agent.step(Moment(3), Event::Pointer(Ok(resumed)))), ["v3"]);
        assert_eq!(agent.view().hold, None);
    }

    #[test]
    fn a_deploy_that_has_changed_nothing_waits_for_the_end_of_a_pause_of_the_fleet() {
        let mut agent = pod("v3", 3);
        agent.step(Moment(2), fleet_paused("v3", 3));
        assert!(matches!(agent.view().hold, Some(Hold::FleetPaused(_))));
        assert_eq!(agent.view().stage, Stage::Fetching);
    }

    #[test]
    fn a_pod_that_is_born_while_the_fleet_is_paused_starts_on_what_the_pointer_names() {
        let mut agent = recovered_agent(policy(), &Recovered::default());
        assert_eq!(fetched(&agent.step(Moment(1), fleet_paused("v3", 3))), ["v3"]);
    }

    #[test]
    fn a_pod_without_a_past_has_nowhere_to_go() {
        let mut agent = recovered_agent(policy(), &Recovered::default());
        assert_eq!(agent.view().back, None);
        ask(&mut agent, Operator::Revert);
        assert_eq!(agent.view().hold, None);
    }
}
