//! The way back: where it leads, and what it does that the way forward does not.

use super::*;

impl Deploy {
    /// Starts the way back. With `reject` the move is never tried again.
    pub(super) fn begin_revert(&mut self, now: Moment, target: Target, why: Problem, reject: bool) -> State {
        let m = self.turn_back(target, why, reject);
        if reject { State::Moving(m) } else { self.start_back(now, m) }
    }

    pub(super) fn turn_back(&mut self, target: Target, why: Problem, reject: bool) -> Move {
        if reject {
            self.releases.history.reject(&target.revision, why.reason);
            let words = self.said_of(why.reason);
            self.condemned = words.map(|words| (target.revision.clone(), words.clone()));
        }
        self.raised = None;
        self.releases.running = None;
        self.problem = Some(why.clone());
        let back = Back::new(why.clone(), reject, self.way_back(&target, &[]));
        let step = MoveStep::Reject(why);
        Move { direction: Direction::Back(back), ..Move::forward(target, step) }
    }

    /// What ran here, or was proved here, is on the volume.
    pub(super) fn start_back(&self, now: Moment, m: Move) -> State {
        if m.beside() {
            return m.then(MoveStep::Flip);
        }
        let goal = m.back().and_then(|back| back.goal.as_ref());
        let here = [&m.target.from, &self.releases.history.verified, &self.releases.history.previous];
        if goal.is_none() || here.iter().any(|known| known.as_ref() == goal) {
            m.then_until(MoveStep::Look, now.plus(self.policy.settle_ms))
        } else {
            m.then(MoveStep::Fetch)
        }
    }

    /// The best release to go back to: what ran, then what was verified here, then what the
    /// pointer named before, then what another pod of the volume has proved, then the image's code.
    /// Never one that failed, here or in the fleet. What somebody rolled back from comes last of all, and only if it
    /// was good enough here: it is better than nothing.
    pub(super) fn way_back(&self, target: &Target, unfetched: &[(ReleaseId, bool)]) -> Option<ReleaseId> {
        let History { verified, previous, .. } = &self.releases.history;
        let fallback = self.policy.fallback.then(ReleaseId::fallback);
        let named = self.desired.as_ref().and_then(|pointer| pointer.previous.as_ref());
        let here = [target.from.as_ref(), verified.as_ref(), previous.as_ref()];
        let here = here.into_iter().flatten();
        let there = [target.previous.as_ref(), named];
        let there = there.into_iter().flatten().chain(&self.releases.neighbours.verified);
        let rolled_back = |release: &&ReleaseId| self.rolled_back(release);
        let there = there.filter(|release| !self.rejected_elsewhere(release) && !rolled_back(release));
        let wanted = here.clone().filter(|release| !rolled_back(release)).chain(there);
        let all = wanted.chain(fallback.as_ref()).chain(here.filter(rolled_back));
        let usable = |r: &&ReleaseId| {
            **r != target.revision.release
                && !self.releases.history.distrusts(r)
                && unfetched.iter().all(|(id, _)| id != *r)
        };
        all.filter(usable).map(ReleaseId::clone).next()
    }

    /// Somebody rolled back from it, and nobody has promoted it again.
    pub(super) fn rolled_back(&self, release: &ReleaseId) -> bool {
        self.desired.as_ref().is_some_and(|pointer| pointer.rolled_back.contains(release))
    }

    /// It failed in another pod.
    pub(super) fn rejected_elsewhere(&self, release: &ReleaseId) -> bool {
        let fleet = self.fleet.as_ref().is_some_and(|fleet| fleet.distrusts(release));
        self.releases.neighbours.failed.contains(release) || fleet
    }

    /// The goal could not be fetched: the next best one, or the same again later.
    pub(super) fn goal_not_fetched(
        &mut self,
        now: Moment,
        m: Move,
        mut back: Back,
        problem: &Problem,
    ) -> State {
        let for_ever = matches!(problem.reason, Reason::ReleaseUnknown | Reason::ReleaseCorrupt);
        back.unfetched.extend(back.goal.take().map(|goal| (goal, for_ever)));
        back.goal = self.way_back(&m.target, &back.unfetched);
        if back.goal.is_none() && back.trial {
            // Nothing was moved yet.
            return State::Moving(Move::forward(m.target, MoveStep::Fetch));
        }
        if back.goal.is_none() {
            back.unfetched.retain(|(_, for_ever)| *for_ever);
            back.goal = self.way_back(&m.target, &back.unfetched);
            self.retry(now, problem);
        }
        self.start_back(now, Move { direction: Direction::Back(back), ..m })
    }

