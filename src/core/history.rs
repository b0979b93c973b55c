//! What the lines of `revisions.log` add up to.

use super::effect::{Baseline, Record};
use super::reason::Reason;
use crate::revision::{ReleaseId, Revision};

/// The journal, folded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct History {
    /// The last release that was proved to run in this pod.
    pub verified: Option<ReleaseId>,
    /// The one before it.
    pub previous: Option<ReleaseId>,
    /// Moves that are not to be tried again, oldest first.
    pub rejected: Vec<(Revision, Reason)>,
}

impl History {
    /// Folds the lines, oldest first.
    pub fn fold(_records: &[Record]) -> (Self, Option<Baseline>) {
        (Self::default(), None)
    }
}
