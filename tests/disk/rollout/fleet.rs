//! Pods that consist of a pointer that is read and a report that is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

/// They look at the pointer all the time.
pub struct Fleet {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Pod>,
    /// Pods of which it rejects which release.
    rejects: BTreeSet<(String, String)>,
    /// Those that have ever run another release than the first.
    touched: BTreeSet<String>,
    /// Pods with the release of the canary while the share was the first one.
    first: BTreeSet<String>,
    skew_s: i64,
}

#[derive(Default)]
struct Pod {
    desired: Value,
    running: String,
    rejected: Vec<Value>,
    hangs: bool,
    leaving: bool,
    written: String,
}

impl Fleet {
    pub fn start(store: &Path, names: &[&str]) -> Self {
        let pods = names.iter().map(|name| ((*name).to_owned(), Pod::default())).collect();
        let state = Arc::new(Mutex::new(State { pods, ..State::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped, store) = (state.clone(), stop.clone(), store.to_owned());
        fs::create_dir_all(store.join("fleet/production")).unwrap();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                shared.lock().unwrap().turn(&store);
                thread::sleep(Duration::from_millis(30));
            }
        });
        let fleet = Self { state, stop, thread: Some(thread) };
        pitstop_rig::wait_until("the first reports", || {
            fleet.locked(|state| state.pods.values().all(|pod| !pod.written.is_empty()))
        });
        fleet
    }

    fn locked<T>(&self, ask: impl FnOnce(&mut State) -> T) -> T {
        ask(&mut self.state.lock().unwrap())
    }

    pub fn born(&self, pod: &str) {
        self.locked(|state| state.pods.insert(pod.into(), Pod::default()));
    }

    pub fn leaves(&self, pod: &str) {
        self.locked(|state| state.pods.get_mut(pod).unwrap().leaving = true);
    }

    pub fn rejects(&self, pods: &[&str], release: &str) {
        let all = pods.iter().map(|pod| ((*pod).to_owned(), release.to_owned()));
        self.locked(|state| state.rejects.extend(all));
    }

    /// It reads the pointer, and comes no further.
    pub fn hangs(&self, pod: &str) {
        self.locked(|state| state.pods.get_mut(pod).unwrap().hangs = true);
    }

    pub fn goes_on(&self, pod: &str) {
        self.locked(|state| state.pods.get_mut(pod).unwrap().hangs = false);
    }

    /// Every pod's clock is so many seconds fast.
    pub fn clocks_off(&self, seconds: i64) {
        self.locked(|state| state.skew_s = seconds);
    }

    /// What each runs that is not leaving.
    pub fn running(&self) -> Vec<String> {
        self.locked(|state| {
            state.pods.values().filter(|pod| !pod.leaving).map(|pod| pod.running.clone()).collect()
        })
    }

    pub fn touched(&self) -> Vec<String> {
        self.locked(|state| state.touched.iter().cloned().collect())
    }

    /// How many pods ran the release while one pod was to.
    pub fn most_at_first(&self) -> usize {
        self.locked(|state| state.first.len())
    }
}

impl State {
    fn turn(&mut self, store: &Path) {
        let Ok(text) = fs::read(store.join("pointers/production")) else { return };
        let Ok(pointer) = serde_json::from_slice::<Value>(&text) else { return };
        let canary = &pointer["canary"];
        let live: Vec<_> =
            self.pods.iter().filter(|(_, pod)| !pod.leaving).map(|(name, _)| name.clone()).collect();
        let share = match (canary["pods"].as_u64(), canary["percent"].as_u64()) {
            (Some(count), _) => count as usize,
            (None, Some(percent)) => (live.len() * percent as usize).div_ceil(100),
            (None, None) => 0,
        };
        let at = SystemTime::now().checked_add_signed(self.skew_s);
        for (name, pod) in &mut self.pods {
            let ours = canary["sequence"].clone();
            let chosen = live.iter().take(share).any(|one| one == name);
            let was = !canary.is_null() && pod.desired["sequence"] == ours;
            let named = if chosen || was { canary } else { &pointer };
            pod.turn(named, &self.rejects, name);
            if pod.running != "v1" {
                self.touched.insert(name.clone());
            }
            if canary["pods"] == 1 && pod.running == canary["release"] {
                self.first.insert(name.clone());
            }
            pod.report(store, name, at);
        }
    }
}

impl Pod {
    fn turn(&mut self, named: &Value, rejects: &BTreeSet<(String, String)>, name: &str) {
        let release = named["release"].as_str().unwrap().to_owned();
        self.desired = json!({ "release": release, "sequence": named["sequence"] });
        let rejected =
            |all: &[Value], desired: &Value| all.iter().any(|one| one["sequence"] == desired["sequence"]);
        if self.running == release || self.hangs || self.leaving || rejected(&self.rejected, &self.desired) {
            return;
        }
        if rejects.contains(&(name.to_owned(), release.clone())) {
            let mut rejection = self.desired.clone();
            rejection["reason"] = "boot_loop".into();
            self.rejected.push(rejection);
            return;
        }
        self.running = release;
    }

    fn report(&mut self, store: &Path, name: &str, at: SystemTime) {
        let report = json!({
            "v": 1, "pod": name, "running": self.running, "desired": self.desired, "stage": "steady",
            "in_sync": self.running == self.desired["release"], "rejected": self.rejected, "leaving": self.leaving,
        });
        let said = report.to_string();
        if said == self.written {
            return;
        }
        let mut report = report;
        report["at"] = humantime::format_rfc3339_seconds(at).to_string().into();
        let write = |path: PathBuf| -> std::io::Result<()> {
            // Not beside it: a bucket's list would have it.
            let next = store.join(format!(".{name}"));
            fs::write(&next, report.to_string())?;
            fs::rename(next, path)
        };
        if write(store.join("fleet/production").join(name)).is_ok() {
            self.written = said;
        }
    }
}

/// Seconds that may be negative.
trait Skewed {
    fn checked_add_signed(self, seconds: i64) -> SystemTime;
}

impl Skewed for SystemTime {
    fn checked_add_signed(self, seconds: i64) -> SystemTime {
        let off = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { self - off } else { self + off }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
