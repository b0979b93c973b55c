//! The steps of a move, forward and back: [`Deploy::take`] starts the one that is wanted, and [`Deploy::after`] says
//! which one follows when its effect has ended.
//!
//! ```text
//!   Fetch ─► Look ─► Plan ─► Spread ─► Requests ─► RecordAttempt ─► Flip      check.rs
//!     ─► Assess ─► RecordSignal ─► Signal ─► Verify ─► RecordEnd              restart.rs
//!     ─► FindOld ─► EndOther ─► AwaitEnd ─► Steady                            restart.rs
//!                     beside:    Verify ─► Switch ─► RecordEnd                beside.rs
//!              in steps:    Verify ─► Share ─► Bake ─► … ─► Switch            share.rs
//!
//!   Reject ─► Fetch ─► Look ─► Flip ─► Assess ─► RecordSignal ─► Signal       back.rs
//!     ─► Settle ─► RecordEnd ─► Steady (the release before, the move rejected)
//!           └─ EndOther, Recover, or Stranded
//!   Reject ─► Flip ─► Assess ─► AbortCandidate ─► Assess ─► RecordEnd         beside.rs
//! ```

use super::*;

/// A candidate has no client, so nothing is lost when it is killed; and the next one waits for its end. Some Pumas need
/// `worker_shutdown_timeout` to end when they have never had a request.
const CANDIDATE_STOP_MS: u64 = 3_000;

impl Deploy {
    /// Starts the step that is wanted, if it may start now.
    pub(super) fn take(&mut self, turn: &mut Turn<'_>, m: Move) -> State {
        if !self.may_start(turn, &m) {
            return State::Moving(m);
        }
        match m.step.clone() {
            // With the journal out of reach the way back is still taken.
            MoveStep::Reject(why) => {
                let line = Record::new(RecordEvent::Rejected, m.target.revision.clone());
                self.record(turn, Record { reason: Some(why.reason), ..line });
            }
            MoveStep::Fetch => self.fetch(turn, &m),
            MoveStep::Look if m.back().is_some() => return self.look_before_going_back(turn, m),
            MoveStep::Look => return self.look_before_moving(turn, m),
            MoveStep::TakenUp { signalled, given_up } => {
                return self.take_up_seen(turn, m, signalled, given_up);
            }
            MoveStep::Plan { .. } => self.plan(turn, &m),
            MoveStep::Lacking { images } => return self.wait_for_image(turn, m, images),
            MoveStep::Room(ending) => return self.make_room(turn, m, ending),
            MoveStep::Spread(spread) => return self.wait_for_turn(turn, m, spread),
            MoveStep::Requests => return self.wait_for_requests(turn, m),
            MoveStep::RecordAttempt => {
                if let Some(goal) = m.goal() {
                    let mode = m.beside().then_some(m.mode);
                    self.record(turn, Record { mode, ..Record::new(RecordEvent::Attempt, goal) });
                }
            }
            MoveStep::Flip if self.has_gone(turn, &m) => return m.then(MoveStep::Look),
            MoveStep::Flip => self.flip(turn, &m),
            MoveStep::Assess => return self.assess_step(turn, m),
            MoveStep::RecordSignal(baseline) => {
                let revision = m.on_trial().unwrap_or(m.target.revision.clone());
                let line = Record::new(RecordEvent::Signalled, revision);
                self.record(turn, Record { baseline: Some(baseline), ..line });
            }
            MoveStep::Signal(baseline) => self.signal(turn, &m, &baseline),
            MoveStep::Verify(verify) if m.back().is_some() => return self.try_goal(turn, m, verify),
            MoveStep::Verify(verify) if verify.candidate => return self.verify_candidate(turn, m, verify),
            MoveStep::Verify(verify) => return self.verify(turn, m, verify),
            MoveStep::Share(share) => self.give_share(turn, &share),
            MoveStep::Bake(share) => return self.bake(turn, m, share),
            MoveStep::Unshare { on, .. } => self.perform(turn, ServerCommand::Share { permille: 0 }, on),
            MoveStep::Switch { on, .. } => self.perform(turn, ServerCommand::Switch, on),
            MoveStep::AwaitSwitch { on, proved } => return self.wait_for_switch(turn, m, on, proved),
            MoveStep::AbortCandidate { on, kill: false } => {
                self.perform(turn, ServerCommand::Abort(Mode::Beside), on);
            }
            MoveStep::AbortCandidate { on, kill: true } => self.perform(turn, ServerCommand::Kill, on),
            MoveStep::Settle { settle_by } => return self.settle(turn, m, settle_by),
            MoveStep::Recover(on) => self.perform(turn, ServerCommand::Recover, on),
            MoveStep::RecordEnd => self.record_end(turn, &m),
            MoveStep::FindOld => return self.find_old_master(turn, m),
            MoveStep::EndOther(on) => self.perform(turn, ServerCommand::Commit, on),
            MoveStep::AwaitEnd => return self.old_master_ended(turn, m),
            MoveStep::CommitTakenUp => return self.take_up_commit_seen(turn, m),
        }
        State::Moving(m)
    }

