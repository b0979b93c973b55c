//! What stands in the other slots while no step of a move is about it: servers that were live before finish what they
//! have and are told to end, and a candidate that nobody waits for is ended.

use std::collections::BTreeMap;

use super::*;
use crate::core::observation::Lingering;

/// For so long nobody may have waited in the queues of a server that is told to end: a connection that was answered
/// just before the switch may arrive in them a moment after it.
const QUEUE_EMPTY_MS: u64 = 300;
/// The pauses between attempts that ended in trouble grow to so many doublings.
const DOUBLINGS: u32 = 6;

/// What is known of servers in slots, and of moves onto them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Slots {
    /// Those that linger.
    lingering: BTreeMap<GenerationKey, Lingers>,
    /// When a candidate that nobody waits for was last told to end.
    stray_told: Option<Moment>,
    /// The move that is made without a second server, since that got into trouble.
    pub(crate) alone: Option<Revision>,
    /// The move whose candidate was lost once: it ended after it had booted, or nobody knows of it.
    pub(crate) lost: Option<Revision>,
    /// How often in a row the live server has answered badly while a candidate stood.
    pub(crate) live_failed: u32,
    /// The candidate that may have a share of the traffic.
    pub(crate) sharing: Option<GenerationKey>,
    /// The candidate that had one last.
    shared: Option<GenerationKey>,
    /// How often a share was taken back for a doubt.
    pub(crate) doubts: u32,
    /// How often in a row a candidate was given up, and its move is to be tried again later.
    given_up: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lingers {
    /// It was first seen then.
    since: Moment,
    /// When it was last told to end.
    told: Option<Moment>,
}

impl Slots {
    /// Another move is wanted, or this one went well.
    pub(crate) fn forget_trouble(&mut self) {
        (self.alone, self.lost, self.given_up, self.doubts) = (None, None, 0, 0);
    }

    /// How often the pause before the next try is doubled.
    pub(crate) fn doublings(&mut self) -> u32 {
        let doublings = self.given_up;
        self.given_up = (doublings + 1).min(DOUBLINGS);
        doublings
    }

    pub(crate) fn share_given(&mut self, on: GenerationKey) {
        (self.sharing, self.shared) = (Some(on), Some(on));
    }

    /// This candidate may have clients.
    pub(crate) fn had_share(&self, on: GenerationKey) -> bool {
        self.shared == Some(on)
    }

    fn deadlines(&self, policy: &Policy) -> Vec<Moment> {
        let due = |one: &Lingers| match one.told {
            Some(told) => told.plus(policy.retry_ms),
            None => one.since.plus(policy.wait_in_flight_ms),
        };
        self.lingering.values().map(due).collect()
    }
}

impl Deploy {
    /// The run of this release that was live before, and has not been told to end.
    pub(super) fn lingers(&self, server: &AppServer, release: &ReleaseId) -> Option<GenerationKey> {
        let told = |key: &GenerationKey| self.slots.lingering.get(key).is_some_and(|one| one.told.is_some());
        let stays = |one: &&Lingering| one.release.as_ref() == Some(release) && !one.told && !told(&one.key);
        server.beside.lingering.iter().find(stays).map(|one| one.key)
    }

    /// A look at the other slots. What is told to end here reports nothing: whether it was told is seen.
    pub(super) fn tidy_slots(&mut self, turn: &mut Turn<'_>, look: &Observation) {
        let Detection::Seen(server) = &look.detection else { return };
        let mut known = std::mem::take(&mut self.slots.lingering);
        for one in &server.beside.lingering {
            let new = Lingers { since: look.began, told: None };
            let mut lingers = known.remove(&one.key).unwrap_or(new);
            if !turn.gate.draining && self.is_due(turn.now, look.began, one, &lingers) {
                lingers.told = Some(turn.now);
                self.end(turn, one.key);
            }
            self.slots.lingering.insert(one.key, lingers);
        }
        let standing = server.beside.standing();
        standing.filter(|one| one.share > 0).into_iter().for_each(|one| self.slots.share_given(one.key));
        let stray = standing.filter(|_| !self.candidate_is_wanted());
        match stray {
            None => self.slots.stray_told = None,
            Some(stray) if stray.share > 0 => {
                let command = ServerCommand::Share { permille: 0 };
                turn.out.push(Effect::Perform { attempt: self.attempt, command, on: stray.key });
            }
            Some(stray) if self.again(turn.now, self.slots.stray_told) => {
                self.slots.stray_told = Some(turn.now);
                self.end(turn, stray.key);
            }
            Some(_) => {}
        }
    }

