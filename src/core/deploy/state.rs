//! Where a deploy is: at rest, in a move, or stranded.

use super::share::Share;
use crate::core::{
    Policy, Stage,
    effect::{Baseline, Mode, Problem},
    observation::{AppServer, GenerationKey, Moment},
    verdict::Watch,
};
use crate::revision::{ReleaseId, Revision};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "there is one deploy, and a move is what it mostly waits for")]
pub(super) enum State {
    Steady,
    Moving(Move),
    /// Neither forward nor back. Left by a new move, or when a good release comes up after all.
    Stranded(Target),
}

impl State {
    pub(crate) fn at_rest(&self) -> bool {
        !matches!(self, Self::Moving(_))
    }

    pub(crate) fn moving(&self) -> Option<&Move> {
        match self {
            Self::Moving(m) => Some(m),
            Self::Steady | Self::Stranded(_) => None,
        }
    }

    pub(crate) fn step(&self) -> Option<&MoveStep> {
        self.moving().map(|m| &m.step)
    }

    pub(crate) fn target(&self) -> Option<&Target> {
        match self {
            Self::Steady => None,
            Self::Moving(Move { target, .. }) | Self::Stranded(target) => Some(target),
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        match self {
            Self::Steady => Stage::Steady,
            Self::Moving(m) => m.stage(),
            Self::Stranded(_) => Stage::Stranded,
        }
    }
}

/// The release that an attempt is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(crate) revision: Revision,
    /// What ran when the attempt started: the first choice for the way back.
    pub(crate) from: Option<ReleaseId>,
    /// What the pointer names as its previous release: the last choice.
    pub(crate) previous: Option<ReleaseId>,
    /// The way back from the move before failed. Whatever restart hangs there still, only a hot one
    /// leaves nothing of it.
    pub(crate) hot_only: bool,
    /// It is not what the pointer names, but keeps the pod alive as long as that cannot be had.
    pub(crate) stand_in: Option<StandIn>,
}

impl Target {
    pub(crate) fn new(revision: Revision, from: Option<ReleaseId>) -> Self {
        Self { revision, from, previous: None, hot_only: false, stand_in: None }
    }
}

/// Why another release than the desired one is put in place at a pod's birth.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StandIn {
    /// What is wrong with the desired one, or with the pointer.
    pub(crate) why: Problem,
    /// What the pointer named when it started.
    pub(crate) desired: Option<Revision>,
    /// The move that waits meanwhile.
    pub(crate) instead_of: Option<Box<Target>>,
    /// Stand-ins that could not be had either.
    pub(crate) tried: Vec<ReleaseId>,
}

/// A deploy under way, or its undoing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Move {
    pub(crate) target: Target,
    pub(crate) direction: Direction,
    /// What is wanted next, or under way while [`super::Deploy`] is busy.
    pub(crate) step: MoveStep,
    /// How the app server is restarted on the way forward, once that is known. Back: [`Mode::Beside`] as long as the
    /// live server runs the goal, so that only a candidate is to be ended.
    pub(crate) mode: Mode,
    /// The step waits no longer than this.
    pub(crate) until: Option<Moment>,
    /// The last plan was refused, and that was said.
    pub(crate) refused: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Forward,
    Back(Back),
}

/// The way back, which is taken without a human.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Back {
    pub(crate) why: Problem,
    /// The move itself failed, and is not to be tried again.
    pub(crate) reject: bool,
    /// What follows, where the move is not rejected.
    pub(crate) next: Next,
    /// Where to; `None` when no release is left to be trusted.
    pub(crate) goal: Option<ReleaseId>,
    /// The master was already ended once to get out.
    pub(crate) killed: bool,
    /// A signal that left no trace in all its time was already taken for lost once.
    pub(crate) repeated: bool,
    /// The last look saw nothing that serves. One look alone may have missed a worker.
    pub(crate) empty: bool,
    /// Nothing was found against the target: the goal has to show that it is better.
    pub(crate) trial: bool,
    /// Goals that could not be fetched, and whether that is for ever.
    pub(crate) unfetched: Vec<(ReleaseId, bool)>,
}

impl Back {
    pub(crate) fn new(why: Problem, reject: bool, goal: Option<ReleaseId>) -> Self {
        let unfetched = Vec::new();
        let next = Next::Later;
        Self {
            why,
            reject,
            next,
            goal,
            killed: false,
            repeated: false,
            empty: false,
            trial: false,
            unfetched,
        }
    }
}

/// What follows a way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Next {
    /// The same move, after a pause.
    Later,
    /// The same move.
    AtOnce,
    /// A newer one, which the way was left for.
    Newer,
}

