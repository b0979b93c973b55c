//! The way back, of its own accord and without a human.
//!
//! ```text
//!   Reject ─► Fetch ─► (the next best)   where it may not be on the volume
//!      │        ▼
//!      └────► Look ─► Flip ─► Assess ─► RecordSignal ─► Signal ─► Watch ─► RecordReverted ─► Steady (old, rejected)
//!              │                │  already back ────────────────┬─▲
//!              │                └─ gone: its container starts it ┘ │ nothing serves in time
//!              └─ nowhere to go ─► Stranded ◄── Watch again ◄── Recover
//! ```

use super::*;

/// The way back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Revert {
    pub why: Problem,
    /// The move itself failed, and is not to be tried again.
    reject: bool,
    /// Where to; `None` when no release is left to be trusted.
    pub goal: Option<ReleaseId>,
    /// The master was already ended once to get out.
    killed: bool,
    /// A signal that left no trace in all its time was already taken for lost once.
    repeated: bool,
    /// The last look saw nothing that serves. One look alone may have missed a worker.
    empty: bool,
    /// Nothing was found against the release: the goal has to show that it is better.
    pub trial: bool,
    /// Goals that could not be fetched, and whether that is for ever.
    pub unfetched: Vec<(ReleaseId, bool)>,
    pub step: RevertStep,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum RevertStep {
    Reject,
    /// The goal may not be on the volume.
    Fetch,
    Look {
        until: Moment,
    },
    /// A trial is an attempt like any other: first the journal.
    Intend {
        until: Moment,
    },
    Flip {
        until: Moment,
    },
    Assess {
        until: Moment,
    },
    RecordSignal(Baseline),
    Signal(Baseline),
    /// An image that nothing serves from and that has not changed by `settle_by` is hung.
    Watch {
        until: Moment,
        settle_by: Moment,
    },
    /// The goal is on trial, and has come up.
    Try(Box<Watch>),
    Recover(GenerationKey),
    /// The goal came up beside what failed, which goes now.
    EndFailed(GenerationKey),
    RecordReverted,
}

impl Revert {
    /// `current` leads back, or there is nowhere to go back to.
    pub(super) fn flipped(&self) -> bool {
        !matches!(
            self.step,
            RevertStep::Reject
                | RevertStep::Fetch
                | RevertStep::Look { .. }
                | RevertStep::Intend { .. }
                | RevertStep::Flip { .. }
        )
    }

    pub(super) fn deadlines(&self, policy: &Policy) -> Vec<Moment> {
        match &self.step {
            RevertStep::Look { until } | RevertStep::Assess { until } => vec![*until],
            RevertStep::Watch { until, settle_by } => vec![*until, *settle_by],
            RevertStep::Try(watch) => watch.deadlines(policy),
            _ => vec![],
        }
    }

    /// The release whose health decides.
    pub(super) fn on_trial(&self) -> Option<ReleaseId> {
        self.goal.clone().filter(|_| self.trial)
    }
}

impl Deploy {
    /// Begins the way back. With `reject` the move is never tried again.
    pub(super) fn begin_revert(&mut self, now: Moment, target: Target, why: Problem, reject: bool) {
        if reject {
            self.history.reject(&target.revision, why.reason);
            let words = self.evidence(why.reason);
            self.condemned = words.map(|words| (target.revision.clone(), words.clone()));
        }
        self.raised = None;
        self.running = None;
        self.problem = Some(why.clone());
        let goal = self.way_back(&target, &[]);
        let step = if reject { RevertStep::Reject } else { self.first_step(now, &target, goal.as_ref()) };
        let (killed, repeated, empty, trial, unfetched) = (false, false, false, false, Vec::new());
        let revert = Revert { why, reject, goal, killed, repeated, empty, trial, unfetched, step };
        self.state = State::Reverting(target, revert);
    }

    /// The journal already has the rejection.
    pub(super) fn rejection_is_on_disk(&mut self, now: Moment) {
        if let State::Reverting(target, mut revert) = self.state.clone() {
            revert.step = self.first_step(now, &target, revert.goal.as_ref());
            self.state = State::Reverting(target, revert);
        }
    }

    fn revert_timeout(&self) -> u64 {
        self.restart_in_flight.as_ref().map_or(self.policy.hot_timeout_ms, |b| self.timeout_of(b))
    }