    /// As long as the way back only waits for its goal, a newer move may be the better way out.
    pub(super) fn way_back_is_outdated(&self) -> bool {
        let Some(m) = self.state.moving().filter(|m| m.back().is_some() && m.step == MoveStep::Fetch) else {
            return false;
        };
        let desired = self.desired.as_ref().map(|pointer| &pointer.revision);
        let new = |desired: &Revision| {
            *desired != m.target.revision && self.releases.history.rejection(desired).is_none()
        };
        self.hold().is_none() && desired.is_some_and(new)
    }

    pub(super) fn leave_the_way_back(&mut self, turn: &mut Turn<'_>) {
        if let State::Moving(m) = self.state.clone()
            && let Some(why) = m.back().map(|back| back.why.clone())
        {
            self.state = self.strand(turn, m, why);
            self.attempt = Attempt(self.attempt.0 + 1);
            (self.busy, self.retry_at) = (None, None);
            self.fresh_after = Moment(turn.now.0 + 1);
        }
    }

    /// While the pod drains, what serves is left alone; only when nothing does may it be repaired.
    pub(super) fn barred(&self, turn: &Turn<'_>, m: &Move) -> bool {
        let serving = turn.look.is_none_or(|l| verdict::any_booted(&l.detection));
        let starts_a_trial = m.on_trial().is_some() && m.before_flip();
        turn.gate.answered || (turn.gate.draining && (serving || starts_a_trial))
    }

    pub(super) fn look_before_going_back(&mut self, turn: &mut Turn<'_>, m: Move) -> State {
        let Direction::Back(mut back) = m.direction.clone() else { return State::Moving(m) };
        if back.goal.is_none() {
            // What the pointer named before may be the only way, and has not been read yet.
            if self.desired.is_none() && self.pointer_problem.is_none() {
                return State::Moving(m);
            }
            back.goal = self.way_back(&m.target, &back.unfetched);
            if back.goal.is_none() {
                return self.strand(turn, m, back.why);
            }
            return self.start_back(turn.now, Move { direction: Direction::Back(back), ..m });
        }
        let safe = turn.look.is_some_and(|l| self.may_flip(&l.detection) || m.over(turn.now));
        if !safe || self.barred(turn, &m) || !self.volume_is_free() {
            return State::Moving(m);
        }
        m.on_to(if back.trial { MoveStep::RecordAttempt } else { MoveStep::Flip })
    }

    /// After the flip: is a signal needed, and can one be sent?
    pub(super) fn assess_way_back(&mut self, turn: &Turn<'_>, m: Move) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        let Some(Revision { release: goal, .. }) = m.goal() else { return State::Moving(m) };
        let now = turn.now;
        let settle =
            |m: Move| m.then_until(MoveStep::Settle { settle_by: now }, now.plus(self.timeout_of_last()));
        let Detection::Seen(server) = &look.detection else {
            let gone = look.detection == Detection::Missing || m.over(now);
            return if gone { settle(m) } else { State::Moving(m) };
        };
        let back =
            server.generations.iter().all(|g| verdict::on_release(g, &goal) && !g.processes.is_empty());
        let lingers = self.lingers(server, &goal).filter(|_| !back && !self.barred(turn, &m));
        if let Some(on) = lingers {
            m.then(MoveStep::Switch { on, proved: false })
        } else if back && self.settled(server) {
            settle(m)
        } else if let (false, Some(_)) = (self.barred(turn, &m) || back, self.signalable(server)) {
            let mode = self.restart_in_flight.as_ref().map(|b| b.mode).filter(|mode| *mode != Mode::Beside);
            let mode = mode.unwrap_or(Mode::Hot);
            m.then(MoveStep::RecordSignal(self.baseline(now, mode, server, true)))
        } else if m.over(now) {
            settle(m)
        } else {
            State::Moving(m)
        }
    }

