//! The Puma adapter against real Pumas: what it sees, and whom it signals.

mod broken_releases;
mod bundle;
mod control_server;
mod on_6_6;
mod permissions;
mod plan;
mod restarts;
mod seen;
mod signals;
mod strangers;
mod which_puma;
mod wrappers;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use pitstop::{
    app_server::{AppServer, Location, Look, Wanted, puma},
    config::{self, RestartMode},
    core::{self, Cwd, Detection, Generation, GenerationKey, Mode, ProcessKey, Reason, ServerCommand},
    revision::ReleaseId,
};
use pitstop_rig::{App, Directory, Image, PATIENCE, PumaRig, Setup, Wrapper, puma::TOKEN, until};

/// The adapter, asked without a runtime of the test's own.
struct Eye {
    runtime: tokio::runtime::Runtime,
    puma: Arc<dyn AppServer>,
}

impl Eye {
    /// With the control server configured.
    fn on(rig: &PumaRig) -> Self {
        Self::with(rig, told(rig), RestartMode::Auto)
    }

    fn with(rig: &PumaRig, section: config::Puma, mode: RestartMode) -> Self {
        Self::at(&rig.deploy_to(), section, mode)
    }

    fn at(deploy_to: &Path, section: config::Puma, mode: RestartMode) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let location = Location {
            deploy_to: deploy_to.to_owned(),
            fallback: None,
            ports: Vec::new(),
            current: deploy_to.join("current"),
            state_dir: "/nowhere".into(),
        };
        Self { puma: puma::start(section, mode, false, location).unwrap(), runtime }
    }

    fn look(&self) -> Look {
        self.runtime.block_on(self.puma.observe())
    }

    fn seen(&self) -> Generation {
        generation(&self.look()).expect("the Puma is seen")
    }

    /// Looks until everything serves this release.
    fn settled(&self, release: &str) -> Generation {
        until(&format!("every process in {release} booted"), || {
            generation(&self.look()).filter(|seen| settled_in(seen, release))
        })
    }

    /// Looks again and again until the condition holds; all looks, the last one included.
    fn watch(&self, what: &str, mut over: impl FnMut(&Look) -> bool) -> Vec<Look> {
        let (begun, mut looks) = (Instant::now(), Vec::new());
        loop {
            let look = self.look();
            let over = over(&look);
            looks.push(look);
            if over {
                return looks;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}; last: {:?}", looks.last());
        }
    }

    fn perform(&self, command: ServerCommand, on: GenerationKey) -> Result<(), core::Problem> {
        self.runtime.block_on(self.puma.perform(command, on))
    }

    fn plan(&self, running: &str, release: &str) -> Result<Mode, core::Problem> {
        let (running, release) = (id(running), id(release));
        self.runtime
            .block_on(self.puma.plan(Wanted { running: Some(&running), release: &release, beside: true }))
            .map(|plan| plan.mode)
    }

    fn findings(&self) -> Vec<String> {
        self.look().findings.into_iter().map(|finding| finding.code.code().to_owned()).collect()
    }
}

fn told(rig: &PumaRig) -> config::Puma {
    config::Puma { control_url: Some(rig.control_url()), control_token: Some(TOKEN.into()), ..silent() }
}

/// Without a way to the control server; the rest is the rig's.
fn silent() -> config::Puma {
    let worker_shutdown_timeout = Duration::from_secs(Setup::default().worker_shutdown_timeout.into());
    config::Puma { worker_shutdown_timeout, ..config::Puma::default() }
}

fn id(text: &str) -> ReleaseId {
    text.parse().unwrap()
}

fn generation(look: &Look) -> Option<Generation> {
    match &look.detection {
        Detection::Seen(server) => server.generations.first().cloned(),
        _ => None,
    }
}

/// `None` when the look fell into the very moment of an exec.
fn generation_or_torn(look: &Look) -> Option<Generation> {
    assert!(matches!(look.detection, Detection::Seen(_) | Detection::Unclear), "lost sight of it: {look:?}");
    generation(look)
}

fn settled_in(seen: &Generation, release: &str) -> bool {
    let at_home = |cwd: &Cwd| *cwd == Cwd::Release(id(release));
    seen.signalable
        && at_home(&seen.cwd)
        && !seen.processes.is_empty()
        && seen.processes.len() == seen.expected
        && seen.processes.iter().all(|process| process.booted && at_home(&process.cwd))
}

fn workers(seen: &Generation) -> Vec<ProcessKey> {
    let mut keys: Vec<_> = seen.processes.iter().map(|process| process.key).collect();
    keys.sort_unstable();
    keys
}

fn images(looks: &[Look]) -> Vec<GenerationKey> {
    let mut keys: Vec<_> = looks.iter().filter_map(generation).map(|seen| seen.key).collect();
    keys.dedup();
    keys
}

fn title(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn has_title(pid: i32) -> bool {
    title(pid).starts_with("puma ")
}
