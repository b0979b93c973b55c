use std::{
    fs,
    ops::RangeBounds,
    path::{Path, PathBuf},
    thread::{JoinHandle, spawn},
    time::Duration,
};

use serde_json::Value;

use crate::{AgentRig, App, PumaRig, Setup, http, interrupted, until, until_within};

/// How long a release that hangs, and the way back from it, may take on a busy machine.
const RECOVERY: Duration = Duration::from_secs(120);

/// A pod: an app server on a volume, and pitstop beside it. A test that fails prints the agent's last status.
pub struct Pod {
    /// The agent, and the store. It ends before the volume that its log is on.
    pub agent: AgentRig,
    /// The volume and Puma, or the app server in Puma's place ([`Setup::server`]).
    pub puma: PumaRig,
}

/// Starting.
impl Pod {
    /// The volume and the store are empty. Nothing runs. `binary` is the built pitstop.
    pub fn prepare(binary: &Path, setup: Setup) -> Self {
        let puma = PumaRig::empty(setup);
        Self { agent: AgentRig::prepare(binary, &puma), puma }
    }

    /// Sets a variable of the agent's environment, for its next start.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.agent.env.push((name.into(), value.into()));
    }

    /// The same, in a chain.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// Changes the agent's configuration file.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn configured(self, change: impl FnOnce(String) -> String) -> Self {
        let yaml = fs::read_to_string(self.agent.config()).expect("the agent's configuration");
        fs::write(self.agent.config(), change(yaml)).expect("the agent's configuration");
        self
    }

    /// `v1` is in the store, and the pointer names it. Nothing runs.
    #[must_use]
    pub fn published(self) -> Self {
        self.deploy(App::Good, "v1");
        self
    }

    /// An init container has fetched `v1`, and the app server serves it. No agent yet.
    #[must_use]
    pub fn born(self) -> Self {
        self.born_from(App::Good)
    }

    /// The same with another app as `v1`.
    #[must_use]
    pub fn born_from(mut self, app: App) -> Self {
        self.deploy(app, "v1");
        self.boot();
        self
    }

    /// An init container fetches `v1`, which is published, and the app server serves it.
    pub fn boot(&mut self) {
        self.agent.must(&["fetch"]);
        self.puma.run();
        self.puma.wait_for_release("v1");
    }

    /// The agent has started, and has proved that `v1` runs.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.agent.start();
        self.agent.wait_in_sync("v1");
        self
    }

    /// The app server and the agent run, and the agent has proved that `v1` runs.
    #[must_use]
    pub fn in_sync(self) -> Self {
        self.born().started()
    }
}

/// Deploying.
impl Pod {
    /// Publishes a release and moves the pointer to it.
    pub fn deploy(&self, app: App, id: &str) {
        self.agent.publish(&self.puma, app, id);
        self.agent.promote(id);
    }

    /// The same with a good release whose directory `change` has changed.
    pub fn deploy_changed(&self, id: &str, change: impl FnOnce(&Path)) {
        self.publish_changed(id, change);
        self.agent.promote(id);
    }

    /// Publishes a good release whose directory `change` has changed.
    pub fn publish_changed(&self, id: &str, change: impl FnOnce(&Path)) {
        let dir = self.agent.build(&self.puma, App::Good, id);
        change(&dir);
        self.agent.publish_dir(&dir, id);
    }

    /// Waits until the release is rejected and `v1` runs again. Gives the reason.
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn wait_for_rejection(&self, id: &str) -> String {
        let reason = until_within(RECOVERY, &format!("{id} rejected, and v1 running again"), || {
            let status = self.agent.status()?;
            let back = status["running"] == "v1" && status["stage"] == "steady";
            rejection(&status, id).filter(|_| back)
        });
        self.puma.wait_for_release("v1");
        reason
    }

