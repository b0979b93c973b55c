//! A container and what a kubelet does for it: start, probes, start again, the end.

use std::{
    fs, mem,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    Shared, What,
    manifest::Container,
    probing::{Probing, Verdict},
    process::Process,
};
use crate::{
    kubelet::{BEFORE_TERM, LEAST_GRACE},
    poll,
};

/// Probes are late by as much.
const TICK: Duration = Duration::from_millis(20);
/// A kubelet was seen to start a container again after so long; later ones wait longer, the rig's do not.
const BACK_OFF: Duration = Duration::from_secs(1);

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Until it has done its work.
    Init,
    /// Until it was told to end.
    Sidecar,
    /// While the pod is not deleted.
    Main,
}

/// One container.
pub(super) struct Keeper {
    pub(super) kind: Kind,
    pub(super) spec: Container,
    state: Mutex<State>,
    /// It was told to end.
    ending: AtomicBool,
}

#[derive(Default)]
struct State {
    starts: u32,
    process: Option<Arc<Process>>,
    started: bool,
    ready: bool,
    /// The exit code of its last end.
    code: Option<i32>,
}

impl Keeper {
    pub(super) fn new(kind: Kind, spec: Container) -> Self {
        Self { kind, spec, state: Mutex::default(), ending: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn starts(&self) -> u32 {
        self.state().starts
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state().ready
    }

    pub(super) fn process(&self) -> Option<Arc<Process>> {
        self.state().process.clone()
    }

    pub(super) fn is_running(&self) -> bool {
        self.process().is_some()
    }

    /// The name that podman knows it by.
    pub(super) fn instance(&self) -> String {
        format!("{}-{}", self.spec.name, self.starts())
    }

    /// What those that come after it wait for.
    pub(super) fn lets_others_start(&self) -> bool {
        let state = self.state();
        if self.kind == Kind::Init { state.code == Some(0) } else { state.started }
    }

    /// Starts it, and again, until it is over.
    pub(super) fn keep(&self, shared: &Shared) {
        loop {
            let process = self.start(shared);
            self.watch(shared, &process);
            // Whoever throws the pod away takes the exit codes with it.
            let code = || shared.podman.exit_code(&process.container).map(Some);
            let code = crate::until("an exit code", || code().or(shared.is_over().then_some(None)));
            let Some(code) = code else { return };
            {
                let mut state = self.state();
                (state.process, state.started, state.ready, state.code) = (None, false, false, Some(code));
            }
            shared.say(&self.spec.name, What::Exited(code));
            if !self.starts_again(shared, code) || poll(BACK_OFF, || shared.is_over().then_some(())).is_some()
            {
                return;
            }
            if !self.starts_again(shared, code) {
                return;
            }
        }
    }

    fn starts_again(&self, shared: &Shared, code: i32) -> bool {
        let never = shared.manifest.pod.spec.restart_policy.as_deref() == Some("Never");
        let wanted = match self.kind {
            Kind::Init | Kind::Main if never => false,
            Kind::Init => code != 0,
            Kind::Sidecar => !self.ending.load(Ordering::SeqCst),
            Kind::Main => !shared.is_deleted(),
        };
        wanted && !shared.is_over()
    }

    fn start(&self, shared: &Shared) -> Arc<Process> {
        self.state().starts += 1;
        let name = self.instance();
        let pid_file = shared.dir.join(format!("{name}.pid"));
        let mut args = shared.start_args(&self.spec, &name);
        args.extend(["--pidfile".into(), pid_file.display().to_string()]);
        args.extend(["--log-opt".into(), format!("path={}", self.log(shared, self.starts()).display())]);
        args.push(shared.images[&self.spec.image].clone());
        args.extend(self.spec.args.iter().cloned());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let container = shared.podman.must(&args);
        let pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok());
        let process = Arc::new(Process::of(pid.unwrap_or(0), container));
        self.state().process = Some(process.clone());
        shared.say(&self.spec.name, What::Started);
        process
    }

    pub(super) fn log(&self, shared: &Shared, start: u32) -> PathBuf {
        shared.dir.join(format!("{}-{start}.log", self.spec.name))
    }

    fn watch(&self, shared: &Shared, process: &Process) {
        let mut probing = Probing::of(&self.spec);
        while !process.ended() {
            let verdict = probing.look(&self.spec, &shared.network);
            let was = {
                let mut state = self.state();
                state.started = probing.started();
                mem::replace(&mut state.ready, probing.ready)
            };
            if was != probing.ready {
                shared.say(&self.spec.name, What::Ready(probing.ready));
            }
            if verdict == Verdict::Unwell && !shared.is_deleted() {
                shared.say(&self.spec.name, What::Unwell);
                self.end(shared, Instant::now() + shared.grace_period());
            }
            thread::sleep(TICK);
        }
    }

    /// From now on it is not started again.
    pub(super) fn end_for_good(&self, shared: &Shared, deadline: Instant) {
        self.ending.store(true, Ordering::SeqCst);
        self.end(shared, deadline);
    }

    /// The hook, SIGTERM when it was answered, refused or has expired, and SIGKILL.
    fn end(&self, shared: &Shared, deadline: Instant) {
        let Some(process) = self.process() else { return };
        let left = || deadline.saturating_duration_since(Instant::now());
        if let Some(lifecycle) = &self.spec.lifecycle {
            let answer =
                shared.network.ask(&self.spec, &lifecycle.pre_stop.http_get, "kube-lifecycle", left());
            shared.say(&self.spec.name, What::Answered(answer.map(|answer| answer.body).ok()));
            thread::sleep(BEFORE_TERM);
        }
        process.signal(Signal::TERM);
        shared.say(&self.spec.name, What::Term);
        if poll(left().max(LEAST_GRACE), || process.ended().then_some(())).is_none() {
            process.signal(Signal::KILL);
            shared.say(&self.spec.name, What::Killed);
        }
        crate::until("a container's end", || process.ended().then_some(()));
    }
}
