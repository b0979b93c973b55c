//! `pitstop run`: the sidecar. Builds every part from its section of the configuration, and waits for
//! the end.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use futures_util::{StreamExt, future::OptionFuture};
use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::{net::TcpListener, runtime::Handle, sync::watch};

use super::{Exit, Failure};
use crate::{
    app_server::AppServer,
    config::{self, Config, ConfigError},
    core::{Detection, Problem, Reason},
    effects::{Effects, Tools},
    finding::{self, Code, Finding},
    fleet::{About, Chooser, Reporter},
    handle::{Requests, SupervisorHandle},
    hook::Hook,
    init::{self, Agent},
    lane::Lane,
    metrics::Metrics,
    notify::{Notifier, Sender},
    pointer::{self, Check, Kick, Latest, Settings, Source},
    probe::Prober,
    revisions_log,
    server::{self, Handles, Token},
    status::Snapshot,
    store::{self, Blocking, Store},
    supervisor::{self, Inputs, boottime},
    telemetry::{self, DeployIds},
    trust::Trust,
    warmup::Warmup,
};

/// How long the store may be silent.
const STORE_IDLE: Duration = Duration::from_secs(30);
/// The hook is never held longer than the drain's own limit and this.
const HOLD_MARGIN: Duration = Duration::from_secs(5);
/// Answers under way get so long at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Locked by the agent for as long as it lives.
const LOCK: &str = "agent.lock";
const LOCK_ATTEMPTS: u32 = 30;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// A volume may hang.
const ROOM_LIMIT: Duration = Duration::from_secs(2);
/// So many looks decide whether a Puma is running beside a bad configuration.
const LOOKS: u32 = 10;

/// How to run.
#[derive(Debug, Args)]
pub struct Run {
    /// Be the agent itself, as a child of this process. How `run` and `exec` start it.
    #[arg(long, hide = true, value_name = "PID")]
    pub child_of: Option<i32>,
    /// How many agents have died in this container before.
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    deaths: u32,
}

/// The container's process: starts the agent, and starts it again whenever it dies. Without an async runtime.
///
/// # Errors
/// [`Failure`] when signals cannot be caught.
pub fn keep(file: Option<&Path>) -> Result<Exit, Failure> {
    let (loaded, _) = config::load_degraded(file, config::environment());
    telemetry::init(loaded.config.log.format);
    let agent = Agent {
        arguments: std::env::args_os().skip(1).collect(),
        state_dir: None,
        listen: loaded.config.listen,
    };
    init::keep_agent(agent, boottime).map(Exit::Code).map_err(Failure::from)
}

/// Runs until SIGTERM. `invalid` is what is wrong with the configuration: exit code 64 while no app
/// server is running; beside a running one the agent stays up without deploys.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub(crate) async fn run(config: Config, invalid: Option<ConfigError>, run: Run) -> Result<Exit, Failure> {
    telemetry::init(config.log.format);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pod = config.pod(), "pitstop agent started");
    init::become_agent(run.child_of.unwrap_or_default()).map_err(Failure::failed)?;
    let _alone = the_only_one(&config.state_dir).await?;
    make_room_for_puma(config.puma.state_file.as_deref(), [&config.deploy_to, &config.current()]).await;
    let app_server = super::app_server::of(&config)?;
    let parts = Parts::of(&config, invalid);
    if let Some(problem) = &parts.invalid {
        if !beside_a_running_one(app_server.as_ref()).await {
            return Err(Failure { exit_code: 64, ..Failure::from(problem.clone()) });
        }
        tracing::error!(
            reason = problem.reason.code(),
            detail = problem.message,
            "no deploys until this is fixed"
        );
    }
    serve(&config, parts, app_server, died(run.deaths)).await?;
    Ok(Exit::Done)
}

/// An agent beside an app server of the caller's, on the caller's runtime. It ends with that, or on SIGTERM.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn beside(config: &Config, app_server: Arc<dyn AppServer>) -> Result<(), Failure> {
    serve(config, Parts::of(config, None), app_server, Vec::new()).await
}

/// Kubernetes does not notice, as the container goes on: somebody else has to say it.
fn died(deaths: u32) -> Vec<Finding> {
    let times = if deaths == 1 { "once".to_owned() } else { format!("{deaths} times") };
    let finding = Finding::note(
        Code::AgentDied,
        format!("the agent has died {times} in this container and was started again"),
        "search the container's log for `the agent has died`: exit code 137 means killed, 134 out of memory, \
         101 a bug (please report it)",
    );
    (deaths > 0).then_some(finding).into_iter().collect()
}

