//! The drain's words: commands, effects, journal, answer, and what /status shows.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::core::observation::{GenerationKey, Moment};

/// What the drain is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DrainCommand {
    /// preStop was called (again), or the agent itself got SIGTERM.
    Begin(Origin),
    /// The operator says that the drain was false.
    Undrain,
    /// The kubelet has asked the agent something from this address, from which its probes come too.
    Kubelet(IpAddr),
}

/// Who asks for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The app server's preStop hook.
    PreStop,
    /// SIGTERM to the agent.
    Term,
    /// A call of /prestop that nothing shows to be the kubelet's. It is held like any other, but says nothing
    /// about the pod: deploys go on, and nobody else's drain is changed by it.
    Stray,
}

/// What the drain wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DrainEffect {
    /// Write the journal in `state_dir`, best effort; `None` removes it.
    Journal(Option<Journal>),
    /// Answer who waits on /prestop since `called` or before.
    Answer {
        /// When the call came that is answered.
        called: Moment,
        /// No call is open any more that was meant: the drain has ended with this answer.
        ends: bool,
        /// What it is told.
        answer: Answer,
    },
    /// The app server has gone, and these requests were not answered.
    Cut(Vec<InWork>),
    /// The drain was undone. Who still waits is told so if an operator did it, and goes on waiting else.
    Undone(Undone),
}

/// The drain's journal: what a restarted agent needs to go on with the time that is left.
/// Its moments mean something in the same boot of the kernel only: who reads it back drops one
/// from another boot.
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
    pub generation: Option<GenerationKey>,
    /// The answer, once it was given.
    #[serde(default)]
    pub answer: Option<Answer>,
}

/// Why a drain was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    /// A new image serves: the container was restarted, the pod lives on.
    NewImage,
    /// 60 s after the answer nobody had sent SIGTERM: the same master still served, or the container had ended
    /// and the pod had not.
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
    /// Nothing was answered any more, though requests waited: the app server hangs.
    Stuck,
}

impl DrainResult {
    /// Every result.
    pub(crate) const ALL: [Self; 5] =
        [Self::Drained, Self::Deadline, Self::NoAppServer, Self::AlreadyGone, Self::Stuck];

    /// Its name in the contract.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Deadline => "deadline",
            Self::NoAppServer => "no_app_server",
            Self::AlreadyGone => "already_gone",
            Self::Stuck => "stuck",
        }
    }

    /// It was answered though requests were left.
    pub(super) fn gives_up(self) -> bool {
        matches!(self, Self::Deadline | Self::Stuck)
    }
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

/// One thing that the drain waited for, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Wait {
    /// What.
    pub what: WaitsFor,
    /// Milliseconds from the drain's begin to the look that saw it met, or to the answer.
    pub until_ms: u64,
}

/// Which witnesses the drain has. A witness that was there before and fails now is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// The app server's own numbers.
    pub control: bool,
    /// The socket table.
    pub sockets: bool,
    /// Every connection that ended, also between two looks.
    #[serde(default)]
    pub ends: bool,
}

/// A request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InWork {
    /// Whose.
    pub peer: IpAddr,
    /// For how long it has been there, in milliseconds.
    pub(crate) age_ms: u64,
}

impl fmt::Display for InWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {}, {} old", self.peer, Seconds(self.age_ms))
    }
}

/// What to do about connections that have become something else than requests and answers:
/// websockets, hijacked sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upgraded {
    /// Wait until they are closed, as for a request.
    #[default]
    Wait,
    /// Let them end with the app server.
    Ignore,
}

/// What /prestop answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// Names the drain.
    pub drain_id: u64,
    /// How it ended.
    pub result: DrainResult,
    /// How long it held, in milliseconds.
    pub held_ms: u64,
    /// Requests that were still in flight, as far as that could be seen.
    pub requests_left: u32,
    /// What it waited for, in the order of the first wait.
    pub waited_for: Vec<WaitsFor>,
    /// The same with the times, to explain the length.
    pub waits: Vec<Wait>,
    /// Whose silence was waited for last, where one peer can be named.
    pub last_peer: Option<IpAddr>,
    /// What the result rests on.
    pub evidence: Evidence,
    /// Websockets and the like that were still open.
    #[serde(default)]
    pub upgraded: u32,
    /// Requests that were left when the time ran out, the oldest first; at most ten. The app server may still
    /// finish them after SIGTERM.
    #[serde(default)]
    pub left: Vec<InWork>,
    /// For how long nothing had been answered, in milliseconds, where that was the reason.
    #[serde(default)]
    pub stuck_ms: Option<u64>,
}

