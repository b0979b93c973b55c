//! The spine: `pitstop run` as a process beside a real Puma, from the pointer to the proof.

use std::path::Path;

use pitstop_rig::{AgentRig, App, PumaRig, Setup};

const PITSTOP: &str = env!("CARGO_BIN_EXE_pitstop");

/// A pod that runs `v1`, put there by the init container, and its agent.
struct Pod {
    agent: AgentRig,
    puma: PumaRig,
}

impl Pod {
    fn born(setup: Setup) -> Self {
        let mut puma = PumaRig::empty(setup);
        let agent = AgentRig::prepare(Path::new(PITSTOP), &puma);
        agent.publish(&puma, App::Good, "v1");
        agent.promote("v1");
        agent.must(&["fetch"]);
        puma.run();
        Self { agent, puma }
    }

    fn in_sync(setup: Setup) -> Self {
        let mut pod = Self::born(setup);
        pod.agent.start();
        pod.agent.wait_in_sync("v1");
        pod
    }

    fn deploy(&self, app: App, id: &str) {
        self.agent.publish(&self.puma, app, id);
        self.agent.promote(id);
    }
}

#[test]
fn e2e_a_promoted_release_runs_in_the_pod_that_is_there() {
    let pod = Pod::in_sync(Setup::default());
    let master = pod.puma.master();
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync("v2");
    assert_eq!(pod.puma.get("/").unwrap().release.as_deref(), Some("v2"));
    assert_eq!(pod.puma.master(), master, "the same pod, the same master");
}

impl Drop for Pod {
    /// A failed test shows what the agent said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.agent.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            eprintln!("{:?}", self.agent.status());
        }
    }
}
