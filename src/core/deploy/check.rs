//! Before anything is moved: is there an app server, can it be moved, and is this a good moment?

use super::*;

impl Deploy {
    /// A trial boot is for what is new. Who goes back must get there at once, what is in place already
    /// was tried before, and where the way back has failed there is nothing left to be protected.
    pub(super) fn wants_trial(&self, target: &Target) -> bool {
        let release = &target.revision.release;
        let back = self.releases.proved_before(release) || self.held.is_some() || target.hot_only;
        !back && !self.releases.is_current(release)
    }

    /// Without an app server there is nothing to plan: at the pod's birth the release is published
    /// at once and the server boots from it. Where good code is in place already, the server is
    /// given time to come back first: a flip while it boots could bind it to the wrong directory.
    pub(super) fn look_before_moving(&mut self, turn: &Turn<'_>, mut m: Move) -> State {
        let (now, Some(look)) = (turn.now, turn.look) else { return State::Moving(m) };
        // What was planned was planned for another server.
        m.mode = Mode::Hot;
        if m.target.stand_in.is_some() {
            return self.check_stand_in(now, m, &look.detection);
        }
        let stays = self.denied > 0 || m.refused;
        let lacks = self.problem.take().filter(|t| stays || t.reason == Reason::NeedsImage);
        self.problem = detection_problem(&look.detection).or(lacks);
        match &look.detection {
            Detection::Seen(server) if self.lingers(server, &m.target.revision.release).is_some() => {
                // It was proved here, and is there to be gone back to.
                Move { mode: Mode::Beside, ..m }.then(MoveStep::RecordAttempt)
            }
            Detection::Seen(server) => {
                // The pointer may have been read before the first look.
                let verified = self.releases.history.verified.clone();
                let proved = verified.filter(|release| verdict::boots(server, release));
                m.target.from = m.target.from.take().or(proved);
                m.then(MoveStep::Plan { images: images(server) })
            }
            Detection::Missing => {
                let until = m.until.unwrap_or(now.plus(self.policy.hot_timeout_ms));
                if self.releases.trusts_current() && now < until {
                    m.then_until(MoveStep::Look, until)
                } else {
                    m.then(MoveStep::RecordAttempt)
                }
            }
            detection if self.only_strangers(detection) => m.then(MoveStep::RecordAttempt),
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => State::Moving(m),
        }
    }

    /// The release failed before anything was moved: it is rejected, and that is all there is to do.
    fn condemned(&mut self, m: Move, why: &Problem) -> State {
        self.releases.history.reject(&m.target.revision, why.reason);
        self.problem = Some(why.clone());
        m.then(MoveStep::Reject(why.clone()))
    }

    /// The rejection is on disk, or could not be written: it holds for this process all the same.
    pub(super) fn rejection_written(
        &mut self,
        turn: &mut Turn<'_>,
        m: Move,
        why: Problem,
        failed: Option<&Problem>,
    ) -> State {
        let revision = m.target.revision;
        if failed.is_some() {
            self.write_later(turn.now, revision.clone(), why.reason);
        }
        let wanted = self.desired.as_ref().is_some_and(|desired| desired.revision == revision);
        self.problem = wanted.then(|| why.clone());
        self.conclude(turn, revision, DeployResult::Refused(why));
        State::Steady
    }

    pub(super) fn fetch_failed(
        &mut self,
        turn: &mut Turn<'_>,
        m: Move,
        problem: &Problem,
        outcome: &Outcome,
    ) -> State {
        let condemned = matches!(outcome, Outcome::Condemned(_));
        if condemned && m.target.stand_in.is_none() {
            return self.condemned(m, problem);
        }
        if !condemned {
            self.refused(turn, &m, problem);
        }
        self.not_fetched(turn.now, m.target, problem)
    }

