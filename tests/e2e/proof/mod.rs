//! What a proof rests on, and what becomes of it when others restart Puma: with real Pumas.

mod evidence;
mod others;

use std::path::Path;

use pitstop_rig::{AgentRig, App, PumaRig, Setup, side_by_side, until};
use serde_json::Value;

use crate::PITSTOP;

/// A Puma that was born with `v1`, and its agent.
struct Pod {
    agent: AgentRig,
    puma: PumaRig,
}

impl Pod {
    /// Puma serves `v1`, which was fetched as in a pod. `configured` changes the agent's configuration, and
    /// `env` is Puma's. No agent yet.
    fn born(setup: Setup, app: App, configured: impl Fn(String) -> String, env: &[(&str, String)]) -> Self {
        let mut puma = PumaRig::empty(setup);
        env.iter().for_each(|(name, value)| puma.set_env(name, value.clone()));
        let agent = AgentRig::prepare(Path::new(PITSTOP), &puma);
        let yaml = std::fs::read_to_string(agent.config()).unwrap();
        std::fs::write(agent.config(), configured(yaml)).unwrap();
        let mut pod = Self { agent, puma };
        pod.deploy(app, "v1");
        pod.agent.must(&["fetch"]);
        pod.puma.run();
        pod.puma.wait_for_release("v1");
        pod
    }

    fn started(mut self) -> Self {
        self.agent.start();
        self.agent.wait_in_sync("v1");
        self
    }

    fn deploy(&self, app: App, id: &str) {
        self.agent.publish(&self.puma, app, id);
        self.agent.promote(id);
    }

    fn status(&self) -> Value {
        self.agent.status().unwrap_or_default()
    }

    /// In sync with the release, and proved as well as this.
    #[track_caller]
    fn wait_for_proof(&self, release: &str, proof: &str) -> Value {
        until(&format!("the proof {proof} of {release}"), || {
            let status = self.status();
            let there = status["in_sync"] == true && status["running"] == release;
            (there && status["proof"] == proof).then_some(status)
        })
    }

    /// How often a restart by others is a finding.
    fn found(&self, code: &str) -> bool {
        self.status()["findings"].as_array().is_some_and(|all| all.iter().any(|f| f["code"] == code))
    }
}

impl Drop for Pod {
    /// A failed test shows what the agent said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.agent.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(50)..].join("\n"));
            eprintln!("{:?}", self.agent.status());
        }
    }
}
