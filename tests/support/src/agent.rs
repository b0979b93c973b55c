use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

use crate::{
    App, Container, PATIENCE, PumaRig, http, poll,
    ports::{free_port, loopback},
    until,
};

/// `pitstop run` beside a Puma, with a directory store, as a user would set it up.
pub struct AgentRig {
    binary: PathBuf,
    dir: PathBuf,
    port: u16,
    container: Option<Container>,
    uid: Option<u32>,
    /// As in a container, below the parent that starts it again; else the agent alone is the process.
    pub kept: bool,
    /// Further variables of the agent's and the commands' environment: `PITSTOP_VERIFY_SOAK` and so on.
    pub env: Vec<(String, String)>,
}

impl AgentRig {
    /// Writes the configuration; starts nothing yet. `binary` is the built pitstop.
    ///
    /// # Panics
    /// When the configuration cannot be written.
    pub fn prepare(binary: &Path, puma: &PumaRig) -> Self {
        let rig = Self {
            binary: binary.to_owned(),
            dir: puma.scratch().to_owned(),
            port: free_port(),
            container: None,
            uid: None,
            kept: false,
            env: Vec::new(),
        };
        fs::create_dir_all(rig.store()).expect("the store's directory");
        fs::write(rig.config(), rig.yaml(puma)).expect("the agent's configuration");
        rig
    }

    fn yaml(&self, puma: &PumaRig) -> String {
        let section = match puma.setup().server {
            "puma" => format!(
                "puma:\n  state_file: {}\n  worker_shutdown_timeout: {}s\n",
                puma.state_file().display(),
                puma.setup().worker_shutdown_timeout
            ),
            other => format!("app_server: {other}\n"),
        };
        format!(
            "source: {store}\npointer: production\npod: rig\ndeploy_to: {deploy_to}\nstate_dir: {state}\n\
             poll_interval: 500ms\ngrace_period: 60s\nlisten: '{listen}'\n\
             {section}restart:\n  spread: 0s\nverify:\n  url: http://{app}/up\n  release_header: X-Release\n  soak: 1s\n\
             drain:\n  min: 1s\n  quiet: 3s\n",
            store = self.store().display(),
            deploy_to = puma.deploy_to().display(),
            state = self.state_dir().display(),
            listen = SocketAddr::from((loopback(), self.port)),
            app = SocketAddr::from((loopback(), puma.port())),
        )
    }

    /// From the next start on, the agent and the commands run as this user, without any privilege
    /// or a way to get one, as in a strict pod; the volume and the store become that user's. The tests
    /// must run as root for it. `None` is root again.
    ///
    /// # Panics
    /// When the files cannot be given away.
    pub fn run_as(&mut self, puma: &PumaRig, uid: Option<u32>) {
        // A copy, because the directory of the built one may be closed to other users.
        let copy = self.dir.join("pitstop");
        if !copy.exists() {
            fs::copy(&self.binary, &copy).expect("a copy of pitstop");
        }
        (self.binary, self.uid) = (copy, uid);
        let owner = uid.unwrap_or(0).to_string();
        let mut chown = Command::new("chown");
        chown.arg("--recursive").arg(format!("{owner}:{owner}")).args([puma.deploy_to(), self.store()]);
        assert!(chown.status().expect("chown is there").success(), "{chown:?}");
    }