    /// How the app server is moved is known, or why it cannot be.
    pub(super) fn planned(
        &mut self,
        turn: &mut Turn<'_>,
        m: Move,
        images: Vec<GenerationKey>,
        outcome: &Outcome,
    ) -> State {
        match outcome {
            Outcome::Checked(plan) if plan.make_room => m.then(MoveStep::Room(None)),
            Outcome::Checked(plan) => {
                self.problem = None;
                let m = Move { refused: false, ..m };
                self.wait_for_fleet(turn.now, m, plan.mode)
            }
            Outcome::Condemned(problem) => self.condemned(m, problem),
            Outcome::Failed(problem) => {
                self.refused(turn, &m, problem);
                if problem.reason == Reason::NeedsImage {
                    // Nothing is asked again until there is another image.
                    self.problem = Some(problem.clone());
                    return m
                        .then_until(MoveStep::Lacking { images }, turn.now.plus(self.policy.hot_timeout_ms));
                }
                self.retry(turn.now, problem);
                let m = Move { refused: true, ..m };
                // What was found out may be out of date by the time it is tried again.
                m.then(MoveStep::Look)
            }
            _ => State::Moving(m),
        }
    }

    /// A container that is restarting may bring another image, and most often brings the same:
    /// without an app server there is nothing to be seen, so nothing is moved.
    pub(super) fn wait_for_image(&mut self, turn: &Turn<'_>, m: Move, images: Vec<GenerationKey>) -> State {
        match turn.look.map(|look| &look.detection) {
            Some(Detection::Seen(server)) if images != self::images(server) || m.over(turn.now) => {
                m.then(MoveStep::Look)
            }
            _ => State::Moving(m),
        }
    }

    pub(super) fn wait_for_requests(&mut self, turn: &Turn<'_>, m: Move) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        let oldest = look.traffic.oldest_request_ms().unwrap_or(0);
        let long = self.policy.long_request_ms.is_some_and(|limit| oldest >= limit);
        if long && !m.over(turn.now) {
            self.problem = Some(Problem::new(
                Reason::LongRequests,
                "requests in flight would not survive the restart: waiting for them (restart.long_requests)",
            ));
            return State::Moving(m);
        }
        self.problem = None;
        m.then(MoveStep::RecordAttempt)
    }

    /// Said once for each reason. That deploy has ended in the log; whatever is tried again is another one.
    fn refused(&mut self, turn: &mut Turn<'_>, m: &Move, problem: &Problem) {
        let news = self.problem.as_ref().map(|t| t.reason) != Some(problem.reason);
        if news && m.target.stand_in.is_none() {
            self.conclude(turn, m.target.revision.clone(), DeployResult::Refused(problem.clone()));
            self.attempt = Attempt(self.attempt.0 + 1);
        }
    }
}

impl Deploy {
    /// The volume did not take a rejection: it holds for this process, and is written when the volume takes it.
    pub(super) fn write_later(&mut self, now: Moment, revision: Revision, reason: Reason) {
        self.unwritten.push((revision, reason));
        self.write_again = Some(now.plus(self.policy.retry_ms));
    }

    /// At rest, what could not be written before.
    pub(super) fn write_late_rejections(&mut self, turn: &mut Turn<'_>) {
        self.unwritten.retain(|(revision, _)| self.releases.history.rejection(revision).is_some());
        let rests = self.state.at_rest() && self.busy.is_none();
        let due = self.write_again.is_none_or(|at| turn.now >= at);
        if let (true, Some((revision, reason))) =
            (rests && due && self.volume_is_free(), self.unwritten.first().cloned())
        {
            let line = Record::new(RecordEvent::Rejected, revision);
            self.record(turn, Record { reason: Some(reason), ..line });
        }
    }

    pub(super) fn late_rejection_ended(&mut self, now: Moment, outcome: &Outcome) {
        if *outcome == Outcome::Done {
            self.unwritten.remove(0);
            self.write_again = None;
        } else {
            self.write_again = Some(now.plus(self.policy.retry_ms));
        }
    }
}

/// The images that are there.
fn images(server: &AppServer) -> Vec<GenerationKey> {
    server.generations.iter().map(|generation| generation.key).collect()
}
