//! A pod's first release does not come to health. There is nothing good to compare it with: what the health path
//! depends on may be ill, and would be ill for any other release as well. So nothing is rejected. The pod waits
//! where it is, then tries another release: if that is not well either, it goes back to the desired one and
//! waits longer; if it is, that is what runs from then on, and the desired one has to fail beside it.

use super::*;

impl Deploy {
    /// Nothing was proved in this pod, and nothing ran before this move.
    pub(super) fn newborn(&self, target: &Target) -> bool {
        self.history.verified.is_none() && target.from.is_none()
    }

    /// How long it is waited this time, and longer the next time.
    fn growing_pause(&mut self) -> u64 {
        let Policy { unwell_ms, unwell_max_ms, .. } = self.policy;
        let pause = unwell_ms.saturating_mul(1 << self.trials.min(16)).min(unwell_max_ms);
        self.trials += u32::from(pause < unwell_max_ms);
        pause
    }

    /// The health path of the first release fails.
    pub(super) fn unwell(&mut self, now: Moment, gate: Gate, target: Target, until: Option<Moment>) {
        let release = target.revision.release.clone();
        let why = Problem::new(
            Reason::ProbeFailed,
            format!(
                "verify.url does not answer well from {release}. Nothing was proved in this pod before, so {release} \
                 is not rejected: the pod waits for it. Check what the health path depends on"
            ),
        );
        self.restart_in_flight = None;
        self.unwell.insert(release.clone());
        self.problem = Some(why.clone());
        if target.stand_in.is_some() {
            self.retry_at = Some(now.plus(self.policy.retry_ms));
            self.state = self.without_stand_in(target);
            return;
        }
        let until = match until {
            Some(until) => until,
            None => now.plus(self.growing_pause()),
        };
        let well_elsewhere = self.fleet.as_ref().is_some_and(|fleet| fleet.well.contains(&target.revision));
        let tries =
            now >= until && !gate.draining && !well_elsewhere && self.way_back(&target, &[]).is_some();
        if tries {
            return self.begin_trial(now, target, why);
        }
        let watch = Watch::new(release, None, None);
        self.state =
            State::Verifying(target, Verifying { watch, ask_again: None, unwell_until: Some(until) });
    }

    /// Puts another release in place of one that nothing was found against.
    pub(super) fn begin_trial(&mut self, now: Moment, target: Target, why: Problem) {
        self.begin_revert(now, target, why, false);
        if let State::Reverting(_, revert) = &mut self.state {
            revert.trial = true;
        }
    }

    /// The other release has come up. Is it well?
    pub(super) fn try_goal(
        &mut self,
        now: Moment,
        target: Target,
        mut revert: Revert,
        mut watch: Watch,
        look: Option<&Observation>,
    ) {
        let verdict = look.map_or(verdict::Verdict::Undecided, |look| watch.observe(now, look, &self.policy));
        let over = look.is_some() && watch.expired(now).is_some();
        match (verdict, &revert.goal) {
            (verdict::Verdict::Proven, Some(goal)) => {
                self.prove_goal(&goal.clone());
                self.unwell.remove(goal);
                self.trials = 0;
                revert.step = RevertStep::RecordReverted;
            }
            (verdict::Verdict::Failed(_), _) => return self.leave_trial(target, revert.goal),
            _ if over => return self.leave_trial(target, revert.goal),
            _ => revert.step = RevertStep::Try(Box::new(watch)),
        }
        self.state = State::Reverting(target, revert);
    }

    /// The other release is no better: back to the desired one, which nothing was found against.
    pub(super) fn leave_trial(&mut self, target: Target, goal: Option<ReleaseId>) {
        self.unwell.extend(goal);
        self.attempt = Attempt(self.attempt.0 + 1);
        self.restart_in_flight = None;
        self.state = State::Fetching(Target { hot_only: true, ..target });
    }

    /// Neither the first release nor another one came up: what keeps them both down is not the release's. So it
    /// is tried again, after pauses that grow.
    pub(super) fn nothing_came_up(&mut self, now: Moment, target: &Target) {
        if self.newborn(target) {
            self.history.lift(&target.revision);
            self.retry_at = Some(now.plus(self.growing_pause()));
        }
    }

    /// What the other pods say. A move that was rejected at this pod's birth, and is well elsewhere, is tried
    /// once more: if it fails again, it does so beside a release that is well.
    pub(super) fn read_fleet(&mut self, fleet: &Fleet) {
        if let Some(desired) = self.desired.as_ref().map(|pointer| &pointer.revision)
            && self.history.rejected_at_birth(desired)
            && self.history.verified.is_some()
            && fleet.well.contains(desired)
        {
            self.history.lift(desired);
        }
        self.fleet = Some(fleet.clone());
    }
}
