//! A pod: a Puma that was born with `v1`, and its agent.

use std::path::{Path, PathBuf};

use pitstop_rig::{AgentRig, App, PumaRig, Setup, until};
use serde_json::Value;

use crate::PITSTOP;

pub struct Pod {
    pub agent: AgentRig,
    pub puma: PumaRig,
}

impl Pod {
    /// An empty volume; `v1` is in the store and the pointer names it. Nothing runs.
    pub fn unborn(setup: Setup) -> Self {
        let puma = PumaRig::empty(setup);
        let agent = AgentRig::prepare(Path::new(PITSTOP), &puma);
        let pod = Self { agent, puma };
        pod.deploy(App::Good, "v1");
        pod
    }

    /// The init container has fetched `v1`, and Puma serves it. No agent yet.
    pub fn born(setup: Setup) -> Self {
        let mut pod = Self::unborn(setup);
        pod.agent.must(&["fetch"]);
        pod.puma.run();
        pod.puma.wait_for_release("v1");
        pod
    }

    /// The agent has proved that `v1` runs.
    pub fn in_sync() -> Self {
        Self::started(Self::born(Setup::default()))
    }

    pub fn started(mut self) -> Self {
        self.agent.start();
        self.agent.wait_in_sync("v1");
        self
    }

    pub fn deploy(&self, app: App, id: &str) {
        self.agent.publish(&self.puma, app, id);
        self.agent.promote(id);
    }

    /// Puts an archive into the store as a CI would, past `publish`.
    pub fn put_archive(&self, id: &str, bytes: &[u8]) {
        use sha2::{Digest, Sha256};
        let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        let archive = self.agent.store().join(format!("releases/{id}.tar.zst"));
        std::fs::write(&archive, bytes).unwrap();
        std::fs::write(archive.with_extension("zst.sha256"), hex).unwrap();
    }

    /// How often a deploy was begun, by the journal.
    pub fn attempts(&self, id: &str) -> usize {
        let journal = self.puma.deploy_to().join(".pitstop/pods/rig/revisions.log");
        let lines = std::fs::read_to_string(journal).unwrap();
        let of_release = format!(r#""release":"{id}""#);
        lines.lines().filter(|l| l.contains(r#""event":"attempt""#) && l.contains(&of_release)).count()
    }

    /// Sets a key by its environment variable, for the next start.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.agent.env.push((name.into(), value.into()));
    }

    /// Writes the pointer past `promote`, which would refuse.
    pub fn point_to(&self, text: &str) {
        std::fs::write(self.agent.store().join("pointers/production"), text).unwrap();
    }

    pub fn status(&self) -> Value {
        self.agent.status().unwrap_or_default()
    }

    /// Waits until the release is complete on the volume.
    #[track_caller]
    pub fn wait_until_fetched(&self, id: &str) {
        let release = self.puma.releases().join(id);
        until(&format!("{id} on the volume"), || release.exists().then_some(()));
    }

    #[track_caller]
    pub fn wait_for_reason(&self, reason: &str) -> Value {
        until(&format!("the reason {reason}"), || {
            self.agent.status().filter(|status| status["reason"] == reason)
        })
    }

    /// The value of a metric, with its labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.agent.metric(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.agent.log()).unwrap_or_default()
    }

    /// The kubelet's call, to its end.
    pub fn prestop(&self) -> Value {
        self.agent.prestop().join().unwrap().unwrap()
    }

    /// What the app server serves, and that `current` agrees.
    #[track_caller]
    pub fn assert_runs(&self, id: &str) {
        assert_eq!(self.puma.get("/").unwrap().release.as_deref(), Some(id));
        assert_eq!(self.current(), self.puma.releases().join(id));
    }

    pub fn current(&self) -> PathBuf {
        self.puma.current().canonicalize().unwrap()
    }
}

/// After the problem, a good release goes through.
#[track_caller]
pub fn recovers(pod: &Pod) {
    pod.deploy(App::Good, "v9");
    pod.agent.wait_in_sync("v9");
    pod.assert_runs("v9");
}

impl Drop for Pod {
    /// A failed test shows what the agent said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(50)..].join("\n"));
            eprintln!("{:?}", self.agent.status());
        }
    }
}
