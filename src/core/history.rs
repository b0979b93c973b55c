//! What the lines of `revisions.log` add up to.
//!
//! An attempt is open from its `attempt` line until a `verified` or `reverted` line. A `rejected`
//! line alone leaves it open: the way back has begun and has not been seen to end.

use std::collections::BTreeSet;

use super::effect::{Baseline, Mode, Record};
use super::reason::Reason;
use crate::revision::{RecordEvent, ReleaseId, Revision};

/// So many attempts of one move may end without a verdict (a crash each) before it is given up.
pub(crate) const MAX_UNFINISHED: u32 = 3;

/// The journal, folded: what later decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct History {
    /// The last release that was proved to run in this pod.
    pub(crate) verified: Option<ReleaseId>,
    /// The one before it.
    pub(crate) previous: Option<ReleaseId>,
    /// Moves that are not to be tried again, oldest first.
    pub(crate) rejected: Vec<(Revision, Reason)>,
    /// The number of the latest move that was seen here.
    pub(crate) sequence: Option<u64>,
    /// The move with the highest number that was tried here.
    tried: Option<Revision>,
    /// Releases that failed here and were not proved since: no way back leads to them, also when the
    /// move itself may be tried again.
    failed: BTreeSet<ReleaseId>,
    /// Releases that were put in place here and not proved since.
    unproved: BTreeSet<ReleaseId>,
    /// Moves that were rejected before anything was proved here: there was nothing good to compare them with.
    at_birth: BTreeSet<Revision>,
    /// What was put in place since a release was last proved.
    in_place: BTreeSet<ReleaseId>,
    /// What was put in place between the last proof and the one before it.
    outgoing: BTreeSet<ReleaseId>,
}

/// What the journals of the other pods of a shared volume say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Neighbours {
    /// Complete releases that were proved in some pod, newest first.
    pub(crate) verified: Vec<ReleaseId>,
    /// Releases that failed in some pod and were not proved there since.
    pub(crate) failed: BTreeSet<ReleaseId>,
}

/// An attempt that has no end in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Open {
    pub(crate) revision: Revision,
    /// How the release was to be proved, where that was said before `current` moved.
    pub(crate) mode: Option<Mode>,
    /// The last signal announced, forward or back.
    pub(crate) signalled: Option<Baseline>,
    /// The way back had begun, for this reason.
    pub(crate) rejected: Option<Reason>,
    /// How many attempts of this very move have no end, this one included.
    pub(crate) unfinished: u32,
}

impl History {
    /// Folds the lines, oldest first.
    pub(crate) fn fold(records: &[Record]) -> (Self, Option<Open>) {
        let mut history = Self::default();
        let mut open: Option<Open> = None;
        for record in records {
            history.take(record, &mut open);
        }
        (history, open)
    }

    /// Notes the number of a move. A lower one than before was accepted by an operator.
    pub(crate) fn see(&mut self, revision: &Revision) {
        self.sequence = revision.sequence.or(self.sequence);
    }

    fn take(&mut self, record: &Record, open: &mut Option<Open>) {
        self.see(&record.revision);
        match record.event {
            RecordEvent::Attempt => {
                let again = open.take().filter(|o| o.revision == record.revision && o.rejected.is_none());
                let unfinished = again.map_or(1, |o| o.unfinished + 1);
                self.lift(&record.revision);
                self.try_out(&record.revision);
                self.unproved.insert(record.revision.release.clone());
                self.put_in_place(&record.revision.release);
                *open = Some(Open {
                    revision: record.revision.clone(),
                    mode: record.mode,
                    signalled: None,
                    rejected: None,
                    unfinished,
                });
            }
            RecordEvent::Signalled => {
                if let Some(open) = open {
                    open.signalled.clone_from(&record.baseline);
                }
            }
            RecordEvent::Verified => {
                self.verify(&record.revision.release);
                *open = None;
            }
            RecordEvent::Rejected => {
                let reason = record.reason.unwrap_or(Reason::Internal);
                self.reject(&record.revision, reason);
                match open {
                    Some(open) if open.revision == record.revision => open.rejected = Some(reason),
                    _ => {}
                }
            }
            RecordEvent::Reverted => {
                self.verify(&record.revision.release);
                *open = None;
            }
        }
    }

    /// Notes that the move is tried here.
    pub(crate) fn try_out(&mut self, revision: &Revision) {
        let newer = self.tried.as_ref().is_none_or(|tried| revision.sequence >= tried.sequence);
        if newer {
            self.tried = Some(revision.clone());
        }
    }

    /// Whether the move was tried here, well or badly.
    pub(crate) fn has_tried(&self, revision: &Revision) -> bool {
        self.tried.as_ref() == Some(revision) || self.rejection(revision).is_some()
    }

    /// Notes that `current` leads to the release from here on, or may.
    pub(crate) fn put_in_place(&mut self, release: &ReleaseId) {
        self.in_place.insert(release.clone());
    }

    /// What may still run: whatever was put in place since the last proof, and beside a second master that was
    /// just proved also what was in place before it.
    pub(crate) fn may_run(&self) -> impl Iterator<Item = &ReleaseId> {
        self.in_place.union(&self.outgoing)
    }

