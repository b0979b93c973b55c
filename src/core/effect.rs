//! What goes into the core and what comes out of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    drain::{DrainCommand, DrainEffect},
    fleet::Fleet,
    observation::{GenerationKey, Moment, Observation, ProcessKey},
    reason::Reason,
};
use crate::revision::{Pointer, RecordEvent, ReleaseId, Revision};

/// Numbers the attempts of this process. A result that carries another attempt's number is late
/// and moves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Attempt(pub(crate) u64);

/// How the app server restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A new image in the same process: everything is loaded anew, clients wait for the boot.
    Hot,
    /// Worker by worker: the others go on serving.
    Phased,
    /// A second server in a slot of its own, which serves nobody before it was proved: clients wait for nothing.
    Beside,
}

/// Something that happened.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and most of them are looks")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The pointer was read.
    Pointer(Result<Pointer, Problem>),
    /// The reports of the other pods were read.
    Fleet(Fleet),
    /// The app server was looked at.
    Observed(Observation),
    /// An effect ended, or overran its deadline and goes on ([`Outcome::Unknown`]).
    Finished {
        /// Whose effect it was.
        attempt: Attempt,
        /// Which.
        step: Step,
        /// How it ended.
        outcome: Outcome,
    },
    /// Somebody asked for something over the admin socket.
    Operator(Operator),
    /// The drain's side.
    Drain(DrainCommand),
    /// Only time has passed.
    Tick,
}

/// What went wrong, for machines and for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The code.
    pub reason: Reason,
    /// What failed, on which path, key or process, and what to do.
    pub message: String,
}

impl Problem {
    /// A problem of this reason with this message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What an operator asks this pod to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// Look now; with `retry`, forget that the desired move was rejected.
    Sync {
        /// Try a rejected move again.
        retry: bool,
    },
    /// Start no deploy.
    Pause,
    /// Deploy again.
    Resume,
    /// Back to the previous release, held until the pointer moves or `Resume`.
    Revert,
}

/// Which effect an [`Event::Finished`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// [`Effect::Fetch`].
    Fetch,
    /// [`Effect::Check`].
    Check,
    /// [`Effect::Record`] of this event.
    Record(RecordEvent),
    /// [`Effect::Publish`].
    Publish,
    /// [`Effect::Perform`] of this act.
    Perform(ServerCommand),
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is done.
    Done,
    /// A check passed, and this is how the app server can be restarted onto the release.
    Checked(Plan),
    /// A check found the release itself to be bad: nothing was changed, and the move is not to be
    /// tried again.
    Condemned(Problem),
    /// It failed and changed nothing that matters.
    Failed(Problem),
    /// [`Effect::Publish`] failed: where `current` leads since then was looked at. `None`: to no complete release,
    /// as far as the volume told.
    NotPublished {
        /// Why.
        problem: Problem,
        /// Where it leads.
        current: Option<ReleaseId>,
    },
    /// It has not answered in time and may still happen. A later event of the same attempt and
    /// step says how it ended; until then nothing else may change the volume. A signal alone is
    /// called off at its deadline: it was sent by then or never will be, and no event follows.
    Unknown,
}

/// What a check found out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Plan {
    /// How to restart.
    pub mode: Mode,
    /// No slot is free, or there is no memory for a third server: the one that has lingered longest has to end before
    /// a plan is made.
    pub make_room: bool,
}

impl Plan {
    /// To restart like this, at once.
    pub fn new(mode: Mode) -> Self {
        Self { mode, make_room: false }
    }
}

/// Something to be done outside. Results come back as [`Event::Finished`] unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make `releases/<id>` complete and verified, or leave it absent.
    Fetch {
        /// For whom.
        attempt: Attempt,
        /// What.
        release: ReleaseId,
        /// The digest of its archive, where the pointer names one.
        sha256: Option<String>,
    },
    /// See whether the app server could be moved to the release, and how.
    Check {
        /// For whom.
        attempt: Attempt,
        /// What.
        release: ReleaseId,
        /// What runs now, to compare with.
        running: Option<ReleaseId>,
        /// Boot it for trial, where the user has given a command for that.
        trial: bool,
        /// A second server beside the first may be planned.
        beside: bool,
    },
    /// Append a line to `revisions.log` and sync it.
    Record {
        /// For whom.
        attempt: Attempt,
        /// What.
        record: Record,
    },
    /// Point `current` to the release, sync, read back.
    Publish {
        /// For whom.
        attempt: Attempt,
        /// What.
        release: ReleaseId,
    },
    /// Tell the app server.
    Perform {
        /// For whom.
        attempt: Attempt,
        /// What.
        command: ServerCommand,
        /// To this image only; gone or changed, nothing is sent and the effect fails.
        on: GenerationKey,
    },
    /// A deploy is over. Reports nothing back: for the log and the metrics.
    Conclude {
        /// Whose.
        attempt: Attempt,
        /// What was tried.
        revision: Revision,
        /// How it ended.
        result: DeployResult,
    },
    /// Something that people should hear of. Reports nothing back.
    Notice(Notice),
    /// The drain's side. Reports nothing back.
    Drain(DrainEffect),
}

