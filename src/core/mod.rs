//! The pure decisions. Nothing here reads a clock, waits, or touches the outside: an [`Event`] and
//! `now` go in, [`Effect`]s come out. The supervisor performs them and reports back.
//!
//! The state is Deploy × Drain: two axes that know of each other only through [`Agent::step`].

pub(crate) mod deploy;
pub mod drain;
mod fleet;
pub mod history;
pub(crate) mod proof;
pub(crate) mod reason;
pub(crate) mod requirement;
pub(crate) mod verdict;
#[cfg(all(test, feature = "walk"))]
mod walk;

pub use reason::Reason;
pub(crate) mod effect;
pub(crate) mod observation;
pub(crate) mod pace;
pub(crate) use deploy::Sharing;
pub use deploy::Shift;
pub(crate) use effect::Protected;
pub use effect::{
    Attempt, Baseline, DeployResult, Effect, Event, Mode, Notice, Operator, Outcome, Plan, Problem, Record,
    ServerCommand, Step,
};
pub use fleet::{Fleet, Reading};
pub use observation::{
    Answer, AppServer, Connection, Cwd, Detection, Files, Generation, GenerationKey, Moment, Observation,
    Probe, Process, ProcessKey, Sockets, Traffic, WorkerLoad,
};
pub(crate) use proof::{Level, Proof};

use crate::revision::{Note, ReleaseId, Revision};
use deploy::{Deploy, Gate};
use drain::{Budget, Drain, Journal};
use history::Neighbours;
use serde::{Serialize, Serializer};

/// The deploy's part of the config, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// How long a hot restart may take until it counts as failed.
    pub hot_timeout_ms: u64,
    /// How long a phased restart may take until it counts as failed.
    pub phased_timeout_ms: u64,
    /// What each worker adds to it: one after the other ends and boots.
    pub phased_worker_ms: u64,
    /// A hot restart starts a second master beside the first, which serves on until it is told to go.
    pub second_master: bool,
    /// Nothing but a second server in a slot of its own will do (`restart.mode` is `beside`).
    pub beside_only: bool,
    /// How a candidate gets its first clients.
    pub shift: Shift,
    /// Others can restart the server in its process, image after image.
    pub in_place: bool,
    /// On the way back: how long an image that serves nothing may take to show that it moves.
    pub settle_ms: u64,
    /// How long everything must stay proven before it is believed.
    pub soak_ms: u64,
    /// Whether observations carry a probe (`verify.url` is set).
    pub probing: bool,
    /// How many probes in a row decide, either way.
    pub successes: u32,
    /// Whether a healthy answer names its release (`verify.release_header` or `release_field` is set).
    pub naming: bool,
    /// How much longer than the soak it may take until every process has named its release.
    pub evidence_ms: u64,
    /// Requests older than this are waited for before a signal; `None`: never wait.
    pub long_request_ms: Option<u64>,
    /// For how long they are waited for.
    pub wait_in_flight_ms: u64,
    /// How long this pod's restarts wait after the check: its place in `restart.spread`. `None`: they wait for nobody.
    pub spread_ms: Option<u64>,
    /// The other pods' reports can be read.
    pub reports: bool,
    /// Where they cannot: so many restarts come before this pod's, one after the other (`restart.max_unavailable`).
    pub wave: u32,
    /// Code in the image can be run when nothing else is left (`fallback_dir` is set).
    pub fallback: bool,
    /// For how long a pod waits at its birth for its first release to become well, before another one is tried.
    pub unwell_ms: u64,
    /// The pauses between two such trials grow up to this.
    pub unwell_max_ms: u64,
    /// Pause before a failed fetch, check or write is tried again.
    pub retry_ms: u64,
    /// The drain's part.
    pub drain: Budget,
}

/// What the disk says when the agent starts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Recovered {
    /// The complete release that `current` resolves to; `None` if it resolves to none.
    pub current: Option<ReleaseId>,
    /// `revisions.log`, oldest first.
    pub records: Vec<Record>,
    /// The kernel's boot, to know whether the journal's moments still mean anything.
    pub boot_id: String,
    /// What other pods of the same volume have found out.
    pub neighbours: Neighbours,
}

/// Which stage a deploy is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the contract names them, `docs/architecture.md` tells their story")]
pub enum Stage {
    Steady,
    Fetching,
    Checking,
    Publishing,
    Restarting,
    Verifying,
    Committing,
    Reverting,
    Stranded,
}

