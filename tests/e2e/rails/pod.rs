//! A pod: a Rails that was born with `v1`, and its agent.

use std::time::Duration;

use pitstop_rig::{Image, PATIENCE, Setup, Wrapper, is_root, until_within};
use serde_json::Value;

use super::app::{Change, Shop};
use crate::new_pod;

/// A Rails boots for half a second, and for many on a busy machine; some steps take several boots.
const RAILS_PATIENCE: Duration = PATIENCE.saturating_mul(4);

pub struct Pod {
    pod: pitstop_rig::Pod,
    pub shop: Shop,
}

extends_pod!(Pod);

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
        let mut pod = new_pod(setup);
        pod.puma.set_env("RAILS_ENV", "production");
        pod.puma.set_env("RAILS_LOG_LEVEL", "warn");
        pod.puma.set_env("PORT", pod.puma.port().to_string());
        env.iter().for_each(|(name, value)| pod.puma.set_env(name, *value));
        let pod_dir = pod.puma.scratch().join("pod");
        std::fs::create_dir(&pod_dir).unwrap();
        for (key, value) in [
            ("LINKED_DIRS", "storage"),
            ("LINKED_FILES", "config/master.key"),
            ("POD_DIRS", "log,tmp"),
            ("POD_DIR", &pod_dir.to_string_lossy()),
        ] {
            pod.set(&format!("PITSTOP_{key}"), value);
        }
        let shop = Shop::new(&pod.puma);
        let mut pod = Self { pod, shop };
        pod.be_born();
        Some(pod)
    }

    fn be_born(&mut self) {
        self.deploy(Change::Code, "v1");
        self.agent.must(&["fetch"]);
        self.puma.run_inside(&self.puma.current(), "bin/rails db:migrate");
        self.puma.launch();
        until_within(RAILS_PATIENCE, "an answer from v1", || {
            let answer = self.puma.get("/").ok()?;
            (answer.release.as_deref() == Some("v1")).then_some(())
        });
        self.agent.start();
        self.wait_in_sync("v1");
    }

    /// Publishes a release of the app, and moves the pointer to it.
    pub fn deploy(&self, change: Change, id: &str) {
        let release = self.shop.build(&self.puma, change, id);
        self.agent.publish_dir(&release, id);
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
        ["phased", "hot"].map(|mode| {
            let name = format!(r#"pitstop_restarts_total{{mode="{mode}",result="sent"}}"#);
            self.metric(&name).unwrap_or(0.0)
        })
    }

    /// What the app's log has of exceptions, first lines only.
    pub fn errors(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.puma.log()).unwrap_or_default();
        let signs = ["Error", "Exception", "Invalid (", "SQLite3"];
        let raised = log.lines().filter(|line| signs.iter().any(|sign| line.contains(sign)));
        raised.take(20).map(str::to_owned).collect()
    }

    /// Waits until the agent has proved that this release runs.
    #[track_caller]
    pub fn wait_in_sync(&self, id: &str) {
        self.agent.wait_in_sync_within(RAILS_PATIENCE, id);
    }

    /// Waits until a rejected release is undone.
    #[track_caller]
    pub fn wait_back_on(&self, id: &str) {
        until_within(RAILS_PATIENCE, &format!("back on {id}"), || {
            let status = self.status();
            let there = status["running"] == id && status["stage"] == "steady";
            (there && status["reason"] == "rejected").then_some(())
        });
    }
}
