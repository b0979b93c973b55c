//! What the reports of the other pods add up to.

use std::collections::BTreeSet;

use crate::revision::{PodCount, ReleaseId, Revision};

/// What the live pods that follow the same pointer say, this one left out. Reports can be forged by whoever may
/// write them: they may make a pod wait, or try once more, and never go anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Fleet {
    /// How many other live pods there are.
    pub(crate) others: usize,
    /// This pod comes first in their order.
    pub(crate) first: bool,
    /// Moves that some pod is being restarted onto.
    pub(crate) proving: BTreeSet<Revision>,
    /// Moves that some pod runs, proved.
    pub(crate) well: BTreeSet<Revision>,
    /// Moves that some pod has rejected.
    pub(crate) rejected: BTreeSet<Revision>,
    /// So many restarts come before this pod's, one after the other (`restart.max_unavailable`).
    pub(crate) wave: u32,
    /// The moves that the last of these pods has behind it, which it runs, proved, or has rejected. `None`: there is none.
    pub(crate) before: Option<BTreeSet<Revision>>,
}

/// What is to be read of the other pods' reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// How often, in milliseconds.
    pub(crate) each_ms: u64,
    /// The move that this pod is about to make.
    pub(crate) revision: Option<Revision>,
    /// How many pods may restart at once, where the pointer says so.
    pub(crate) max_unavailable: Option<PodCount>,
    /// The pods that make the move hold claims to it: who says that it stays out of it does. Of a share of all pods, and
    /// of a move for all, those before this one in their order make it too, also when they have not read of it yet.
    pub(crate) claimed: bool,
}

impl Fleet {
    /// Some pod has rejected this move, and none runs it.
    pub(crate) fn rejects(&self, revision: &Revision) -> bool {
        self.rejected.contains(revision) && !self.well.contains(revision)
    }

    /// A restart onto the move may begin as far as the pods are concerned that come before this one.
    pub(crate) fn lets_restart(&self, revision: &Revision) -> bool {
        self.before.as_ref().is_none_or(|done| done.contains(revision))
    }

    /// Some pod has rejected the release, and none runs it.
    pub(crate) fn distrusts(&self, release: &ReleaseId) -> bool {
        let of = |moves: &BTreeSet<Revision>| moves.iter().any(|revision| revision.release == *release);
        of(&self.rejected) && !of(&self.well)
    }
}
