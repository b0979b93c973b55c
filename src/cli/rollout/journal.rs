//! What the store has of a rollout, `rollouts/<pointer>`: how far it is, and who drives it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::revision::{Canary, Note, PodCount, ReleaseId, Revision};

/// One rollout. Written by its holder only, each time on condition that nobody else has written it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) v: u32,
    /// Random: a release may be rolled out more than once.
    pub(super) id: String,
    pub(super) release: ReleaseId,
    /// The number of the move, the same from the first pod to the last.
    pub(super) sequence: u64,
    /// The archive's digest.
    pub(super) sha256: String,
    /// What the pointer named before, and names until the end.
    pub(super) base: Revision,
    /// A canary that was in the pointer before, of nobody who is at work: this rollout takes its place.
    #[serde(default)]
    pub(super) replaces: Option<Canary>,
    pub(super) state: State,
    /// From 1.
    pub(super) step: usize,
    /// By the holder's clock (RFC 3339).
    pub(super) since: String,
    /// How often it has changed hands.
    pub(super) fence: u64,
    /// Who drives it; nobody after an end by a signal.
    pub(super) holder: Option<String>,
    /// Grows for as long as the holder lives.
    pub(super) heartbeat: u64,
    pub(super) options: Options,
    /// What became of `--before`, if there is one.
    #[serde(default)]
    pub(super) before: Option<Before>,
    /// Who started it, when and why.
    #[serde(default)]
    pub(super) started: Note,
    #[serde(default)]
    pub(super) result: Option<Outcome>,
    /// The same for people.
    #[serde(default)]
    pub(super) why: Option<String>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// `--before` runs. No pod has heard of it.
    Before,
    /// The pods of the first step are waited for.
    Canary,
    /// `--smoke` runs.
    Smoke,
    /// The pods of a later step are waited for.
    Step,
    /// They have to stay well for `--bake`.
    Bake,
    /// The pointer is about to name the release.
    Finish,
    /// The pods go back.
    Aborting,
    /// The pointer names the release.
    Done,
    /// It has ended in another way.
    Aborted,
}

impl State {
    /// Nothing follows.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }

    /// As in the object.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Canary => "canary",
            Self::Smoke => "smoke",
            Self::Step => "step",
            Self::Bake => "bake",
            Self::Finish => "finish",
            Self::Aborting => "aborting",
            Self::Done => "done",
            Self::Aborted => "aborted",
        }
    }
}

/// A command that runs once, if nobody dies meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Before {
    Pending,
    /// Somebody has started it.
    Running,
    Done,
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// All pods run the release.
    Done,
    /// Nothing was moved.
    Failed,
    /// All pods are back.
    TakenBack,
    /// With `--no-revert`: the pods of the steps so far keep the release.
    Stays,
    /// Time was up, and the pods are not back.
    TimedOut,
    /// Somebody else moved the pointer.
    Lost,
}

impl Outcome {
    /// As in the object.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::TakenBack => "taken_back",
            Self::Stays => "stays",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
        }
    }
}

/// How it is to go on, whoever drives it. No command is among it: what runs here comes from nobody who may write to
/// the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Options {
    /// Each step's pods; the last one's are all.
    pub(super) steps: Vec<PodCount>,
    /// There is a smoke test.
    #[serde(default)]
    pub(super) smoke: bool,
    /// So long the pods of a step have to stay well.
    #[serde(with = "humantime_serde")]
    pub(super) bake: Duration,
    /// So many pods may fail after the first step.
    pub(super) max_failed: usize,
    /// So long a step may go on without a pod that arrives.
    #[serde(with = "humantime_serde")]
    pub(super) timeout: Duration,
    /// The pods go back when it fails.
    pub(super) revert: bool,
    /// So many pods may restart at once, instead of what their agents say.
    #[serde(default)]
    pub(super) max_unavailable: Option<PodCount>,
    /// A holder whose heartbeat does not change for so long is dead.
    #[serde(with = "humantime_serde")]
    pub(super) lease: Duration,
}

impl Options {
    /// The pods of a step, counted from 1.
    pub(super) fn share(&self, step: usize) -> PodCount {
        self.steps.get(step.saturating_sub(1)).copied().unwrap_or(ALL)
    }
}

/// Every pod.
pub(super) const ALL: PodCount = PodCount::Percent(100);

/// Some pods as users name them, at least one.
///
/// # Errors
/// What it is instead, for the user.
pub(super) fn some_pods(text: &str) -> Result<PodCount, String> {
    match text.parse()? {
        PodCount::Pods(0) | PodCount::Percent(0) => Err(format!("\"{text}\" is no pod at all")),
        count => Ok(count),
    }
}

/// For people.
pub(super) fn named(count: PodCount) -> String {
    match count {
        PodCount::Pods(1) => "1 pod".into(),
        PodCount::Pods(count) => format!("{count} pods"),
        ALL => "all pods".into(),
        PodCount::Percent(percent) => format!("{percent}% of the pods"),
    }
}

impl Journal {
    /// As reports name it.
    pub(super) fn revision(&self) -> Revision {
        Revision { release: self.release.clone(), sequence: Some(self.sequence) }
    }

    /// The same, one state further.
    pub(super) fn entering(&self, state: State, step: usize) -> Self {
        Self { state, step, ..self.clone() }
    }

    /// The pods that have the release, or are about to.
    pub(super) fn share(&self) -> PodCount {
        self.options.share(self.step)
    }

    /// Where it stands, for people.
    pub(super) fn place(&self) -> String {
        let (step, steps) = (self.step, self.options.steps.len());
        let pods = || format!("step {step} of {steps} ({})", named(self.share()));
        match self.state {
            State::Before => "--before runs; no pod has the release yet".into(),
            State::Canary | State::Step => pods(),
            State::Smoke => format!("{}: the smoke test runs", pods()),
            State::Bake => {
                format!("{}: watched for {}", pods(), humantime::format_duration(self.options.bake))
            }
            State::Finish => "all pods run it; the pointer is moved".into(),
            State::Aborting => format!("the pods go back to {}", self.base.release),
            State::Done => "done".into(),
            State::Aborted => "aborted".into(),
        }
    }
}
