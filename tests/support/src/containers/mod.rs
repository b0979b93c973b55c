//! A pod of real containers, from Kubernetes' own YAML: podman and runc as the runtime, the rig as the kubelet.
//!
//! The kubelet's part follows what was seen of one (1.33): init containers in their order, a sidecar's startup probe
//! before what comes after it, the hook before SIGTERM, native sidecars last, ConfigMaps that change by `..data`.
//! All requests stay in the pod's own network.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

mod keeper;
mod manifest;
mod network;
mod podman;
mod probing;
mod process;
mod volumes;

use keeper::{Keeper, Kind};
use network::Network;
use podman::Podman;
use volumes::Volumes;

pub use manifest::Manifest;

use crate::{PATIENCE, http, poll, until, until_within};

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It runs.
    Started,
    /// Its preStop hook was answered so; `None` when nobody did.
    Answered(Option<String>),
    /// SIGTERM was sent.
    Term,
    /// SIGKILL was sent, by the kubelet.
    Killed,
    /// It has ended with this code: 128 and the signal's number, when one ended it.
    Exited(i32),
    /// A probe has failed for good.
    Unwell,
    /// From now on it gets traffic, or none.
    Ready(bool),
}

/// Something that happened, since the pod began.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: Duration,
    /// To which container.
    pub container: String,
    /// What.
    pub what: What,
}

/// A pod.
pub struct Pod {
    shared: Arc<Shared>,
    keepers: Vec<Arc<Keeper>>,
    sync: Option<JoinHandle<()>>,
    _dir: TempDir,
}

/// What all threads of the kubelet's know.
struct Shared {
    dir: PathBuf,
    podman: Podman,
    volumes: Volumes,
    network: Network,
    manifest: Manifest,
    /// The images that stand for those of the manifest.
    images: BTreeMap<String, String>,
    born: Instant,
    events: Mutex<Vec<Event>>,
    deleted: AtomicBool,
    over: AtomicBool,
}

impl Pod {
    /// Starts the pod, and waits for nothing. `images` names the local image for each of the manifest's.
    ///
    /// # Panics
    /// When podman cannot run it.
    pub fn launch(manifest: Manifest, images: &[(&str, &str)]) -> Self {
        let temporary =
            tempfile::Builder::new().prefix("pod").tempdir_in("/tmp").expect("a temporary directory");
        let dir = temporary.path().to_owned();
        for name in ["podman", "volumes"] {
            fs::create_dir(dir.join(name)).expect("a directory of the pod's");
        }
        let podman = Podman::below(&dir.join("podman"));
        let network = sandbox(&podman, &dir, &manifest);
        let keepers = keepers(&manifest);
        let images = images.iter().map(|(image, local)| ((*image).into(), format!("localhost/{local}")));
        let shared = Arc::new(Shared {
            volumes: Volumes::make(&dir.join("volumes"), &manifest),
            images: images.collect(),
            born: Instant::now(),
            events: Mutex::default(),
            deleted: AtomicBool::new(false),
            over: AtomicBool::new(false),
            dir,
            podman,
            network,
            manifest,
        });
        let sync = thread::spawn({
            let (shared, keepers) = (shared.clone(), keepers.clone());
            move || bring_up(&shared, &keepers)
        });
        Self { shared, keepers, sync: Some(sync), _dir: temporary }
    }

    fn keeper(&self, container: &str) -> &Keeper {
        let found = self.keepers.iter().find(|keeper| keeper.spec.name == container);
        found.unwrap_or_else(|| panic!("no container {container}"))
    }

    /// How often a container was started.
    pub fn starts(&self, container: &str) -> u32 {
        self.keeper(container).starts()
    }

    /// Whether a container gets traffic.
    pub fn is_ready(&self, container: &str) -> bool {
        self.keeper(container).is_ready()
    }

    /// The container's first process, while it runs.
    pub fn pid(&self, container: &str) -> Option<i32> {
        self.keeper(container).process().map(|process| process.pid)
    }

