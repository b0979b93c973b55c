//! A pod: a Rails that was born with `v1`, and its agent.

use std::path::Path;

use pitstop_rig::{AgentRig, Image, PATIENCE, PumaRig, Setup, Wrapper, is_root, poll};
use serde_json::Value;

use super::app::{Change, Shop};
use crate::PITSTOP;

/// A Rails boots for half a second, and for many on a busy machine; some steps take several boots.
#[track_caller]
fn eventually(what: &str, condition: impl FnMut() -> Option<()>) {
    assert!(poll(4 * PATIENCE, condition).is_some(), "waited in vain: {what}");
}

pub struct Pod {
    pub agent: AgentRig,
    pub puma: PumaRig,
    pub shop: Shop,
}

impl Pod {
    /// Started by this command line in `current`, and proven; nothing without root.
    pub fn in_sync(start: &'static str) -> Option<Self> {
        Self::in_sync_with(start, &[])
    }

    /// The same with more in its environment.
    pub fn in_sync_with(start: &'static str, env: &[(&str, &str)]) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let wrapper = Wrapper::Command(start);
        let setup = Setup {
            image: Image::Rails,
            wrapper,
            worker_shutdown_timeout: 30,
            restarted: true,
            ..Setup::default()
        };
        let mut puma = PumaRig::empty(setup);
        puma.set_env("RAILS_ENV", "production");
        puma.set_env("RAILS_LOG_LEVEL", "warn");
        puma.set_env("PORT", puma.port().to_string());
        env.iter().for_each(|(name, value)| puma.set_env(name, *value));
        let mut agent = AgentRig::prepare(Path::new(PITSTOP), &puma);
        let pod_dir = puma.scratch().join("pod");
        std::fs::create_dir(&pod_dir).unwrap();
        for (key, value) in [
            ("LINKED_DIRS", "storage"),
            ("LINKED_FILES", "config/master.key"),
            ("POD_DIRS", "log,tmp"),
            ("POD_DIR", &pod_dir.to_string_lossy()),
        ] {
            agent.env.push((format!("PITSTOP_{key}"), value.to_owned()));
        }
        let shop = Shop::new(&puma);
        let mut pod = Self { agent, puma, shop };
        pod.be_born();
        Some(pod)
    }

    fn be_born(&mut self) {
        self.deploy(Change::Code, "v1");
        self.agent.must(&["fetch"]);
        self.puma.run_inside(&self.puma.current(), "bin/rails db:migrate");
        self.puma.launch();
        eventually("an answer from v1", || {
            let answer = self.puma.get("/").ok()?;
            (answer.release.as_deref() == Some("v1")).then_some(())
        });
        self.agent.start();
        self.wait_in_sync("v1");
    }

    /// Publishes a release of the app, and moves the pointer to it.
    pub fn deploy(&self, change: Change, id: &str) {
        let release = self.shop.build(&self.puma, change, id);
        self.agent.must(&["publish", &release.to_string_lossy(), "--release", id]);
        if change == Change::Migration {
            // The new release's migrations, while the old one serves: by a job of the CI, for instance.
            let database = "DATABASE_URL=sqlite3:/srv/app/shared/storage/production.sqlite3";
            self.puma.run_inside(
                &release,
                &format!("cp /srv/app/shared/config/master.key config/ && {database} bin/rails db:migrate"),
            );
        }
        self.agent.promote(id);
    }

    /// What the code itself says, where `X-Release` says where it was loaded from.
    #[track_caller]
    pub fn assert_serves(&self, id: &str) -> Value {
        let answer = self.puma.get("/").unwrap();
        assert_eq!(answer.release.as_deref(), Some(id), "{answer:?}");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["code"], id, "{body}");
        body
    }

    /// How many restarts were sent: phased, hot.
    pub fn sent(&self) -> [f64; 2] {
        let text = self.agent.get("/metrics").unwrap().body;
        ["phased", "hot"].map(|mode| {
            let name = format!(r#"pitstop_restarts_total{{mode="{mode}",result="sent"}}"#);
            text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or(0.0)
        })
    }

    /// What the app's log has of exceptions, first lines only.
    pub fn errors(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.puma.log()).unwrap_or_default();
        let signs = ["Error", "Exception", "Invalid (", "SQLite3"];
        let raised = log.lines().filter(|line| signs.iter().any(|sign| line.contains(sign)));
        raised.take(20).map(str::to_owned).collect()
    }

    pub fn status(&self) -> Value {
        self.agent.status().unwrap_or_default()
    }

    /// Waits until the agent has proved that this release runs.
    #[track_caller]
    pub fn wait_in_sync(&self, id: &str) {
        eventually(&format!("in sync with {id}"), || {
            let status = self.status();
            (status["in_sync"] == true && status["running"] == id).then_some(())
        });
    }

    /// Waits until a rejected release is undone.
    #[track_caller]
    pub fn wait_back_on(&self, id: &str) {
        eventually(&format!("back on {id}"), || {
            let status = self.status();
            let there = status["running"] == id && status["stage"] == "steady";
            (there && status["reason"] == "rejected").then_some(())
        });
    }
}

impl Drop for Pod {
    /// A failed test shows what the agent said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.agent.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            eprintln!("{:?}", self.agent.status());
        }
    }
}
