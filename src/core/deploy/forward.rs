//! The way forward: from a moved pointer to proof.

use std::borrow::Cow;

use super::{check::back_to_the_look, failure::failure, *};
use crate::core::observation::{Generation, Probe};

impl Deploy {
    /// Begins the step that is wanted, if its gate is open.
    pub(super) fn advance_forward(
        &mut self,
        now: Moment,
        gate: Gate,
        look: Option<&Observation>,
        out: &mut Vec<Effect>,
    ) {
        match self.state.clone() {
            State::Verifying(target, verifying) => self.verify(now, gate, target, verifying, look, out),
            State::Committing(target, committing) => self.commit(now, target, committing, look, out),
            // Nothing is moved by it, and what is known must not be forgotten.
            State::Checking(target, checking @ (Checking::Condemned(_) | Checking::TakenUp { .. })) => {
                self.check(now, target, checking, look, out);
            }
            _ if gate.draining => {}
            State::Fetching(_) | State::Checking(..) if self.pauses() => {}
            State::Fetching(target) => self.fetch(&target, out),
            State::Checking(target, checking) => self.check(now, target, checking, look, out),
            State::Publishing(target, _, publishing) => self.publish(now, &target, publishing, look, out),
            State::Restarting(target, mode, restarting) => {
                self.restart(now, target, mode, restarting, look, out)
            }
            State::Steady | State::Reverting(..) | State::Stranded(_) => {}
        }
    }

    fn fetch(&mut self, target: &Target, out: &mut Vec<Effect>) {
        if self.volume_is_free() {
            self.busy = Some(Step::Fetch);
            out.push(self.fetch_effect(target.revision.release.clone()));
        }
    }

    fn publish(
        &mut self,
        now: Moment,
        target: &Target,
        publishing: Publishing,
        look: Option<&Observation>,
        out: &mut Vec<Effect>,
    ) {
        if !self.volume_is_free() {
            return;
        }
        match publishing {
            Publishing::Record => {
                out.push(self.record(RecordEvent::Attempt, target.revision.clone(), Extra::None));
            }
            Publishing::Flip { until } => {
                let hung = |look: &Observation| now >= until && !verdict::any_booted(&look.detection);
                let quiet = |look: &Observation| {
                    self.may_flip(&look.detection) && self.alone(now, target, until, &look.detection)
                };
                if look.is_some_and(|look| quiet(look) || hung(look)) {
                    self.busy = Some(Step::Publish);
                    out.push(Effect::Publish {
                        attempt: self.attempt,
                        release: target.revision.release.clone(),
                    });
                }
            }
        }
    }

    /// Never between an exec and its title: the restart directory may be read just then.
    pub(super) fn may_flip(&self, detection: &Detection) -> bool {
        match detection {
            Detection::Seen(server) => self.signalable(server).is_some(),
            Detection::Missing => true,
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => {
                self.only_strangers(detection)
            }
        }
    }

    /// A restart of somebody else's has to end before ours begins. What never comes to rest is not waited
    /// for longer than a restart may take; where nobody is served, or neither way led anywhere, not for long.
    fn alone(&self, now: Moment, target: &Target, until: Moment, detection: &Detection) -> bool {
        let Detection::Seen(server) = detection else { return true };
        let began = Moment(until.0.saturating_sub(self.policy.hot_timeout_ms));
        let patience = match verdict::any_booted(detection) && !target.hot_only {
            true => self.policy.hot_timeout_ms,
            false => self.policy.settle_ms,
        };
        let careless = self.mutated(Mutation::BeginsAmidTheirs);
        careless || verdict::rests(server) || now.since(began) >= patience
    }

    fn restart(
        &mut self,
        now: Moment,
        target: Target,
        mode: Mode,
        restarting: Restarting,
        look: Option<&Observation>,
        out: &mut Vec<Effect>,
    ) {
        match restarting {
            Restarting::Look { until } => {
                let taken = look.is_some_and(|look| self.take_baseline(now, &target, mode, until, look));
                if !taken && look.is_some() && now >= until {
                    self.give_up(now, target);
                }
            }
            Restarting::Record(baseline) => {
                if self.volume_is_free() {
                    let extra = Extra::Baseline(baseline);
                    out.push(self.record(RecordEvent::Signalled, target.revision, extra));
                }
            }
            Restarting::Signal(baseline) => {
                let Some(on) = baseline.generations.last().copied() else { return };
                out.push(self.perform(ServerCommand::Restart(mode), on));
            }
        }
    }

