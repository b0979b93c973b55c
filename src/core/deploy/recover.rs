//! Taking up what the disk says after a start.

use super::*;
use crate::core::history::{MAX_UNFINISHED, Open};

impl Deploy {
    /// The state that the journal and `current` call for.
    pub(crate) fn recover(policy: Policy, recovered: &Recovered, now: Moment) -> Self {
        let (history, open) = History::fold(&recovered.records);
        let unwell = history.unproved_at_birth();
        let (current, neighbours) = (recovered.current.clone(), recovered.neighbours.clone());
        let mut deploy =
            Self::steady(policy, Releases { current, unwell, history, neighbours, ..Releases::default() });
        deploy.state = match open {
            Some(open) => deploy.take_up(open, &recovered.boot_id, now),
            None => deploy.take_up_commit(now),
        };
        deploy
    }

    /// The agent may have ended between the proof and the end of the old master.
    fn take_up_commit(&self, now: Moment) -> State {
        match &self.releases.history.verified {
            Some(release) if self.policy.second_master && self.releases.is_current(release) => {
                let revision = Revision { release: release.clone(), sequence: None };
                let m = Move::forward(Target::new(revision, None), MoveStep::CommitTakenUp);
                m.then_until(MoveStep::CommitTakenUp, now.plus(self.policy.hot_timeout_ms))
            }
            _ => State::Steady,
        }
    }

    fn take_up(&mut self, open: Open, boot_id: &str, now: Moment) -> State {
        let target = Target::new(open.revision, self.releases.history.verified.clone());
        // Processes of another boot are gone, and its moments mean nothing in this one.
        let signalled = open.signalled.filter(|b| b.boot_id == boot_id);
        self.attempt = Attempt(1);
        self.restart_in_flight.clone_from(&signalled);
        let published = self.releases.is_current(&target.revision.release);
        let mode = open.mode.unwrap_or(Mode::Hot);
        let taken_up = |target, signalled, given_up| {
            let m = Move::forward(target, MoveStep::TakenUp { signalled, given_up });
            State::Moving(Move { mode, ..m })
        };
        if let Some(reason) = open.rejected.filter(|_| mode == Mode::Beside) {
            // The journal already has the rejection.
            let why =
                Problem::new(reason, "the release failed; the way back goes on after a restart of the agent");
            match self.abort_and_reject(target, why) {
                State::Moving(m) => self.start_back(now, m),
                state => state,
            }
        } else if let Some(reason) = open.rejected {
            let why =
                Problem::new(reason, "the release failed; the way back goes on after a restart of the agent");
            // The journal already has the rejection.
            match self.begin_revert(now, target, why, true) {
                State::Moving(m) => self.start_back(now, m),
                state => state,
            }
        } else if !published && signalled.is_some() && mode == Mode::Beside {
            self.abort(target, ended_on_the_way_back(), Next::AtOnce)
        } else if !published && signalled.is_some() {
            let why = ended_on_the_way_back();
            match self.newborn(&target) {
                true => self.begin_trial(now, target, why),
                false => self.begin_revert(now, target, why, false),
            }
        } else if !published {
            // The flip never came: from rest the move starts anew.
            State::Steady
        } else if open.unfinished >= MAX_UNFINISHED {
            taken_up(target, signalled, true)
        } else if let Some(baseline) = signalled.clone().filter(|_| mode != Mode::Beside) {
            self.watch_on(now, target, baseline)
        } else {
            // Nothing was signalled: if the release does not run already, how to restart is found out anew.
            taken_up(target, signalled, false)
        }
    }

    /// Goes on with a restart that may have been signalled.
    pub(super) fn watch_on(&self, now: Moment, target: Target, baseline: Baseline) -> State {
        let until = baseline.at.plus(self.timeout_of(&baseline)).max(now.plus(self.grace()));
        // A second SIGUSR1 is the same as one; a second SIGUSR2 may kill, unless a second master refuses a third.
        let ask_again = match baseline.mode {
            Mode::Hot if !self.policy.second_master => until,
            Mode::Hot | Mode::Phased | Mode::Beside => now.plus(self.policy.settle_ms).min(until),
        };
        let mode = baseline.mode;
        let watch = Watch::new(target.revision.release.clone(), Some(baseline), Some(until));
        let candidate = mode == Mode::Beside;
        let verify = Verify { watch, candidate, ask_again: Some(ask_again), unwell_until: None };
        State::Moving(Move { mode, ..Move::forward(target, MoveStep::Verify(verify)) })
    }

    /// What runs is looked at before anything is done about the agent's own end: a server that runs the
    /// release, or boots it, stays and is proved. Only one that runs something else is moved.
    pub(super) fn take_up_seen(
        &mut self,
        turn: &Turn<'_>,
        m: Move,
        signalled: Option<Baseline>,
        given_up: bool,
    ) -> State {
        if m.beside() {
            return self.take_up_candidate(turn, m, signalled, given_up);
        }
        let Some(look) = turn.look else { return State::Moving(m) };
        let release = &m.target.revision.release;
        let there = match &look.detection {
            // Its container boots it from `current`.
            Detection::Missing => true,
            Detection::Seen(server) => {
                verdict::settled_on(server).as_ref() == Some(release) || verdict::boots(server, release)
            }
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => return State::Moving(m),
        };
        match signalled {
            Some(baseline) if there => self.watch_on(turn.now, m.target, baseline),
            None if there => {
                let watch = Watch::new(release.clone(), None, None);
                m.then(watch.into())
            }
            _ if given_up => {
                let why =
                    Problem::new(Reason::Internal, "the agent ended three times during this move: given up");
                self.begin_revert(turn.now, m.target, why, true)
            }
            _ => m.then(MoveStep::Look),
        }
    }

    /// However late the agent is back, a restart that went well gets the time to be proved.
    fn grace(&self) -> u64 {
        self.policy.soak_ms.saturating_mul(2).saturating_add(5_000)
    }
}

fn ended_on_the_way_back() -> Problem {
    Problem::new(Reason::Internal, "the agent ended on the way back, which goes on")
}