    /// Waits for as long as the rig is patient, and four times that: a pod is slower than a process.
    ///
    /// # Panics
    /// When it does not become so, with what happened and what the containers said.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, condition: impl FnMut() -> Option<T>) -> T {
        until_within(PATIENCE * 4, what, condition)
    }

    /// Sends a signal to the container's first process.
    pub fn signal(&self, container: &str, signal: Signal) {
        if let Some(process) = self.keeper(container).process() {
            process.signal(signal);
        }
    }

    /// One GET to the pod's address.
    ///
    /// # Errors
    /// When there is no whole answer within 10 s.
    pub fn get(&self, port: u16, path: &str, headers: &[(&str, &str)]) -> std::io::Result<http::Answer> {
        self.shared.network.get(port, path, headers, Duration::from_secs(10))
    }

    /// Does something in the pod's network; threads that it starts stay there.
    pub fn in_network<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.shared.network.within(act)
    }

    /// Runs a command in a container that runs, as its user.
    pub fn exec(&self, container: &str, command: &[&str]) -> Output {
        let instance = self.keeper(container).instance();
        let args: Vec<_> = ["exec", &instance].into_iter().chain(command.iter().copied()).collect();
        self.shared.podman.run(&args)
    }

    /// The directory of a claim.
    pub fn claim(&self, name: &str) -> PathBuf {
        self.shared.volumes.claim(name)
    }

    /// The directory of a volume.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.shared.volumes.of(name)
    }

    /// The ConfigMap behind a volume says something else from now on.
    pub fn swap(&self, volume: &str, key: &str, value: &str) {
        let files = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        self.shared.volumes.swap(&self.volume(volume), &files);
    }

    /// All that happened.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When something first happened to a container.
    pub fn when(&self, container: &str, what: &What) -> Option<Duration> {
        self.events()
            .into_iter()
            .find(|event| event.container == container && event.what == *what)
            .map(|e| e.at)
    }

    /// All that a container has said, in all its lives.
    pub fn log(&self, container: &str) -> String {
        let keeper = self.keeper(container);
        let logs = (1..=keeper.starts()).filter_map(|n| fs::read_to_string(keeper.log(&self.shared, n)).ok());
        let lines = logs.collect::<String>();
        let text = lines.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default());
        text.collect::<Vec<_>>().join("\n")
    }

    /// Deletes the pod: the main containers' hooks, SIGTERM to each on its answer, then the sidecars in reverse.
    pub fn delete(&self) {
        self.shared.deleted.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + self.shared.grace_period();
        let of = |kind| self.keepers.iter().filter(move |keeper| keeper.kind == kind);
        thread::scope(|scope| {
            for main in of(Kind::Main) {
                scope.spawn(|| main.end_for_good(&self.shared, deadline));
            }
            scope.spawn(|| {
                let left = deadline.saturating_duration_since(Instant::now());
                poll(left, || (!of(Kind::Main).any(|main| main.is_running())).then_some(()));
                for sidecar in of(Kind::Sidecar).rev() {
                    sidecar.end_for_good(&self.shared, deadline);
                }
            });
        });
        until("the pod's end", || (!self.keepers.iter().any(|keeper| keeper.is_running())).then_some(()));
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell();
        }
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.podman.run(&["pod", "rm", "--force", "--time", "0", "pod"]);
        if let Some(sync) = self.sync.take() {
            let _ = sync.join();
        }
        // Once more, for what was being started.
        self.shared.podman.run(&["pod", "rm", "--force", "--time", "0", "--ignore", "pod"]);
        forget_cgroup(&cgroup(&self.shared.dir));
    }
}