/// The steps of a move, in their order. Both directions take the same ones; what only one of them takes says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum MoveStep {
    /// `rejected` goes on disk. Forward: the release was found to be bad before anything was moved.
    Reject(Problem),
    Fetch,
    /// Is there an app server, and may it be moved?
    Look,
    /// Forward, by an agent that was started anew in the middle of this move: what runs already? `given_up`:
    /// too many agents have ended in it, so that only what runs can keep it from being undone.
    TakenUp {
        signalled: Option<Baseline>,
        given_up: bool,
    },
    /// Forward: can the app server be moved? These images were seen when that was asked.
    Plan {
        images: Vec<GenerationKey>,
    },
    /// Forward: the image lacks what the release needs. It is asked again when another image serves; `until`
    /// only makes sure that none was missed.
    Lacking {
        images: Vec<GenerationKey>,
    },
    /// Forward: the server that has lingered longest has to end first, since two more have no room beside it.
    Room(Option<GenerationKey>),
    /// Forward: is it this pod's turn, so that no fleet serves an unproved release everywhere at the same moment?
    Spread(Spread),
    /// Forward: would requests be cut?
    Requests,
    /// `attempt` goes on disk. Back: only of a goal that is on trial.
    RecordAttempt,
    /// `current` moves. Forward: past `until` it moves even beside a server that hangs, if nothing serves any more.
    Flip,
    /// After the flip: is a signal needed, and can one be sent?
    Assess,
    /// `signalled` goes on disk, with what was there before.
    RecordSignal(Baseline),
    Signal(Baseline),
    /// Does the release come up, and is it well? Back: only of a goal that is on trial.
    Verify(Verify),
    /// All new connections go to this server. `proved`: it is the candidate; else it lingers, and served before.
    Switch {
        on: GenerationKey,
        proved: bool,
    },
    /// The candidate, which has passed its check, gets a share of the new connections.
    Share(Share),
    /// Is it well with its share, and has it served enough?
    Bake(Share),
    /// The candidate gets no new connection any more. Then this step comes.
    Unshare {
        on: GenerationKey,
        then: Box<MoveStep>,
    },
    /// The switch was not seen to be done. Where do connections go?
    AwaitSwitch {
        on: GenerationKey,
        proved: bool,
    },
    /// Back: the candidate is ended, the second time without mercy.
    AbortCandidate {
        on: GenerationKey,
        kill: bool,
    },
    /// Back: does the goal come up? An image that nothing serves from and that has not changed by `settle_by` is hung.
    Settle {
        settle_by: Moment,
    },
    /// Back: nothing serves and nothing else helped, so the image is ended and its container starts anew.
    Recover(GenerationKey),
    /// `verified` goes on disk; back: `reverted`.
    RecordEnd,
    /// Forward: is there a second master to be ended?
    FindOld,
    /// Of two masters the one that is not wanted is ended. This one stays.
    EndOther(GenerationKey),
    /// Forward: has it ended?
    AwaitEnd,
    /// Forward, by an agent that was started anew after the proof: is the old master still there?
    CommitTakenUp,
}

/// How long a restart waits for the other pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Spread {
    /// This pod's place by its name.
    pub(crate) place: Moment,
    /// As long as a restart may take, in milliseconds.
    pub(crate) takes_ms: u64,
    /// An operator wants it tried, whatever the others have found.
    pub(crate) at_once: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Verify {
    pub(crate) watch: Watch,
    /// It is about the candidate; else about the live server.
    pub(crate) candidate: bool,
    /// Taken up from the journal, where it is not known whether the signal was ever sent: with no
    /// trace of it by then, the restart is asked for again.
    pub(crate) ask_again: Option<Moment>,
    /// The health path of a pod's first release fails: as long as this, nothing else is tried.
    pub(crate) unwell_until: Option<Moment>,
}

impl Verify {
    pub(crate) fn lost_its_signal(&self, now: Moment) -> bool {
        self.ask_again.is_some_and(|at| now >= at) && self.watch.unchanged()
    }
}

impl From<Watch> for MoveStep {
    fn from(watch: Watch) -> Self {
        Verify { watch, candidate: false, ask_again: None, unwell_until: None }.into()
    }
}

impl From<Verify> for MoveStep {
    fn from(verify: Verify) -> Self {
        Self::Verify(verify)
    }
}

impl Move {
    pub(crate) fn forward(target: Target, step: MoveStep) -> Self {
        Self { target, direction: Direction::Forward, step, mode: Mode::Hot, until: None, refused: false }
    }

