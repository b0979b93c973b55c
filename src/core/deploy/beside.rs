//! A restart beside: the release is started as a candidate in a slot of its own, which no client reaches, and gets the
//! connections once it is proved. The live server is not touched before that.
//!
//! ```text
//!   Flip ─► Assess ─► RecordSignal ─► Signal ─► Verify ─► Switch ─► RecordEnd      the earlier server lingers
//!              │                                  │
//!              │ the release lingers still        │ it fails, or a newer move came
//!              ▼                                  ▼
//!           Switch ─► Verify (live) ─► RecordEnd  (Reject) ─► Flip back ─► AbortCandidate ─► RecordEnd
//! ```
//!
//! From the flip to the verdict `current` leads to a release that nobody has proved, while another one serves. So whatever
//! ends that time without a verdict puts `current` back before the candidate is told to end.

use super::{failure::failure, *};
use crate::core::observation::{Candidate, Generation};

impl Deploy {
    /// A second server may be planned for: something good runs to be left alone, and to go back to.
    pub(super) fn may_be_beside(&self, target: &Target) -> bool {
        let something_good = self.releases.history.verified.is_some() && target.from.is_some();
        let apart = target.stand_in.is_none() && !target.hot_only;
        something_good && apart && self.slots.alone.as_ref() != Some(&target.revision)
    }

    /// Without a live server nothing is started beside it, and what its container boots must be proved.
    pub(super) fn has_gone(&self, turn: &Turn<'_>, m: &Move) -> bool {
        let missing = turn.look.is_some_and(|look| look.detection == Detection::Missing);
        m.beside() && m.back().is_none() && missing
    }

    /// `current` leads to the release. Does it linger still, or is it to be started?
    pub(super) fn assess_beside(&mut self, turn: &Turn<'_>, m: Move) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        let release = m.target.revision.release.clone();
        match &look.detection {
            Detection::Missing => return self.abort(m.target, live_gone(), Next::Later),
            Detection::Seen(server) => {
                if let Some(on) = self.lingers(server, &release) {
                    return m.then(MoveStep::Switch { on, proved: false });
                }
                if verdict::boots(server, &release) {
                    // Others restarted it.
                    let until = Some(turn.now.plus(self.policy.hot_timeout_ms));
                    return m.then(Watch::new(release, None, until).into());
                }
                let probe = look.probe();
                let probed = !self.policy.probing || probe.is_some();
                let alone = server.beside.standing().is_none() && self.alone(turn, &m, &look.detection);
                if probed && alone && !server.generations.is_empty() {
                    let healthy = probe != Some(Probe::Unhealthy);
                    let baseline = self.baseline(turn.now, m.mode, server, healthy);
                    return m.then(MoveStep::RecordSignal(baseline));
                }
            }
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => {}
        }
        match m.over(turn.now) {
            true => self.abort(m.target, cannot_be_told(), Next::Later),
            false => State::Moving(m),
        }
    }

    /// No candidate was started.
    pub(super) fn not_started(&mut self, turn: &Turn<'_>, m: Move, problem: &Problem) -> State {
        match problem.reason {
            // The image meant is gone or has changed by itself: look again.
            Reason::MasterGone => m.then_until(MoveStep::Assess, turn.now.plus(self.policy.hot_timeout_ms)),
            _ => self.in_trouble(m.target, problem.clone()),
        }
    }