/// Puma makes no directory for its state file and its socket. Where both containers have one volume above it, the agent
/// does, which is there before Puma. Elsewhere the path is none of the agent's, and on a volume of `releases` a release
/// would be written to, or `current` become a directory.
async fn make_room_for_puma(state_file: Option<&Path>, releases: [&Path; 2]) {
    let Some(dir) = state_file.and_then(Path::parent).map(Path::to_owned) else { return };
    if releases.iter().any(|of_releases| dir.starts_with(of_releases)) {
        return;
    }
    let make = move || match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            tracing::debug!(path = %dir.display(), %error, "the directory of Puma's state file is not this container's");
        }
        _ => {}
    };
    if let Ok(lane) = Lane::start("puma-dir") {
        let _ = lane.run(ROOM_LIMIT, make).await;
    }
}

/// Two agents in one pod would undo each other's work, and the second would take the first one's socket.
async fn the_only_one(state_dir: &Path) -> Result<Option<File>, Failure> {
    let path = state_dir.join(LOCK);
    let file = fs::create_dir_all(state_dir)
        .and_then(|()| File::options().create(true).truncate(false).write(true).open(&path));
    let file = match file {
        Ok(file) => file,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "state_dir is not writable: commands like `pitstop \
                status` will not work");
            return Ok(None);
        }
    };
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            // One that was killed a moment ago may still be about to end.
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
            Err(TryLockError::Error(error)) => {
                tracing::warn!(path = %path.display(), %error, "this file system has no file locks: a second \
                    agent would not be detected");
                return Ok(Some(file));
            }
        }
    }
    Err(Failure::usage(format!(
        "another agent already runs in this pod: it holds {}. This one has changed nothing. Use `pitstop \
         status` to see the running one; give a second one its own state_dir",
        path.display()
    )))
}

/// An agent that is started anew beside a serving app server must not be lost to a typo: its
/// /prestop is what holds requests at the end of the pod.
async fn beside_a_running_one(app_server: &dyn AppServer) -> bool {
    for _ in 0..LOOKS {
        match app_server.observe().await.detection {
            Detection::Missing => return false,
            Detection::Unclear => tokio::time::sleep(Duration::from_millis(200)).await,
            Detection::Seen(_) | Detection::Ambiguous | Detection::NotPermitted => return true,
        }
    }
    // Something is starting.
    true
}

/// What can be built of the configuration, and what is wrong with the rest.
struct Parts {
    store: Option<Arc<dyn Store>>,
    pointer: Option<Source>,
    prober: Option<Prober>,
    trust: Arc<Trust>,
    invalid: Option<Problem>,
}

impl Parts {
    fn of(config: &Config, invalid: Option<ConfigError>) -> Self {
        let mut parts =
            Self { store: None, pointer: None, prober: None, trust: Arc::default(), invalid: None };
        if let Some(error) = invalid {
            parts.refuse(&error.to_string());
            return parts;
        }
        if let Some(source) = &config.source {
            parts.store =
                store::open(Some(source), &config.s3).map_err(|problem| parts.refuse(&problem.message)).ok();
        }
        parts.pointer = match (pointer::file_path(&config.pointer), &parts.store) {
            (Some(path), _) => Some(Source::File(path)),
            (None, Some(store)) => Some(Source::Store(store.clone(), config.pointer.clone())),
            (None, None) => {
                parts
                    .refuse("source is not set: set it to the store that holds the pointer and the releases");
                None
            }
        };
        if let Some(url) = &config.verify.url {
            let prober = Prober::new(url, &config.verify);
            parts.prober = prober.map_err(|error| parts.refuse(&error.to_string())).ok();
        }
        parts
    }

    fn refuse(&mut self, problem: &str) {
        let message = match self.invalid.take() {
            Some(earlier) => format!("{}\n{problem}", earlier.message),
            None => problem.to_owned(),
        };
        self.invalid = Some(Problem::new(Reason::ConfigInvalid, message));
    }
}