impl Stage {
    /// Every stage, in the order of a deploy.
    pub const ALL: [Self; 9] = [
        Self::Steady,
        Self::Fetching,
        Self::Checking,
        Self::Publishing,
        Self::Restarting,
        Self::Verifying,
        Self::Committing,
        Self::Reverting,
        Self::Stranded,
    ];

    /// Its name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Fetching => "fetching",
            Self::Checking => "checking",
            Self::Publishing => "publishing",
            Self::Restarting => "restarting",
            Self::Verifying => "verifying",
            Self::Committing => "committing",
            Self::Reverting => "reverting",
            Self::Stranded => "stranded",
        }
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What an outsider may know of the agent's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The deploy's stage.
    pub stage: Stage,
    /// The attempt under way, or the last one.
    pub(crate) attempt: Attempt,
    /// What the pointer last said.
    pub desired: Option<Revision>,
    /// The number of the canary that the pointer names, if it names one, and whether this pod is among its pods.
    pub(crate) canary: Option<(Option<u64>, bool)>,
    /// What the app server was proved to run; never just where `current` points.
    pub running: Option<ReleaseId>,
    /// How well that is proved.
    pub(crate) proof: Option<Proof>,
    /// What it was proved to run before.
    pub(crate) previous: Option<ReleaseId>,
    /// The desired release runs, proven.
    pub in_sync: bool,
    /// What holds, if something does.
    pub(crate) problem: Option<Problem>,
    /// The restart waits until then, at the latest, for this pod's turn (`restart.spread`).
    pub(crate) turn: Option<Moment>,
    /// Moves that are not tried again, with the reason.
    pub rejected: Vec<(Revision, Reason)>,
    /// An operator holds deploys.
    pub(crate) hold: Option<Hold>,
    /// Where an operator's revert would go.
    pub(crate) back: Option<ReleaseId>,
    /// What failed is tried again then.
    pub(crate) retry_at: Option<Moment>,
    /// The deploy that is under way; the pointer may name another move by now.
    pub(crate) moving: Option<Moving>,
    /// The candidate has a share of the traffic.
    pub(crate) sharing: Option<Sharing>,
}

impl View {
    /// Nothing is known, and why.
    pub(crate) fn unknown(why: Problem) -> Self {
        Self {
            stage: Stage::Steady,
            attempt: Attempt(0),
            desired: None,
            canary: None,
            running: None,
            proof: None,
            previous: None,
            in_sync: false,
            problem: Some(why),
            turn: None,
            rejected: Vec::new(),
            hold: None,
            back: None,
            retry_at: None,
            moving: None,
            sharing: None,
        }
    }
}

/// A deploy that is under way, or stranded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moving {
    /// What it is to put in place, also when it is being undone.
    pub(crate) revision: Revision,
    /// What the pod goes back to, while it does.
    pub(crate) back_to: Option<ReleaseId>,
}

/// What an operator holds deploys with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    Paused,
    /// The pointer says so, to all pods that follow it.
    FleetPaused(Note),
    /// The pointer's signature has expired, at this time.
    SignatureExpired(String),
    /// `revert` to this release: until the pointer moves, or `resume`.
    Reverted(ReleaseId),
}

/// How closely the app server has to be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watchfulness {
    /// Nothing is going on: once a second or so, and down to every five seconds at rest.
    Calm,
    /// A new server has a share of the traffic, for hours perhaps: twice a second, so that it is taken back within one.
    Steady,
    /// A restart or a drain is under way: ten times a second or so.
    Close,
}

/// The agent's state: a deploy and a drain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Agent {
    /// Or why no deploy may begin: it is not known where the pod stands. The drain works all the same.
    deploy: Result<Deploy, Problem>,
    /// The end of the pod.
    pub(crate) drain: Drain,
}

impl Agent {
    /// The drain alone, until [`Self::recover`]. `journal` is that of a drain that was under way when the last
    /// agent ended.
    pub fn new(budget: Budget, journal: Option<Journal>, why: Problem) -> Self {
        Self { deploy: Err(why), drain: Drain::new(budget, journal) }
    }

    /// Takes up what the disk says: deploys may begin.
    pub fn recover(&mut self, policy: Policy, recovered: &Recovered, now: Moment) {
        self.deploy = Ok(Deploy::recover(policy, recovered, now));
    }

