//! Which move should be under way, where one begins, and when it gives way to a newer one.

use super::*;

impl Deploy {
    /// The move that should be under way, if any.
    fn wanted(&self, now: Moment) -> Option<Target> {
        let (revision, previous) = match (&self.held, &self.desired) {
            (Some((release, _)), _) => (Revision { release: release.clone(), sequence: None }, None),
            (None, Some(pointer)) => (pointer.revision.clone(), pointer.previous.clone()),
            (None, None) => return None,
        };
        let in_place = self.current.as_ref() == Some(&revision.release);
        let trusted = in_place && self.history.verified.as_ref() == Some(&revision.release);
        let astray = self.drift_since.is_some_and(|since| now.since(since) >= self.policy.soak_ms);
        let idle = self.pauses() || self.history.rejection(&revision).is_some() || (trusted && !astray);
        // A pod that has nowhere to go but where it is needs no restart: its server boots by itself.
        let nowhere = self.history.verified.is_none() && in_place;
        let hot_only = matches!(self.state, State::Stranded(_)) && !nowhere;
        let from = self.last_seen.clone().filter(|ran| !self.unwell.contains(ran));
        (!idle).then_some(Target { revision, from, previous, hot_only, stand_in: None })
    }

    /// From rest, begins the wanted move.
    pub(super) fn begin_move(&mut self, now: Moment, gate: Gate) {
        let at_rest = matches!(self.state, State::Steady | State::Stranded(_));
        if !at_rest || gate.draining {
            return;
        }
        if let Some(target) = self.wanted(now).or_else(|| self.stand_in_at_rest()) {
            self.begin_attempt(target, now);
        }
    }

    fn begin_attempt(&mut self, target: Target, now: Moment) {
        self.attempt = Attempt(self.attempt.0 + 1);
        self.problem = None;
        self.drift_since = None;
        self.retry_at = None;
        self.fresh_after = Moment(now.0 + 1);
        self.state = State::Fetching(target);
    }

    /// What the pointer says of the release's archive counts on every way to it.
    pub(super) fn fetch_effect(&self, release: ReleaseId) -> Effect {
        let named = self.desired.as_ref().filter(|pointer| pointer.revision.release == release);
        let sha256 = named.and_then(|pointer| pointer.sha256.clone());
        Effect::Fetch { attempt: self.attempt, release, sha256 }
    }

    /// A newer move ends an attempt that has changed nothing yet.
    pub(super) fn supersede(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.way_back_is_outdated() {
            return self.leave_the_way_back(now, out);
        }
        let target = match &self.state {
            State::Checking(_, Checking::Condemned(_) | Checking::TakenUp { .. }) => return,
            State::Fetching(target) | State::Checking(target, _) => target,
            State::Publishing(target, ..) if self.busy.is_none() => target,
            State::Verifying(target, v) if v.watch.unseen() || v.unwell_until.is_some() => target,
            _ => return,
        };
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
        if wanted.is_none() || known.is_some_and(same) {
            return;
        }
        out.push(self.conclude(target.revision.clone(), DeployResult::Superseded));
        // Whatever the old attempt still does reports under its own number and moves nothing.
        self.attempt = Attempt(self.attempt.0 + 1);
        (self.busy, self.problem, self.retry_at) = (None, None, None);
        self.fresh_after = Moment(now.0 + 1);
        self.state = State::Steady;
    }
}
