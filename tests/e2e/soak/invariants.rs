//! What must hold at every moment of a soak, looked at again and again on a thread of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

use pitstop_rig::{ExecPod, http};
use serde_json::Value;

const PAUSE: Duration = Duration::from_millis(200);
/// The longest time in which nobody answers in the agent's place: the start of a container on a busy machine.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The watcher. What it found is in [`Watch::violations`].
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How often it looked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looks {
    pub current: u64,
    /// `/status` beside answers of the app.
    pub status: u64,
    /// How often the agent did not answer, one time of silence each.
    pub silences: u64,
    pub longest_silence: Duration,
}

struct Shared {
    current: PathBuf,
    builds: PathBuf,
    agent: u16,
    app: u16,
    /// Of each release that was published, the SHA-256 of its archive.
    digests: Mutex<BTreeMap<String, String>>,
    /// Grows with each fault that may change what runs.
    disturbances: AtomicU64,
    /// Nobody asks the app: a drain waits until it is quiet.
    quiet: AtomicBool,
    looks: Mutex<Looks>,
    violations: Mutex<Vec<String>>,
    over: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Watches a pod in which a release runs.
    pub fn start(pod: &ExecPod, digests: BTreeMap<String, String>) -> Self {
        let shared = Arc::new(Shared {
            current: pod.puma.current(),
            builds: pod.puma.scratch().join("build"),
            agent: pod.agent.port(),
            app: pod.puma.port(),
            digests: Mutex::new(digests),
            disturbances: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            looks: Mutex::default(),
            violations: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let thread = spawn({
            let shared = shared.clone();
            move || Watcher::default().watch(&shared)
        });
        Self { shared, thread: Some(thread) }
    }

    /// Before its pointer moves.
    pub fn published(&self, release: &str, digest: String) {
        lock(&self.shared.digests).insert(release.to_owned(), digest);
    }

    /// Something was ended that `/status` may not know of yet.
    pub fn disturbed(&self) {
        self.shared.disturbances.fetch_add(1, Ordering::SeqCst);
    }

    /// From now on it asks the app for nothing, or does so again.
    pub fn quiet(&self, quiet: bool) {
        self.shared.quiet.store(quiet, Ordering::SeqCst);
    }

    pub fn violate(&self, what: String) {
        self.shared.violate(what);
    }

    pub fn violations(&self) -> Vec<String> {
        lock(&self.shared.violations).clone()
    }

    pub fn looks(&self) -> Looks {
        *lock(&self.shared.looks)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn violate(&self, what: String) {
        println!("VIOLATION: {what}");
        lock(&self.violations).push(what);
    }

    fn status(&self) -> Option<Value> {
        let answer = http::get_within(self.agent, "/status", Duration::from_secs(5)).ok()?;
        serde_json::from_str(&answer.body).ok()
    }

    /// The release that `current` leads to.
    fn release(&self) -> Option<String> {
        let link = fs::read_link(&self.current).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    /// Why a release on the volume is not what was published.
    fn broken(&self, release: &str) -> Option<String> {
        let Some(digest) = lock(&self.digests).get(release).cloned() else {
            return Some("it was never published".into());
        };
        let marker = fs::read_to_string(self.current.join(".pitstop-release")).unwrap_or_default();
        let marker: Value = serde_json::from_str(&marker).unwrap_or_default();
        if marker["sha256"] != digest {
            return Some(format!("its digest is {}, and {digest} was published", marker["sha256"]));
        }
        differs(&self.builds.join(release), &self.current)
    }
}

/// The first file of a tree that another tree does not have, or has with other contents.
fn differs(tree: &Path, other: &Path) -> Option<String> {
    for entry in fs::read_dir(tree).ok()?.flatten() {
        let (path, other) = (entry.path(), other.join(entry.file_name()));
        let found = if path.is_dir() {
            differs(&path, &other)
        } else {
            let same = fs::read(&other).ok() == fs::read(&path).ok();
            (!same).then(|| format!("{} is not as it was published", other.display()))
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// What it knows from its last looks.
#[derive(Default)]
struct Watcher {
    /// Releases that are rejected and were taken away from `current`.
    gone: BTreeSet<String>,
    silent_since: Option<Instant>,
    told: bool,
}

impl Watcher {
    fn watch(&mut self, shared: &Shared) {
        while !shared.over.load(Ordering::SeqCst) {
            self.current(shared);
            self.agent(shared);
            self.status(shared);
            sleep(PAUSE);
        }
    }

    /// `current` leads to a complete release whose digest fits, and to none that was taken back.
    fn current(&mut self, shared: &Shared) {
        let release = shared.release();
        let problem = match &release {
            None => Some("it leads to no release".to_owned()),
            Some(release) if self.gone.contains(release) => {
                Some("it was rejected and taken back before".into())
            }
            Some(release) => shared.broken(release),
        };
        // It may have moved between two looks.
        if let Some(problem) = problem.filter(|_| shared.release() == release) {
            shared
                .violate(format!("current leads to {}: {problem}", release.as_deref().unwrap_or("nothing")));
        }
        lock(&shared.looks).current += 1;
    }

    /// It answers, or is started again.
    fn agent(&mut self, shared: &Shared) {
        let answers = http::get_within(shared.agent, "/live", Duration::from_secs(5)).is_ok();
        if answers {
            if let Some(silence) = self.silent_since.take().map(|since| since.elapsed()) {
                let mut looks = lock(&shared.looks);
                (looks.silences, looks.longest_silence) =
                    (looks.silences + 1, looks.longest_silence.max(silence));
            }
            self.told = false;
            return;
        }
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        if since.elapsed() > SILENCE_MAX && !self.told {
            self.told = true;
            shared.violate(format!("the agent has not answered for {SILENCE_MAX:?}"));
        }
    }

    /// What the agent says runs is what the workers answer with.
    fn status(&mut self, shared: &Shared) {
        let disturbances = || shared.disturbances.load(Ordering::SeqCst);
        let before = disturbances();
        let Some(first) = shared.status() else { return };
        let at = shared.release();
        for rejected in first["rejected"].as_array().into_iter().flatten() {
            if let Some(release) = rejected["release"].as_str().filter(|one| at.as_deref() != Some(*one)) {
                self.gone.insert(release.to_owned());
            }
        }
        let quiet = shared.quiet.load(Ordering::SeqCst);
        if quiet || first["stage"] != "steady" || first["running"].is_null() {
            return;
        }
        let answers: Vec<_> = (0..3).filter_map(|_| http::get(shared.app, "/").ok()?.release).collect();
        let same = shared.status().is_some_and(|last| {
            ["stage", "running"].iter().all(|key| first[*key] == last[*key])
                && first["app_server"]["pid"] == last["app_server"]["pid"]
        });
        if !same || disturbances() != before {
            return;
        }
        lock(&shared.looks).status += 1;
        if let Some(other) = answers.iter().find(|release| first["running"] != **release) {
            shared.violate(format!("/status says that {} runs, and {other} answers", first["running"]));
        }
    }
}