    pub(super) fn verify_candidate(&mut self, turn: &Turn<'_>, m: Move, mut verify: Verify) -> State {
        let (now, Some(look)) = (turn.now, turn.look) else {
            return m.then(MoveStep::Verify(verify));
        };
        let server = match &look.detection {
            Detection::Seen(server) => server,
            Detection::Missing => return self.abort(m.target, live_gone(), Next::Later),
            Detection::Ambiguous | Detection::NotPermitted if verify.watch.over(now) => {
                return self.abort(m.target, cannot_be_told(), Next::Later);
            }
            _ => return m.then(MoveStep::Verify(verify)),
        };
        let taken_up = verify.ask_again.is_some();
        let candidate = match self.candidate_stands(look, server, &m.target, (&verify.watch, taken_up)) {
            Ok(candidate) => candidate,
            Err(state) => return state,
        };
        let seen = alone(look, candidate);
        let answer = seen.as_ref().and_then(Observation::probe);
        if self.share_in_doubt(candidate, &verify.watch, answer) {
            let then = Box::new(verify.into());
            return m.then(MoveStep::Unshare { on: candidate.key, then });
        }
        let of_it = seen.as_ref().map(|seen| verify.watch.observe(now, seen, &self.policy));
        match (of_it.unwrap_or(Verdict::Undecided), verify.watch.expired(now)) {
            (Verdict::Proven, _) if candidate.warm.is_some() => {
                seen.iter().for_each(|seen| self.note_proof(&m, &verify.watch, seen));
                let live = server.beside.served_by_live;
                self.share_or_switch(m, verify.watch, candidate, (now, live))
            }
            (Verdict::Failed(reason), _) | (Verdict::Undecided, Some(reason)) => {
                let why = self.blame(reason, failure(&verify.watch, reason));
                self.abort_and_reject(m.target, why)
            }
            (Verdict::Proven | Verdict::Undecided, _) => m.then(MoveStep::Verify(verify)),
        }
    }

    /// The candidate, as long as there is one, and nothing else but its release could be wrong.
    #[expect(clippy::result_large_err, reason = "there is one deploy, with one state")]
    pub(super) fn candidate_stands<'a>(
        &mut self,
        look: &Observation,
        server: &'a AppServer,
        target: &Target,
        (watch, taken_up): (&Watch, bool),
    ) -> Result<&'a Candidate, State> {
        let target = target.clone();
        let Some(candidate) = watch.candidate(server) else {
            return Err(self.not_there(target, taken_up));
        };
        if let Some(trouble) = &candidate.trouble {
            return Err(self.in_trouble(target, trouble.clone()));
        }
        let fell = self.live_fell(look, watch);
        // A candidate that ends while the live server fails as well has the same cause, as far as anybody can tell.
        if fell || candidate.ended && self.slots.live_failed > 0 {
            return Err(self.abort(target, live_fell(), Next::Later));
        }
        match candidate.ended {
            true => Err(self.candidate_ended(target, watch)),
            false => Ok(candidate),
        }
    }

    pub(super) fn note_proof(&mut self, m: &Move, watch: &Watch, seen: &Observation) {
        let release = &m.target.revision.release;
        self.releases.proven = Proven::proved(release, seen, watch.evidence().clone());
    }

    /// The parent's list has no candidate of this attempt. `taken_up`: the agent ended around its start.
    fn not_there(&mut self, target: Target, taken_up: bool) -> State {
        if taken_up {
            return self.abort(target, agent_ended(), Next::AtOnce);
        }
        let why = "the second server was started, and the parent of the app server does not list it";
        let why = Problem::new(Reason::Internal, why);
        match self.lost_before(&target) {
            false => self.abort(target, why, Next::AtOnce),
            true => self.in_trouble(target, why),
        }
    }

    /// A candidate of this move was lost before, by nobody's fault that is known. From now on one was.
    fn lost_before(&mut self, target: &Target) -> bool {
        self.slots.lost.replace(target.revision.clone()).as_ref() == Some(&target.revision)
    }

    /// Two servers side by side do not go together here. The release is not to blame.
    fn in_trouble(&mut self, target: Target, why: Problem) -> State {
        // What the release needs is not there: it would boot alone as little, and the live server must not be ended for it.
        if self.policy.beside_only || why.reason == Reason::BootFailed {
            return self.abort(target, why, Next::Later);
        }
        self.slots.alone = Some(target.revision.clone());
        self.abort(target, why, Next::AtOnce)
    }

    /// One that has booted may have been ended by anybody: it gets another chance. A second end is the release's.
    fn candidate_ended(&mut self, target: Target, watch: &Watch) -> State {
        if watch.served() && !self.lost_before(&target) {
            let why = "the second server ended after it had booted: it is started once more";
            return self.abort(target, Problem::new(Reason::MasterGone, why), Next::AtOnce);
        }
        let (reason, words) = match watch.served() {
            true => (Reason::MasterGone, "the second server ended twice after it had booted: see its log"),
            false => (Reason::BootFailed, "the second server ended before it had booted: see its log"),
        };
        let why = self.blame(reason, words);
        self.abort_and_reject(target, why)
    }

    /// The live server answered well before the candidate was there.
    fn live_fell(&mut self, look: &Observation, watch: &Watch) -> bool {
        match look.probe() {
            Some(Probe::Unhealthy) if self.policy.probing && watch.was_healthy() => {
                self.slots.live_failed += 1
            }
            Some(_) => self.slots.live_failed = 0,
            None => {}
        }
        self.slots.live_failed >= self.policy.successes
    }

    /// From the flip to the verdict: the end of the pod comes first, and so does a newer move.
    pub(super) fn leave_candidate(&mut self, turn: &Turn<'_>) {
        let Some(m) = self.state.moving().filter(|m| m.beside() && m.back().is_none()) else { return };
        let unproved = match &m.step {
            MoveStep::Assess | MoveStep::RecordSignal(_) | MoveStep::Signal(_) => true,
            MoveStep::Share(_) | MoveStep::Bake(_) | MoveStep::Unshare { .. } => true,
            MoveStep::Verify(verify) => verify.candidate,
            _ => false,
        };
        if !unproved || self.busy.is_some() {
            return;
        }
        let target = m.target.clone();
        if turn.gate.draining {
            let why = Problem::new(Reason::Draining, "the pod is about to end: the second server was ended");
            self.state = self.abort(target, why, Next::Later);
        } else if self.is_outdated(&target) {
            let why = Problem::new(Reason::Internal, "a newer move came while the second server started");
            self.state = self.abort(target, why, Next::Newer);
        } else {
            return;
        }
        self.retry_at = None;
    }
}