    /// What is there before the signal. True when that is known, or no signal is needed.
    fn take_baseline(
        &mut self,
        now: Moment,
        target: &Target,
        mode: Mode,
        until: Moment,
        look: &Observation,
    ) -> bool {
        let release = target.revision.release.clone();
        match &look.detection {
            // It will boot from `current` by itself.
            Detection::Missing => self.begin_watch(target, Watch::new(release, None, None)),
            Detection::Seen(server)
                if verdict::settled_on(server).as_ref() == Some(&release)
                    || (!target.hot_only && verdict::boots(server, &release)) =>
            {
                let until = now.plus(self.policy.hot_timeout_ms);
                self.begin_watch(target, Watch::new(release, None, Some(until)));
            }
            Detection::Seen(server) => {
                let probe = look.probe();
                let probed = !self.policy.probing || probe.is_some();
                let alone = server.generations.len() == 1 && self.alone(now, target, until, &look.detection);
                if !probed || !alone || self.signalable(server).is_none() {
                    return false;
                }
                let healthy = probe != Some(Probe::Unhealthy) || self.newborn(target);
                let baseline = self.baseline(now, mode, server, healthy);
                self.announce(now, target.clone(), mode, baseline);
            }
            detection if self.strangers_so_far(detection) => {
                self.begin_watch(target, Watch::new(release, None, None));
            }
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => return false,
        }
        true
    }

    /// The journal comes first, then the signal.
    fn announce(&mut self, now: Moment, target: Target, mode: Mode, baseline: Baseline) {
        let sent = self.mutated(Mutation::BaselineAfterSignal) && self.restart_in_flight.is_some();
        self.state = if sent {
            self.signalled(now, target, baseline)
        } else if self.mutated(Mutation::SignalBeforeIntent) {
            State::Restarting(target, mode, Restarting::Signal(baseline))
        } else {
            State::Restarting(target, mode, Restarting::Record(baseline))
        };
    }

    fn begin_watch(&mut self, target: &Target, watch: Watch) {
        self.state =
            State::Verifying(target.clone(), Verifying { watch, ask_again: None, unwell_until: None });
    }

    /// The app server could not be told within the time a restart may take: undo the flip.
    fn give_up(&mut self, now: Moment, target: Target) {
        let why = self.problem.take().unwrap_or_else(|| {
            Problem::new(Reason::AppServerMissing, "the app server could not be told to restart in time")
        });
        self.begin_revert(now, target, why, false);
    }

    fn verify(
        &mut self,
        now: Moment,
        gate: Gate,
        target: Target,
        mut verifying: Verifying,
        look: Option<&Observation>,
        out: &mut Vec<Effect>,
    ) {
        // While the pod ends, a master that is gone is no failure of the release's.
        let look = look.filter(|l| !(gate.draining && l.detection == Detection::Missing));
        let heard = look.map(|look| self.heard(look));
        let (theirs, ended) = (verifying.watch.theirs(), verifying.watch.ended_after_boot());
        let verdict = heard
            .map_or(verdict::Verdict::Undecided, |look| verifying.watch.observe(now, &look, &self.policy));
        if verifying.watch.theirs() > theirs {
            out.push(Effect::Notice(Notice::RestartedByOthers { mode: Mode::Hot, amid_ours: true }));
        }
        if verifying.watch.ended_after_boot() && !ended {
            out.push(Effect::Notice(Notice::MasterEnded));
        }
        // Time alone condemns nobody: what has become of it may just not have been seen.
        let seen = look.is_some_and(|l| l.detection != Detection::Unclear);
        let expired = verifying.watch.expired(now).filter(|_| seen);
        let over = verifying.watch.second_master_gone();
        let failure = |reason| failure(&verifying.watch, reason);
        match (verdict, expired) {
            (verdict::Verdict::Proven, _) => {
                let evidence = verifying.watch.evidence().clone();
                self.proven = look.and_then(|look| Proven::proved(&target.revision.release, look, evidence));
                self.proven(target);
            }
            (verdict::Verdict::Failed(Reason::ProbeFailed), _)
            | (verdict::Verdict::Undecided, Some(Reason::ProbeFailed))
                if self.newborn(&target) && !self.mutated(Mutation::RejectsTheUnwell) =>
            {
                self.unwell(now, gate, target, verifying.unwell_until);
            }
            (verdict::Verdict::Failed(reason), _) => {
                self.failed(now, target, self.blame(reason, failure(reason)), over);
            }
            (verdict::Verdict::Undecided, _) if seen && verifying.lost_its_signal(now) => {
                // The agent died around the signal and nothing ever came of it.
                self.restart_in_flight = None;
                self.state = State::Publishing(target, Mode::Hot, Publishing::Record);
            }
            (verdict::Verdict::Undecided, Some(reason)) => {
                self.failed(now, target, self.blame(reason, failure(reason)), over);
            }
            (verdict::Verdict::Undecided, None) => self.state = State::Verifying(target, verifying),
        }
    }

