//! A pod: a Passenger that was born with `v1`, and its agent.

use std::{fs, path::Path, thread, time::Duration};

use pitstop_rig::{AgentRig, App, PumaRig, Setup, passenger::Ended, poll, until};
use serde_json::Value;

use crate::PITSTOP;

/// A release that hangs is given its time, and then there is the way back.
pub const RECOVERY: Duration = Duration::from_secs(90);

pub struct Pod {
    pub agent: AgentRig,
    /// Before the container, with whose directory the pid files go.
    _ended: Ended,
    pub server: PumaRig,
}

impl Pod {
    pub fn start(setup: Setup) -> Self {
        Self::start_as(None, setup)
    }

    /// With an agent of this user.
    pub fn start_as(uid: Option<u32>, setup: Setup) -> Self {
        let mut server = PumaRig::empty(setup);
        let ended = Ended::with(&server);
        let mut agent = AgentRig::prepare(Path::new(PITSTOP), &server);
        agent.env.push(("PITSTOP_RESTART_TIMEOUT".into(), "10s".into()));
        if uid.is_some() {
            agent.run_as(&server, uid);
        }
        agent.start_from_v1(&mut server);
        Self { agent, _ended: ended, server }
    }

    pub fn deploy(&self, app: App, id: &str) {
        self.agent.publish(&self.server, app, id);
        self.agent.promote(id);
    }

    pub fn status(&self) -> Value {
        self.agent.status().unwrap_or_default()
    }

    /// Proven, and no process of an older release is left.
    #[track_caller]
    pub fn is_at_rest_on(&self, id: &str) {
        self.agent.wait_in_sync(id);
        until("processes of this release alone", || {
            let status = self.status();
            let workers = status["app_server"]["workers"].as_array()?;
            let all = workers.iter().all(|worker| worker["release"] == id && worker["booted"] == true);
            (status["stage"] == "steady" && workers.len() >= 2 && all).then_some(())
        });
        self.server.wait_for_release(id);
    }

    /// The deploy fails and the pod is back; the reason.
    #[track_caller]
    pub fn survives(&self, app: App, id: &str) -> String {
        self.deploy(app, id);
        let back = |status: &Value| {
            rejection(status, id).is_some() && status["running"] == "v1" && status["stage"] == "steady"
        };
        let status = poll(RECOVERY, || self.agent.status().filter(back));
        let status = status.unwrap_or_else(|| panic!("{id} is rejected and v1 runs: {}", self.status()));
        self.server.wait_for_release("v1");
        rejection(&status, id).unwrap()
    }

    pub fn findings(&self) -> Vec<String> {
        let status = self.status();
        let findings = status["findings"].as_array().into_iter().flatten();
        findings.filter_map(|finding| Some(finding["code"].as_str()?.to_owned())).collect()
    }

    /// By the agent's own metric.
    pub fn in_flight(&self) -> u32 {
        let text = self.agent.get("/metrics").map(|answer| answer.body).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix("pitstop_puma_requests_in_flight "));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

fn rejection(status: &Value, id: &str) -> Option<String> {
    let rejected = status["rejected"].as_array()?.iter().find(|rejected| rejected["release"] == id)?;
    Some(rejected["reason"].as_str()?.to_owned())
}

impl Drop for Pod {
    /// A failed test shows what the agent and Passenger said.
    fn drop(&mut self) {
        if thread::panicking() {
            for log in [self.agent.log(), self.server.run_dir().join("passenger.log")] {
                let log = fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                eprintln!("{}\n---", lines[lines.len().saturating_sub(50)..].join("\n"));
            }
            eprintln!("--- /status: {}", self.status());
        }
    }
}
