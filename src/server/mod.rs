//! The endpoints: HTTP for the kubelet, Prometheus and people; a unix socket for operators.
//!
//! They get handles only: the last snapshot, the metrics, the supervisor's handle. None of them waits for the
//! volume or for the supervisor's loop, /prestop excepted, which waits for the drain.

mod admin;
mod connections;
mod http;
mod listen;
mod page;
mod prestop;
pub(crate) mod token;

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::{
    core::Moment,
    finding::Finding,
    fleet::Glance,
    handle::SupervisorHandle,
    metrics::Metrics,
    status::{Snapshot, Status},
};

pub use admin::{AdminError, SOCKET_NAME, serve as serve_admin};
pub use http::{cannot_listen, serve, serve_on};
pub(crate) use listen::{inherited, listen_on};
pub use token::Token;

/// What the endpoints work with.
#[derive(Debug, Clone)]
pub struct Handles {
    /// This pod's name.
    pub pod: Arc<str>,
    /// What the supervisor last published.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Where requests to the supervisor are left.
    pub supervisor: SupervisorHandle,
    /// Who may ask.
    pub token: Token,
    /// What the server itself has found, the port that is taken above all.
    pub own_findings: Arc<Mutex<Vec<Finding>>>,
    /// The other pods; `None` where there is no store to tell of them.
    pub fleet: Option<Glance>,
    /// The clock of the snapshots.
    pub clock: fn() -> Moment,
}

impl Handles {
    /// /status as it stands now.
    pub fn status(&self) -> Status {
        let snapshot = self.snapshots.borrow().clone();
        let mut status = Status::of(&self.pod, &snapshot, (self.clock)());
        status.findings.extend(self.findings().iter().cloned());
        status
    }

    fn findings(&self) -> std::sync::MutexGuard<'_, Vec<Finding>> {
        // Plain data: a panic while it was held cannot have left it half-changed in a way that matters.
        self.own_findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