    fn may_start(&self, turn: &Turn<'_>, m: &Move) -> bool {
        let on_volume = matches!(
            m.step,
            MoveStep::Reject(_)
                | MoveStep::Fetch
                | MoveStep::RecordAttempt
                | MoveStep::Flip
                | MoveStep::RecordSignal(_)
                | MoveStep::RecordEnd
        );
        if on_volume && !self.volume_is_free() {
            return false;
        }
        match (&m.direction, &m.step) {
            // The server that serves is left as it is by this, and boots from `current` when it is started anew.
            (Direction::Back(_), MoveStep::Flip) if m.beside() => true,
            (Direction::Back(_), MoveStep::RecordAttempt | MoveStep::Flip | MoveStep::Signal(_)) => {
                !(turn.gate.draining && self.barred(turn, m))
            }
            // Nothing is moved by these, and what is known must not be forgotten.
            (Direction::Back(_), _) | (_, MoveStep::Reject(_) | MoveStep::TakenUp { .. }) => true,
            (Direction::Forward, _) => match m.stage() {
                Stage::Verifying | Stage::Committing => true,
                _ if turn.gate.draining => false,
                Stage::Fetching | Stage::Checking => !self.pauses(),
                _ => true,
            },
        }
    }

    fn assess_step(&mut self, turn: &Turn<'_>, m: Move) -> State {
        match (&m.direction, m.beside()) {
            (Direction::Forward, false) => self.assess(turn, m),
            (Direction::Forward, true) => self.assess_beside(turn, m),
            (Direction::Back(_), false) => self.assess_way_back(turn, m),
            (Direction::Back(_), true) => self.assess_candidate(turn, m),
        }
    }

    fn fetch(&mut self, turn: &mut Turn<'_>, m: &Move) {
        let Some(Revision { release, .. }) = m.goal() else { return };
        // What the pointer says of the release's archive counts on every way to it.
        let named = self.desired.as_ref().filter(|pointer| pointer.revision.release == release);
        let sha256 = named.and_then(|pointer| pointer.sha256.clone());
        self.busy = Some(Step::Fetch);
        turn.out.push(Effect::Fetch { attempt: self.attempt, release, sha256 });
    }

    fn plan(&mut self, turn: &mut Turn<'_>, m: &Move) {
        self.busy = Some(Step::Check);
        turn.out.push(Effect::Check {
            attempt: self.attempt,
            release: m.target.revision.release.clone(),
            running: self.releases.running.clone(),
            trial: self.wants_trial(&m.target),
            beside: self.may_be_beside(&m.target),
        });
    }

    fn flip(&mut self, turn: &mut Turn<'_>, m: &Move) {
        let Some(Revision { release, .. }) = m.goal() else { return };
        // On the way back that was looked at before.
        if m.back().is_some() || self.may_flip_now(turn, m) {
            self.releases.history.put_in_place(&release);
            self.busy = Some(Step::Publish);
            turn.out.push(Effect::Publish { attempt: self.attempt, release });
        }
    }

    /// To exactly the image that was just looked at.
    fn signal(&mut self, turn: &mut Turn<'_>, m: &Move, baseline: &Baseline) {
        let Some(on) = baseline.generations.last().copied() else { return };
        let command = match m.direction {
            Direction::Forward => ServerCommand::Restart(baseline.mode),
            Direction::Back(_) => ServerCommand::Abort(baseline.mode),
        };
        self.perform(turn, command, on);
    }

    fn record_end(&mut self, turn: &mut Turn<'_>, m: &Move) {
        let revision = m.target.revision.clone();
        let line = match &m.direction {
            Direction::Forward => Record::new(RecordEvent::Verified, revision),
            Direction::Back(back) => {
                let release = back.goal.clone().unwrap_or(revision.release);
                let line = Record::new(RecordEvent::Reverted, Revision { release, sequence: None });
                // A newer move says nothing against the one before it.
                let reason = (back.next != Next::Newer).then_some(back.why.reason);
                Record { reason, ..line }
            }
        };
        self.record(turn, line);
    }