impl fmt::Display for Answer {
    /// One line for people: how long the drain held and because of what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = match self.result {
            DrainResult::Drained => "drained",
            DrainResult::Deadline => "drain timed out",
            DrainResult::NoAppServer => "no app server to drain",
            DrainResult::AlreadyGone => "the app server ended by itself",
            DrainResult::Stuck => "the app server hangs",
        };
        write!(f, "{head} after {}", Seconds(self.held_ms))?;
        if self.result.gives_up() {
            write!(f, " with {} requests left", self.requests_left)?;
        }
        if let Some(ms) = self.stuck_ms {
            write!(f, "; no request was answered for {} while requests waited", Seconds(ms))?;
        }
        for (i, wait) in self.waits.iter().enumerate() {
            f.write_str(if i == 0 { "; waited " } else { ", " })?;
            self.wait(f, wait)?;
        }
        for (i, request) in self.left.iter().enumerate() {
            let word = if i == 0 { "; still in flight: " } else { ", " };
            write!(f, "{word}{request}")?;
        }
        if self.upgraded > 0 {
            write!(f, "; {} websockets or streams were open", self.upgraded)?;
        }
        match (self.evidence.control, self.evidence.sockets) {
            _ if matches!(self.result, DrainResult::NoAppServer | DrainResult::AlreadyGone) => Ok(()),
            (true, true) if self.evidence.ends => Ok(()),
            (true, true) => f.write_str(
                "; short connections may have been missed: the kernel did not report each one that ended",
            ),
            (true, false) => f.write_str("; the socket table could not be read"),
            (false, true) => f.write_str("; no control server: decided by the socket table only"),
            (false, false) => f.write_str("; neither the control server nor the socket table could be read"),
        }
    }
}

impl Answer {
    fn wait(&self, f: &mut fmt::Formatter<'_>, wait: &Wait) -> fmt::Result {
        let until = Seconds(wait.until_ms);
        match (wait.what, self.last_peer) {
            (WaitsFor::Min, _) => write!(f, "until {until} for drain.min"),
            (WaitsFor::Quiet, Some(peer)) => write!(f, "until {until} for silence (last sender: {peer})"),
            (WaitsFor::Quiet, None) => write!(f, "until {until} for silence"),
            (WaitsFor::InFlight, _) => write!(f, "until {until} for requests in flight"),
        }
    }
}

struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}s", self.0 / 1000, self.0 % 1000 / 100)
    }
}

/// The drain's part of the config, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
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
    pub ignore_peers: Vec<IpAddr>,
    /// Whether websockets and the like are waited for.
    pub upgraded: Upgraded,
}

impl Budget {
    /// Whether this peer's traffic never counts.
    pub(super) fn ignores(&self, peer: IpAddr) -> bool {
        self.ignore_peers.contains(&peer.to_canonical())
    }
}

/// The drain as /status shows it, while it goes on and after its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainView {
    /// Names the drain.
    pub drain_id: u64,
    /// No deploy begins meanwhile; false when nothing but stray calls are held.
    pub meant: bool,
    /// When it began.
    pub(crate) began: Moment,
    /// When it must be answered.
    pub(crate) deadline: Moment,
    /// What it waits for now.
    pub waits_for: Vec<WaitsFor>,
    /// Senders whose silence is not proved yet; senders without a known address count as one.
    pub peers_not_quiet: usize,
    /// Requests in flight at the last look; `None` when there is nothing to tell it by.
    pub requests_in_flight: Option<u32>,
    /// Those that the socket table shows, the oldest first; at most ten.
    pub(crate) in_work: Vec<InWork>,
    /// Websockets and the like that are open, waited for or not; after the answer, those that it left open.
    pub upgraded: u32,
    /// What there is to decide by.
    pub(crate) evidence: Evidence,
    /// /prestop was answered.
    pub answered: bool,
    /// How it ended.
    pub(crate) result: Option<DrainResult>,
}
