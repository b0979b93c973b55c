//! What an outsider may know of a deploy.

use super::*;

impl Deploy {
    /// `current` is known to lead to a complete release.
    pub(crate) fn current_complete(&self) -> bool {
        self.releases.current.is_some()
    }

    fn moving(&self) -> Option<Moving> {
        let target = self.state.target()?;
        let back_to = self.state.moving().and_then(Move::back).and_then(|back| back.goal.clone());
        Some(Moving { revision: target.revision.clone(), back_to })
    }

    /// The app server may end now: nothing would have to be put right on the volume for it to boot well.
    pub(crate) fn may_end(&self) -> bool {
        let Some(m) = self.state.moving() else { return true };
        match (&m.direction, &m.step) {
            (Direction::Back(_), _) => !m.before_flip(),
            // `current` leads to what is not proved, or may.
            (_, MoveStep::Flip) if m.beside() => self.busy.is_none(),
            (_, MoveStep::TakenUp { .. } | MoveStep::Assess | MoveStep::RecordSignal(_)) => !m.beside(),
            (_, MoveStep::Switch { .. } | MoveStep::AwaitSwitch { .. }) => false,
            (_, MoveStep::Share(_) | MoveStep::Bake(_) | MoveStep::Unshare { .. }) => false,
            (_, MoveStep::Signal(_) | MoveStep::RecordEnd) => false,
            // Its container ends and starts the release again: the verdict waits for that.
            (_, MoveStep::Verify(verify)) => !verify.watch.signalled() || verify.watch.needs_container(),
            _ => true,
        }
    }

    /// What an outsider may know.
    pub(crate) fn view(&self, gate: Gate) -> View {
        let desired = self.desired.as_ref().map(|d| d.revision.clone());
        let running = self.releases.running.clone();
        let as_desired = running.is_some() && desired.as_ref().map(|d| &d.release) == running.as_ref();
        // The pointer may have moved back meanwhile: what ran is on its way to something else all the same.
        let in_sync = as_desired && !self.is_moving();
        let problem = self.explain(gate, desired.as_ref(), in_sync);
        let (rejected, proof) = (self.releases.history.rejected.clone(), self.proof());
        View {
            stage: self.state.stage(),
            attempt: self.attempt,
            desired,
            canary: self.canary(),
            running,
            proof,
            previous: self.releases.previous().cloned(),
            in_sync,
            problem,
            turn: self.turn_at().filter(|_| !gate.draining),
            rejected,
            hold: self.hold(),
            back: self.way_back_for_operators(),
            retry_at: self.retry_at,
            moving: self.moving(),
            sharing: self.sharing(),
        }
    }

    fn canary(&self) -> Option<(Option<u64>, bool)> {
        let desired = self.desired.as_ref()?;
        Some((desired.canary()?.sequence, desired.is_canary()))
    }

    /// The app server is being moved, or `current` for it.
    fn is_moving(&self) -> bool {
        match (self.state.stage(), self.state.step()) {
            (Stage::Verifying, Some(MoveStep::Verify(verify))) => verify.watch.signalled(),
            (Stage::Publishing | Stage::Restarting | Stage::Committing | Stage::Reverting, _) => true,
            _ => false,
        }
    }

    /// The one reason that matters most, if the pod is not simply in sync.
    fn explain(&self, gate: Gate, desired: Option<&Revision>, in_sync: bool) -> Option<Problem> {
        let problem = self.stand_in_problem().or_else(|| self.problem.clone());
        if let Some(problem) = problem.filter(|problem| !self.is_unborn(problem)) {
            return Some(problem);
        }
        if gate.draining {
            return Some(Problem::new(Reason::Draining, "the pod is about to end: no deploy starts"));
        }
        if self.contradicted() && self.state == State::Steady {
            return Some(Problem::new(
                Reason::ReleaseMismatch,
                "verify.url names another release than the one whose directory the app server works in: nothing is \
                 done about it before the next move",
            ));
        }
        if self.pointer_problem.is_some() {
            return self.pointer_problem.clone();
        }
        if let Some(hold) = self.hold() {
            return Some(hold.problem());
        }
        self.rejected_problem(desired.filter(|_| !in_sync)?)
    }

    /// No app server can run before the first release is in place: what keeps that out is the reason.
    fn is_unborn(&self, problem: &Problem) -> bool {
        let missing = problem.reason == Reason::AppServerMissing;
        missing && self.releases.current.is_none() && self.pointer_problem.is_some()
    }

    pub(super) fn rejected_problem(&self, desired: &Revision) -> Option<Problem> {
        let why = self.releases.history.rejection(desired)?;
        let words = self.condemned.as_ref().filter(|(revision, _)| revision == desired);
        let words = words.map(|(_, words)| format!(": {words}")).unwrap_or_default();
        let message = format!(
            "{desired} failed in this pod ({why}{words}) and is not tried again: promote another release, or `pitstop sync --retry`"
        );
        Some(Problem::new(Reason::Rejected, message))
    }

    /// What keeps the desired release out, while another one is put in place for it.
    fn stand_in_problem(&self) -> Option<Problem> {
        let target = &self.state.moving().filter(|m| m.back().is_none())?.target;
        let why = &target.stand_in.as_ref()?.why;
        let message = format!("{}; until then {} stands in", why.message, target.revision.release);
        Some(Problem::new(why.reason, message))
    }
}
