//! What is wanted next, stage by stage.

use super::revert::Revert;
use crate::core::{
    effect::{Baseline, Mode, Problem},
    observation::{GenerationKey, Moment},
    verdict::Watch,
};
use crate::revision::{ReleaseId, Revision};

/// The move an attempt is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub revision: Revision,
    /// What ran when the attempt began: the first choice for the way back.
    pub from: Option<ReleaseId>,
    /// What the pointer names as its previous release: the last choice.
    pub previous: Option<ReleaseId>,
    /// The way back from the move before failed: whatever restart hangs there still, only a hot one
    /// leaves nothing of it.
    pub hot_only: bool,
    /// It is not what the pointer names, but keeps the pod alive as long as that cannot be had.
    pub stand_in: Option<StandIn>,
}

/// Why another release than the desired one is put in place at a pod's birth.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StandIn {
    /// What is wrong with the desired one, or with the pointer.
    pub why: Problem,
    /// What the pointer named when it began.
    pub desired: Option<Revision>,
    /// The move that waits meanwhile.
    pub instead_of: Option<Box<Target>>,
    /// Stand-ins that could not be had either.
    pub tried: Vec<ReleaseId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum State {
    Steady,
    Fetching(Target),
    Checking(Target, Checking),
    Publishing(Target, Mode, Publishing),
    Restarting(Target, Mode, Restarting),
    Verifying(Target, Verifying),
    Committing(Target, Committing),
    Reverting(Target, Revert),
    Stranded(Target),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Checking {
    /// Is there an app server to be moved?
    Look { missing_until: Option<Moment> },
    /// An agent that was started anew in the middle of this move: what runs already? `given_up`: too many
    /// agents have ended in it, so that only what runs can keep it from being undone.
    TakenUp { signalled: Option<Baseline>, given_up: bool },
    /// Can it be moved? These images were seen when that was asked.
    Plan { images: Vec<GenerationKey> },
    /// The image lacks what the release needs: what else would be there, is seen when another image
    /// serves; `again` only makes sure that none was missed.
    Lacking { images: Vec<GenerationKey>, again: Moment },
    /// The release itself was found to be bad, before anything was moved: that goes on disk.
    Condemned(Problem),
    /// Is it this pod's turn, so that no fleet serves an unproved release everywhere at the same moment?
    Spread(Turn),
    /// Would requests be cut?
    Requests { mode: Mode, until: Moment },
}

/// How long a restart waits for the other pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Turn {
    pub mode: Mode,
    /// This pod's place by its name.
    pub place: Moment,
    /// No longer than this, whatever others report: reports can be forged.
    pub last: Moment,
    /// An operator wants it tried, whatever the others have found.
    pub at_once: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Publishing {
    Record,
    /// Past `until` it is done even beside a server that hangs, if nothing serves any more.
    Flip {
        until: Moment,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Restarting {
    Look { until: Moment },
    Record(Baseline),
    Signal(Baseline),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Verifying {
    pub watch: Watch,
    /// Taken up from the journal, where it is not known whether the signal was ever sent: with no
    /// trace of it by then, the restart is asked for again.
    pub ask_again: Option<Moment>,
    /// The health path of a pod's first release fails: as long as this, nothing else is tried.
    pub unwell_until: Option<Moment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Committing {
    /// By an agent that was started anew: is the old master still there?
    TakenUp {
        until: Moment,
    },
    Record,
    Look,
    Commit(GenerationKey),
    Watch {
        until: Moment,
    },
}

impl Verifying {
    pub(super) fn lost_its_signal(&self, now: Moment) -> bool {
        self.ask_again.is_some_and(|at| now >= at) && self.watch.unchanged()
    }
}