    /// The look as it is. In test builds the walk plants its defects here.
    fn heard<'a>(&self, look: &'a Observation) -> Cow<'a, Observation> {
        let mut look = Cow::Borrowed(look);
        if self.mutated(Mutation::MismatchIgnored) {
            for answer in &mut look.to_mut().answers {
                answer.probe = Probe::Healthy;
            }
        }
        look
    }

    fn proven(&mut self, target: Target) {
        let release = target.revision.release.clone();
        self.history.verify(&release);
        // The next move may begin before anybody looks again.
        self.last_seen = Some(release.clone());
        self.running = Some(release);
        self.unwell.clear();
        self.trials = 0;
        self.restart_in_flight = None;
        self.problem = None;
        self.state = State::Committing(target, Committing::Record);
    }

    fn failed(&mut self, now: Moment, target: Target, why: Problem, over: bool) {
        if over {
            self.restart_in_flight = None;
        }
        self.begin_revert(now, target, why, true);
    }

    fn commit(
        &mut self,
        now: Moment,
        target: Target,
        committing: Committing,
        look: Option<&Observation>,
        out: &mut Vec<Effect>,
    ) {
        match committing {
            Committing::TakenUp { until } => {
                if let Some(look) = look {
                    self.take_up_commit_seen(target, &look.detection, now < until);
                }
            }
            Committing::Record => {
                if self.volume_is_free() {
                    out.push(self.record(RecordEvent::Verified, target.revision, Extra::None));
                }
            }
            Committing::Look => match look.map(|look| &look.detection) {
                None | Some(Detection::Unclear) => {}
                Some(Detection::Seen(server)) => match server.generations.as_slice() {
                    [.., _, newest] => self.state = State::Committing(target, Committing::Commit(newest.key)),
                    _ => self.done(target, out),
                },
                // Nothing that could be told apart is nothing to be ended; the proof stands.
                Some(Detection::Missing | Detection::Ambiguous | Detection::NotPermitted) => {
                    self.done(target, out)
                }
            },
            Committing::Commit(on) => {
                out.push(self.perform(ServerCommand::Commit, on));
            }
            Committing::Watch { until } => {
                let two = look
                    .is_none_or(|l| matches!(&l.detection, Detection::Seen(s) if s.generations.len() > 1));
                if !two {
                    self.done(target, out);
                } else if now >= until {
                    // Nobody knows whether it was ever told.
                    self.state = State::Committing(target, Committing::Look);
                }
            }
        }
    }

    /// What stands beside a proven master is ended; what cannot be told apart is left alone.
    fn take_up_commit_seen(&mut self, target: Target, detection: &Detection, in_time: bool) {
        let generations = match detection {
            Detection::Seen(server) => &server.generations[..],
            Detection::Unclear if in_time => return,
            _ => &[],
        };
        let proven = |newest: &&Generation| verdict::on_release(newest, &target.revision.release);
        let newest = generations.last().filter(|_| generations.len() > 1).filter(proven);
        self.state = match newest {
            Some(newest) if verdict::whole(newest) => {
                State::Committing(target, Committing::Commit(newest.key))
            }
            Some(_) if in_time => return,
            _ => State::Steady,
        };
    }

    fn done(&mut self, target: Target, out: &mut Vec<Effect>) {
        out.push(self.conclude(target.revision, DeployResult::Verified));
        self.state = State::Steady;
    }

    /// An effect of the way forward has ended.
    pub(super) fn forward_ended(
        &mut self,
        now: Moment,
        state: State,
        step: Step,
        outcome: &Outcome,
        out: &mut Vec<Effect>,
    ) -> State {
        match (state, outcome) {
            // The proof stands whether or not it could be written down; the note says what follows.
            (State::Committing(target, Committing::Record), Outcome::Failed(problem)) => {
                self.problem = Some(problem.clone());
                State::Committing(target, Committing::Look)
            }
            (State::Committing(target, Committing::Commit(_)), Outcome::Failed(problem)) => {
                self.problem = Some(problem.clone());
                State::Committing(target, Committing::Watch { until: now.plus(self.policy.retry_ms) })
            }
            (State::Restarting(target, mode, at), Outcome::Failed(problem)) => {
                self.restart_failed(now, target, mode, at, problem)
            }
            (State::Fetching(target), Outcome::Failed(problem)) => {
                self.refused(&State::Fetching(target.clone()), problem, step, out);
                self.not_fetched(now, target, problem)
            }
            (State::Checking(target, Checking::Condemned(why)), _) => {
                self.condemnation_ended(now, target, why, outcome, out)
            }
            (State::Fetching(target), Outcome::Condemned(problem)) if target.stand_in.is_some() => {
                self.not_fetched(now, target, problem)
            }
            (
                State::Fetching(target) | State::Checking(target, Checking::Plan { .. }),
                Outcome::Condemned(problem),
            ) => self.condemned(target, problem),
            (State::Checking(target, Checking::Plan { images }), Outcome::Failed(problem))
                if problem.reason == Reason::NeedsImage =>
            {
                let checking = Checking::Plan { images: images.clone() };
                self.refused(&State::Checking(target.clone(), checking), problem, step, out);
                self.lacking(now, target, problem, images)
            }
            (state, Outcome::Failed(problem)) => {
                self.refused(&state, problem, step, out);
                self.retry(now, problem);
                back_to_the_look(state)
            }
            (state, Outcome::Checked(plan)) => {
                self.problem = None;
                match state {
                    State::Checking(target, Checking::Plan { .. }) => self.planned(now, target, plan.mode),
                    other => other,
                }
            }
            (state, _) => self.forward_done(now, state),
        }
    }

    fn forward_done(&mut self, now: Moment, state: State) -> State {
        match state {
            State::Fetching(t) => {
                self.problem = None;
                State::Checking(t, Checking::Look { missing_until: None })
            }
            State::Publishing(t, mode, Publishing::Record) => {
                let until = now.plus(self.policy.hot_timeout_ms);
                State::Publishing(t, mode, Publishing::Flip { until })
            }
            State::Publishing(t, mode, Publishing::Flip { .. }) => {
                self.problem = None;
                State::Restarting(t, mode, Restarting::Look { until: now.plus(self.policy.hot_timeout_ms) })
            }
            State::Restarting(t, mode, Restarting::Record(baseline)) => {
                if self.mutated(Mutation::SignalBeforeIntent) {
                    return self.signalled(now, t, baseline);
                }
                State::Restarting(t, mode, Restarting::Signal(baseline))
            }
            State::Restarting(t, mode, Restarting::Signal(baseline)) => {
                if self.mutated(Mutation::SignalBeforeIntent) {
                    return State::Restarting(t, mode, Restarting::Record(baseline));
                }
                if self.mutated(Mutation::BaselineAfterSignal) {
                    self.restart_in_flight =
                        Some(Baseline { generations: vec![], processes: vec![], ..baseline });
                    return State::Restarting(
                        t,
                        mode,
                        Restarting::Look { until: now.plus(self.policy.hot_timeout_ms) },
                    );
                }
                self.signalled(now, t, baseline)
            }
            State::Committing(t, Committing::Record) => State::Committing(t, Committing::Look),
            State::Committing(t, Committing::Commit(_)) => {
                State::Committing(t, Committing::Watch { until: now.plus(self.policy.hot_timeout_ms) })
            }
            other => other,
        }
    }

    fn signalled(&mut self, now: Moment, target: Target, baseline: Baseline) -> State {
        self.restart_in_flight = Some(baseline.clone());
        self.raised = None;
        let until = Some(now.plus(self.timeout_of(&baseline)));
        let watch = Watch::new(target.revision.release.clone(), Some(baseline), until);
        State::Verifying(target, Verifying { watch, ask_again: None, unwell_until: None })
    }

    /// Nothing was signalled. What cannot be announced must not be done: a crash after it would
    /// signal again, into an exec. So the flip is undone; the move itself is not to blame.
    fn restart_failed(
        &mut self,
        now: Moment,
        target: Target,
        mode: Mode,
        at: Restarting,
        problem: &Problem,
    ) -> State {
        let for_good = matches!(problem.reason, Reason::NotPermitted | Reason::HookFailed);
        if let (Restarting::Signal(_), false) = (&at, for_good) {
            // The image meant is gone or has changed by itself: look again.
            let until = now.plus(self.policy.hot_timeout_ms);
            return State::Restarting(target, mode, Restarting::Look { until });
        }
        // The user's own command has failed: it would fail again.
        let reject = matches!(at, Restarting::Signal(_)) && problem.reason == Reason::HookFailed;
        self.begin_revert(now, target, problem.clone(), reject);
        std::mem::replace(&mut self.state, State::Steady)
    }

    fn refused(&mut self, state: &State, problem: &Problem, step: Step, out: &mut Vec<Effect>) {
        let news = self.problem.as_ref().map(|t| t.reason) != Some(problem.reason);
        let target = match state {
            State::Fetching(target) | State::Checking(target, _) => target,
            _ => return,
        };
        let news = news && target.stand_in.is_none();
        if news && matches!(step, Step::Check | Step::Fetch) {
            out.push(self.conclude(target.revision.clone(), DeployResult::Refused(problem.clone())));
            // That deploy has ended in the log; whatever is tried again is another one.
            self.attempt = Attempt(self.attempt.0 + 1);
        }
    }
}
