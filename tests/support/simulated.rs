//! An app server that is simulated: it serves `current` as it was when it last restarted, and never comes up on a release
//! whose name begins with `bad`. For tests of the agent itself, a file of each of their programs.

use std::path::Path;

use futures_util::future::BoxFuture;
use pitstop::{
    app_server::{AppServer, Description, Look, Wanted},
    core::{
        self, Cwd, Detection, Generation, GenerationKey, Mode, Plan, Problem, Process, ProcessKey,
        ServerCommand, Traffic,
    },
    revision::ReleaseId,
};

/// What is behind it.
pub trait Serving: Send + Sync {
    /// Which release serves, and as which process. Where none does, its container starts one as soon as there is
    /// something to run.
    fn runs(&self) -> Option<(ReleaseId, u64)>;
    /// Serves what `current` names, as the next process.
    fn restart(&self);
}

pub struct Simulated<S>(pub S);

/// Which release `current` names.
pub fn release_at(current: &Path) -> Option<ReleaseId> {
    std::fs::read_link(current).ok()?.file_name()?.to_str()?.parse().ok()
}

impl<S: Serving> Simulated<S> {
    fn look(&self) -> Detection {
        let Some((release, process)) = self.0.runs() else { return Detection::Missing };
        let comes_up = !release.as_str().starts_with("bad");
        let cwd = Cwd::Release(release);
        let worker = Process { key: ProcessKey(1_000 + process), cwd: cwd.clone(), booted: true };
        let generation = Generation {
            key: GenerationKey(1),
            master: ProcessKey(1),
            signalable: true,
            cwd,
            expected: usize::from(comes_up),
            processes: if comes_up { vec![worker] } else { vec![] },
        };
        Detection::Seen(core::AppServer { generations: vec![generation], ..Default::default() })
    }
}

impl<S: Serving> AppServer for Simulated<S> {
    fn observe(&self) -> BoxFuture<'_, Look> {
        let (detection, traffic, description) = (self.look(), Traffic::default(), Description::default());
        Box::pin(async { Look { detection, traffic, description, findings: vec![] } })
    }

    fn plan<'a>(&'a self, _: Wanted<'a>) -> BoxFuture<'a, Result<Plan, Problem>> {
        Box::pin(async { Ok(Plan::new(Mode::Phased)) })
    }

    fn perform(&self, _: ServerCommand, _: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        self.0.restart();
        Box::pin(async { Ok(()) })
    }
}