    /// No deploy may begin, for another reason now; nothing once they may.
    pub(crate) fn hold(&mut self, why: Problem) {
        if let Err(known) = &mut self.deploy {
            *known = why;
        }
    }

    pub(crate) fn deploys(&self) -> bool {
        self.deploy.is_ok()
    }

    /// Takes one event and says what is to be done.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        // Before the look that may end the restart is taken in: that look still belongs to it.
        self.drain.expect_image_change(self.restart_in_flight());
        let drained = match &event {
            Event::Drain(command) => self.drain.command(now, *command),
            Event::Observed(observation) => self.drain.observe(now, observation),
            _ => self.drain.tick(now),
        };
        let mut effects: Vec<Effect> = drained.into_iter().map(Effect::Drain).collect();
        let gate = self.gate();
        if let Ok(deploy) = &mut self.deploy {
            effects.extend(deploy.step(now, gate, &event));
        }
        effects
    }

    fn gate(&self) -> Gate {
        Gate { draining: self.drain.blocks_deploys(), answered: self.drain.answered() }
    }

    /// When a [`Event::Tick`] is due though nothing happens.
    /// What is overdue already is not named: it waits for the next look.
    pub(crate) fn deadline(&self, now: Moment) -> Option<Moment> {
        let deploy = self.deploy.iter().flat_map(Deploy::deadlines);
        deploy.chain(self.drain.deadline()).filter(|at| *at > now).min()
    }

    /// How closely to watch.
    pub(crate) fn watchfulness(&self) -> Watchfulness {
        match &self.deploy {
            _ if self.drain.watches() => Watchfulness::Close,
            Ok(deploy) => deploy.watchfulness(),
            Err(_) => Watchfulness::Calm,
        }
    }

    /// The next step waits for a look that begins then or later.
    pub(crate) fn look_awaited(&self) -> Option<Moment> {
        self.deploy.as_ref().ok()?.look_awaited()
    }

    /// The release that observations should be probed for, when a probe's answer matters now.
    pub(crate) fn probe_for(&self) -> Option<ReleaseId> {
        self.deploy.as_ref().ok()?.probe_for(self.gate())
    }

    /// The release that the candidate should be probed for, where one is to be proved.
    pub(crate) fn probe_candidate_for(&self) -> Option<ReleaseId> {
        self.deploy.as_ref().ok()?.probe_candidate_for()
    }

    /// What is to be read of the other pods' reports, while they matter.
    pub(crate) fn reads_fleet(&self) -> Option<Reading> {
        self.deploy.as_ref().ok()?.reads_fleet()
    }

    /// Whether the files that processes have loaded matter now.
    pub(crate) fn wants_files(&self) -> bool {
        self.deploy.as_ref().is_ok_and(Deploy::wants_files)
    }

    /// A restart that we asked for may still change the app server.
    pub(crate) fn restart_in_flight(&self) -> bool {
        self.deploy.as_ref().is_ok_and(Deploy::restart_in_flight)
    }

    /// A server beside the live one ends by our order, or a restart that we asked for is in flight: requests that end
    /// without an answer now were cut by us.
    pub(crate) fn cuts(&self) -> bool {
        self.restart_in_flight() || self.deploy.as_ref().is_ok_and(Deploy::ends_servers)
    }

    /// The app server may end now and boot again later: no restart of ours is undecided, and `current` does
    /// not lead to a release that is about to be taken back. Unknown is no.
    pub(crate) fn settled(&self) -> bool {
        self.deploy.as_ref().is_ok_and(Deploy::may_end)
    }

    /// Whether `current` leads to a complete release; `None` where that is not known yet.
    pub(crate) fn current_complete(&self) -> Option<bool> {
        self.deploy.as_ref().ok().map(Deploy::current_complete)
    }

    /// What this pod needs on the volume; `None` where that is not known yet. Its lease has to name it before the
    /// effects of the same step are performed.
    pub(crate) fn protected(&self) -> Option<Protected> {
        self.deploy.as_ref().ok().map(Deploy::protected)
    }

    /// What an outsider may know.
    pub fn view(&self) -> View {
        match &self.deploy {
            Ok(deploy) => deploy.view(self.gate()),
            Err(why) => View::unknown(why.clone()),
        }
    }
}

#[cfg(all(test, feature = "walk"))]
impl Agent {
    /// Calls the attempt under way the first one. False while an older one may still report.
    fn renumber(&mut self) -> bool {
        self.deploy.as_mut().is_ok_and(Deploy::renumber)
    }
}
