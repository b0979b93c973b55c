//! What happens after the flip: the restart, the proof, and the end of a second master.

use super::{failure::failure, *};
use crate::core::observation::Generation;

impl Deploy {
    /// Is `current` to move just now?
    pub(super) fn may_flip_now(&self, turn: &Turn<'_>, m: &Move) -> bool {
        let Some(look) = turn.look else { return false };
        let hung = m.over(turn.now) && !verdict::any_booted(&look.detection);
        hung || (self.may_flip(&look.detection) && self.alone(turn, m, &look.detection))
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

    /// A restart of somebody else's has to end before ours starts. What never comes to rest is not waited
    /// for longer than a restart may take; where nobody is served, or neither way led anywhere, not for long.
    pub(super) fn alone(&self, turn: &Turn<'_>, m: &Move, detection: &Detection) -> bool {
        let Detection::Seen(server) = detection else { return true };
        let until = m.until.unwrap_or(turn.now);
        let began = Moment(until.0.saturating_sub(self.policy.hot_timeout_ms));
        let patience = match verdict::any_booted(detection) && !m.target.hot_only {
            true => self.policy.hot_timeout_ms,
            false => self.policy.settle_ms,
        };
        verdict::rests(server) || turn.now.since(began) >= patience
    }

    /// What is there before the signal, and is one needed?
    pub(super) fn assess(&mut self, turn: &Turn<'_>, m: Move) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        let release = m.target.revision.release.clone();
        match &look.detection {
            // It will boot from `current` by itself.
            Detection::Missing => return m.then(Watch::new(release, None, None).into()),
            Detection::Seen(server)
                if verdict::settled_on(server).as_ref() == Some(&release)
                    || (!m.target.hot_only && verdict::boots(server, &release)) =>
            {
                let until = turn.now.plus(self.policy.hot_timeout_ms);
                return m.then(Watch::new(release, None, Some(until)).into());
            }
            Detection::Seen(server) => {
                let probe = look.probe();
                let probed = !self.policy.probing || probe.is_some();
                let alone = server.generations.len() == 1 && self.alone(turn, &m, &look.detection);
                if probed && alone && self.signalable(server).is_some() {
                    let healthy = probe != Some(Probe::Unhealthy) || self.newborn(&m.target);
                    let baseline = self.baseline(turn.now, m.mode, server, healthy);
                    return m.then(MoveStep::RecordSignal(baseline));
                }
            }
            detection if self.strangers_so_far(detection) => {
                return m.then(Watch::new(release, None, None).into());
            }
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => {}
        }
        if m.over(turn.now) { self.never_restarted(turn.now, m.target) } else { State::Moving(m) }
    }

    /// The app server could not be told within the time a restart may take: undo the flip.
    fn never_restarted(&mut self, now: Moment, target: Target) -> State {
        let why = self.problem.take().unwrap_or_else(|| {
            Problem::new(Reason::AppServerMissing, "the app server could not be told to restart in time")
        });
        self.begin_revert(now, target, why, false)
    }

    /// Nothing was signalled. What cannot be announced must not be done: a crash after it would
    /// signal again, into an exec. So the flip is undone; the move itself is not to blame.
    pub(super) fn restart_failed(&mut self, turn: &Turn<'_>, m: Move, problem: &Problem) -> State {
        let for_good = matches!(problem.reason, Reason::NotPermitted | Reason::HookFailed);
        let signalling = matches!(m.step, MoveStep::Signal(_));
        if signalling && !for_good {
            // The image meant is gone or has changed by itself: look again.
            return m.then_until(MoveStep::Assess, turn.now.plus(self.policy.hot_timeout_ms));
        }
        // The user's own command has failed: it would fail again.
        let reject = signalling && problem.reason == Reason::HookFailed;
        self.begin_revert(turn.now, m.target, problem.clone(), reject)
    }

    pub(super) fn signalled(&mut self, turn: &Turn<'_>, m: Move, baseline: Baseline) -> State {
        self.restart_in_flight = Some(baseline.clone());
        self.raised = None;
        self.slots.live_failed = 0;
        self.slots.sharing = None;
        let until = Some(turn.now.plus(self.timeout_of(&baseline)));
        let candidate = baseline.mode == Mode::Beside;
        let watch = Watch::new(m.target.revision.release.clone(), Some(baseline), until);
        m.then(MoveStep::Verify(Verify { watch, candidate, ask_again: None, unwell_until: None }))
    }

    pub(super) fn verify(&mut self, turn: &mut Turn<'_>, m: Move, mut verify: Verify) -> State {
        let now = turn.now;
        // While the pod ends, a master that is gone is no failure of the release's.
        let look = turn.look.filter(|l| !(turn.gate.draining && l.detection == Detection::Missing));
        let (theirs, ended) = (verify.watch.theirs(), verify.watch.ended_after_boot());
        let verdict = look.map_or(Verdict::Undecided, |look| verify.watch.observe(now, look, &self.policy));
        if verify.watch.theirs() > theirs {
            turn.out.push(Effect::Notice(Notice::RestartedByOthers { mode: Mode::Hot, amid_ours: true }));
        }
        if verify.watch.ended_after_boot() && !ended {
            turn.out.push(Effect::Notice(Notice::MasterEnded));
        }
        // Time alone condemns nobody: what has become of it may just not have been seen.
        let seen = look.is_some_and(|l| l.detection != Detection::Unclear);
        let expired = verify.watch.expired(now).filter(|_| seen);
        match (verdict, expired) {
            (Verdict::Proven, _) => {
                let evidence = verify.watch.evidence().clone();
                let release = &m.target.revision.release;
                self.releases.proven = look.and_then(|look| Proven::proved(release, look, evidence));
                self.proved(m)
            }
            (Verdict::Failed(Reason::ProbeFailed), _) | (Verdict::Undecided, Some(Reason::ProbeFailed))
                if self.newborn(&m.target) =>
            {
                self.unwell(turn, m.target, verify.unwell_until)
            }
            (Verdict::Failed(reason), _) => self.failed(now, m.target, &verify.watch, reason),
            (Verdict::Undecided, _) if seen && verify.lost_its_signal(now) => {
                // The agent died around the signal and nothing ever came of it.
                self.restart_in_flight = None;
                State::Moving(Move { mode: m.mode, ..Move::forward(m.target, MoveStep::RecordAttempt) })
            }
            (Verdict::Undecided, Some(reason)) => self.failed(now, m.target, &verify.watch, reason),
            (Verdict::Undecided, None) => m.then(MoveStep::Verify(verify)),
        }
    }

    pub(super) fn proved(&mut self, m: Move) -> State {
        // The next move may start before anybody looks again.
        self.releases.proved(&m.target.revision.release);
        self.releases.unwell.clear();
        self.trials = 0;
        self.slots.forget_trouble();
        self.restart_in_flight = None;
        self.problem = None;
        m.then(MoveStep::RecordEnd)
    }

    fn failed(&mut self, now: Moment, target: Target, watch: &Watch, reason: Reason) -> State {
        if watch.second_master_gone() {
            self.restart_in_flight = None;
        }
        let why = self.blame(reason, failure(watch, reason));
        self.begin_revert(now, target, why, true)
    }

    pub(super) fn find_old_master(&self, turn: &mut Turn<'_>, m: Move) -> State {
        match turn.look.map(|look| &look.detection) {
            None | Some(Detection::Unclear) => State::Moving(m),
            Some(Detection::Seen(server)) => match server.generations.as_slice() {
                [.., _, newest] => m.then(MoveStep::EndOther(newest.key)),
                _ => self.done(turn, m.target),
            },
            // Nothing that could be told apart is nothing to be ended; the proof stands.
            Some(Detection::Missing | Detection::Ambiguous | Detection::NotPermitted) => {
                self.done(turn, m.target)
            }
        }
    }

    pub(super) fn old_master_ended(&self, turn: &mut Turn<'_>, m: Move) -> State {
        let two =
            |look: &Observation| matches!(&look.detection, Detection::Seen(s) if s.generations.len() > 1);
        if !turn.look.is_none_or(two) {
            self.done(turn, m.target)
        } else if m.over(turn.now) {
            // Nobody knows whether it was ever told.
            m.then(MoveStep::FindOld)
        } else {
            State::Moving(m)
        }
    }

    /// What stands beside a proven master is ended; what cannot be told apart is left alone.
    pub(super) fn take_up_commit_seen(&self, turn: &Turn<'_>, m: Move) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        let in_time = !m.over(turn.now);
        let generations = match &look.detection {
            Detection::Seen(server) => &server.generations[..],
            Detection::Unclear if in_time => return State::Moving(m),
            _ => &[],
        };
        let proven = |newest: &&Generation| verdict::on_release(newest, &m.target.revision.release);
        let newest = generations.last().filter(|_| generations.len() > 1).filter(proven);
        match newest {
            Some(newest) if verdict::whole(newest) => m.then(MoveStep::EndOther(newest.key)),
            Some(_) if in_time => State::Moving(m),
            _ => State::Steady,
        }
    }

    fn done(&self, turn: &mut Turn<'_>, target: Target) -> State {
        self.conclude(turn, target.revision, DeployResult::Verified);
        State::Steady
    }
}