    pub(super) fn advance_revert(
        &mut self,
        now: Moment,
        gate: Gate,
        look: Option<&Observation>,
        out: &mut Vec<Effect>,
    ) {
        let State::Reverting(target, mut revert) = self.state.clone() else { return };
        let begins = revert.trial && !revert.flipped();
        let barred = self.barred(gate, look) || (begins && gate.draining);
        match revert.step.clone() {
            RevertStep::Reject if self.flips_first(&revert) => revert.step = self.look_first(now),
            RevertStep::Fetch => {
                if let (true, Some(goal)) = (self.volume_is_free(), revert.goal.clone()) {
                    self.busy = Some(Step::Fetch);
                    out.push(self.fetch_effect(goal));
                }
            }
            RevertStep::Reject => {
                // With the journal out of reach the way back is still taken.
                if self.volume_is_free() {
                    let extra = Extra::Reason(revert.why.reason);
                    out.push(self.record(RecordEvent::Rejected, target.revision.clone(), extra));
                }
            }
            RevertStep::Look { until } => {
                return self.revert_look(now, target, revert, until, look, barred, out);
            }
            RevertStep::Intend { .. } | RevertStep::Flip { .. } | RevertStep::Signal(_)
                if gate.draining && barred => {}
            RevertStep::Intend { .. } => {
                if let (true, Some(goal)) = (self.volume_is_free(), revert.goal.clone()) {
                    let goal = Revision { release: goal, sequence: None };
                    out.push(self.record(RecordEvent::Attempt, goal, Extra::None));
                }
            }
            RevertStep::Flip { .. } => {
                if let (true, Some(goal)) = (self.volume_is_free(), revert.goal.clone()) {
                    self.busy = Some(Step::Publish);
                    out.push(Effect::Publish { attempt: self.attempt, release: goal });
                }
            }
            RevertStep::Assess { until } => self.revert_assess(now, &mut revert, until, look, barred),
            RevertStep::RecordSignal(baseline) => {
                if self.volume_is_free() {
                    let extra = Extra::Baseline(baseline);
                    let goal = revert.on_trial().map(|release| Revision { release, sequence: None });
                    let revision = goal.unwrap_or(target.revision.clone());
                    out.push(self.record(RecordEvent::Signalled, revision, extra));
                }
            }
            RevertStep::Signal(baseline) => self.revert_signal(&baseline, out),
            RevertStep::Watch { until, settle_by } => {
                return self.revert_watch(now, target, revert, (until, settle_by), look, barred, out);
            }
            RevertStep::Try(watch) => return self.try_goal(now, target, revert, *watch, look),
            RevertStep::Recover(on) => {
                out.push(self.perform(ServerCommand::Recover, on));
            }
            RevertStep::EndFailed(on) => {
                out.push(self.perform(ServerCommand::Commit, on));
            }
            RevertStep::RecordReverted => {
                if self.volume_is_free() {
                    let release = revert.goal.clone().unwrap_or(target.revision.release.clone());
                    let back = Revision { release, sequence: None };
                    out.push(self.record(RecordEvent::Reverted, back, Extra::Reason(revert.why.reason)));
                }
            }
        }
        self.state = State::Reverting(target, revert);
    }

    fn flips_first(&self, revert: &Revert) -> bool {
        self.mutated(Mutation::RejectAfterFlip) && self.current != revert.goal
    }

    /// While the pod drains, what serves is left alone; only when nothing does may it be mended.
    fn barred(&self, gate: Gate, look: Option<&Observation>) -> bool {
        let serving = look.is_none_or(|l| verdict::any_booted(&l.detection));
        let forbidden = self.mutated(Mutation::RevertForbiddenInDrain);
        gate.answered || (gate.draining && (serving || forbidden))
    }

    #[expect(clippy::too_many_arguments, reason = "one step of the way back, with all that it looks at")]
    fn revert_look(
        &mut self,
        now: Moment,
        target: Target,
        mut revert: Revert,
        until: Moment,
        look: Option<&Observation>,
        barred: bool,
        out: &mut Vec<Effect>,
    ) {
        if revert.goal.is_none() {
            // What the pointer named before may be the only way, and has not been read yet.
            if self.desired.is_none() && self.pointer_problem.is_none() {
                return;
            }
            revert.goal = self.way_back(&target, &revert.unfetched);
            if revert.goal.is_none() {
                return self.strand(now, target, revert.why, out);
            }
            revert.step = self.first_step(now, &target, revert.goal.as_ref());
            self.state = State::Reverting(target, revert);
            return;
        }
        let safe = look.is_some_and(|l| self.may_flip(&l.detection) || now >= until);
        if safe && !barred && self.volume_is_free() {
            revert.step =
                if revert.trial { RevertStep::Intend { until } } else { RevertStep::Flip { until } };
        }
        self.state = State::Reverting(target, revert);
    }

