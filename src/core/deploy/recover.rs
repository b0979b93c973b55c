//! Taking up what the disk says after a start.

use super::*;
use crate::core::history::{MAX_UNFINISHED, Open};

impl Deploy {
    /// The state that the journal and `current` call for.
    pub fn recover(policy: Policy, recovered: &Recovered, now: Moment) -> Self {
        let (history, open) = History::fold(&recovered.records);
        let mut deploy = Self::steady(policy, history, recovered.current.clone());
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
        self.unsettled.clone_from(&signalled);
        let published = self.current.as_ref() == Some(&target.revision.release);
        if let Some(reason) = open.rejected {
            let why =
                Trouble::new(reason, "the release failed; the way back goes on after a restart of the agent");
            self.begin_revert(now, target, why, true);
            self.rejection_is_on_disk(now);
        } else if open.unfinished >= MAX_UNFINISHED {
            let why =
                Trouble::new(Reason::Internal, "the agent ended three times during this move: given up");
            self.begin_revert(now, target, why, true);
        } else if !published && signalled.is_some() {
            let why = Trouble::new(Reason::Internal, "the agent ended on the way back, which goes on");
            self.begin_revert(now, target, why, false);
        } else if !published {
            // The flip never came: from rest the move begins anew.
        } else if let Some(baseline) = signalled {
            let until = baseline.at.plus(self.timeout_of(&baseline)).max(now.plus(self.grace()));
            // A second SIGUSR1 is the same as one; a second SIGUSR2 may kill, unless a second master refuses a third.
            let ask_again = match baseline.mode {
                Mode::Hot if !self.policy.second_master => until,
                Mode::Hot | Mode::Phased => now.plus(self.policy.settle_ms).min(until),
            };
            let watch = Watch::new(target.revision.release.clone(), Some(baseline), Some(until));
            self.state = State::Verifying(target, Verifying { watch, ask_again: Some(ask_again) });
        } else {
            // Nothing was signalled: how to restart is found out anew.
            self.state = State::Checking(target, Checking::Look { missing_until: None });
        }
    }

    /// However late the agent is back, a restart that went well gets the time to be proved.
    fn grace(&self) -> u64 {
        self.policy.soak_ms.saturating_mul(2).saturating_add(5_000)
    }
}