/// The switch.
impl Deploy {
    /// `Done` is the parent's word.
    pub(super) fn switch_ended(
        &mut self,
        turn: &Turn<'_>,
        m: Move,
        (on, proved): (GenerationKey, bool),
        outcome: &Outcome,
    ) -> State {
        match outcome {
            Outcome::Done => self.switched(turn.now, m, proved),
            _ => {
                if let Outcome::Failed(problem) = outcome {
                    self.problem = Some(problem.clone());
                }
                self.retry_at = Some(turn.now.plus(self.policy.retry_ms));
                m.then(MoveStep::AwaitSwitch { on, proved })
            }
        }
    }

    fn switched(&mut self, now: Moment, m: Move, proved: bool) -> State {
        self.slots.sharing = None;
        if proved {
            return self.proved(m);
        }
        // It served before, and serves again: what stands there is proved as it is.
        let until = now.plus(self.policy.hot_timeout_ms);
        let watch = Watch::new(m.target.revision.release.clone(), None, Some(until));
        m.then(watch.into())
    }

    pub(super) fn wait_for_switch(
        &mut self,
        turn: &Turn<'_>,
        m: Move,
        on: GenerationKey,
        proved: bool,
    ) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        let release = m.target.revision.release.clone();
        match &look.detection {
            // Its container boots what `current` leads to. That was proved already.
            Detection::Missing => m.then(Watch::new(release, None, None).into()),
            // No client has met it, and none has to.
            Detection::Seen(server)
                if server.beside.waits_for_connections(on) && self.is_outdated(&m.target) =>
            {
                let why = Problem::new(
                    Reason::Internal,
                    "a newer move came before the switch to the second server",
                );
                self.releases.proven = None;
                self.abort(m.target, why, Next::Newer)
            }
            Detection::Seen(server) if server.beside.waits_for_connections(on) => {
                m.then(MoveStep::Switch { on, proved })
            }
            Detection::Seen(server)
                if server.generations.iter().all(|g| verdict::on_release(g, &release)) =>
            {
                self.switched(turn.now, m, proved)
            }
            // It ended before it served anybody.
            Detection::Seen(_) => {
                let why = Problem::new(Reason::MasterGone, "the second server ended before the switch to it");
                self.releases.proven = None;
                self.abort(m.target, why, Next::AtOnce)
            }
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => State::Moving(m),
        }
    }
}

/// The way back, on which nothing is restarted.
impl Deploy {
    /// Gives the candidate up: `current` leads back first.
    pub(super) fn abort(&mut self, target: Target, why: Problem, next: Next) -> State {
        self.abort_move(target, why, next, false)
    }

    pub(super) fn abort_and_reject(&mut self, target: Target, why: Problem) -> State {
        self.abort_move(target, why, Next::Later, true)
    }