    /// After the flip: is a signal needed, and can one be sent?
    fn revert_assess(
        &mut self,
        now: Moment,
        revert: &mut Revert,
        until: Moment,
        look: Option<&Observation>,
        barred: bool,
    ) {
        let watch = RevertStep::Watch { until: now.plus(self.revert_timeout()), settle_by: now };
        let Some(look) = look else { return };
        let Detection::Seen(server) = &look.detection else {
            if look.detection == Detection::Missing || now >= until {
                revert.step = watch;
            }
            return;
        };
        let Some(goal) = &revert.goal else { return };
        let back = server.generations.iter().all(|g| verdict::on_release(g, goal) && !g.processes.is_empty());
        if back && self.settled(server) {
            revert.step = watch;
        } else if let (false, Some(_)) = (barred || back, self.signalable(server)) {
            let mode = self.restart_in_flight.as_ref().map_or(Mode::Hot, |b| b.mode);
            revert.step = RevertStep::RecordSignal(self.baseline(now, mode, server, true));
        } else if now >= until {
            revert.step = watch;
        }
    }

    /// The restart that we last asked for has visibly gone through.
    fn settled(&self, server: &AppServer) -> bool {
        let Some(baseline) = &self.restart_in_flight else { return true };
        match baseline.mode {
            Mode::Hot => {
                baseline.generations.last().is_none_or(|old| server.generations.iter().all(|g| g.key != *old))
            }
            Mode::Phased => server
                .generations
                .iter()
                .flat_map(|g| &g.processes)
                .all(|p| !baseline.processes.contains(&p.key)),
        }
    }

    /// The image is on its way: another than the one we signalled, and in the right place.
    fn moved_on(&self, server: &AppServer, revert: &Revert) -> bool {
        let in_place = |goal| server.generations.iter().all(|g| verdict::on_release(g, goal));
        self.settled(server) && revert.goal.as_ref().is_some_and(in_place)
    }

    fn revert_signal(&mut self, baseline: &Baseline, out: &mut Vec<Effect>) {
        let Some(on) = baseline.generations.last().copied() else { return };
        out.push(self.perform(ServerCommand::Abort(baseline.mode), on));
    }

    #[expect(clippy::too_many_arguments, reason = "one step of the way back, with all that it looks at")]
    fn revert_watch(
        &mut self,
        now: Moment,
        target: Target,
        mut revert: Revert,
        (until, settle_by): (Moment, Moment),
        look: Option<&Observation>,
        barred: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(look) = look else { return };
        let empty = !verdict::any_booted(&look.detection);
        let twice_empty = revert.empty && empty;
        revert.empty = empty;
        self.state = State::Reverting(target.clone(), revert.clone());
        if let (Detection::Seen(server), Some(goal)) = (&look.detection, &revert.goal) {
            let home = verdict::settled_on(server).as_ref() == Some(goal);
            if home && (self.settled(server) || now >= until) {
                if revert.trial {
                    let until = Some(now.plus(self.policy.hot_timeout_ms));
                    revert.step = RevertStep::Try(Box::new(Watch::new(goal.clone(), None, until)));
                } else {
                    self.prove_goal(goal);
                    revert.step = RevertStep::RecordReverted;
                }
                self.state = State::Reverting(target, revert);
                return;
            }
        }
        if let (Detection::Seen(server), Some(goal)) = (&look.detection, &revert.goal)
            && let [.., _, newest] = &server.generations[..]
            && verdict::whole(newest)
            && verdict::on_release(newest, goal)
        {
            revert.step = RevertStep::EndFailed(newest.key);
            self.state = State::Reverting(target, revert);
            return;
        }
        let hung =
            matches!(&look.detection, Detection::Seen(s) if !self.moved_on(s, &revert)) && now >= settle_by;
        if now < until && !hung {
            return;
        }
        match &look.detection {
            Detection::Seen(server) if empty && self.still_ends(server) && look.traffic.at_work() => {
                if now >= until {
                    self.strand(now, target, ends_its_requests(revert.why.reason), out);
                }
            }
            Detection::Seen(server) if empty && !revert.killed => {
                let may_end = twice_empty && !barred;
                let Some(newest) = server.generations.last().filter(|_| may_end) else { return };
                revert.killed = true;
                revert.step = RevertStep::Recover(newest.key);
                self.state = State::Reverting(target, revert);
            }
            _ if now < until => {}
            Detection::Seen(server) if !revert.repeated && !self.settled(server) => {
                revert.repeated = true;
                revert.step = RevertStep::Assess { until: now.plus(self.policy.settle_ms) };
                self.restart_in_flight = None;
                self.state = State::Reverting(target, revert);
            }
            Detection::Unclear => {}
            _ => self.strand(now, target, revert.why, out),
        }
    }

    /// The image that was told to restart, by us or by others, is still there: it ends what it has begun, or hangs
    /// in that.
    fn still_ends(&self, server: &AppServer) -> bool {
        let [only] = &server.generations[..] else { return false };
        let as_it_was = |told: &Baseline| {
            let old = only.processes.iter().all(|p| told.processes.contains(&p.key));
            old && told.mode == Mode::Hot && told.generations.contains(&only.key)
        };
        !only.processes.is_empty() && self.restart_in_flight.as_ref().is_none_or(as_it_was)
    }

