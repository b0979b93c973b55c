//! When a pod's restart begins among those of the fleet: the first pod at once, the others when it has proved the
//! release, and none where it was rejected. Without reports each pod waits for its own place.

use super::*;

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
                let place = now.plus(ms);
                let timeout = match m.mode {
                    Mode::Hot | Mode::Beside => self.policy.hot_timeout_ms,
                    Mode::Phased => self.policy.phased_timeout_ms,
                };
                // What was read before says nothing of this move.
                self.fleet = None;
                m.then(MoveStep::Spread(Spread { place, last: place.plus(timeout), at_once: false }))
            }
            None => self.requests(now, m),
        }
    }

    fn requests(&self, now: Moment, m: Move) -> State {
        if m.beside() {
            // No request is cut by it: those that run at the switch are waited for after it.
            return m.then(MoveStep::RecordAttempt);
        }
        m.then_until(MoveStep::Requests, now.plus(self.policy.wait_in_flight_ms))
    }

    fn word(&self, m: &Move, spread: &Spread) -> Word {
        let Some(fleet) = self.fleet.as_ref().filter(|_| self.policy.reports) else {
            return Word::Until(spread.place);
        };
        let revision = &m.target.revision;
        match fleet {
            _ if spread.at_once || fleet.others == 0 => Word::Go,
            fleet if fleet.rejects(revision) => Word::Never,
            fleet if fleet.well.contains(revision) => match m.mode {
                Mode::Phased | Mode::Beside => Word::Go,
                Mode::Hot => Word::Until(spread.place),
            },
            fleet if fleet.first && !fleet.proving.contains(revision) => Word::Go,
            _ => Word::Until(spread.last),
        }
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
        if starts { self.requests(turn.now, m) } else { State::Moving(m) }
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

    /// How often the other pods' reports are to be read.
    pub(crate) fn reads_fleet_each(&self) -> Option<u64> {
        let desired = self.desired.as_ref().map(|pointer| &pointer.revision);
        let reborn = |desired| self.releases.history.rejected_at_birth(desired);
        let each = match &self.state {
            State::Moving(m) => match (&m.direction, &m.step) {
                (Direction::Forward, MoveStep::Spread(_)) => READ_EACH_MS,
                (Direction::Forward, MoveStep::Verify(_)) if self.newborn(&m.target) => READ_EACH_MS,
                (Direction::Back(back), _) if back.trial || self.releases.history.verified.is_none() => {
                    READ_EACH_MS
                }
                _ => return None,
            },
            State::Steady | State::Stranded(_) if desired.is_some_and(reborn) => READ_SELDOM_MS,
            State::Steady | State::Stranded(_) => return None,
        };
        self.policy.reports.then_some(each)
    }
}

fn rejected_elsewhere(revision: &Revision) -> Problem {
    let message = format!(
        "another pod has rejected {revision}, and no pod runs it: it is not tried here. It is tried when a pod reports \
         that it runs well. Promote another release, or `pitstop sync --retry` tries it in this pod"
    );
    Problem::new(Reason::Rejected, message)
}
