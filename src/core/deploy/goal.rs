//! Where a way back leads.

use super::*;

impl Deploy {
    /// What ran here, or was proved here, is on the volume.
    pub(super) fn first_step(&self, now: Moment, target: &Target, goal: Option<&ReleaseId>) -> RevertStep {
        let here = [&target.from, &self.history.verified, &self.history.previous];
        if goal.is_none() || here.iter().any(|known| known.as_ref() == goal) {
            self.look_first(now)
        } else {
            RevertStep::Fetch
        }
    }

    pub(super) fn look_first(&self, now: Moment) -> RevertStep {
        RevertStep::Look { until: now.plus(self.policy.settle_ms) }
    }

    /// The best release to go back to: what ran, then what was verified here, then what the
    /// pointer named before, then what another pod of the volume has proved, then the image's code.
    /// Never one that failed, here or in the fleet. What somebody rolled back from comes last of all, and only if it
    /// was good enough here: it is better than nothing.
    pub(super) fn way_back(&self, target: &Target, unfetched: &[(ReleaseId, bool)]) -> Option<ReleaseId> {
        let fallback = self.policy.fallback.then(ReleaseId::fallback);
        let named = self.desired.as_ref().and_then(|pointer| pointer.previous.as_ref());
        let here = [target.from.as_ref(), self.history.verified.as_ref(), self.history.previous.as_ref()];
        let here = here.into_iter().flatten();
        let there = [target.previous.as_ref(), named];
        let there = there.into_iter().flatten().chain(&self.neighbours.verified);
        let rolled_back = |release: &&ReleaseId| self.rolled_back(release);
        let there = there.filter(|release| !self.rejected_elsewhere(release) && !rolled_back(release));
        let wanted = here.clone().filter(|release| !rolled_back(release)).chain(there);
        let all = wanted.chain(fallback.as_ref()).chain(here.filter(rolled_back));
        let usable = |r: &&ReleaseId| {
            **r != target.revision.release
                && !self.history.distrusts(r)
                && unfetched.iter().all(|(id, _)| id != *r)
        };
        all.filter(usable).map(ReleaseId::clone).next()
    }

    /// Somebody rolled back from it, and nobody has promoted it again.
    pub(super) fn rolled_back(&self, release: &ReleaseId) -> bool {
        let pointer = self.desired.as_ref();
        pointer.is_some_and(|pointer| pointer.rolled_back.contains(release))
            && !self.mutated(Mutation::TakesAnyWayBack)
    }

    /// It failed in another pod.
    pub(super) fn rejected_elsewhere(&self, release: &ReleaseId) -> bool {
        let fleet = self.fleet.as_ref().is_some_and(|fleet| fleet.distrusts(release));
        self.neighbours.failed.contains(release) || (fleet && !self.mutated(Mutation::TakesAnyWayBack))
    }

    /// The goal could not be fetched: the next best one, or the same again later.
    pub(super) fn goal_not_fetched(
        &mut self,
        now: Moment,
        target: &Target,
        revert: &mut Revert,
        problem: &Problem,
    ) {
        let for_ever = matches!(problem.reason, Reason::ReleaseUnknown | Reason::ReleaseCorrupt);
        revert.unfetched.extend(revert.goal.take().map(|goal| (goal, for_ever)));
        revert.goal = self.way_back(target, &revert.unfetched);
        if revert.goal.is_none() && revert.trial {
            return;
        }
        if revert.goal.is_none() {
            revert.unfetched.retain(|(_, for_ever)| *for_ever);
            revert.goal = self.way_back(target, &revert.unfetched);
            self.retry(now, problem);
        }
        revert.step = self.first_step(now, target, revert.goal.as_ref());
    }

    /// As long as the way back only waits for its goal, a newer move may be the better way out.
    pub(super) fn way_back_is_outdated(&self) -> bool {
        let State::Reverting(target, Revert { step: RevertStep::Fetch, .. }) = &self.state else {
            return false;
        };
        let desired = self.desired.as_ref().map(|pointer| &pointer.revision);
        let new =
            |desired: &Revision| *desired != target.revision && self.history.rejection(desired).is_none();
        self.held.is_none() && !self.paused && desired.is_some_and(new)
    }

    pub(super) fn leave_the_way_back(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if let State::Reverting(target, revert) = self.state.clone() {
            self.strand(now, target, revert.why, out);
            self.attempt = Attempt(self.attempt.0 + 1);
            (self.busy, self.retry_at) = (None, None);
            self.fresh_after = Moment(now.0 + 1);
        }
    }
}