    fn abort_move(&mut self, target: Target, why: Problem, next: Next, reject: bool) -> State {
        let (running, goal) = (self.releases.running.clone(), target.from.clone());
        let m = self.turn_back(target, why, reject);
        self.releases.running = running;
        self.restart_in_flight = None;
        let Direction::Back(back) = m.direction else { return State::Moving(m) };
        let goal = goal.or(back.goal);
        let direction = Direction::Back(Back { goal, next, ..back });
        let m = Move { direction, mode: Mode::Beside, ..m };
        let next = if reject { m.step.clone() } else { MoveStep::Flip };
        m.then(self.without_share(next))
    }

    /// `current` leads back. Is there a candidate to be ended, and does the live server run what it ran before?
    pub(super) fn assess_candidate(&mut self, turn: &Turn<'_>, m: Move) -> State {
        let (now, Some(look)) = (turn.now, turn.look) else { return State::Moving(m) };
        let Some(Revision { release: goal, .. }) = m.goal() else { return State::Moving(m) };
        match &look.detection {
            Detection::Unclear => return State::Moving(m),
            Detection::Seen(server) => {
                if let Some(candidate) = server.beside.standing() {
                    if candidate.share > 0 {
                        return m.on_to(self.without_share(MoveStep::Assess));
                    }
                    return match m.until {
                        Some(until) if now < until => State::Moving(m),
                        told => m.then(MoveStep::AbortCandidate { on: candidate.key, kill: told.is_some() }),
                    };
                }
                let untouched = |g: &Generation| verdict::on_release(g, &goal);
                if !server.generations.is_empty() && server.generations.iter().all(untouched) {
                    self.releases.history.verify(&goal);
                    self.releases.last_seen = Some(goal);
                    return m.then(MoveStep::RecordEnd);
                }
            }
            Detection::Missing | Detection::Ambiguous | Detection::NotPermitted => {}
        }
        // Others restarted it meanwhile, or its container does.
        self.releases.running = None;
        Move { mode: Mode::Hot, ..m }.then_until(MoveStep::Assess, now.plus(self.policy.settle_ms))
    }

    /// An agent that was started anew in the middle of such a move looks what is there. `false` for a release whose
    /// candidate nobody has started, or that has gone: from rest the move starts anew.
    pub(super) fn take_up_candidate(
        &mut self,
        turn: &Turn<'_>,
        m: Move,
        signalled: Option<Baseline>,
        given_up: bool,
    ) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        let release = m.target.revision.release.clone();
        match &look.detection {
            Detection::Unclear | Detection::Ambiguous | Detection::NotPermitted => return State::Moving(m),
            Detection::Missing => {}
            Detection::Seen(server) => {
                if verdict::boots(server, &release) {
                    // It is live already: the switch was done, or its container has booted it.
                    let until = Some(turn.now.plus(self.policy.hot_timeout_ms));
                    self.restart_in_flight.clone_from(&signalled);
                    return m.then(Watch::new(release, signalled, until).into());
                }
                if let Some(baseline) = signalled
                    && let State::Moving(on) = self.watch_on(turn.now, m.target.clone(), baseline)
                    && on.sees_candidate(server)
                {
                    return State::Moving(on);
                }
            }
        }
        match given_up {
            true => self.abort_and_reject(m.target, agent_ended()),
            false => self.abort(m.target, agent_ended(), Next::AtOnce),
        }
    }
}

/// The look as if there were nothing but the candidate.
pub(super) fn alone(look: &Observation, candidate: &Candidate) -> Option<Observation> {
    let generations = vec![candidate.generation.clone()?];
    let detection = Detection::Seen(AppServer { generations, ..AppServer::default() });
    Some(Observation { detection, answers: look.candidate_answers.clone(), ..look.clone() })
}

fn live_gone() -> Problem {
    let message = "the running app server ended while a second one was started beside it: its container starts it again";
    Problem::new(Reason::MasterGone, message)
}

fn live_fell() -> Problem {
    let message = "the running app server stopped answering well while a second one was started beside it: the second one \
                   was ended, and the release is not rejected. Check the memory and CPU limits of the container";
    Problem::new(Reason::ProbeFailed, message)
}

fn cannot_be_told() -> Problem {
    Problem::new(
        Reason::AppServerMissing,
        "the app server could not be told apart while a second one was to start",
    )
}

fn agent_ended() -> Problem {
    Problem::new(
        Reason::Internal,
        "the agent ended while a second server was to be started: the move starts anew",
    )
}
