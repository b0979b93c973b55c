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
    pub(super) fn planned(&mut self, now: Moment, target: Target, mode: Mode) -> State {
        let mode = if target.hot_only { Mode::Hot } else { mode };
        let release = Some(&target.revision.release);
        // Who goes back, or was sent back, must get there at once.
        let back = [&self.history.verified, &self.history.previous].iter().any(|r| r.as_ref() == release);
        let at_once = target.hot_only || self.held.is_some() || back;
        let checking = match self.policy.spread_ms.filter(|_| !at_once) {
            Some(ms) => {
                let place = now.plus(ms);
                let timeout = match mode {
                    Mode::Hot => self.policy.hot_timeout_ms,
                    Mode::Phased => self.policy.phased_timeout_ms,
                };
                // What was read before says nothing of this move.
                self.fleet = None;
                Checking::Spread(Turn { mode, place, last: place.plus(timeout), at_once: false })
            }
            None => self.requests(now, mode),
        };
        State::Checking(target, checking)
    }

    pub(super) fn requests(&self, now: Moment, mode: Mode) -> Checking {
        Checking::Requests { mode, until: now.plus(self.policy.wait_in_flight_ms) }
    }

    fn word(&self, target: &Target, turn: &Turn) -> Word {
        let Some(fleet) = self.fleet.as_ref().filter(|_| self.policy.reports) else {
            return Word::Until(turn.place);
        };
        let revision = &target.revision;
        match fleet {
            _ if turn.at_once || fleet.others == 0 => Word::Go,
            fleet if fleet.rejects(revision) => Word::Never,
            fleet if fleet.well.contains(revision) => match turn.mode {
                Mode::Phased => Word::Go,
                Mode::Hot => Word::Until(turn.place),
            },
            fleet if fleet.first && !fleet.proving.contains(revision) => Word::Go,
            _ => Word::Until(turn.last),
        }
    }

    /// Where nothing serves, no client would wait for the boot, so nothing is waited for.
    pub(super) fn wait_for_turn(&mut self, now: Moment, target: Target, turn: Turn, detection: &Detection) {
        if *detection == Detection::Missing {
            self.state = State::Checking(target, Checking::Look { missing_until: None });
            return;
        }
        let begins = match self.word(&target, &turn) {
            _ if !verdict::any_booted(detection) => true,
            Word::Go => true,
            Word::Until(at) => now >= at,
            Word::Never => {
                self.problem = Some(rejected_elsewhere(&target.revision));
                return;
            }
        };
        self.problem = None;
        if begins {
            let requests = self.requests(now, turn.mode);
            self.state = State::Checking(target, requests);
        }
    }

    /// Until when the restart waits, as far as that is known.
    pub(super) fn turn(&self) -> Option<Moment> {
        let State::Checking(target, Checking::Spread(turn)) = &self.state else { return None };
        match self.word(target, turn) {
            Word::Go => Some(turn.place),
            Word::Until(at) => Some(at),
            Word::Never => None,
        }
    }

    /// How often the other pods' reports are to be read.
    pub fn reads_fleet_each(&self) -> Option<u64> {
        let desired = self.desired.as_ref().map(|pointer| &pointer.revision);
        let each = match &self.state {
            State::Checking(_, Checking::Spread(_)) => READ_EACH_MS,
            State::Verifying(target, _) if self.newborn(target) => READ_EACH_MS,
            State::Reverting(_, revert) if revert.trial || self.history.verified.is_none() => READ_EACH_MS,
            State::Steady | State::Stranded(_)
                if desired.is_some_and(|desired| self.history.rejected_at_birth(desired)) =>
            {
                READ_SELDOM_MS
            }
            _ => return None,
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
