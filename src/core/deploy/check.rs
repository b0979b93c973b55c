//! Before anything is moved: is there an app server, can it be moved, and is this a good moment?

use super::*;

impl Deploy {
    /// The release needs another image: nothing is asked again until there is one.
    pub(super) fn lacking(
        &mut self,
        now: Moment,
        target: Target,
        problem: &Problem,
        images: Vec<GenerationKey>,
    ) -> State {
        self.problem = Some(problem.clone());
        let again = now.plus(self.policy.hot_timeout_ms);
        State::Checking(target, Checking::Lacking { images, again })
    }

    /// A trial boot is for what is new. Who goes back must get there at once, what is in place already
    /// was tried before, and where the way back has failed there is nothing left to be protected.
    fn wants_trial(&self, target: &Target) -> bool {
        let release = Some(&target.revision.release);
        let proved = [&self.history.verified, &self.history.previous].iter().any(|r| r.as_ref() == release);
        let back = proved || self.held.is_some() || target.hot_only;
        !back && self.current.as_ref() != release
    }

    /// The release failed before anything was moved: it is rejected, and that is all there is to do.
    pub(super) fn condemned(&mut self, target: Target, why: &Problem) -> State {
        self.history.reject(&target.revision, why.reason);
        self.problem = Some(why.clone());
        State::Checking(target, Checking::Condemned(why.clone()))
    }

    /// The rejection is on disk, or could not be written: it holds for this process all the same.
    pub(super) fn condemnation_ended(
        &mut self,
        now: Moment,
        target: Target,
        why: Problem,
        outcome: &Outcome,
        out: &mut Vec<Effect>,
    ) -> State {
        if matches!(outcome, Outcome::Failed(_)) {
            self.write_later(now, target.revision.clone(), why.reason);
        }
        let wanted = self.desired.as_ref().is_some_and(|desired| desired.revision == target.revision);
        self.problem = wanted.then(|| why.clone());
        out.push(self.conclude(target.revision, DeployResult::Refused(why)));
        State::Steady
    }

    /// A container that is restarting may bring another image, and most often brings the same:
    /// without an app server there is nothing to be seen, so nothing is moved.
    fn wait_for_image(
        &mut self,
        now: Moment,
        target: Target,
        images: Vec<GenerationKey>,
        again: Moment,
        detection: &Detection,
    ) {
        let Detection::Seen(server) = detection else { return };
        let checking = match images == self::images(server) && now < again {
            true => Checking::Lacking { images, again },
            false => Checking::Look { missing_until: None },
        };
        self.state = State::Checking(target, checking);
    }

    pub(super) fn check(
        &mut self,
        now: Moment,
        target: Target,
        checking: Checking,
        look: Option<&Observation>,
        out: &mut Vec<Effect>,
    ) {
        match checking {
            Checking::Look { missing_until } => {
                if let Some(look) = look {
                    self.check_detection(now, target, missing_until, &look.detection);
                }
            }
            Checking::TakenUp { signalled, given_up } => {
                if let Some(look) = look {
                    self.take_up_seen(now, target, signalled, given_up, &look.detection);
                }
            }
            Checking::Plan { .. } => {
                self.busy = Some(Step::Check);
                let (attempt, running, trial) =
                    (self.attempt, self.running.clone(), self.wants_trial(&target));
                out.push(Effect::Check { attempt, release: target.revision.release, running, trial });
            }
            Checking::Condemned(why) => {
                if self.volume_is_free() {
                    out.push(self.record(RecordEvent::Rejected, target.revision, Extra::Reason(why.reason)));
                }
            }
            Checking::Lacking { images, again } => {
                if let Some(look) = look {
                    self.wait_for_image(now, target, images, again, &look.detection);
                }
            }
            Checking::Spread(turn) => {
                if let Some(look) = look {
                    self.wait_for_turn(now, target, turn, &look.detection);
                }
            }
            Checking::Requests { mode, until } => {
                if let Some(look) = look {
                    self.wait_for_requests(now, target, mode, until, look);
                }
            }
        }
    }

    /// Without an app server there is nothing to plan: at the pod's birth the release is published
    /// at once and the server boots from it. Where good code is in place already, the server is
    /// given time to come back first: a flip while it boots could bind it to the wrong directory.
    fn check_detection(
        &mut self,
        now: Moment,
        target: Target,
        missing_until: Option<Moment>,
        detection: &Detection,
    ) {
        if target.stand_in.is_some() {
            return self.check_stand_in(now, target, detection);
        }
        let denied = self.denied > 0;
        let lacks = self.problem.take().filter(|t| denied || t.reason == Reason::NeedsImage);
        self.problem = detection_problem(detection).or(lacks);
        match detection {
            Detection::Seen(server) => {
                self.state = State::Checking(target, Checking::Plan { images: images(server) });
            }
            Detection::Missing => {
                let trusted = self.current.is_some() && self.current == self.history.verified;
                let until = missing_until.unwrap_or(now.plus(self.policy.hot_timeout_ms));
                self.state = if trusted && now < until {
                    State::Checking(target, Checking::Look { missing_until: Some(until) })
                } else {
                    State::Publishing(target, Mode::Hot, Publishing::Record)
                };
            }
            detection if self.only_strangers(detection) => {
                self.state = State::Publishing(target, Mode::Hot, Publishing::Record);
            }
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => {}
        }
    }

    fn wait_for_requests(
        &mut self,
        now: Moment,
        target: Target,
        mode: Mode,
        until: Moment,
        look: &Observation,
    ) {
        let oldest = look.traffic.oldest_request_ms().unwrap_or(0);
        let long = self.policy.long_request_ms.is_some_and(|limit| oldest >= limit);
        if long && now < until {
            self.problem = Some(Problem::new(
                Reason::LongRequests,
                "requests in flight would not survive the restart: waiting for them (restart.long_requests)",
            ));
            return;
        }
        self.problem = None;
        self.state = State::Publishing(target, mode, Publishing::Record);
    }
}

impl Deploy {
    /// The volume did not take a rejection: it holds for this process, and is written when the volume takes it.
    pub(super) fn write_later(&mut self, now: Moment, revision: Revision, reason: Reason) {
        self.unwritten.push((revision, reason));
        self.write_again = Some(now.plus(self.policy.retry_ms));
    }

    /// At rest, what could not be written before.
    pub(super) fn write_late_rejections(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.unwritten.retain(|(revision, _)| self.history.rejection(revision).is_some());
        let rests = matches!(self.state, State::Steady | State::Stranded(_)) && self.busy.is_none();
        let due = self.write_again.is_none_or(|at| now >= at);
        if let (true, Some((revision, reason))) =
            (rests && due && self.volume_is_free(), self.unwritten.first().cloned())
        {
            out.push(self.record(RecordEvent::Rejected, revision, Extra::Reason(reason)));
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

/// What was found out may be out of date by the time it is tried again.
pub(super) fn back_to_the_look(state: State) -> State {
    match state {
        State::Checking(target, _) => State::Checking(target, Checking::Look { missing_until: None }),
        other => other,
    }
}

/// The images that are there.
fn images(server: &AppServer) -> Vec<GenerationKey> {
    server.generations.iter().map(|generation| generation.key).collect()
}