    /// Notes that the release runs, proven.
    pub(crate) fn verify(&mut self, release: &ReleaseId) {
        if !self.in_place.is_empty() {
            self.outgoing = std::mem::take(&mut self.in_place);
        }
        self.failed.remove(release);
        self.unproved.remove(release);
        if self.verified.as_ref() != Some(release) {
            self.previous = self.verified.replace(release.clone());
        }
    }

    /// Notes that the move failed.
    pub(crate) fn reject(&mut self, revision: &Revision, reason: Reason) {
        self.rejected.retain(|(r, _)| r != revision);
        self.rejected.push((revision.clone(), reason));
        self.failed.insert(revision.release.clone());
        if self.verified.is_none() {
            self.at_birth.insert(revision.clone());
        } else {
            self.at_birth.remove(revision);
        }
    }

    /// The move was rejected before anything was proved here.
    pub(crate) fn rejected_at_birth(&self, revision: &Revision) -> bool {
        self.rejection(revision).is_some() && self.at_birth.contains(revision)
    }

    /// Why the move is not to be tried again, if it is not.
    pub(crate) fn rejection(&self, revision: &Revision) -> Option<Reason> {
        self.rejected.iter().find(|(r, _)| r == revision).map(|(_, reason)| *reason)
    }

    /// Forgets the rejection of a move that is tried all the same, and of every plain-text move
    /// that the pointer has since left: these have no sequence to tell two moves apart.
    pub(crate) fn lift(&mut self, revision: &Revision) {
        self.rejected.retain(|(r, _)| r != revision && r.sequence.is_some());
    }

    /// Whether the release failed here, and has not been proved since.
    pub(crate) fn distrusts(&self, release: &ReleaseId) -> bool {
        self.failed.contains(release)
    }

    /// What was put in place before anything was proved here, by this agent or one before it.
    pub(crate) fn unproved_at_birth(&self) -> BTreeSet<ReleaseId> {
        if self.verified.is_none() { self.unproved.clone() } else { BTreeSet::new() }
    }

    /// Every release that failed here and has not been proved since.
    pub(crate) fn failed(&self) -> &BTreeSet<ReleaseId> {
        &self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: RecordEvent, release: &str, sequence: Option<u64>) -> Record {
        let revision = Revision { release: release.parse().unwrap(), sequence };
        Record { event, revision, reason: None, baseline: None, mode: None }
    }

    #[test]
    fn a_verified_release_closes_its_attempt_and_keeps_the_one_before() {
        let lines = [
            line(RecordEvent::Attempt, "v1", Some(1)),
            line(RecordEvent::Verified, "v1", Some(1)),
            line(RecordEvent::Attempt, "v2", Some(2)),
            line(RecordEvent::Verified, "v2", Some(2)),
        ];
        let (history, open) = History::fold(&lines);
        assert_eq!(history.verified.unwrap().as_str(), "v2");
        assert_eq!(history.previous.unwrap().as_str(), "v1");
        assert_eq!(open, None);
    }

    #[test]
    fn crashes_in_the_same_move_are_counted() {
        let lines = [line(RecordEvent::Attempt, "v2", Some(2)), line(RecordEvent::Attempt, "v2", Some(2))];
        assert_eq!(History::fold(&lines).1.unwrap().unfinished, 2);
    }

    #[test]
    fn a_rejection_without_its_way_back_leaves_the_attempt_open() {
        let lines = [line(RecordEvent::Attempt, "v2", Some(2)), line(RecordEvent::Rejected, "v2", Some(2))];
        let (history, open) = History::fold(&lines);
        assert!(history.rejection(&lines[0].revision).is_some());
        assert!(open.unwrap().rejected.is_some());
    }

    #[test]
    fn a_release_that_was_proved_after_it_failed_is_trusted_again() {
        let failed = [line(RecordEvent::Attempt, "v2", Some(2)), line(RecordEvent::Rejected, "v2", Some(2))];
        let (mut history, _) = History::fold(&failed);
        let v2 = &failed[0].revision.release;
        assert!(history.distrusts(v2));
        history.verify(v2);
        assert!(!history.distrusts(v2));
        assert!(history.rejection(&failed[0].revision).is_some(), "the old move stays rejected");
    }

    #[test]
    fn a_rejection_that_is_lifted_leaves_the_release_distrusted() {
        let lines = [
            line(RecordEvent::Attempt, "v2", None),
            line(RecordEvent::Rejected, "v2", None),
            line(RecordEvent::Reverted, "v1", None),
            line(RecordEvent::Attempt, "v3", None),
        ];
        assert!(History::fold(&lines).0.distrusts(&lines[0].revision.release));
    }

    #[test]
    fn a_plain_text_rejection_is_lifted_once_another_move_was_tried() {
        let lines = [
            line(RecordEvent::Attempt, "v2", None),
            line(RecordEvent::Rejected, "v2", None),
            line(RecordEvent::Reverted, "v1", None),
            line(RecordEvent::Attempt, "v3", None),
        ];
        assert_eq!(History::fold(&lines).0.rejected, []);
    }
}