async fn serve(
    config: &Config,
    parts: Parts,
    app_server: Arc<dyn AppServer>,
    found: Vec<Finding>,
) -> Result<(), Failure> {
    let metrics = Arc::new(Metrics::new());
    let (supervisor, requests) =
        SupervisorHandle::new(Duration::from_millis(config.budget().max_ms) + HOLD_MARGIN);
    let start =
        Snapshot::unknown(boottime(), Problem::new(Reason::VolumeUnavailable, "the agent is starting"));
    let (snapshots, seen) = watch::channel(Arc::new(start));
    let own_findings = Arc::new(Mutex::new(found));
    let parts = Parts { trust: super::trust_with_memory(config, own_findings.clone()), ..parts };
    let handles = Handles {
        pod: config.pod().into(),
        snapshots: seen,
        metrics: metrics.clone(),
        supervisor,
        token: Token::new(config.token_file.clone()),
        own_findings,
        fleet: None,
        clock: boottime,
    };
    let reporter = reporter(config, &parts, handles.snapshots.clone());
    let handles = Handles { fleet: reporter.as_ref().map(Reporter::glance), ..handles };
    let notifier = Notifier::new(&config.notify, sender(config), handles.snapshots.clone());
    let mut inputs = inputs(config, parts, app_server, metrics, requests, snapshots)?;
    let reader = reporter.as_ref().map(|reporter| reporter.reader(config.restart.max_unavailable));
    let chooser = Chooser::new(config.pod(), reader.clone());
    inputs.pointer = inputs.pointer.map(|(latest, kick)| (chooser.follow(latest), kick));
    inputs.fleet = reader;
    let (stop, stopped) = watch::channel(false);
    let steward = reporter.as_ref().map(|reporter| tokio::spawn(reporter.steward().run(stopped.clone())));
    let reports = reporter.map(|reporter| tokio::spawn(reporter.run(stopped.clone())));
    let notes = notifier.map(|notifier| tokio::spawn(notifier.run(stopped.clone())));
    let endpoints = tokio::spawn(endpoints(config.listen, handles.clone(), stopped));
    let admin = tokio::spawn(serve_admin(config.state_dir.clone(), handles));
    supervisor::supervise(inputs).await;
    admin.abort();
    stop.send_replace(true);
    // What is still open then was not waiting for us.
    let last_words = async {
        let (_endpoints, _reports, _notes, _steward) = tokio::join!(
            endpoints,
            OptionFuture::from(reports),
            OptionFuture::from(notes),
            OptionFuture::from(steward)
        );
    };
    let _ = tokio::time::timeout(LAST_ANSWERS, last_words).await;
    tracing::info!("ends");
    Ok(())
}

/// Tells the fleet what this pod runs, where it follows a pointer in the store.
fn reporter(config: &Config, parts: &Parts, snapshots: watch::Receiver<Arc<Snapshot>>) -> Option<Reporter> {
    let Some(Source::Store(shared, pointer)) = parts.pointer.as_ref().filter(|_| parts.invalid.is_none())
    else {
        return None;
    };
    // In a directory one call may hold up another, and no report may hold up a look at the pointer.
    let store = match shared.watch_dir(&store::pointer_key(pointer)) {
        Some(_) => store::open(config.source.as_deref(), &config.s3).ok()?,
        None => shared.clone(),
    };
    let about = About {
        app: config.app.clone(),
        node: config.node.clone(),
        zone: config.zone.clone(),
        image: config.image.clone(),
        address: config.address.clone(),
        version: Some(env!("CARGO_PKG_VERSION").into()),
        poll_s: Some(config.poll_interval.as_secs()),
    };
    Some(Reporter { store, pointer: pointer.clone(), pod: config.pod(), about, snapshots })
}

/// Whom a notification is about.
fn sender(config: &Config) -> Sender {
    Sender { pod: Some(config.pod()), app: config.app.clone(), pointer: config.pointer.clone() }
}

/// On the parent's port; where it has none, on one of our own.
async fn endpoints(listen: SocketAddr, handles: Handles, stop: watch::Receiver<bool>) {
    match server::inherited().and_then(|port| TcpListener::from_std(port).ok()) {
        Some(port) => server::serve_on(port, handles, stop).await,
        None => server::serve(listen, handles, stop).await,
    }
}

async fn serve_admin(state_dir: std::path::PathBuf, handles: Handles) {
    if let Err(error) = server::serve_admin(state_dir, handles).await {
        tracing::error!(%error, "commands like `pitstop status` will not work");
    }
}

