//! Real Pumas for pitstop's tests, demo and benchmarks.
//!
//! [`PumaRig`] is a volume with releases and a Puma that serves `current`, optionally kept alive as a
//! kubelet would; [`AgentRig`] is pitstop beside it, and [`Load`] are its clients. Everything it starts ends with it, also when the test panics.

/// pitstop itself beside a Puma, with a store and a configuration.
pub mod agent;
/// The app that is deployed, and its broken variants.
pub mod app;
/// A process that is started again when it ends, and never outlives its owner.
pub mod container;
/// A pod of real containers, from Kubernetes' own YAML.
pub mod containers;
/// How many cores a group of processes may use.
pub mod cpu_limit;
/// Numbers that a seed decides.
pub mod dice;
/// The project's documents, block by block.
pub mod documents;
/// A container whose first process is `pitstop exec`.
pub mod exec;
/// The figures of the benchmarks, and where they are written.
pub mod figures;
/// One request at a time, for tests that ask the app something.
pub mod http;
/// The end of a container as a kubelet brings it about.
pub mod kubelet;
/// How a Puma's process comes to be: its image, its user, what wraps it.
pub mod launch;
/// HTTP clients that keep asking while something happens, and count what they lose.
pub mod load;
/// The ways to move a running Puma that benchmarks compare.
pub mod mover;
/// Passenger in Puma's place.
pub mod passenger;
/// An app server and pitstop beside it, as most tests want them.
pub mod pod;
/// Ports that no other rig is given.
pub mod ports;
/// Proxies that hear of a pod's end too late.
pub mod proxy;
/// A volume with releases and a Puma that serves `current`.
pub mod puma;
/// A real S3 server in this process, with faults on demand.
pub mod s3;
/// A volume with the latency of a network file system, which counts what it is asked.
pub mod slow_volume;
/// Whole ends of pods, drawn by a seed.
pub mod termination;
/// Unicorn in Puma's place.
pub mod unicorn;
/// Volumes that stop answering, fill up, or become read-only.
pub mod volume;

pub use agent::AgentRig;
pub use app::App;
pub use container::Container;
pub use cpu_limit::CpuLimit;
pub use dice::Dice;
pub use documents::tried;
pub use exec::ExecPod;
pub use launch::{Image, Wrapper};
pub use load::Load;
pub use pod::Pod;
pub use puma::{Directory, PumaRig, Setup};
pub use rustix::process::Signal;
pub use s3::{Fault, S3Rig};
pub use slow_volume::SlowVolume;
pub use termination::Termination;
pub use volume::{HangingVolume, SmallVolume};

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// How long a condition may take on a busy machine before its test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What a wait panics with after [`interrupt`].
pub struct Interrupted;

/// Makes every wait of the rig end at once, by unwinding with [`Interrupted`] and without a message,
/// so that all that was started ends too. For Ctrl-C.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Whether [`interrupt`] was called.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Polls until `condition` gives something; `None` when it has not within `patience`.
pub fn poll<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if interrupted() {
            std::panic::resume_unwind(Box::new(Interrupted));
        }
        if begun.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Polls until `condition` gives something.
///
/// # Panics
/// When it has not within [`PATIENCE`]. The message names `what` was waited for.
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, condition)
}

/// Polls until `condition` gives something, for as long as this.
///
/// # Panics
/// When it has not within `patience`. The message names `what` was waited for.
#[track_caller]
pub fn until_within<T>(patience: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    // No closure: it would lose the caller's line.
    match poll(patience, condition) {
        Some(found) => found,
        None => panic!("waited {patience:?} without success: {what}"),
    }
}

/// Polls until `condition` holds.
///
/// # Panics
/// When it has not within [`PATIENCE`]. The message names `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// Sends a signal to a process that is there. After SIGSTOP none of its threads runs any more.
///
/// # Panics
/// When it cannot be sent.
#[track_caller]
pub fn signal(pid: i32, signal: Signal) {
    let process = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(process, signal).expect("the signal is sent");
    if signal == Signal::STOP {
        wait_until("all its threads are stopped", || stopped(pid));
    }
}

/// The kernel stops each thread by itself, some time after the signal was sent. One that ends meanwhile is gone or a zombie.
fn stopped(pid: i32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
    })
}

/// Where a rollout with a canary and one more step can be killed on its way forward, in that order.
pub const ROLLOUT_POINTS: [&str; 12] = [
    "rollout.before.0",
    "rollout.ran.before",
    "rollout.canary.1",
    "rollout.pointed.canary.1",
    "rollout.smoke.1",
    "rollout.ran.smoke",
    "rollout.bake.1",
    "rollout.step.2",
    "rollout.pointed.canary.2",
    "rollout.bake.2",
    "rollout.finish.2",
    "rollout.pointed.finish",
];

/// Whether the test may change users and mount namespaces.
///
/// # Panics
/// In CI (`CI` is set), where such tests must run.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI runs the privileged tests, as root");
    root
}

/// For tests that change users or mount file systems. In CI they must run: there it panics instead.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::is_root() {
            return;
        }
    };
}

/// Runs each row of a table on a thread of its own, so that their Pumas boot side by side.
///
/// # Panics
/// When a row has panicked, once all have ended; what it said stands under its name.
pub fn side_by_side<T: Send>(rows: impl IntoIterator<Item = (String, T)>, test: impl Fn(T) + Sync) {
    let failed: Vec<String> = std::thread::scope(|scope| {
        let test = &test;
        let start = |(name, row)| {
            let named = std::thread::Builder::new().name(name);
            named.spawn_scoped(scope, move || test(row)).expect("the system gives us a thread")
        };
        let threads: Vec<_> = rows.into_iter().map(start).collect();
        let name = |thread: &std::thread::ScopedJoinHandle<()>| thread.thread().name().map(str::to_owned);
        let ended = threads.into_iter().map(|thread| (name(&thread), thread.join()));
        ended.filter_map(|(name, result)| result.err().and(name)).collect()
    });
    assert!(failed.is_empty(), "rows that failed: {failed:?}");
}
