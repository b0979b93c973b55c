//! Many agents in one process: each with its own runtime, store client, volume and reports, beside an app server that
//! is simulated and takes a moment to restart.

use std::{
    collections::BTreeMap,
    io::BufRead,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use pitstop::{cli::run, config, revision::ReleaseId};
use tokio::runtime::{Builder, Runtime};

#[path = "../support/simulated.rs"]
mod simulated;

use simulated::{Serving, Simulated, release_at};

/// In the environment of the process of the agents: how many, and where their volumes are.
pub const PODS: &str = "FLEET_PODS";
pub const DIR: &str = "FLEET_DIR";
/// How long the simulated app server takes to restart.
const BOOT: Duration = Duration::from_millis(500);

/// How many app servers of the fleet restart, and how many did at most at the same time.
#[derive(Default)]
struct Restarts {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Server {
    current: PathBuf,
    restarts: Arc<Restarts>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What serves, and as which process.
    runs: Option<(ReleaseId, u64)>,
    restarts_until: Option<Instant>,
}

impl Serving for Server {
    fn runs(&self) -> Option<(ReleaseId, u64)> {
        let mut state = self.state.lock().unwrap();
        if state.restarts_until.is_some_and(|until| Instant::now() >= until) {
            state.restarts_until = None;
            self.restarts.now.fetch_sub(1, Ordering::SeqCst);
            let process = state.runs.as_ref().map_or(1, |(_, process)| process + 1);
            state.runs = release_at(&self.current).map(|release| (release, process));
        }
        if state.runs.is_none() {
            state.runs = release_at(&self.current).map(|release| (release, 1));
        }
        state.runs.clone()
    }

    fn restart(&self) {
        let mut state = self.state.lock().unwrap();
        if state.restarts_until.replace(Instant::now() + BOOT).is_none() {
            let now = self.restarts.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.restarts.most.fetch_max(now, Ordering::SeqCst);
        }
    }
}

struct Crew {
    dir: PathBuf,
    restarts: Arc<Restarts>,
    agents: BTreeMap<String, Runtime>,
}

impl Crew {
    /// Its configuration is the environment's, with places of its own.
    fn start(&mut self, pod: &str) {
        let place = |name: &str| self.dir.join(pod).join(name);
        let own = [
            ("PITSTOP_POD", pod.to_owned()),
            ("PITSTOP_DEPLOY_TO", place("srv").display().to_string()),
            ("PITSTOP_POD_DIR", place("pod").display().to_string()),
            ("PITSTOP_STATE_DIR", place("state").display().to_string()),
            ("PITSTOP_LISTEN", "127.0.0.1:0".into()),
            ("PITSTOP_APP_SERVER", "puma".into()),
        ];
        ["srv", "pod", "state"].iter().for_each(|name| std::fs::create_dir_all(place(name)).unwrap());
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let config = config::load(None, config::environment().chain(own)).unwrap().config;
        let server = Simulated(Server {
            current: place("srv").join("current"),
            restarts: self.restarts.clone(),
            state: Mutex::default(),
        });
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let ended = run::beside(&config, Arc::new(server)).await;
            ended.unwrap_or_else(|failure| panic!("an agent ended: {}", failure.message));
        });
        self.agents.insert(pod.to_owned(), runtime);
    }

    /// As a killed agent does: without a word.
    fn kill(&mut self, pod: &str) {
        self.agents.remove(pod).expect("a pod of the fleet").shutdown_background();
    }
}

/// Runs them until its input ends: `kill POD`, `start POD`, or `most`, which is answered with a number.
pub fn run() {
    let pods: usize = std::env::var(PODS).unwrap().parse().unwrap();
    let dir = Path::new(&std::env::var(DIR).unwrap()).to_owned();
    let mut crew = Crew { dir, restarts: Arc::default(), agents: BTreeMap::new() };
    (0..pods).for_each(|pod| crew.start(&format!("web-{pod}")));
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().split_once(' ') {
            Some(("kill", pod)) => crew.kill(pod),
            Some(("start", pod)) => crew.start(pod),
            _ => println!("\nmost {}", crew.restarts.most.swap(0, Ordering::SeqCst)),
        }
    }
    std::process::exit(0);
}