/// What others did to the app server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notice {
    /// It was restarted, by nobody's order here.
    RestartedByOthers {
        /// How.
        mode: Mode,
        /// While a restart of ours was under way.
        amid_ours: bool,
    },
    /// Its master ended during a restart of ours, after processes of the release had booted.
    MasterEnded,
    /// A step of `restart.shift` ended by its time-out: the second server has not served enough requests in it.
    StepTimedOut {
        /// So many; `None`: nobody counts.
        requests: Option<u64>,
        /// Of so many.
        wanted: u64,
    },
}

/// What the app server can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerCommand {
    /// Restart onto what `current` points to. Beside: start the candidate.
    Restart(Mode),
    /// All new connections go to this server from now on: to the candidate, or back to one that lingers.
    Switch,
    /// The candidate gets so many of 1000 new connections; 0: none any more.
    Share {
        /// So many.
        permille: u32,
    },
    /// The server that lingers, or a candidate that nobody waits for, is ended: SIGTERM once nobody waits in its
    /// queues. Reports nothing that is waited for: that it was told is seen.
    End,
    /// A candidate, or a server that lingers, has not ended though it was told to: SIGKILL.
    Kill,
    /// The new generation is good: end the old one, where there is one.
    Commit,
    /// The restart failed in this mode and `current` points back: end the new generation (beside: the candidate), or
    /// restart again.
    Abort(Mode),
    /// Nothing serves and nothing else helped: end the image, so that the container starts it anew.
    Recover,
}

/// How a deploy ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DeployResult {
    /// Every process runs the release.
    Verified,
    /// Undone; the pod runs what it ran before.
    Reverted(Problem),
    /// Neither forward nor back.
    Stranded(Problem),
    /// Nothing was changed, because it could not work.
    Refused(Problem),
    /// A newer move came first.
    Superseded,
}

/// What this pod needs on the volume, so that nobody may delete it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Protected {
    /// What the pod runs.
    pub(crate) running: Option<ReleaseId>,
    /// What it ran before.
    pub(crate) previous: Option<ReleaseId>,
    /// What the pointer names.
    pub(crate) desired: Option<ReleaseId>,
    /// What may still run, what `current` leads to, what a deploy works with, and where a way back may lead.
    pub(crate) also: BTreeSet<ReleaseId>,
}

#[cfg(all(test, feature = "walk"))]
impl Protected {
    /// All of them.
    pub(crate) fn releases(&self) -> impl Iterator<Item = &ReleaseId> {
        [&self.running, &self.previous, &self.desired].into_iter().flatten().chain(&self.also)
    }
}

/// A line of `revisions.log`, less its version and wall-clock time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// What happened.
    pub event: RecordEvent,
    /// To which move.
    #[serde(flatten)]
    pub revision: Revision,
    /// Why.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// What was there before the signal, on `signalled` lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// On `attempt` lines: [`Mode::Beside`], where the release is to be proved in a slot of its own while `current`
    /// leads to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

impl Record {
    /// A line that says no more than this.
    pub(crate) fn new(event: RecordEvent, revision: Revision) -> Self {
        Self { event, revision, reason: None, baseline: None, mode: None }
    }
}

/// The app server as it was before it was told to restart: what must have changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Baseline {
    /// When it was seen.
    pub(crate) at: Moment,
    /// The kernel's boot that `at` belongs to: on another boot every process is new anyway.
    /// Filled in by the journal.
    #[serde(default)]
    pub(crate) boot_id: String,
    /// How the restart was asked for.
    pub(crate) mode: Mode,
    /// The images, that of the live server last. Beside: also the runs in other slots.
    pub(crate) generations: Vec<GenerationKey>,
    /// The serving processes.
    pub(crate) processes: Vec<ProcessKey>,
    /// Whether the health path answered well. If not, its failure later proves nothing.
    pub(crate) healthy: bool,
}
