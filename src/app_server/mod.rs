//! The app server behind one small trait: what it is, what it does, and telling it to restart.

/// Puma, observed through /proc and its control server, told by signals.
pub mod puma;

use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::{
    core::{Act, GenerationKey, Plan, Sight, Traffic, Trouble, requirement::Requirement},
    finding::{Check, Finding},
    revision::ReleaseId,
};

/// One look: what the core decides on, and what people want to see.
#[derive(Debug, Clone)]
pub struct Look {
    /// For the core.
    pub sight: Sight,
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
    /// `puma`.
    pub kind: String,
    /// The master.
    pub pid: Option<i32>,
    /// `cluster` or `single`.
    pub mode: Option<String>,
    /// Its workers.
    pub workers: Vec<WorkerDescription>,
}

/// One worker as /status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerDescription {
    /// Its process.
    pub pid: i32,
    /// The release its working directory is in.
    pub release: Option<ReleaseId>,
    /// Whether it accepts requests.
    pub booted: bool,
}

/// An app server that can be restarted in place.
pub trait AppServer: Send + Sync {
    /// Looks at it. Never waits for the volume longer than its own short limit.
    fn observe(&self) -> BoxFuture<'_, Look>;

    /// Everything that can be said of its set-up; the findings among them are those of a look.
    fn examine(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(async { Vec::new() })
    }

    /// Whether and how it could be moved from `running` to `release`. Changes nothing.
    fn plan<'a>(
        &'a self,
        running: Option<&'a ReleaseId>,
        release: &'a ReleaseId,
    ) -> BoxFuture<'a, Result<Plan, Trouble>>;

    /// What of this its image does not bring, each with what was found instead. An app server that
    /// is not there lacks nothing.
    fn lacks(&self, _requires: Vec<Requirement>) -> BoxFuture<'_, Result<Vec<String>, Trouble>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Tells it. `on` is the image meant: if that is gone or has changed, nothing is sent and the
    /// call fails.
    fn perform(&self, act: Act, on: GenerationKey) -> BoxFuture<'_, Result<(), Trouble>>;
}
