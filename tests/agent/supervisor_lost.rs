//! A defect that panics inside the agent must not end an open /prestop: the loop is started anew, and
//! takes the drain up where it was.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::BoxFuture;
use pitstop::{
    app_server::{AppServer, Description, Look, Wanted},
    cli,
    config::Config,
    core::{
        AppServer as Server, Cwd, Detection, Generation, GenerationKey, Mode, Moment, Plan, Problem, Process,
        ProcessKey, Reason, ServerCommand, Traffic,
        drain::{Budget, DrainResult, Origin},
    },
    effects::{Effects, Tools},
    handle::{PrestopEnd, Requests, SupervisorHandle},
    metrics::Metrics,
    releases::{Limits, Releases},
    revisions_log,
    status::Snapshot,
    supervisor::{Inputs, boottime, supervise},
    telemetry::DeployIds,
};
use tokio::sync::watch;

use crate::{PATIENCE, until};

/// Armed, the next look at the clock panics, whoever looks.
static PANICS: AtomicBool = AtomicBool::new(false);
static GONE: AtomicBool = AtomicBool::new(false);

fn clock() -> Moment {
    assert!(!PANICS.swap(false, Ordering::SeqCst), "a defect on purpose");
    boottime()
}

/// Serves one process, until it is gone.
struct Scripted;

impl AppServer for Scripted {
    fn observe(&self) -> BoxFuture<'_, Look> {
        let process = Process { key: ProcessKey(1), cwd: Cwd::Elsewhere, booted: true };
        let generation = Generation {
            key: GenerationKey(1),
            master: ProcessKey(1),
            signalable: true,
            cwd: Cwd::Elsewhere,
            expected: 1,
            processes: vec![process],
        };
        let seen = Detection::Seen(Server { generations: vec![generation], ..Server::default() });
        let detection = if GONE.load(Ordering::SeqCst) { Detection::Missing } else { seen };
        let (traffic, description) = (Traffic::default(), Description::default());
        Box::pin(async move { Look { detection, traffic, description, findings: Vec::new() } })
    }

    fn plan<'a>(&'a self, _: Wanted<'a>) -> BoxFuture<'a, Result<Plan, Problem>> {
        Box::pin(async { Ok(Plan::new(Mode::Hot)) })
    }

    fn perform(&self, _act: ServerCommand, _on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(async { Ok(()) })
    }
}

/// A drain that only the end of the app server ends.
fn inputs(dir: &Path, requests: Requests) -> (Inputs, watch::Sender<u32>) {
    let (term, terms) = watch::channel(0);
    let start = Snapshot::unknown(boottime(), Problem::new(Reason::VolumeUnavailable, "starting"));
    let (app_server, metrics) = (Arc::new(Scripted), Arc::new(Metrics::new()));
    let config = Config::default();
    let mut policy = config.policy(&cli::app_server::facts(&config));
    policy.drain = Budget { min_ms: 600_000, max_ms: 600_000, ..policy.drain };
    let tools = Tools {
        pod: "pod".into(),
        releases: Releases::new(dir.join("app"), dir.join("app/current"), "pod", Limits::default()),
        store: None,
        journal: revisions_log::path(&dir.join("app"), "pod"),
        state_dir: dir.join("state"),
        keep_releases: 5,
        hook: None,
        app_server: app_server.clone(),
        metrics: metrics.clone(),
        ids: DeployIds::since(1),
    };
    let inputs = Inputs {
        policy,
        grace_period: PATIENCE,
        invalid: None,
        standing: Vec::new(),
        effects: Effects::start(tools).unwrap(),
        app_server,
        prober: None,
        warmup: None,
        pointer: None,
        fleet: None,
        requests,
        terms,
        snapshots: watch::channel(Arc::new(start)).0,
        metrics,
        clock,
    };
    (inputs, term)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_does_not_end_an_open_prestop() {
    let dir = tempfile::tempdir().unwrap();
    let (supervisor, requests) = SupervisorHandle::new(PATIENCE * 2);
    let (inputs, _term) = inputs(dir.path(), requests);
    let snapshots = inputs.snapshots.subscribe();
    let drain = || snapshots.borrow().drain.as_ref().map(|drain| drain.drain_id);
    tokio::spawn(supervise(inputs));
    let open = tokio::spawn(async move { supervisor.prestop(Origin::PreStop).await });
    until("the drain", || async { drain().is_some() }).await;
    until("its journal", || async { dir.path().join("state/drain.json").exists() }).await;
    let before = drain();
    for _ in 0..3 {
        PANICS.store(true, Ordering::SeqCst);
        until("the panic", || async { !PANICS.load(Ordering::SeqCst) }).await;
    }
    assert!(!open.is_finished(), "the hook was let go: {:?}", open.await);
    GONE.store(true, Ordering::SeqCst);
    let Ok(Ok(PrestopEnd::Answered(answer))) = tokio::time::timeout(PATIENCE, open).await else {
        panic!("no answer")
    };
    assert_eq!((Some(answer.drain_id), answer.result), (before, DrainResult::AlreadyGone));
}
