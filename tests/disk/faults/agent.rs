//! A real agent on a volume with faults, beside an app server that is simulated and outlives the agent. What it
//! runs is in a file.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use pitstop::{cli::run, config, revision::ReleaseId};
use pitstop_rig::{
    S3Rig, SlowVolume, http, poll,
    ports::free_port,
    slow_volume::{Among, Snapshot},
    until_within,
};
use serde_json::Value;

#[path = "../../support/simulated.rs"]
mod simulated;

use simulated::{Serving, Simulated, release_at};

use crate::rig::{Rig, Running};

/// In the environment of the agent's process: the file with what the app server runs.
const SERVER: &str = "FAULTS_SERVER";
const PATIENCE: Duration = Duration::from_secs(120);

struct Server {
    current: PathBuf,
    runs: PathBuf,
}

impl Server {
    fn read(&self) -> Option<(ReleaseId, u64)> {
        let text = fs::read_to_string(&self.runs).ok()?;
        let (release, process) = text.split_once(' ')?;
        Some((release.parse().ok()?, process.parse().ok()?))
    }
}

impl Serving for Server {
    fn runs(&self) -> Option<(ReleaseId, u64)> {
        self.read().or_else(|| {
            self.restart();
            self.read()
        })
    }

    fn restart(&self) {
        let Some(release) = release_at(&self.current) else { return };
        let process = self.read().map_or(1, |(_, process)| process + 1);
        let next = self.runs.with_extension("next");
        fs::write(&next, format!("{release} {process}")).unwrap();
        fs::rename(next, &self.runs).unwrap();
    }
}