    /// Waits until the agent gives this reason. Gives the whole status.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_for_reason(&self, reason: &str) -> Value {
        until(&format!("the reason {reason}"), || {
            self.agent.status().filter(|status| status["reason"] == reason)
        })
    }

    /// Waits until the agent lists this many workers, all booted and all of this release.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_for_workers(&self, id: &str, count: impl RangeBounds<usize>) {
        until(&format!("only workers of {id}"), || {
            let status = self.status();
            let workers = status["app_server"]["workers"].as_array()?;
            let all = workers.iter().all(|worker| worker["release"] == id && worker["booted"] == true);
            (count.contains(&workers.len()) && all).then_some(())
        });
    }

    /// Waits until the release is complete on the volume.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn wait_until_fetched(&self, id: &str) {
        let release = self.puma.releases().join(id);
        until(&format!("{id} on the volume"), || release.exists().then_some(()));
    }

    /// Asks the app for a request that it holds until the agent has seen it in flight, and `seconds` longer: however
    /// rarely Puma's workers report, no request ends before it was noticed. The thread gives the answer's status.
    ///
    /// # Panics
    /// When the agent does not see it.
    pub fn slow_request(&self, seconds: u32) -> JoinHandle<Option<u16>> {
        let port = self.puma.port();
        let seen = self.puma.run_dir().join("seen");
        let _ = fs::remove_file(&seen);
        let request = spawn(move || {
            let path = format!("/slow?s={seconds}&after=seen");
            http::get_within(port, &path, Duration::from_secs(90)).ok().map(|answer| answer.status)
        });
        until("the request in flight", || {
            (self.metric("pitstop_puma_requests_in_flight")? >= 1.0).then_some(())
        });
        fs::write(&seen, "").expect("the rig's own directory takes a file");
        request
    }
}

/// Looking.
impl Pod {
    /// What /status says; null while the agent does not answer.
    pub fn status(&self) -> Value {
        self.agent.status().unwrap_or_default()
    }

    /// The codes of the findings on /status.
    pub fn findings(&self) -> Vec<String> {
        let status = self.status();
        let findings = status["findings"].as_array().into_iter().flatten();
        findings.filter_map(|finding| Some(finding["code"].as_str()?.to_owned())).collect()
    }

    /// Whether /status has this finding.
    pub fn found(&self, code: &str) -> bool {
        self.findings().iter().any(|found| found == code)
    }

    /// The value of a metric, named with its labels.
    pub fn metric(&self, series: &str) -> Option<f64> {
        self.agent.metric(series)
    }

    /// What the agent has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.agent.log()).unwrap_or_default()
    }

    /// The pod's journal of deploys.
    pub fn revisions_log(&self) -> String {
        let log = self.puma.deploy_to().join(".pitstop/pods/rig/revisions.log");
        fs::read_to_string(log).unwrap_or_default()
    }

    /// How many deploys of this release were started, by the journal.
    pub fn attempts(&self, id: &str) -> usize {
        let log = self.revisions_log();
        let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.filter(|record| record["event"] == "attempt" && record["release"] == id).count()
    }

    /// Calls the kubelet's preStop hook, and waits for its answer.
    ///
    /// # Panics
    /// When there is none.
    pub fn prestop(&self) -> Value {
        self.agent.prestop().join().expect("the call's thread").expect("an answer")
    }

    /// The directory that `current` leads to.
    ///
    /// # Panics
    /// When it leads nowhere.
    pub fn current(&self) -> PathBuf {
        self.puma.current().canonicalize().expect("`current` leads to a release")
    }

    /// The app server serves this release, and `current` leads to it.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn assert_runs(&self, id: &str) {
        assert_eq!(self.puma.get("/").expect("an answer").release.as_deref(), Some(id));
        assert_eq!(self.current(), self.puma.releases().join(id));
    }
}

/// The reason for which /status lists this release as rejected.
pub fn rejection(status: &Value, id: &str) -> Option<String> {
    let rejected = status["rejected"].as_array()?.iter().find(|rejected| rejected["release"] == id)?;
    rejected["reason"].as_str().map(str::to_owned)
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() && !interrupted() {
            eprintln!("--- /status: {}", self.status());
        }
    }
}
