//! The end of a pod: when may SIGTERM come?

use serde::{Deserialize, Serialize};

use super::observation::{Moment, Observation};

/// What the drain is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DrainCommand {
    /// preStop was called (again), or the agent itself got SIGTERM.
    Begin(Origin),
    /// The operator says that the drain was false.
    Undrain,
}

/// Who asks for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The app server's preStop hook.
    PreStop,
    /// SIGTERM to the agent.
    Term,
}

/// What the drain wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DrainEffect {
    /// Write the journal in `state_dir`, best effort; `None` removes it.
    Journal(Option<Journal>),
    /// Answer everybody who waits on /prestop.
    Answer(Answer),
    /// The drain was undone; those who still wait are answered as well.
    Undone(Undone),
}

/// The drain's journal: what a restarted agent needs to go on with the time that is left.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Journal {
    /// Names the drain.
    pub drain_id: u64,
    /// When it began.
    pub began: Moment,
    /// When it must be answered.
    pub deadline: Moment,
    /// Who began it.
    pub origin: Origin,
    /// The master image that is to end, so that a new one is recognised.
    pub generation: Option<super::observation::GenerationKey>,
    /// Whether it was answered already.
    pub answered: bool,
}

/// Why a drain was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    /// A new image serves: the container was restarted, the pod lives on.
    NewImage,
    /// 60 s after the answer the same master still served and nobody had sent SIGTERM.
    FalseDrain,
    /// An operator said so.
    Operator,
}

/// How the drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainResult {
    /// No traffic came any more and nothing was in flight.
    Drained,
    /// Time ran out.
    Deadline,
    /// There was no app server to drain.
    NoAppServer,
    /// The app server went during the drain.
    AlreadyGone,
}

/// What the drain waits (or waited) for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// `drain.min`.
    Min,
    /// Silence of every peer.
    Quiet,
    /// Requests in flight.
    InFlight,
}

/// What /prestop answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Answer {
    /// Names the drain.
    pub drain_id: u64,
    /// How it ended.
    pub result: DrainResult,
    /// How long it held, in milliseconds.
    pub held_ms: u64,
    /// Requests that were still in flight.
    pub requests_left: u32,
    /// What it waited for, in the order of the first wait.
    pub waited_for: Vec<WaitsFor>,
}

/// The drain's part of the config, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Never answer sooner.
    pub min_ms: u64,
    /// The shortest silence that counts.
    pub quiet_min_ms: u64,
    /// The longest silence that is waited for.
    pub quiet_max_ms: u64,
    /// Never answer later.
    pub max_ms: u64,
    /// Peers whose traffic never counts (health checkers, scrapers).
    pub ignore_peers: Vec<std::net::IpAddr>,
}

/// The drain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Drain {
    budget: Budget,
}

impl Drain {
    /// Serving, unless a journal says that a drain was under way.
    pub fn new(budget: Budget, _journal: Option<Journal>) -> Self {
        Self { budget }
    }

    /// Takes a command.
    pub fn command(&mut self, _now: Moment, _command: DrainCommand) -> Vec<DrainEffect> {
        Vec::new()
    }

    /// Takes a look at the app server. Also called while serving, to learn the peers' rates.
    pub fn observe(&mut self, _now: Moment, _observation: &Observation) -> Vec<DrainEffect> {
        Vec::new()
    }

    /// Lets time pass.
    pub fn tick(&mut self, _now: Moment) -> Vec<DrainEffect> {
        Vec::new()
    }

    /// When something will be due though nothing happens.
    pub fn deadline(&self) -> Option<Moment> {
        None
    }

    /// No forward stage may start: draining or answered.
    pub fn active(&self) -> bool {
        false
    }

    /// /prestop was answered and the drain not undone.
    pub fn answered(&self) -> bool {
        false
    }
}