    /// The effect of the step has ended: what is wanted next? Nothing that fails on the way back ends it.
    pub(super) fn after(&mut self, turn: &mut Turn<'_>, m: Move, outcome: &Outcome) -> State {
        let failed = match outcome {
            Outcome::Failed(problem) | Outcome::Condemned(problem) => Some(problem),
            _ => None,
        };
        if let Direction::Back(back) = m.direction.clone() {
            return self.after_on_the_way_back(turn, m, back, failed);
        }
        let hot_timeout = turn.now.plus(self.policy.hot_timeout_ms);
        match (m.step.clone(), failed) {
            (MoveStep::Reject(why), _) => self.rejection_written(turn, m, why, failed),
            (MoveStep::Fetch, None) => {
                self.problem = None;
                m.then(MoveStep::Look)
            }
            (MoveStep::Fetch, Some(problem)) => self.fetch_failed(turn, m, problem, outcome),
            (MoveStep::Plan { images }, _) => self.planned(turn, m, images, outcome),
            (MoveStep::RecordAttempt, None) => {
                self.releases.history.try_out(&m.target.revision);
                m.then_until(MoveStep::Flip, hot_timeout)
            }
            (MoveStep::Flip, None) => {
                self.problem = None;
                m.then_until(MoveStep::Assess, hot_timeout)
            }
            (MoveStep::RecordSignal(baseline), None) => m.then(MoveStep::Signal(baseline)),
            (MoveStep::Signal(baseline), None) => self.signalled(turn, m, baseline),
            (MoveStep::Signal(_), Some(problem)) if m.beside() => self.not_started(turn, m, problem),
            (MoveStep::Share(share), _) => Self::share_given(m, share, outcome),
            (MoveStep::Unshare { then, .. }, _) => self.share_taken_back(m, *then),
            (MoveStep::Switch { on, proved }, _) => self.switch_ended(turn, m, (on, proved), outcome),
            (MoveStep::RecordSignal(_) | MoveStep::Signal(_), Some(problem)) => {
                self.restart_failed(turn, m, problem)
            }
            (MoveStep::RecordEnd, None) => m.then(MoveStep::FindOld),
            // The proof stands whether or not it could be written down; the problem says what follows.
            (MoveStep::RecordEnd, Some(problem)) => {
                self.problem = Some(problem.clone());
                m.then(MoveStep::FindOld)
            }
            (MoveStep::EndOther(_), None) => m.then_until(MoveStep::AwaitEnd, hot_timeout),
            (MoveStep::EndOther(_), Some(problem)) => {
                self.problem = Some(problem.clone());
                m.then_until(MoveStep::AwaitEnd, turn.now.plus(self.policy.retry_ms))
            }
            (_, None) => State::Moving(m),
            (_, Some(problem)) => {
                self.retry(turn.now, problem);
                State::Moving(m)
            }
        }
    }

    fn after_on_the_way_back(
        &mut self,
        turn: &mut Turn<'_>,
        m: Move,
        back: Back,
        failed: Option<&Problem>,
    ) -> State {
        let settled = turn.now.plus(self.policy.settle_ms);
        let watched = turn.now.plus(self.timeout_of_last());
        let settle = MoveStep::Settle { settle_by: settled };
        match (m.step.clone(), failed) {
            (MoveStep::Reject(why), _) => {
                if failed.is_some() {
                    self.write_later(turn.now, m.target.revision.clone(), why.reason);
                }
                self.start_back(turn.now, m)
            }
            (MoveStep::Fetch, None) => m.then_until(MoveStep::Look, settled),
            (MoveStep::Fetch, Some(problem)) => self.goal_not_fetched(turn.now, m, back, problem),
            (MoveStep::RecordAttempt, None) => m.on_to(MoveStep::Flip),
            (MoveStep::RecordAttempt, Some(problem)) => {
                self.retry(turn.now, problem);
                State::Moving(Move::forward(m.target, MoveStep::Fetch))
            }
            // One time for both: whatever did not move before the flip need not be waited for again.
            (MoveStep::Flip, None) if m.beside() => m.then(MoveStep::Assess),
            (MoveStep::Flip, None) => m.on_to(MoveStep::Assess),
            (MoveStep::Flip, Some(problem)) if problem.reason == Reason::ReleaseCorrupt => {
                m.then(MoveStep::Fetch)
            }
            (MoveStep::RecordSignal(baseline), _) => m.then(MoveStep::Signal(baseline)),
            (MoveStep::Signal(baseline), None) => {
                self.restart_in_flight = Some(baseline);
                m.then_until(settle, watched)
            }
            // Nothing was sent: the image meant is gone or has changed. Look again.
            (MoveStep::Signal(_), Some(_)) => {
                self.retry_at = Some(turn.now.plus(self.policy.retry_ms));
                m.then_until(MoveStep::Assess, settled)
            }
            (MoveStep::Unshare { then, .. }, _) => self.share_taken_back(m, *then),
            // Whether it ends is seen.
            (MoveStep::AbortCandidate { on, kill: false }, _) => {
                let stop = match self.slots.had_share(on) {
                    // Its clients are waited for, as its own timeouts allow.
                    true => self.policy.hot_timeout_ms,
                    false => self.policy.settle_ms.min(CANDIDATE_STOP_MS),
                };
                m.then_until(MoveStep::Assess, turn.now.plus(stop))
            }
            (MoveStep::AbortCandidate { .. }, _) => m.then_until(MoveStep::Assess, settled),
            (MoveStep::Recover(_) | MoveStep::Switch { .. }, _) => {
                self.restart_in_flight = None;
                m.then_until(settle, watched)
            }
            (MoveStep::EndOther(_), _) => {
                if failed.is_some() {
                    self.retry_at = Some(turn.now.plus(self.policy.retry_ms));
                }
                m.then_until(settle, watched)
            }
            (MoveStep::RecordEnd, _) => self.reverted(turn, (m.target, m.mode == Mode::Beside), back, failed),
            (_, None) => State::Moving(m),
            (_, Some(problem)) => {
                self.retry(turn.now, problem);
                State::Moving(m)
            }
        }
    }
}