    fn end(&self, turn: &mut Turn<'_>, on: GenerationKey) {
        turn.out.push(Effect::Perform { attempt: self.attempt, command: ServerCommand::End, on });
    }

    fn again(&self, now: Moment, told: Option<Moment>) -> bool {
        told.is_none_or(|told| now.since(told) >= self.policy.retry_ms)
    }

    /// Requests that ran at the switch are waited for, each by its own age. Those that came later on a kept connection
    /// are not: a server that is told to end finishes what it has, and closes its connections with the answer.
    fn is_due(&self, now: Moment, began: Moment, one: &Lingering, lingers: &Lingers) -> bool {
        let lasted = began.since(lingers.since);
        let runs_since_then = one.oldest_request_ms.is_some_and(|age| age >= lasted);
        let waits = runs_since_then && lasted < self.policy.wait_in_flight_ms;
        let empty = one.queue_empty_ms >= QUEUE_EMPTY_MS;
        let wanted = one.release.as_ref().is_some_and(|release| self.may_return_to(release));
        let urgent = matches!(self.state.step(), Some(MoveStep::Room(Some(key))) if *key == one.key);
        let due = urgent || !(wanted || waits);
        !one.told && empty && due && self.again(now, lingers.told)
    }

    /// Where the move goes, or may go back to.
    fn may_return_to(&self, release: &ReleaseId) -> bool {
        let goal = self.state.moving().and_then(Move::goal);
        let target = self.state.moving().map(|m| &m.target);
        let known =
            target.into_iter().flat_map(|target| [Some(&target.revision.release), target.from.as_ref()]);
        known.flatten().chain(goal.as_ref().map(|goal| &goal.release)).any(|known| known == release)
    }

    /// A step is about it.
    fn candidate_is_wanted(&self) -> bool {
        self.state.moving().is_some_and(|m| match &m.step {
            MoveStep::TakenUp { .. } => true,
            _ if !m.beside() => false,
            MoveStep::Signal(_) | MoveStep::Switch { .. } | MoveStep::AwaitSwitch { .. } => true,
            MoveStep::Share(_) | MoveStep::Bake(_) | MoveStep::Unshare { .. } => true,
            MoveStep::Verify(verify) => verify.candidate,
            _ => m.back().is_some(),
        })
    }

    /// No move goes on before the server that has lingered longest has ended.
    pub(super) fn make_room(&mut self, turn: &mut Turn<'_>, m: Move, ending: Option<GenerationKey>) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        let lingering = match &look.detection {
            Detection::Seen(server) => &server.beside.lingering[..],
            Detection::Missing => &[],
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => return State::Moving(m),
        };
        let until = turn.now.plus(self.policy.hot_timeout_ms);
        let there = |key| lingering.iter().find(|one| one.key == key);
        match ending {
            None => match lingering.last() {
                Some(longest) => m.then_until(MoveStep::Room(Some(longest.key)), until),
                None => m.then(MoveStep::Look),
            },
            Some(key) if there(key).is_none() => m.then(MoveStep::Look),
            Some(key) if m.over(turn.now) => {
                if there(key).is_some_and(|one| one.told) {
                    self.perform(turn, ServerCommand::Kill, key);
                }
                m.then_until(MoveStep::Room(Some(key)), until)
            }
            Some(_) => {
                self.problem = Some(Problem::new(
                    Reason::LongRequests,
                    "an earlier server still finishes its requests, and there is no room for another one: it was told \
                     to end",
                ));
                State::Moving(m)
            }
        }
    }

    /// What is due in the other slots though nothing happens.
    pub(super) fn slot_deadlines(&self) -> Vec<Moment> {
        self.slots.deadlines(&self.policy)
    }

    /// A server that lingers, or a candidate, ends by our order: what is cut then was cut by us.
    pub(crate) fn ends_servers(&self) -> bool {
        self.slots.lingering.values().any(|one| one.told.is_some())
    }
}
