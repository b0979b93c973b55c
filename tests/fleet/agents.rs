//! Many agents in one process: each with its own runtime, store client, volume and reports, beside an app server that
//! is simulated. It reads `current`, takes a moment to restart, and never comes up on a release whose name begins with
//! `bad`.

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

use futures_util::future::BoxFuture;
use pitstop::{
    app_server::{AppServer, Description, Look, Wanted},
    cli::run,
    config,
    core::{
        self, Cwd, Detection, Generation, GenerationKey, Mode, Plan, Problem, Process, ProcessKey,
        ServerCommand, Traffic,
    },
    revision::ReleaseId,
};
use tokio::runtime::{Builder, Runtime};

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

struct Simulated {
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

impl Simulated {
    fn current(&self) -> Option<ReleaseId> {
        std::fs::read_link(&self.current).ok()?.file_name()?.to_str()?.parse().ok()
    }

    fn look(&self) -> Detection {
        let mut state = self.state.lock().unwrap();
        if state.restarts_until.is_some_and(|until| Instant::now() >= until) {
            state.restarts_until = None;
            self.restarts.now.fetch_sub(1, Ordering::SeqCst);
            let process = state.runs.as_ref().map_or(1, |(_, process)| process + 1);
            state.runs = self.current().map(|release| (release, process));
        }
        if state.runs.is_none() {
            // Its container starts it as soon as there is something to run.
            state.runs = self.current().map(|release| (release, 1));
        }
        let Some((release, process)) = &state.runs else { return Detection::Missing };
        let (bad, cwd) = (release.as_str().starts_with("bad"), Cwd::Release(release.clone()));
        let worker = Process { key: ProcessKey(1_000 + process), cwd: cwd.clone(), booted: true };
        let generation = Generation {
            key: GenerationKey(1),
            master: ProcessKey(1),
            signalable: true,
            cwd,
            expected: usize::from(!bad),
            processes: if bad { vec![] } else { vec![worker] },
        };
        Detection::Seen(core::AppServer { generations: vec![generation], ..Default::default() })
    }
}

impl AppServer for Simulated {
    fn observe(&self) -> BoxFuture<'_, Look> {
        let (detection, traffic, description) = (self.look(), Traffic::default(), Description::default());
        Box::pin(async { Look { detection, traffic, description, findings: vec![] } })
    }

    fn plan<'a>(&'a self, _: Wanted<'a>) -> BoxFuture<'a, Result<Plan, Problem>> {
        Box::pin(async { Ok(Plan::new(Mode::Phased)) })
    }

    fn perform(&self, _: ServerCommand, _: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        let mut state = self.state.lock().unwrap();
        if state.restarts_until.replace(Instant::now() + BOOT).is_none() {
            let now = self.restarts.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.restarts.most.fetch_max(now, Ordering::SeqCst);
        }
        Box::pin(async { Ok(()) })
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
        let server = Simulated {
            current: place("srv").join("current"),
            restarts: self.restarts.clone(),
            state: Mutex::default(),
        };
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

/// Runs them until its input ends: `kill POD`, or `most`, which is answered with a number.
pub fn run() {
    let pods: usize = std::env::var(PODS).unwrap().parse().unwrap();
    let dir = Path::new(&std::env::var(DIR).unwrap()).to_owned();
    let mut crew = Crew { dir, restarts: Arc::default(), agents: BTreeMap::new() };
    (0..pods).for_each(|pod| crew.start(&format!("web-{pod}")));
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().split_once(' ') {
            Some(("kill", pod)) => crew.kill(pod),
            _ => println!("\nmost {}", crew.restarts.most.swap(0, Ordering::SeqCst)),
        }
    }
    std::process::exit(0);
}
