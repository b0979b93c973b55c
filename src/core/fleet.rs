//! What the reports of the other pods add up to.

use std::collections::BTreeSet;

use crate::revision::{ReleaseId, Revision};

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
}

impl Fleet {
    /// Some pod has rejected this move, and none runs it.
    pub(crate) fn rejects(&self, revision: &Revision) -> bool {
        self.rejected.contains(revision) && !self.well.contains(revision)
    }

    /// Some pod has rejected the release, and none runs it.
    pub(crate) fn distrusts(&self, release: &ReleaseId) -> bool {
        let of = |moves: &BTreeSet<Revision>| moves.iter().any(|revision| revision.release == *release);
        of(&self.rejected) && !of(&self.well)
    }
}