impl Pod {
    fn tell(&self) {
        for event in self.events() {
            eprintln!("{:>7.2} {} {:?}", event.at.as_secs_f64(), event.container, event.what);
        }
        for keeper in &self.keepers {
            let log = self.log(&keeper.spec.name);
            let lines: Vec<_> = log.lines().collect();
            eprintln!("-- {}\n{}", keeper.spec.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// The pause process, whose namespaces the containers share.
fn sandbox(podman: &Podman, dir: &Path, manifest: &Manifest) -> Network {
    let share = if manifest.pod.spec.share_process_namespace { "pid,net,ipc,uts" } else { "net,ipc,uts" };
    let parent = format!("/{}", cgroup(dir));
    let pause = ["--infra-image", "localhost/rig/pause", "--infra-command", "/pause -P"];
    let mut args = vec!["pod", "create", "--name", "pod", "--share", share, "--network", "none"];
    args.extend(["--cgroup-parent", &parent, "--hostname", "shop-0"]);
    args.extend(pause);
    podman.must(&args);
    podman.must(&["pod", "start", "pod"]);
    let infra = podman.must(&["pod", "inspect", "pod", "--format", "{{.InfraContainerID}}"]);
    let pid = podman.must(&["inspect", &infra, "--format", "{{.State.Pid}}"]);
    Network::of(pid.parse().expect("the pause process' pid"))
}

fn cgroup(dir: &Path) -> String {
    dir.file_name().expect("a name").to_string_lossy().into_owned()
}

/// The empty groups that the runtime leaves.
fn forget_cgroup(name: &str) {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for place in
        hierarchies.map(|entry| entry.path().join(name)).chain([Path::new("/sys/fs/cgroup").join(name)])
    {
        for group in
            fs::read_dir(&place).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
        {
            let _ = fs::remove_dir(group.path());
        }
        let _ = fs::remove_dir(place);
    }
}

fn keepers(manifest: &Manifest) -> Vec<Arc<Keeper>> {
    let spec = &manifest.pod.spec;
    let init = spec
        .init_containers
        .iter()
        .map(|container| (if container.is_sidecar() { Kind::Sidecar } else { Kind::Init }, container));
    let main = spec.containers.iter().map(|container| (Kind::Main, container));
    init.chain(main).map(|(kind, container)| Arc::new(Keeper::new(kind, container.clone()))).collect()
}

/// Starts the containers in their order, and ends when all of them are over.
fn bring_up(shared: &Arc<Shared>, keepers: &[Arc<Keeper>]) {
    thread::scope(|scope| {
        for keeper in keepers {
            scope.spawn(move || keeper.keep(shared));
            while keeper.kind != Kind::Main && !keeper.lets_others_start() {
                if shared.is_over() || shared.is_deleted() {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
}

impl Shared {
    fn say(&self, container: &str, what: What) {
        let event = Event { at: self.born.elapsed(), container: container.into(), what };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::SeqCst)
    }

    /// Whether all ends now, in whatever way.
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn grace_period(&self) -> Duration {
        Duration::from_secs(self.manifest.pod.spec.termination_grace_period_seconds)
    }

    /// `podman run` up to the image.
    fn start_args(&self, spec: &manifest::Container, name: &str) -> Vec<String> {
        let security = &spec.security_context;
        assert!(!security.run_as_non_root || security.run_as_user != 0, "{name}: runs as root");
        let user = format!("{}:{}", security.run_as_user, security.run_as_group);
        let mut args: Vec<String> = [
            "run",
            "--detach",
            "--pod",
            "pod",
            "--pull",
            "never",
            "--log-driver",
            "k8s-file",
            "--name",
            name,
        ]
        .map(String::from)
        .into();
        let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
        add("--user", user);
        if let Some(group) = self.manifest.pod.spec.security_context.fs_group {
            add("--group-add", group.to_string());
        }
        for capability in &security.capabilities.drop {
            add("--cap-drop", capability.clone());
        }
        if security.allow_privilege_escalation == Some(false) {
            add("--security-opt", "no-new-privileges".into());
        }
        if let Some(memory) = spec.resources.limits.get("memory") {
            add("--memory", memory.clone());
            add("--memory-swap", memory.clone());
        }
        for mount in &spec.volume_mounts {
            let mode = if mount.read_only { "ro" } else { "rw" };
            let place = fs::canonicalize(self.volumes.of(&mount.name)).expect("a volume");
            add("--volume", format!("{}:{}:{mode}", place.display(), mount.mount_path));
        }
        for (name, value) in self.environment(spec) {
            add("--env", format!("{name}={value}"));
        }
        if !spec.command.is_empty() {
            add("--entrypoint", serde_json::to_string(&spec.command).expect("a list of texts"));
        }
        if security.read_only_root_filesystem {
            args.extend(["--read-only", "--read-only-tmpfs=false"].map(String::from));
        }
        args
    }

    fn environment(&self, spec: &manifest::Container) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for source in &spec.env_from {
            let manifest::Variables::ConfigMapRef(manifest::Named { name, .. }) = source else { continue };
            all.extend(
                self.manifest.config_maps.get(name).unwrap_or_else(|| panic!("no ConfigMap {name}")).clone(),
            );
        }
        let says = |from: &manifest::ValueFrom| self.manifest.pod.says(&from.field_ref);
        all.extend(spec.env.iter().map(|variable| {
            let value = variable.value.clone().or_else(|| variable.value_from.as_ref().map(says));
            (variable.name.clone(), value.unwrap_or_default())
        }));
        all
    }
}
