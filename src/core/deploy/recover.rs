//! Taking up what the disk says after a start.

use super::*;
use crate::core::history::{MAX_UNFINISHED, Open};

impl Deploy {
    /// The state that the journal and `current` call for.
    pub fn recover(policy: Policy, recovered: &Recovered, now: Moment) -> Self {
        let (history, open) = History::fold(&recovered.records);
        let mut deploy = Self::steady(policy, history, recovered.current.clone());
        deploy.unwell = deploy.history.unproved_at_birth();
        deploy.neighbours = recovered.neighbours.clone();
        match open {
            Some(open) => deploy.take_up(open, &recovered.boot_id, now),
            None => deploy.take_up_commit(now),
        }
        deploy
    }

    /// The agent may have ended between the proof and the end of the old master.
    fn take_up_commit(&mut self, now: Moment) {
        let Some(release) = self.history.verified.clone().filter(|_| self.policy.second_master) else {
            return;
        };
        if self.current.as_ref() == Some(&release) {
            let revision = Revision { release, sequence: None };
            let target = Target { revision, from: None, previous: None, hot_only: false, stand_in: None };
            self.state = State::Committing(
                target,
                Committing::TakenUp { until: now.plus(self.policy.hot_timeout_ms) },
            );
        }
    }

    fn take_up(&mut self, open: Open, boot_id: &str, now: Moment) {
        let target = Target {
            revision: open.revision,
            from: self.history.verified.clone(),
            previous: None,
            hot_only: false,
            stand_in: None,
        };
        // Processes of another boot are gone, and its moments mean nothing in this one.
        let signalled = open.signalled.filter(|b| b.boot_id == boot_id);
        self.attempt = Attempt(1);
        self.restart_in_flight.clone_from(&signalled);
        let published = self.current.as_ref() == Some(&target.revision.release);
        if let Some(reason) = open.rejected {
            let why =
                Problem::new(reason, "the release failed; the way back goes on after a restart of the agent");
            self.begin_revert(now, target, why, true);
            self.rejection_is_on_disk(now);
        } else if !published && signalled.is_some() {
            let why = Problem::new(Reason::Internal, "the agent ended on the way back, which goes on");
            match self.newborn(&target) {
                true => self.begin_trial(now, target, why),
                false => self.begin_revert(now, target, why, false),
            }
        } else if !published {
            // The flip never came: from rest the move begins anew.
        } else if open.unfinished >= MAX_UNFINISHED {
            self.state = State::Checking(target, Checking::TakenUp { signalled, given_up: true });
        } else if let Some(baseline) = signalled {
            self.state = self.watch_on(now, target, baseline);
        } else {
            // Nothing was signalled: if the release does not run already, how to restart is found out anew.
            self.state = State::Checking(target, Checking::TakenUp { signalled: None, given_up: false });
        }
    }

    /// Goes on with a restart that may have been signalled.
    fn watch_on(&self, now: Moment, target: Target, baseline: Baseline) -> State {
        let until = baseline.at.plus(self.timeout_of(&baseline)).max(now.plus(self.grace()));
        // A second SIGUSR1 is the same as one; a second SIGUSR2 may kill, unless a second master refuses a third.
        let ask_again = match baseline.mode {
            Mode::Hot if !self.policy.second_master => until,
            Mode::Hot | Mode::Phased => now.plus(self.policy.settle_ms).min(until),
        };
        let watch = Watch::new(target.revision.release.clone(), Some(baseline), Some(until));
        State::Verifying(target, Verifying { watch, ask_again: Some(ask_again), unwell_until: None })
    }

    /// What runs is looked at before anything is done about the agent's own end: a server that runs the
    /// release, or boots it, stays and is proved. Only one that runs something else is moved.
    pub(super) fn take_up_seen(
        &mut self,
        now: Moment,
        target: Target,
        signalled: Option<Baseline>,
        given_up: bool,
        detection: &Detection,
    ) {
        let release = &target.revision.release;
        let there = match detection {
            // Its container boots it from `current`.
            Detection::Missing => true,
            Detection::Seen(server) => {
                verdict::settled_on(server).as_ref() == Some(release) || verdict::boots(server, release)
            }
            Detection::Ambiguous | Detection::NotPermitted | Detection::Unclear => return,
        };
        self.state = match signalled {
            _ if self.mutated(Mutation::GivesUpUnseen) && given_up => {
                return self.give_up_after_deaths(now, target);
            }
            Some(baseline) if there => self.watch_on(now, target, baseline),
            None if there => {
                let watch = Watch::new(release.clone(), None, None);
                State::Verifying(target, Verifying { watch, ask_again: None, unwell_until: None })
            }
            _ if given_up => return self.give_up_after_deaths(now, target),
            _ => State::Checking(target, Checking::Look { missing_until: None }),
        };
    }

    fn give_up_after_deaths(&mut self, now: Moment, target: Target) {
        let why = Problem::new(Reason::Internal, "the agent ended three times during this move: given up");
        self.begin_revert(now, target, why, true);
    }

    /// However late the agent is back, a restart that went well gets the time to be proved.
    fn grace(&self) -> u64 {
        self.policy.soak_ms.saturating_mul(2).saturating_add(5_000)
    }
}