    /// Starts the agent and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(&mut self) {
        self.launch();
        until("the agent answers", || self.get("/live").ok());
    }

    /// Starts the agent and waits for nothing.
    pub fn launch(&mut self) {
        let (binary, uid) = (self.binary.clone(), self.uid);
        let (config, env) = (self.config(), self.env.clone());
        let us = std::process::id().to_string();
        let child = if self.kept { Vec::new() } else { vec!["--child-of".to_owned(), us] };
        let recipe = Box::new(move || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).args(uid.map(unprivileged).unwrap_or_default());
            command.arg("--").arg(&binary).arg("--config").arg(&config).arg("run").args(&child);
            command.envs(env.iter().cloned());
            command
        });
        // The last one must be gone before the next one takes its port.
        self.container = None;
        self.container = Some(Container::start(recipe, self.log(), false));
    }

    /// Waits until the agent ends by itself, and gives its exit code.
    ///
    /// # Panics
    /// When it was not started, or does not end.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        let container = self.container.as_mut().expect("the agent was started");
        until("the agent's end", || container.ended().then_some(()));
        container.exit_code()
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.container.as_ref().is_none_or(Container::ended)
    }

    /// Ends it with SIGKILL, wherever it is.
    pub fn kill(&mut self) {
        self.container = None;
    }

    /// SIGTERM; waits for its end, and gives its exit code.
    ///
    /// # Panics
    /// When it was not started, or does not end.
    pub fn terminate(&mut self) -> Option<i32> {
        let container = self.container.as_mut().expect("the agent was started");
        container.terminate();
        container.exit_code()
    }

    /// Runs a command of pitstop's with the agent's configuration.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn command(&self, args: &[&str]) -> io::Result<Output> {
        self.prepared(args).output()
    }

    /// The same command, not started yet.
    pub fn prepared(&self, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(self.uid.map(unprivileged).unwrap_or_default()).arg("--").arg(&self.binary);
        command.arg("--config").arg(self.config()).args(args);
        command.envs(self.env.iter().cloned());
        command
    }

    /// Runs a command that has to work, and gives what it printed.
    ///
    /// # Panics
    /// When it does not work, with what it said.
    pub fn must(&self, args: &[&str]) -> String {
        self.try_to(args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a command, and gives what it printed.
    ///
    /// # Errors
    /// When it does not work, with what it said.
    pub fn try_to(&self, args: &[&str]) -> io::Result<String> {
        let output = self.command(args)?;
        let (said, erred) = (text(&output.stdout), text(&output.stderr));
        let failed = || io::Error::other(format!("pitstop {args:?}: {}\n{said}{erred}", output.status));
        if output.status.success() { Ok(said) } else { Err(failed()) }
    }

    /// Builds a release in a directory of its own: what there is to publish.
    pub fn build(&self, puma: &PumaRig, app: App, id: &str) -> PathBuf {
        let dir = self.dir.join("build").join(id);
        puma.write_release(&dir, id, app);
        dir
    }

    /// Builds a release and publishes it into the store.
    ///
    /// # Panics
    /// When that does not work.
    pub fn publish(&self, puma: &PumaRig, app: App, id: &str) -> String {
        self.publish_dir(&self.build(puma, app, id), id)
    }

    /// Publishes what is in a directory.
    ///
    /// # Panics
    /// When that does not work.
    pub fn publish_dir(&self, dir: &Path, id: &str) -> String {
        self.must(&["publish", &dir.to_string_lossy(), "--release", id])
    }

    /// Moves the pointer.
    ///
    /// # Panics
    /// When that does not work.
    pub fn promote(&self, id: &str) -> String {
        self.must(&["promote", id])
    }

    /// What /status says; `None` while the agent does not answer.
    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/status").ok()?.body).ok()
    }

    /// Waits until the agent has proved that the app server runs what the pointer names, and that
    /// this is `id`.
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn wait_in_sync(&self, id: &str) {
        self.wait_in_sync_within(PATIENCE, id);
    }

    /// The same, for as long as this.
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn wait_in_sync_within(&self, patience: Duration, id: &str) {
        let mut last = None;
        let found = poll(patience, || {
            last = self.status();
            let status = last.as_ref()?;
            (status["in_sync"] == true && status["running"] == id).then_some(())
        });
        assert!(found.is_some(), "waited {patience:?} without success: in sync with {id}; /status: {last:?}");
    }

    /// The value of one series, named as /metrics writes it.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics").ok()?.body;
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// One GET.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn get(&self, path: &str) -> io::Result<http::Answer> {
        http::get(self.port, path)
    }

    /// The kubelet's call before it ends the app server, on a thread of its own: it waits for as
    /// long as the agent wants, but not longer than two minutes.
    pub fn prestop(&self) -> JoinHandle<io::Result<Value>> {
        let port = self.port;
        thread::spawn(move || {
            let address = SocketAddr::from((loopback(), port));
            let headers = [("User-Agent", "kube-lifecycle/1.33")];
            let answer = http::get_from(address, "/prestop", &headers, Duration::from_secs(120))?;
            serde_json::from_str(&answer.body).map_err(io::Error::other)
        })
    }

    /// Where its endpoints are.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The agent's process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.container.as_ref()?.pid()
    }

    /// Its output.
    pub fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join("pitstop.yaml")
    }

    /// The directory store.
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Where it keeps what belongs to this pod.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }
}

/// The arguments of `setpriv`.
fn unprivileged(uid: u32) -> Vec<String> {
    let flags = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
    ids.into_iter().chain(flags.map(String::from)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