    /// The goal is to come up: by the restart, or because its container starts it.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>, mut m: Move, settle_by: Moment) -> State {
        let (now, Some(look)) = (turn.now, turn.look) else { return State::Moving(m) };
        let barred = self.barred(turn, &m);
        let Direction::Back(back) = &mut m.direction else { return State::Moving(m) };
        let empty = !verdict::any_booted(&look.detection);
        let twice_empty = std::mem::replace(&mut back.empty, empty) && empty;
        let back = back.clone();
        if let (Detection::Seen(server), Some(goal)) = (&look.detection, &back.goal)
            && let Some(step) = self.goal_is_up(now, &m, server, goal)
        {
            return m.then(step);
        }
        let over = m.over(now);
        let hung =
            matches!(&look.detection, Detection::Seen(s) if !self.moved_on(s, &back)) && now >= settle_by;
        if !over && !hung {
            return State::Moving(m);
        }
        match &look.detection {
            Detection::Seen(server) if empty && self.still_ends(server) && look.traffic.at_work() => {
                if over {
                    return self.strand(turn, m, ends_its_requests(back.why.reason));
                }
                State::Moving(m)
            }
            Detection::Seen(server) if empty && !back.killed => {
                match server.generations.last().filter(|_| twice_empty && !barred) {
                    Some(newest) => {
                        m.direction = Direction::Back(Back { killed: true, ..back });
                        m.then(MoveStep::Recover(newest.key))
                    }
                    None => State::Moving(m),
                }
            }
            _ if !over => State::Moving(m),
            Detection::Seen(server) if !back.repeated && !self.settled(server) => {
                self.restart_in_flight = None;
                m.direction = Direction::Back(Back { repeated: true, ..back });
                m.then_until(MoveStep::Assess, now.plus(self.policy.settle_ms))
            }
            Detection::Unclear => State::Moving(m),
            _ => self.strand(turn, m, back.why),
        }
    }

    /// What follows when the goal has come up, alone or beside what failed.
    fn goal_is_up(
        &mut self,
        now: Moment,
        m: &Move,
        server: &AppServer,
        goal: &ReleaseId,
    ) -> Option<MoveStep> {
        let home = verdict::settled_on(server).as_ref() == Some(goal);
        if home && (self.settled(server) || m.over(now)) {
            if m.on_trial().is_some() {
                let until = Some(now.plus(self.policy.hot_timeout_ms));
                return Some(Watch::new(goal.clone(), None, until).into());
            }
            self.goal_proved(goal);
            return Some(MoveStep::RecordEnd);
        }
        match &server.generations[..] {
            [.., _, newest] if verdict::whole(newest) && verdict::on_release(newest, goal) => {
                Some(MoveStep::EndOther(newest.key))
            }
            _ => None,
        }
    }

    /// The restart that we last asked for has visibly gone through.
    fn settled(&self, server: &AppServer) -> bool {
        let Some(baseline) = &self.restart_in_flight else { return true };
        let mut processes = server.generations.iter().flat_map(|g| &g.processes);
        match (baseline.mode, baseline.generations.last()) {
            (Mode::Hot | Mode::Beside, None) => true,
            (Mode::Hot | Mode::Beside, Some(old)) => server.generations.iter().all(|g| g.key != *old),
            (Mode::Phased, _) => processes.all(|p| !baseline.processes.contains(&p.key)),
        }
    }

    /// The image is on its way: another than the one we signalled, and in the right place.
    fn moved_on(&self, server: &AppServer, back: &Back) -> bool {
        let in_place = |goal| server.generations.iter().all(|g| verdict::on_release(g, goal));
        self.settled(server) && back.goal.as_ref().is_some_and(in_place)
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

    pub(super) fn goal_proved(&mut self, goal: &ReleaseId) {
        self.releases.proved(goal);
        self.restart_in_flight = None;
    }

    pub(super) fn reverted(
        &mut self,
        turn: &mut Turn<'_>,
        (target, beside): (Target, bool),
        back: Back,
        failed: Option<&Problem>,
    ) -> State {
        self.problem = failed.cloned();
        if back.next == Next::Newer {
            self.conclude(turn, target.revision, DeployResult::Superseded);
            return State::Steady;
        }
        if !back.reject && back.next == Next::Later {
            let doublings = if beside { self.slots.doublings() } else { 0 };
            let pause = self.pause(back.why.reason) << doublings;
            self.retry_at = Some(turn.now.plus(pause));
            let said = beside || self.denied > 0;
            self.problem = self.problem.take().or(said.then(|| back.why.clone()));
        }
        self.conclude(turn, target.revision, DeployResult::Reverted(back.why));
        State::Steady
    }

    fn strand(&mut self, turn: &mut Turn<'_>, m: Move, why: Problem) -> State {
        if m.on_trial().is_some() || m.back().is_some_and(|back| back.trial) {
            return self.leave_trial(m);
        }
        self.nothing_came_up(turn.now, &m.target);
        self.conclude(turn, m.target.revision.clone(), DeployResult::Stranded(why.clone()));
        self.problem = Some(why);
        // Whatever was asked for has had all its time: the next move must not wait for it.
        self.restart_in_flight = None;
        State::Stranded(m.target)
    }
}

fn ends_its_requests(reason: Reason) -> Problem {
    let message = "the app server takes no requests: it was told to restart, and waits for one that it has taken \
                   before. The release before boots as soon as that has ended. To cut it off, end the app's container";
    Problem::new(reason, message)
}