fn inputs(
    config: &Config,
    parts: Parts,
    app_server: Arc<dyn AppServer>,
    metrics: Arc<Metrics>,
    requests: Requests,
    snapshots: watch::Sender<Arc<Snapshot>>,
) -> io::Result<Inputs> {
    let invalid = parts.invalid.map(|problem| config_finding(&problem));
    let source = parts.pointer.filter(|_| invalid.is_none());
    let trust = parts.trust.clone();
    let pointer = source.map(|source| follow(source, trust, config.poll_interval, &metrics)).transpose()?;
    let hook = Hook::new(&config.hooks).map(Arc::new);
    let tools = Tools {
        pod: config.pod(),
        releases: super::on_volume(config).trusting(parts.trust),
        store: parts.store.map(|store| Blocking::new(store, Handle::current(), STORE_IDLE)),
        journal: revisions_log::path(&config.deploy_to, &config.pod()),
        state_dir: config.state_dir.clone(),
        keep_releases: config.keep_releases,
        app_server: app_server.clone(),
        hook: hook.clone(),
        metrics: metrics.clone(),
        ids: DeployIds::since(epoch().as_secs()),
    };
    Ok(Inputs {
        policy: config.policy(&super::app_server::facts(config)),
        grace_period: config.grace_period,
        standing: standing(config, hook.as_deref(), invalid.as_ref()),
        invalid,
        effects: Effects::start(tools)?,
        app_server,
        warmup: Warmup::new(&config.warmup, parts.prober.as_ref()),
        prober: parts.prober,
        pointer,
        fleet: None,
        requests,
        terms: terms()?,
        snapshots,
        metrics,
        clock: boottime,
    })
}

fn config_finding(problem: &Problem) -> Finding {
    Finding::broken(
        Code::ConfigInvalid,
        format!("the configuration is invalid, so nothing is deployed: {}", problem.message),
        "fix the configuration and restart the agent; `pitstop config` checks it",
    )
}

/// What the keys alone tell of this pod. With a wrong configuration it would be about the defaults.
fn standing(config: &Config, hook: Option<&Hook>, invalid: Option<&Finding>) -> Vec<Finding> {
    if invalid.is_some() {
        return Vec::new();
    }
    // The volume may hang: what of it the hook needs is seen when it is run.
    let hook = hook.map(|hook| hook.check(None));
    let checks: Vec<_> =
        config::advice::of(config, &super::app_server::facts(config)).into_iter().chain(hook).collect();
    let found = finding::findings(&checks);
    for Finding { code, severity, message, fix } in &found {
        let severity = crate::telemetry::word(severity);
        tracing::info!(code = code.code(), severity, fix, "{message}");
    }
    found
}

fn follow(
    source: Source,
    trust: Arc<Trust>,
    poll_interval: Duration,
    metrics: &Arc<Metrics>,
) -> io::Result<(watch::Receiver<Latest>, Kick)> {
    let (metrics, signed) = (metrics.clone(), trust.clone());
    let on_check = Arc::new(move |check| {
        let failure = match check {
            Check::Failed(reason) => Some(reason),
            Check::Unchanged | Check::Changed => None,
        };
        metrics.pointer_checked(failure, epoch().as_secs_f64());
        metrics.pointer_expires(signed.pointer_expires());
    });
    pointer::watch(Settings { source, trust, poll_interval, on_check })
}

/// Counts SIGTERMs (and Ctrl-C, for who runs it by hand).
fn terms() -> io::Result<watch::Receiver<u32>> {
    let mut signals = signal_hook_tokio::Signals::new([SIGTERM, SIGINT])?;
    let (count, terms) = watch::channel(0);
    tokio::spawn(async move {
        while signals.next().await.is_some() {
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(terms)
}

/// The wall clock: for people and their tools only.
fn epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_for_pumas_files_is_one_directory_and_none_among_releases() {
        let dir = tempfile::tempdir().unwrap();
        let (deploy_to, current) = (dir.path().join("app"), dir.path().join("app/current"));
        fs::create_dir(&deploy_to).unwrap();
        let made = async |file: &str| {
            let file = dir.path().join(file);
            make_room_for_puma(Some(&file), [&deploy_to, &current]).await;
            file.parent().unwrap().is_dir()
        };
        assert!(made("puma/state").await);
        assert!(made("puma/state").await, "it is there already");
        assert!(!made("not/there/state").await, "the volume above it is another container's");
        assert!(!made("app/current/state").await && !made("app/tmp/state").await);
        assert!(!current.exists(), "a new pod publishes its first release there");
        make_room_for_puma(None, [&deploy_to, &current]).await;
    }
}
