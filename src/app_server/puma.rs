use std::{io, path::PathBuf};

use futures_util::future::BoxFuture;

use super::{AppServer, Description, Look};
use crate::{
    config,
    core::{Act, GenerationKey, Mode, Plan, Reason, Sight, Traffic, Trouble},
    revision::ReleaseId,
};

/// A Puma in this pod.
#[derive(Debug)]
pub struct Puma {
    section: config::Puma,
    mode: config::RestartMode,
    deploy_to: PathBuf,
}

impl Puma {
    /// Will look for a Puma that serves releases of `deploy_to/releases`.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub fn new(section: config::Puma, mode: config::RestartMode, deploy_to: PathBuf) -> io::Result<Self> {
        Ok(Self { section, mode, deploy_to })
    }
}

impl AppServer for Puma {
    fn observe(&self) -> BoxFuture<'_, Look> {
        Box::pin(async {
            let description = Description { kind: "puma".into(), ..Description::default() };
            Look { sight: Sight::Unclear, traffic: Traffic::default(), description, findings: Vec::new() }
        })
    }

    fn plan<'a>(
        &'a self,
        _running: Option<&'a ReleaseId>,
        _release: &'a ReleaseId,
    ) -> BoxFuture<'a, Result<Plan, Trouble>> {
        Box::pin(async { Ok(Plan { mode: Mode::Hot }) })
    }

    fn perform(&self, _act: Act, _on: GenerationKey) -> BoxFuture<'_, Result<(), Trouble>> {
        let missing = format!("{self:?} is being written");
        Box::pin(async { Err(Trouble::new(Reason::AppServerMissing, missing)) })
    }
}
