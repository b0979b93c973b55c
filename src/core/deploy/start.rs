//! Which move should be under way, where one starts, and when it gives way to a newer one.

use super::*;

impl Deploy {
    /// The move that should be under way, if any.
    fn wanted(&self, now: Moment) -> Option<Target> {
        let (revision, previous) = match (&self.held, &self.desired) {
            (Some((release, _)), _) => (Revision { release: release.clone(), sequence: None }, None),
            (None, Some(pointer)) => (pointer.revision.clone(), pointer.previous.clone()),
            (None, None) => return None,
        };
        let in_place = self.releases.is_current(&revision.release);
        let trusted = in_place && self.releases.is_verified(&revision.release);
        let drifts = self.drift_since.is_some_and(|since| now.since(since) >= self.policy.soak_ms);
        let rejected = self.releases.history.rejection(&revision).is_some();
        if self.pauses() || rejected || (trusted && !drifts) {
            return None;
        }
        // A pod that has nowhere to go but where it is needs no restart: its server boots by itself.
        let nowhere = self.releases.history.verified.is_none() && in_place;
        let hot_only = matches!(self.state, State::Stranded(_)) && !nowhere;
        let from = self.releases.last_seen.clone().filter(|ran| !self.releases.unwell.contains(ran));
        Some(Target { previous, hot_only, ..Target::new(revision, from) })
    }

    /// From rest, starts the wanted move.
    pub(super) fn start_move(&mut self, turn: &Turn<'_>) {
        if !self.state.at_rest() || turn.gate.draining {
            return;
        }
        if let Some(target) = self.wanted(turn.now).or_else(|| self.stand_in_at_rest()) {
            self.start_attempt(target, turn.now);
        }
    }

    fn start_attempt(&mut self, target: Target, now: Moment) {
        self.attempt = Attempt(self.attempt.0 + 1);
        self.problem = None;
        self.drift_since = None;
        self.retry_at = None;
        self.fresh_after = Moment(now.0 + 1);
        self.state = State::Moving(Move::forward(target, MoveStep::Fetch));
    }

    /// A newer move ends an attempt that has changed nothing yet.
    pub(super) fn supersede(&mut self, turn: &mut Turn<'_>) {
        if self.way_back_is_outdated() {
            return self.leave_the_way_back(turn);
        }
        let Some(target) = self.state.moving().filter(|m| self.gives_way(m)).map(|m| m.target.clone()) else {
            return;
        };
        if !self.is_outdated(&target) {
            return;
        }
        self.conclude(turn, target.revision, DeployResult::Superseded);
        // Whatever the old attempt still does reports under its own number and moves nothing.
        self.attempt = Attempt(self.attempt.0 + 1);
        (self.busy, self.problem, self.retry_at) = (None, None, None);
        self.fresh_after = Moment(turn.now.0 + 1);
        self.state = State::Steady;
    }

    /// Another move is wanted than this one.
    pub(super) fn is_outdated(&self, target: &Target) -> bool {
        let wanted = self
            .held
            .as_ref()
            .map(|(release, _)| release)
            .or(self.desired.as_ref().map(|d| &d.revision.release));
        let sequence =
            if self.held.is_some() { None } else { self.desired.as_ref().and_then(|d| d.revision.sequence) };
        // A stand-in gives way to a move that was not known when it began.
        let known = match &target.stand_in {
            Some(stand_in) => stand_in.desired.as_ref(),
            None => Some(&target.revision),
        };
        let same = |known: &Revision| wanted == Some(&known.release) && sequence == known.sequence;
        wanted.is_some() && !known.is_some_and(same)
    }

    fn gives_way(&self, m: &Move) -> bool {
        match (m.stage(), &m.step) {
            (_, MoveStep::Reject(_) | MoveStep::TakenUp { .. }) => false,
            (Stage::Fetching | Stage::Checking, _) => true,
            (Stage::Publishing, _) => self.busy.is_none(),
            (Stage::Verifying, MoveStep::Verify(verify)) => {
                verify.watch.unseen() || verify.unwell_until.is_some()
            }
            _ => false,
        }
    }
}