    pub(super) fn prove_goal(&mut self, goal: &ReleaseId) {
        (self.running, self.last_seen) = (Some(goal.clone()), Some(goal.clone()));
        self.history.verify(goal);
        self.restart_in_flight = None;
    }

    pub(super) fn strand(&mut self, now: Moment, target: Target, why: Problem, out: &mut Vec<Effect>) {
        if let State::Reverting(_, Revert { trial: true, goal, .. }) = &self.state {
            let goal = goal.clone();
            return self.leave_trial(target, goal);
        }
        self.nothing_came_up(now, &target);
        out.push(self.conclude(target.revision.clone(), DeployResult::Stranded(why.clone())));
        self.problem = Some(why);
        // Whatever was asked for has had all its time: the next move must not wait for it.
        self.restart_in_flight = None;
        self.state = State::Stranded(target);
    }

    fn flip_ended(
        &mut self,
        now: Moment,
        until: Moment,
        reject: bool,
        failed: Option<&Problem>,
    ) -> RevertStep {
        match failed {
            Some(problem) if problem.reason == Reason::ReleaseCorrupt => RevertStep::Fetch,
            Some(problem) => {
                self.retry(now, problem);
                RevertStep::Flip { until }
            }
            None if reject && self.mutated(Mutation::RejectAfterFlip) => RevertStep::Reject,
            None => RevertStep::Assess { until },
        }
    }

    /// An effect of the way back has ended. Nothing that fails here ends the way back.
    pub(super) fn revert_ended(
        &mut self,
        now: Moment,
        target: Target,
        mut revert: Revert,
        outcome: &Outcome,
        out: &mut Vec<Effect>,
    ) -> State {
        let failed = match outcome {
            Outcome::Failed(problem) | Outcome::Condemned(problem) => Some(problem),
            _ => None,
        };
        let until = now.plus(self.policy.settle_ms);
        let watch = RevertStep::Watch { until: now.plus(self.revert_timeout()), settle_by: until };
        revert.step = match revert.step {
            RevertStep::Reject if self.mutated(Mutation::RejectAfterFlip) => RevertStep::Assess { until },
            RevertStep::Reject => {
                if failed.is_some() {
                    self.write_later(now, target.revision.clone(), revert.why.reason);
                }
                self.first_step(now, &target, revert.goal.as_ref())
            }
            RevertStep::Fetch => match failed {
                None => RevertStep::Look { until },
                Some(problem) => {
                    self.goal_not_fetched(now, &target, &mut revert, problem);
                    // Nothing was moved yet.
                    if revert.trial && revert.goal.is_none() {
                        return State::Fetching(target);
                    }
                    return State::Reverting(target, revert);
                }
            },
            RevertStep::Intend { until } => match failed {
                None => RevertStep::Flip { until },
                Some(problem) => {
                    self.retry(now, problem);
                    return State::Fetching(target);
                }
            },
            // One time for both: whatever did not move before the flip need not be waited for again.
            RevertStep::Flip { until } => self.flip_ended(now, until, revert.reject, failed),
            RevertStep::RecordSignal(baseline) => RevertStep::Signal(baseline),
            // Nothing was sent: the image meant is gone or has changed. Look again.
            RevertStep::Signal(_) if failed.is_some() => {
                self.retry_at = Some(now.plus(self.policy.retry_ms));
                RevertStep::Assess { until }
            }
            RevertStep::Signal(baseline) => {
                self.restart_in_flight = Some(baseline);
                watch
            }
            RevertStep::Recover(_) => {
                self.restart_in_flight = None;
                watch
            }
            RevertStep::EndFailed(_) => {
                if failed.is_some() {
                    self.retry_at = Some(now.plus(self.policy.retry_ms));
                }
                watch
            }
            RevertStep::RecordReverted => {
                self.problem = failed.cloned();
                if !revert.reject {
                    let pause = self.pause(revert.why.reason);
                    self.retry_at = Some(now.plus(pause));
                    self.problem = self.problem.take().or((self.denied > 0).then(|| revert.why.clone()));
                }
                out.push(self.conclude(target.revision, DeployResult::Reverted(revert.why)));
                return State::Steady;
            }
            other => other,
        };
        State::Reverting(target, revert)
    }
}

fn ends_its_requests(reason: Reason) -> Problem {
    let message = "the app server takes no requests: it was told to restart, and waits for one that it has taken \
                   before. The release before boots as soon as that has ended. To cut it off, end the app's container";
    Problem::new(reason, message)
}