    pub(crate) fn back(&self) -> Option<&Back> {
        match &self.direction {
            Direction::Forward => None,
            Direction::Back(back) => Some(back),
        }
    }

    /// The next step, which waits for nothing.
    pub(crate) fn then(self, step: MoveStep) -> State {
        State::Moving(Self { step, until: None, ..self })
    }

    pub(crate) fn then_until(self, step: MoveStep, until: Moment) -> State {
        State::Moving(Self { step, until: Some(until), ..self })
    }

    /// The next step, in what is left of this one's time.
    pub(crate) fn on_to(self, step: MoveStep) -> State {
        State::Moving(Self { step, ..self })
    }

    pub(crate) fn over(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// What the move puts in place.
    pub(crate) fn goal(&self) -> Option<Revision> {
        match &self.direction {
            Direction::Forward => Some(self.target.revision.clone()),
            Direction::Back(back) => back.goal.clone().map(|release| Revision { release, sequence: None }),
        }
    }

    /// The release of the way back whose health decides.
    pub(crate) fn on_trial(&self) -> Option<Revision> {
        self.back().filter(|back| back.trial).and_then(|_| self.goal())
    }

    pub(crate) fn stage(&self) -> Stage {
        if self.back().is_some() {
            return Stage::Reverting;
        }
        match self.step {
            MoveStep::Fetch => Stage::Fetching,
            MoveStep::Reject(_)
            | MoveStep::Look
            | MoveStep::TakenUp { .. }
            | MoveStep::Plan { .. }
            | MoveStep::Lacking { .. }
            | MoveStep::Room(_)
            | MoveStep::Spread(_)
            | MoveStep::Requests => Stage::Checking,
            MoveStep::RecordAttempt | MoveStep::Flip => Stage::Publishing,
            MoveStep::Assess | MoveStep::RecordSignal(_) | MoveStep::Signal(_) => Stage::Restarting,
            MoveStep::Verify(_)
            | MoveStep::Share(_)
            | MoveStep::Bake(_)
            | MoveStep::Unshare { .. }
            | MoveStep::AbortCandidate { .. }
            | MoveStep::Settle { .. }
            | MoveStep::Recover(_) => Stage::Verifying,
            // A server that served before is proved after the switch.
            MoveStep::Switch { proved: false, .. } | MoveStep::AwaitSwitch { proved: false, .. } => {
                Stage::Restarting
            }
            MoveStep::Switch { .. }
            | MoveStep::AwaitSwitch { .. }
            | MoveStep::RecordEnd
            | MoveStep::FindOld
            | MoveStep::EndOther(_)
            | MoveStep::AwaitEnd
            | MoveStep::CommitTakenUp => Stage::Committing,
        }
    }

    /// Nothing was moved yet.
    pub(crate) fn before_flip(&self) -> bool {
        let step = match &self.step {
            MoveStep::Unshare { then, .. } => then,
            step => step,
        };
        matches!(
            step,
            MoveStep::Reject(_) | MoveStep::Fetch | MoveStep::Look | MoveStep::RecordAttempt | MoveStep::Flip
        )
    }

    /// The release is proved in a slot of its own, or comes from one.
    pub(crate) fn beside(&self) -> bool {
        self.mode == Mode::Beside
    }

    /// The candidate that is to be proved is there, or has ended.
    pub(crate) fn sees_candidate(&self, server: &AppServer) -> bool {
        matches!(&self.step, MoveStep::Verify(verify) if verify.watch.candidate(server).is_some())
    }

    /// A candidate is to be proved, or to stay well with its share.
    pub(crate) fn watches_candidate(&self) -> bool {
        match &self.step {
            MoveStep::Verify(verify) => verify.candidate,
            MoveStep::Share(_) | MoveStep::Bake(_) => true,
            _ => false,
        }
    }

    /// When something is due though nothing happens.
    pub(crate) fn deadlines(&self, policy: &Policy) -> Vec<Moment> {
        let mut due: Vec<Moment> = match &self.step {
            MoveStep::RecordAttempt | MoveStep::Flip if self.back().is_some() => return vec![],
            MoveStep::Settle { settle_by } => vec![*settle_by],
            MoveStep::Bake(share) => share.deadlines(policy),
            MoveStep::Verify(verify) => {
                let own = verify.ask_again.into_iter().chain(verify.unwell_until);
                verify.watch.deadlines(policy).into_iter().chain(own).collect()
            }
            _ => vec![],
        };
        due.extend(self.until);
        due
    }
}
