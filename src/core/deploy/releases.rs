//! Which release is where.

use std::collections::BTreeSet;

use super::{Deploy, History, Neighbours, Protected, state::Target, steady::Proven};
use crate::revision::ReleaseId;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Releases {
    /// Where `current` points; `None` when that is not known to be a complete release.
    pub current: Option<ReleaseId>,
    /// What the app server is proved to run.
    pub running: Option<ReleaseId>,
    /// What it ran when it was last at rest, proven here or not.
    pub last_seen: Option<ReleaseId>,
    /// The server as it stood when it was last seen whole, and how well its release is proved.
    pub proven: Option<Proven>,
    /// What was put in place at the pod's birth, and did not come to be well.
    pub unwell: BTreeSet<ReleaseId>,
    /// What the journal says was proved and what failed in this pod.
    pub history: History,
    /// What was proved and what failed in other pods of the volume.
    pub neighbours: Neighbours,
}

impl Releases {
    pub fn is_current(&self, release: &ReleaseId) -> bool {
        self.current.as_ref() == Some(release)
    }

    /// It is what was proved last in this pod.
    pub fn is_verified(&self, release: &ReleaseId) -> bool {
        self.history.verified.as_ref() == Some(release)
    }

    /// `current` leads to what was proved last.
    pub fn trusts_current(&self) -> bool {
        self.current.is_some() && self.current == self.history.verified
    }

    /// It runs, or ran before that, proved in this pod.
    pub fn proved_before(&self, release: &ReleaseId) -> bool {
        [&self.history.verified, &self.history.previous].iter().any(|known| known.as_ref() == Some(release))
    }

    /// What ran before what runs now.
    pub fn previous(&self) -> Option<&ReleaseId> {
        let History { verified, previous, .. } = &self.history;
        if self.running.is_some() && self.running != *verified {
            verified.as_ref()
        } else {
            previous.as_ref()
        }
    }

    pub fn proved(&mut self, release: &ReleaseId) {
        (self.running, self.last_seen) = (Some(release.clone()), Some(release.clone()));
        self.history.verify(release);
    }
}

impl Deploy {
    /// What this pod needs on the volume.
    pub fn protected(&self) -> Protected {
        let Releases { current, running, last_seen, history, .. } = &self.releases;
        let held = self.held.as_ref().map(|(release, _)| release);
        let known = [
            current.as_ref(),
            last_seen.as_ref(),
            history.verified.as_ref(),
            history.previous.as_ref(),
            held,
        ];
        let goal = self.state.moving().and_then(|m| m.back()).and_then(|back| back.goal.as_ref());
        let target = self.state.target();
        let waits =
            target.and_then(|target| target.stand_in.as_ref()).and_then(|one| one.instead_of.as_deref());
        let works_with = |target: &Target| [Some(target.revision.release.clone()), target.from.clone()];
        let in_hand = [target, waits].into_iter().flatten().flat_map(works_with).flatten();
        let known = known.into_iter().chain([goal]).flatten().chain(history.may_run());
        Protected {
            running: running.clone(),
            previous: self.releases.previous().cloned(),
            desired: self.desired.as_ref().map(|pointer| pointer.revision.release.clone()),
            also: known.cloned().chain(in_hand).collect(),
        }
    }
}
