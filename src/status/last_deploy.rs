//! The last deploy, for the pod's report.

use serde::{Deserialize, Serialize};

use crate::revision::Revision;

/// How a deploy ended in this pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastDeploy {
    #[serde(flatten)]
    pub(crate) revision: Revision,
    /// As in `pitstop_deploys_total`: `verified`, `reverted` and so on.
    pub(crate) result: String,
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// How long it took.
    pub(crate) seconds: f64,
    /// When it ended, by the wall clock (RFC 3339).
    pub(crate) at: String,
}
