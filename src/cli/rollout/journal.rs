//! What the store has of a rollout, `rollouts/<pointer>`: how far it is, and who drives it.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::revision::{Note, ReleaseId, Revision};

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
    pub(super) replaces: Option<serde_json::Value>,
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
    pub(super) steps: Vec<Share>,
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
    pub(super) max_unavailable: Option<Share>,
    /// A holder whose heartbeat does not change for so long is dead.
    #[serde(with = "humantime_serde")]
    pub(super) lease: Duration,
}

impl Options {
    /// The pods of a step, counted from 1.
    pub(super) fn share(&self, step: usize) -> Share {
        self.steps.get(step.saturating_sub(1)).copied().unwrap_or(Share::ALL)
    }
}

/// Some of the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Share {
    /// So many.
    Pods(u32),
    /// So many of a hundred, rounded up.
    Percent(u32),
}

impl Share {
    /// Every pod.
    pub(super) const ALL: Self = Self::Percent(100);

    /// How many of so many pods.
    pub(super) fn of(self, pods: usize) -> usize {
        match self {
            Self::Pods(count) => pods.min(count as usize),
            Self::Percent(percent) => (pods * percent as usize).div_ceil(100),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || format!("{text:?} is neither a count of pods, as 1, nor a share of them, as 25%");
        let (number, percent) = match text.trim().strip_suffix('%') {
            Some(number) => (number, true),
            None => (text.trim(), false),
        };
        match (number.parse::<u32>().map_err(|_| invalid())?, percent) {
            (0, _) => Err(format!("{text:?} is no pod at all")),
            (number, true) if number <= 100 => Ok(Self::Percent(number)),
            (_, true) => Err(invalid()),
            (number, false) => Ok(Self::Pods(number)),
        }
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Share> for String {
    fn from(share: Share) -> Self {
        match share {
            Share::Pods(count) => count.to_string(),
            Share::Percent(percent) => format!("{percent}%"),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(1) => f.write_str("1 pod"),
            Self::Pods(count) => write!(f, "{count} pods"),
            Self::Percent(100) => f.write_str("all pods"),
            Self::Percent(percent) => write!(f, "{percent}% of the pods"),
        }
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
    pub(super) fn share(&self) -> Share {
        self.options.share(self.step)
    }

    /// Where it stands, for people.
    pub(super) fn place(&self) -> String {
        let (step, steps) = (self.step, self.options.steps.len());
        let pods = || format!("step {step} of {steps} ({})", self.share());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_count_or_a_percentage_rounded_up() {
        let share = |text: &str| text.parse::<Share>();
        assert_eq!(share("1"), Ok(Share::Pods(1)));
        assert_eq!(share(" 25% "), Ok(Share::Percent(25)));
        for bad in ["", "0", "0%", "101%", "-1", "1.5", "all", "%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
        let of = |text: &str, pods| share(text).unwrap().of(pods);
        assert_eq!([of("25%", 4), of("25%", 5), of("1%", 3), of("100%", 7), of("50%", 0)], [1, 2, 1, 7, 0]);
        assert_eq!([of("2", 7), of("9", 7), of("1", 0)], [2, 7, 0]);
    }
}