/// Not a test: what the others start as a process.
#[test]
fn the_agents_process() {
    let Some(runs) = std::env::var_os(SERVER) else { return };
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr);
    log.with_max_level(tracing::Level::DEBUG).init();
    let config = config::load(None, config::environment().filter(|(name, _)| name != SERVER)).unwrap().config;
    let server = Simulated(Server {
        current: Path::new(&std::env::var("PITSTOP_DEPLOY_TO").unwrap()).join("current"),
        runs: runs.into(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Err(failure) = runtime.block_on(run::beside(&config, Arc::new(server))) {
        panic!("the agent ended: {}", failure.message);
    }
}

/// A pod: its volume, which has the store and the agent's state as well, and its agent.
pub struct Pod {
    pub rig: Rig,
    place: PathBuf,
    port: u16,
    pub volume: Option<SlowVolume>,
    /// Instead of what the agent's configuration says.
    env: Vec<(String, String)>,
    /// Instead of /etc/resolv.conf.
    resolver: Option<PathBuf>,
    agent: Option<Running>,
}

impl Pod {
    fn new() -> Self {
        let mut rig = Rig::new();
        let place = rig.dir.path().join("volume");
        symlink(place.join("store"), rig.store_dir()).unwrap();
        rig.deploy_to = place.join("srv");
        Self { rig, place, port: free_port(), volume: None, env: Vec::new(), resolver: None, agent: None }
    }

    /// One that runs v1, whose pointer has been moved to `to` while it had no agent.
    pub fn before(to: &str) -> Snapshot {
        let mut pod = Self::new();
        pod.volume = Some(SlowVolume::mount(&pod.place, Duration::ZERO, 16));
        for dir in ["store", "srv", "state"] {
            fs::create_dir(pod.place.join(dir)).unwrap();
        }
        pod.rig.promote("v1");
        pod.start();
        pod.wait_in_sync("v1", "v1 at first");
        pod.kill();
        pod.rig.promote(to);
        pod.volume.as_ref().unwrap().snapshot()
    }

    /// The same pod somewhere else, without an agent.
    pub fn from(before: &Snapshot) -> Self {
        let mut pod = Self::new();
        pod.volume = Some(SlowVolume::mount_again(&pod.place, before));
        fs::write(pod.server(), "v1 1").unwrap();
        pod
    }

    /// One without faults on its volume, whose store is this one.
    pub fn of_s3(s3: &S3Rig) -> Self {
        let mut pod = Self::new();
        ["srv", "state"].iter().for_each(|dir| fs::create_dir_all(pod.place.join(dir)).unwrap());
        pod.env = s3.env_without_credentials();
        pod.env.push(("AWS_SHARED_CREDENTIALS_FILE".into(), pod.credentials().display().to_string()));
        pod
    }

    /// In the agent's environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.into(), value.into()));
    }

    /// The agent finds names as this file says, in a mount namespace of its own. Needs root.
    pub fn resolves_by(&mut self, file: &Path) {
        self.resolver = Some(file.into());
    }

    pub fn credentials(&self) -> PathBuf {
        self.rig.dir.path().join("credentials")
    }

    /// By somebody whose credentials are good.
    pub fn promote_in(&self, s3: &S3Rig, release: &str) {
        let app = self.rig.app(release).display().to_string();
        for args in [&["publish", &*app, "--release", release][..], &["promote", release]] {
            let output =
                self.rig.command(args).envs(self.env.iter().cloned()).envs(s3.env()).output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// The volume as it is now, as another node sees it.
    pub fn mount_anew(&mut self) {
        let left = self.volume.take().unwrap().snapshot();
        self.volume = Some(SlowVolume::mount_again(&self.place, &left));
    }

    pub fn volume(&self) -> &SlowVolume {
        self.volume.as_ref().unwrap()
    }

    fn server(&self) -> PathBuf {
        self.rig.dir.path().join("server")
    }

    /// What the app server runs.
    pub fn serves(&self) -> String {
        fs::read_to_string(self.server()).unwrap().split(' ').next().unwrap().to_owned()
    }

    pub fn start(&mut self) {
        let program = std::env::current_exe().unwrap();
        let mut command = match &self.resolver {
            None => Command::new(program),
            Some(file) => {
                let mut command = Command::new("unshare");
                let mounts = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
                command.args(["--mount", "sh", "-c", mounts]).arg(file).arg(program);
                command
            }
        };
        command.args(["faults::agent::the_agents_process", "--exact", "--nocapture"]);
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        let at = |name: &str| self.place.join(name).into_os_string();
        command.env(SERVER, self.server()).env("PITSTOP_SOURCE", at("store"));
        command.env("PITSTOP_DEPLOY_TO", at("srv")).env("PITSTOP_STATE_DIR", at("state"));
        command.env("PITSTOP_LISTEN", format!("{}:{}", pitstop_rig::ports::loopback(), self.port));
        command.env("PITSTOP_FAILPOINT_PASSED", &self.place);
        for (name, value) in [
            ("PITSTOP_POD", "web-0"),
            ("PITSTOP_APP_SERVER", "puma"),
            ("PITSTOP_POLL_INTERVAL", "500ms"),
            ("PITSTOP_RESTART_SPREAD", "0s"),
            ("PITSTOP_RESTART_TIMEOUT", "2s"),
            ("PITSTOP_VERIFY_SOAK", "100ms"),
            ("PITSTOP_KEEP_RELEASES", "1"),
        ] {
            command.env(name, value);
        }
        command.envs(self.env.iter().cloned());
        self.agent = Some(Running(command.spawn().unwrap()));
    }

    pub fn process(&mut self) -> &mut Running {
        self.agent.as_mut().unwrap()
    }

    pub fn kill(&mut self) {
        self.agent = None;
    }

    fn log(&self) -> PathBuf {
        self.rig.dir.path().join("agent.log")
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.place.join("state").join(name)
    }

    /// The kubelet's call, as long as the agent lives.
    pub fn prestop(&self) -> thread::JoinHandle<()> {
        let address = (pitstop_rig::ports::loopback(), self.port).into();
        thread::spawn(move || {
            let headers = [("User-Agent", "kube-lifecycle/1.33")];
            let _ = http::get_from(address, "/prestop", &headers, PATIENCE);
        })
    }

    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&http::get(self.port, "/status").ok()?.body).ok()
    }

    /// Waits until /status says so, and gives it.
    #[track_caller]
    pub fn wait(&self, what: &str, context: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let found = poll(PATIENCE, || {
            last = self.status();
            last.clone().filter(&holds)
        });
        found.unwrap_or_else(|| {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let log: Vec<_> = log.lines().filter(|line| line.contains("pitstop")).rev().take(60).collect();
            panic!("{context}: not {what}: {last:?}; the last of the log first:\n{}", log.join("\n"))
        })
    }

    #[track_caller]
    pub fn wait_in_sync(&self, id: &str, context: &str) {
        self.wait(&format!("in sync with {id}"), context, |s| s["in_sync"] == true && s["running"] == id);
    }

    /// Until nothing goes on in the background any more, after the first deploy of this pod's first agent; or until
    /// the trouble is met there.
    #[track_caller]
    fn until_idle_or_met(&self) {
        let tidied = || fs::read_to_string(self.log()).unwrap_or_default().contains("is tidied up");
        let reported = || {
            let report = fs::read(self.place.join("store/fleet/production/web-0")).unwrap_or_default();
            let report: Value = serde_json::from_slice(&report).unwrap_or_default();
            report["stage"] == "steady" && report["running"] == self.serves()
        };
        wait_long("idle, or the trouble", || self.volume().steps().is_met() || tidied() && reported());
    }

    /// Waits for the trouble. False when a whole deploy had fewer steps this time.
    pub fn meets_trouble(&self, context: &str) -> bool {
        let arrived = || self.status().is_some_and(|s| s["in_sync"] == true && s["running"] == "new");
        let over = || self.volume().steps().is_met() || arrived();
        wait_long(&format!("{context}: met, or arrived"), over);
        if !self.volume().steps().is_met() {
            self.until_idle_or_met();
        }
        self.volume().steps().is_met()
    }

    /// The pod has arrived, and nothing is left of what happened.
    #[track_caller]
    pub fn assert_arrives(&self, at: &str, context: &str) {
        if at == "v1" {
            let rejected =
                |s: &Value| s["running"] == "v1" && s["stage"] == "steady" && s["reason"] == "rejected";
            self.wait("v1 again, and the other one rejected", context, rejected);
        } else {
            self.wait_in_sync(at, context);
        }
        assert_eq!(self.rig.release_at_current().as_deref(), Some(at), "{context}");
        assert_eq!(self.serves(), at, "{context}");
        let tidy = || self.rig.leftovers().is_empty() && self.rig.abandoned().is_empty();
        let left = || (self.rig.leftovers(), self.rig.abandoned());
        assert!(poll(PATIENCE, || tidy().then_some(())).is_some(), "{context}: left: {:?}", left());
        self.rig.assert_whole();
    }

    /// At any moment, whatever has happened.
    #[track_caller]
    pub fn assert_sound(&self, to: &str, context: &str) {
        let current = self.rig.release_at_current();
        assert!(current.as_deref().is_some_and(|is| is == "v1" || is == to), "{context}: {current:?}");
        self.rig.assert_whole();
    }
}

#[track_caller]
fn wait_long(what: &str, mut holds: impl FnMut() -> bool) {
    until_within(PATIENCE, what, || holds().then_some(()));
}

/// Runs these steps, so many pods at a time. Answers at how many of them the trouble was met.
pub fn side_by_side(at_once: usize, steps: Vec<u64>, test: impl Fn(u64) -> bool + Sync) -> usize {
    let (steps, met) = (Mutex::new(steps.into_iter()), AtomicUsize::new(0));
    let work = || {
        while let Some(step) = next(&steps) {
            met.fetch_add(usize::from(test(step)), Ordering::SeqCst);
        }
    };
    thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(work))));
    met.into_inner()
}

fn next(steps: &Mutex<std::vec::IntoIter<u64>>) -> Option<u64> {
    steps.lock().unwrap().next()
}

/// How many steps a whole deploy has.
pub fn steps_of_a_deploy(before: &Snapshot, to: &str, among: Among) -> u64 {
    let mut pod = Pod::from(before);
    pod.start();
    pod.assert_arrives(if to == "bad" { "v1" } else { to }, "without any trouble");
    pod.until_idle_or_met();
    pod.volume().steps().count(among)
}

/// Whether this pod has said that it would move to the release, before `current` did.
pub fn said_so(deploy_to: &Path, release: &str) -> bool {
    let journal = pitstop::revisions_log::path(deploy_to, "web-0");
    let text = fs::read_to_string(journal).unwrap_or_default();
    text.lines().any(|line| line.contains("\"attempt\"") && line.contains(release))
}
