//! A pod's first release does not come to health. There is nothing good to compare it with: what the health path
//! depends on may be ill, and would be ill for any other release as well. So nothing is rejected. The pod waits
//! where it is, then tries another release: if that is not well either, it goes back to the desired one and
//! waits longer; if it is, that is what runs from then on, and the desired one has to fail beside it.

use super::*;

impl Deploy {
    /// Nothing was proved in this pod, and nothing ran before this move.
    pub(super) fn newborn(&self, target: &Target) -> bool {
        self.releases.history.verified.is_none() && target.from.is_none()
    }

    /// How long it is waited this time, and longer the next time.
    fn growing_pause(&mut self) -> u64 {
        let Policy { unwell_ms, unwell_max_ms, .. } = self.policy;
        let pause = unwell_ms.saturating_mul(1 << self.trials.min(16)).min(unwell_max_ms);
        self.trials += u32::from(pause < unwell_max_ms);
        pause
    }

    /// The health path of the first release fails.
    pub(super) fn unwell(&mut self, turn: &Turn<'_>, target: Target, until: Option<Moment>) -> State {
        let release = target.revision.release.clone();
        let why = Problem::new(
            Reason::ProbeFailed,
            format!(
                "verify.url does not answer well from {release}. Nothing was proved in this pod before, so {release} \
                 is not rejected: the pod waits for it. Check what the health path depends on"
            ),
        );
        self.restart_in_flight = None;
        self.releases.unwell.insert(release.clone());
        self.problem = Some(why.clone());
        if target.stand_in.is_some() {
            self.retry_at = Some(turn.now.plus(self.policy.retry_ms));
            return self.without_stand_in(target);
        }
        let until = match until {
            Some(until) => until,
            None => turn.now.plus(self.growing_pause()),
        };
        let well_elsewhere = self.fleet.as_ref().is_some_and(|fleet| fleet.well.contains(&target.revision));
        let tries = turn.now >= until && !turn.gate.draining && !well_elsewhere;
        if tries && self.way_back(&target, &[]).is_some() {
            return self.begin_trial(turn.now, target, why);
        }
        let watch = Watch::new(release, None, None);
        let verify = Verify { watch, candidate: false, ask_again: None, unwell_until: Some(until) };
        State::Moving(Move::forward(target, MoveStep::Verify(verify)))
    }

    /// Puts another release in place of one that nothing was found against.
    pub(super) fn begin_trial(&mut self, now: Moment, target: Target, why: Problem) -> State {
        let mut state = self.begin_revert(now, target, why, false);
        if let State::Moving(Move { direction: Direction::Back(back), .. }) = &mut state {
            back.trial = true;
        }
        state
    }

    /// The other release has come up. Is it well?
    pub(super) fn try_goal(&mut self, turn: &Turn<'_>, m: Move, mut verify: Verify) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        let verdict = verify.watch.observe(turn.now, look, &self.policy);
        match (verdict, m.goal()) {
            (Verdict::Proven, Some(Revision { release: goal, .. })) => {
                self.goal_proved(&goal);
                self.releases.unwell.remove(&goal);
                self.trials = 0;
                m.then(MoveStep::RecordEnd)
            }
            (Verdict::Failed(_), _) => self.leave_trial(m),
            _ if verify.watch.expired(turn.now).is_some() => self.leave_trial(m),
            _ => m.then(MoveStep::Verify(verify)),
        }
    }

    /// The other release is no better: back to the desired one, which nothing was found against.
    pub(super) fn leave_trial(&mut self, m: Move) -> State {
        self.releases.unwell.extend(m.goal().map(|goal| goal.release));
        self.attempt = Attempt(self.attempt.0 + 1);
        self.restart_in_flight = None;
        State::Moving(Move::forward(Target { hot_only: true, ..m.target }, MoveStep::Fetch))
    }

    /// Neither the first release nor another one came up: what keeps them both down is not the release's. So it
    /// is tried again, after pauses that grow.
    pub(super) fn nothing_came_up(&mut self, now: Moment, target: &Target) {
        if self.newborn(target) {
            self.releases.history.lift(&target.revision);
            self.retry_at = Some(now.plus(self.growing_pause()));
        }
    }

    /// What the other pods say. A move that was rejected at this pod's birth, and is well elsewhere, is tried
    /// once more: if it fails again, it does so beside a release that is well.
    pub(super) fn read_fleet(&mut self, fleet: &Fleet) {
        if let Some(desired) = self.desired.as_ref().map(|pointer| &pointer.revision)
            && self.releases.history.rejected_at_birth(desired)
            && self.releases.history.verified.is_some()
            && fleet.well.contains(desired)
        {
            self.releases.history.lift(desired);
        }
        self.fleet = Some(fleet.clone());
    }
}
