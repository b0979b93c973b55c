//! When a pod's restart begins among those of the fleet: the first pod at once, the others when it has proved the
//! release, as many at a time as `restart.max_unavailable` says, and none where it was rejected. Without reports each
//! pod waits for its own place.

use super::*;
use crate::{core::Reading, revision::PodCount};

/// While a restart waits for them, the reports are read so often.
const READ_EACH_MS: u64 = 3_000;
/// And so often while a move that was rejected at the pod's birth may be well elsewhere.
const READ_SELDOM_MS: u64 = 60_000;

/// What the other pods mean for a restart.
enum Word {
    Go,
    Until(Moment),
    Never,
}

impl Deploy {
    /// How the app server is moved is known; when is the next question.
    pub(super) fn wait_for_fleet(&mut self, now: Moment, mut m: Move, mode: Mode) -> State {
        m.mode = if m.target.hot_only { Mode::Hot } else { mode };
        // Who goes back, or was sent back, must get there at once.
        let back = self.releases.proved_before(&m.target.revision.release);
        let at_once = m.target.hot_only || self.held.is_some() || back;
        match self.policy.spread_ms.filter(|_| !at_once) {
            Some(ms) => {
                let takes_ms = self.restart_takes(m.mode);
                // What was read before says nothing of this move.
                self.fleet = None;
                m.then(MoveStep::Spread(Spread { place: now.plus(ms), takes_ms, at_once: false }))
            }
            None => self.requests(now, m),
        }
    }

    fn requests(&self, now: Moment, m: Move) -> State {
        // Beside, no request is cut: those that run at the switch are waited for after it.
        if m.beside() || self.policy.long_request_ms.is_none() {
            return m.then(MoveStep::RecordAttempt);
        }
        m.then_until(MoveStep::Requests, now.plus(self.policy.wait_in_flight_ms))
    }

    /// As long as a restart may take, by the server that was seen last.
    fn restart_takes(&self, mode: Mode) -> u64 {
        let workers = self.releases.proven.as_ref().map_or(1, Proven::processes);
        match mode {
            Mode::Hot | Mode::Beside => self.policy.hot_timeout_ms,
            Mode::Phased => self.phased_timeout(workers),
        }
    }

    fn word(&self, m: &Move, spread: &Spread) -> Word {
        // A server beside the other exposes nobody and stalls nobody: any number of pods may have one at once.
        let (beside, after) =
            (m.beside(), |waves: u32| spread.place.plus(spread.takes_ms.saturating_mul(u64::from(waves))));
        let Some(fleet) = self.fleet.as_ref().filter(|_| self.policy.reports) else {
            return Word::Until(after(if beside { 0 } else { self.policy.wave }));
        };
        let revision = &m.target.revision;
        let waits = !beside && !fleet.lets_restart(revision);
        // No longer, whatever others report: reports can be forged.
        let last = after(if beside { 1 } else { fleet.wave.saturating_add(1) });
        match fleet {
            _ if spread.at_once || fleet.others == 0 => Word::Go,
            fleet if fleet.rejects(revision) => Word::Never,
            fleet if fleet.well.contains(revision) && !waits => match m.mode {
                Mode::Phased | Mode::Beside => Word::Go,
                Mode::Hot => Word::Until(spread.place),
            },
            // No other pod is to prove it.
            _ if self.is_only_canary(revision) => Word::Go,
            fleet if fleet.first && !fleet.proving.contains(revision) => Word::Go,
            _ => Word::Until(last),
        }
    }

    /// The pointer gives this move to one pod alone.
    fn is_only_canary(&self, revision: &Revision) -> bool {
        let pointer = self.desired.as_ref().filter(|pointer| pointer.canary().as_ref() == Some(revision));
        let canary = pointer.and_then(|pointer| pointer.canary.as_ref());
        canary.is_some_and(|canary| canary.share == PodCount::Pods(1))
    }

    /// Where nothing serves, no client would wait for the boot, so nothing is waited for.
    pub(super) fn wait_for_turn(&mut self, turn: &Turn<'_>, m: Move, spread: Spread) -> State {
        let Some(look) = turn.look else { return State::Moving(m) };
        if look.detection == Detection::Missing {
            return State::Moving(Move::forward(m.target, MoveStep::Look));
        }
        let starts = match self.word(&m, &spread) {
            _ if !verdict::any_booted(&look.detection) => true,
            Word::Go => true,
            Word::Until(at) => turn.now >= at,
            Word::Never => {
                self.problem = Some(rejected_elsewhere(&m.target.revision));
                return State::Moving(m);
            }
        };
        self.problem = None;
        if !starts {
            return State::Moving(m);
        }
        match self.requests(turn.now, m) {
            State::Moving(m) if m.step == MoveStep::Requests => self.wait_for_requests(turn, m),
            next => next,
        }
    }

    /// Until when the restart waits for this pod's turn, as far as that is known.
    pub(super) fn turn_at(&self) -> Option<Moment> {
        let m = self.state.moving()?;
        let MoveStep::Spread(spread) = &m.step else { return None };
        match self.word(m, spread) {
            Word::Go => Some(spread.place),
            Word::Until(at) => Some(at),
            Word::Never => None,
        }
    }

    /// What is to be read of the other pods' reports.
    pub(crate) fn reads_fleet(&self) -> Option<Reading> {
        let desired = self.desired.as_ref().map(|pointer| &pointer.revision);
        let reborn = |desired| self.releases.history.rejected_at_birth(desired);
        let (each_ms, revision) = match &self.state {
            State::Moving(m) => match (&m.direction, &m.step) {
                (Direction::Forward, MoveStep::Spread(_)) => (READ_EACH_MS, Some(&m.target.revision)),
                (Direction::Forward, MoveStep::Verify(_)) if self.newborn(&m.target) => (READ_EACH_MS, None),
                (Direction::Back(back), _) if back.trial || self.releases.history.verified.is_none() => {
                    (READ_EACH_MS, None)
                }
                _ => return None,
            },
            State::Steady | State::Stranded(_) if desired.is_some_and(reborn) => (READ_SELDOM_MS, None),
            State::Steady | State::Stranded(_) => return None,
        };
        let canary = self.desired.as_ref().and_then(|pointer| pointer.canary.as_ref());
        let max_unavailable = canary.and_then(|canary| canary.max_unavailable);
        let claimed = canary.is_some_and(|canary| canary.chosen && matches!(canary.share, PodCount::Pods(_)));
        self.policy.reports.then(|| Reading {
            each_ms,
            revision: revision.cloned(),
            max_unavailable,
            claimed,
        })
    }
}

fn rejected_elsewhere(revision: &Revision) -> Problem {
    let message = format!(
        "another pod has rejected {revision}, and no pod runs it: it is not tried here. It is tried when a pod reports \
         that it runs well. Promote another release, or `pitstop sync --retry` tries it in this pod"
    );
    Problem::new(Reason::Rejected, message)
}
