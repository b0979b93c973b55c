//! The app server behind one trait: what it is, what it does, and commands to it. `driver.rs` has what all kinds have
//! in common, `server.rs` what each kind states.

mod addresses;
mod aside;
pub(crate) mod command;
mod connections;
mod driver;
mod error_counts;
mod files;
mod fit;
mod image;
mod in_slots;
mod inspector;
mod memory;
mod not_found;
pub(crate) mod passenger;
pub mod puma;
pub(crate) mod raised;
pub(crate) mod room;
mod ruby;
mod server;
mod sides;
mod signaller;
mod slot_order;
mod trees;
mod trouble;
pub(crate) mod unicorn;
mod worker_count;
mod working_dir;

pub use inspector::Location;

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::{
    core::{
        Detection, Files, GenerationKey, Plan, Problem, ProcessKey, ServerCommand, Traffic,
        requirement::Requirement,
    },
    finding::{Check, Finding},
    revision::ReleaseId,
    slots::{Role, Slot},
};

/// A signal, and finding the process it is for.
const PERFORM_LIMIT: Duration = Duration::from_secs(10);

/// What a plan is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What runs now, to compare with.
    pub running: Option<&'a ReleaseId>,
    /// What is to run.
    pub release: &'a ReleaseId,
    /// A second server beside the first may be planned.
    pub beside: bool,
}

/// One look: what the core decides on, and what people want to see.
#[derive(Debug, Clone)]
pub struct Look {
    /// For the core.
    pub detection: Detection,
    /// For the core.
    pub traffic: Traffic,
    /// For /status.
    pub description: Description,
    /// Traps in this set-up.
    pub findings: Vec<Finding>,
}

/// The app server as /status shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Description {
    /// `puma`, `unicorn` and so on: the key `app_server`.
    pub(crate) kind: String,
    /// The master.
    pub pid: Option<i32>,
    /// `cluster` or `single`.
    pub mode: Option<String>,
    /// Its workers.
    pub workers: Vec<WorkerDescription>,
    /// The processes of the candidate beside it that serve.
    #[serde(skip)]
    pub(crate) candidate: Vec<(i32, ProcessKey)>,
    /// It and the servers beside it, where a parent has slots for them.
    pub(crate) slots: Vec<SlotDescription>,
    /// The warm-up that this agent started last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warmup: Option<WarmupDescription>,
}

/// A warm-up, as /status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WarmupDescription {
    pub(crate) of: Role,
    /// `running`, `done` or `failed`.
    pub(crate) state: &'static str,
    /// How many it took.
    pub(crate) requests: Option<usize>,
    /// 95 % of the last answers came within this.
    pub(crate) p95_ms: Option<u64>,
    /// Why it failed.
    pub(crate) message: Option<String>,
}

/// A slot that has a server, as /status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SlotDescription {
    pub(crate) slot: Slot,
    pub(crate) role: Role,
    /// The release that its server runs or was started for.
    pub(crate) release: Option<ReleaseId>,
    /// Its master, or the process that was started.
    pub(crate) pid: i32,
    /// Of 1000 new connections: how many it gets.
    pub(crate) weight: u32,
    /// The memory of all its processes, what they share counted once; `null` where that cannot be read.
    pub(crate) memory_bytes: Option<u64>,
    /// Requests that it has answered since its start; `null` where nobody counts.
    pub(crate) requests: Option<u64>,
    /// Those that failed (5xx, or an exception); `null` without the middleware.
    pub(crate) errors: Option<u64>,
    /// 95 of 100 took no longer; `null` without the middleware.
    pub(crate) p95_ms: Option<u64>,
}

/// One worker as /status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerDescription {
    /// Its process.
    pub pid: i32,
    /// The same, in the core's words.
    #[serde(skip)]
    pub(crate) key: ProcessKey,
    /// The release its working directory is in.
    pub release: Option<ReleaseId>,
    /// Whether it accepts requests.
    pub booted: bool,
}

/// An app server that can be restarted in place.
pub trait AppServer: Send + Sync {
    /// Looks at it. Never waits for the volume longer than its own short limit.
    fn observe(&self) -> BoxFuture<'_, Look>;

    /// The files of releases that the processes have loaded which were seen to serve; of none, where they
    /// would prove nothing, and `None` when that cannot be seen now.
    fn files(&self) -> BoxFuture<'_, Option<BTreeMap<ProcessKey, Files>>> {
        Box::pin(async { Some(BTreeMap::new()) })
    }

    /// The last exception in what it has written since it was told to restart, where that can be read.
    fn raised(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(async { None })
    }

    /// Everything that can be said of its set-up; the findings among them are those of a look.
    fn examine(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(async { Vec::new() })
    }

    /// Whether and how it could be moved. Changes nothing.
    fn plan<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Plan, Problem>>;

    /// What of this its image does not bring, each with what was found instead. An app server that
    /// is not there lacks nothing.
    fn lacks(&self, _requires: Vec<Requirement>) -> BoxFuture<'_, Result<Vec<String>, Problem>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// How long that may take.
    fn perform_limit(&self) -> Duration {
        PERFORM_LIMIT
    }

    /// Tells it. `on` is the image meant: if that is gone or has changed, nothing is sent and the
    /// call fails.
    fn perform(&self, command: ServerCommand, on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>>;
}
