use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    App, Container, HangingVolume, Image, SmallVolume, Wrapper,
    container::Recipe,
    http,
    launch::{Launch, Mounts},
    passenger,
    ports::free_port,
    until,
};

/// How Puma knows the directory that a restart goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directory {
    /// `directory '/…/current'` in its configuration.
    Literal,
    /// Only `PWD=/…/current` in its environment.
    Pwd,
    /// Neither: PWD is the resolved release, so that no restart ever leaves it.
    Pinned,
}

/// Which Puma to run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The agent's key `app_server`. Another server than Puma is started by [`Wrapper::Command`].
    pub server: &'static str,
    /// Further files of each release, with what is in them.
    pub files: Vec<(&'static str, String)>,
    /// Where it comes from.
    pub image: Image,
    /// Workers; 0 is single mode.
    pub workers: usize,
    /// `preload_app!` with this argument; `None` leaves it to Puma.
    pub preload: Option<bool>,
    /// Threads per worker, at least and at most.
    pub threads: (usize, usize),
    /// How the restart directory is known.
    pub directory: Directory,
    /// A control server on a unix socket, with a token.
    pub control: bool,
    /// A state file.
    pub state_file: bool,
    /// Seconds.
    pub worker_boot_timeout: u32,
    /// Seconds.
    pub worker_shutdown_timeout: u32,
    /// How long each release takes to boot, in seconds.
    pub boot_seconds: f32,
    /// What stands between the container and Puma.
    pub wrapper: Wrapper,
    /// Started again when it ends.
    pub restarted: bool,
    /// Run as this user (the tests must run as root then).
    pub uid: Option<u32>,
    /// On a volume that can stop answering; needs root.
    pub hangable: bool,
    /// On a volume of so many bytes; needs root.
    pub volume_bytes: Option<u64>,
    /// Further lines of Puma's configuration. `{current}`, `{releases}` and `{run}` stand for Puma's own names
    /// of the link, the releases' directory and the directory for sockets.
    pub config: String,
    /// The address that Puma listens on.
    pub host: String,
    /// Further variables of Puma's environment, with the same words; `RIG_CONFIG` is what `-C` is given.
    pub env: Vec<(String, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            server: "puma",
            files: Vec::new(),
            image: Image::of_this_run(),
            workers: 2,
            preload: Some(false),
            threads: (1, 3),
            directory: Directory::Literal,
            control: true,
            state_file: true,
            worker_boot_timeout: 10,
            worker_shutdown_timeout: 10,
            boot_seconds: 0.0,
            wrapper: Wrapper::None,
            restarted: false,
            uid: None,
            hangable: false,
            volume_bytes: None,
            config: String::new(),
            host: "127.0.0.1".into(),
            env: Vec::new(),
        }
    }
}

impl Setup {
    /// Single mode.
    pub fn single() -> Self {
        Self { workers: 0, ..Self::default() }
    }

    /// A cluster of two with `preload_app!`.
    pub fn preloading() -> Self {
        Self { preload: Some(true), ..Self::default() }
    }

    /// The same from another image.
    pub fn from(self, image: Image) -> Self {
        Self { image, ..self }
    }
}

/// A volume with releases and a Puma that serves `current`.
pub struct PumaRig {
    /// Before the container, with whose directory the pid files go.
    _passenger: Option<passenger::Ended>,
    container: Option<Container>,
    /// After Puma in this list: it is unmounted only when nobody is on it any more.
    volume: Option<HangingVolume>,
    small_volume: Option<SmallVolume>,
    setup: Setup,
    port: u16,
    dir: Arc<TempDir>,
    /// The parts of several rigs that share one volume are told apart by it.
    part: &'static str,
}

/// The age from which a single Puma on Ruby 3.3 stops when it is told to.
const GROWN_UP: Duration = Duration::from_secs(2);

/// The token of every rig's control server.
pub const TOKEN: &str = "rig-token";

impl PumaRig {
    /// A volume whose `current` is the good release `v1`, and no Puma yet.
    pub fn prepare(setup: Setup) -> Self {
        let rig = Self::empty(setup);
        rig.release("v1", App::Good);
        rig.flip("v1");
        rig
    }

    /// A volume without releases, and no Puma yet.
    pub fn empty(setup: Setup) -> Self {
        // Under /tmp by name: a socket's path must stay below 108 bytes.
        let dir = tempfile::Builder::new().prefix("rig").tempdir_in("/tmp").expect("a temporary directory");
        open_to_all(dir.path());
        // `root` is where a container's own file system is put together.
        for name in ["run", "root"] {
            fs::create_dir(dir.path().join(name)).expect("a directory of the rig's");
            open_to_all(&dir.path().join(name));
        }
        let volume = setup.hangable.then(|| {
            let rig_dir = dir.path();
            HangingVolume::mount(&rig_dir.join("disk"), &rig_dir.join("app"))
        });
        let small_volume = setup.volume_bytes.map(|bytes| SmallVolume::mount(&dir.path().join("app"), bytes));
        fs::create_dir_all(dir.path().join("app/releases")).expect("the releases' directory");
        let passenger = (setup.server == "passenger").then(|| passenger::Ended(dir.path().join("run")));
        Self {
            _passenger: passenger,
            container: None,
            volume,
            small_volume,
            setup,
            port: free_port(),
            dir: Arc::new(dir),
            part: "",
        }
    }

    /// A second Puma on another rig's volume. Its configuration is kept outside of the releases.
    pub fn prepare_on(other: &Self, setup: Setup) -> Self {
        let (port, dir) = (free_port(), other.dir.clone());
        let rig = Self {
            _passenger: None,
            container: None,
            volume: None,
            small_volume: None,
            setup,
            port,
            dir,
            part: "second-",
        };
        fs::write(rig.config_file(), rig.puma_config()).expect("the second configuration");
        rig
    }

    /// [`PumaRig::prepare`], and a Puma that answers with `v1`.
    pub fn start(setup: Setup) -> Self {
        let mut rig = Self::prepare(setup);
        rig.run();
        rig.wait_for_release("v1");
        rig
    }

    /// Starts Puma and waits for nothing.
    pub fn launch(&mut self) -> &mut Container {
        self.container.insert(Container::start(self.recipe(), self.log(), self.setup.restarted))
    }

    /// Starts Puma, on another port if this one was taken meanwhile.
    pub fn run(&mut self) {
        for _ in 0..5 {
            let container = Container::start(self.recipe(), self.log(), self.setup.restarted);
            let refused = until("Puma listens, or says that it cannot", || {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let taken = log.contains("Address already in use");
                let serves = ["Use Ctrl-C to stop", "worker=0 ready", "by pressing Ctrl-C"]
                    .iter()
                    .any(|said| log.contains(said));
                (taken || serves || container.ended()).then_some(taken)
            });
            self.container = Some(container);
            if !refused {
                return;
            }
            self.container = None;
            let _ = fs::remove_file(self.log());
            self.port = free_port();
            self.rewrite_configs();
        }
        panic!("no port stayed free long enough");
    }

    /// Adds a release to the volume. Those that exist must not be written again.
    pub fn release(&self, id: &str, app: App) -> PathBuf {
        let dir = self.releases().join(id);
        self.write_release(&dir, id, app);
        dir
    }

    /// Writes a release that this Puma could serve into any directory.
    pub fn write_release(&self, dir: &Path, id: &str, app: App) {
        app.write(dir, id, &self.puma_config()).expect("the release is written");
        for (path, text) in &self.setup.files {
            fs::write(dir.join(path), format!("{text}{}", app.config_tail())).expect("a file of the release");
        }
    }

    /// Points `current` to a release, as a deploy does, but says nothing to Puma.
    pub fn flip(&self, id: &str) {
        let (current, next) = (self.current(), self.deploy_to().join(".next"));
        symlink(Path::new("releases").join(id), &next).expect("a new link");
        fs::rename(&next, &current).expect("the link takes current's place");
    }

    /// The volume, where it was set up to be one that can hang.
    ///
    /// # Panics
    /// When it was not.
    pub fn volume(&self) -> &HangingVolume {
        self.volume.as_ref().expect("the set-up says hangable")
    }

    /// The volume, where it was set up to have a size.
    ///
    /// # Panics
    /// When it was not.
    pub fn small_volume(&self) -> &SmallVolume {
        self.small_volume.as_ref().expect("the set-up says how large it is")
    }

    /// The root of the volume.
    pub fn deploy_to(&self) -> PathBuf {
        self.dir.path().join("app")
    }

    /// Where the releases are.
    pub fn releases(&self) -> PathBuf {
        self.deploy_to().join("releases")
    }

    /// The link that Puma serves.
    pub fn current(&self) -> PathBuf {
        self.deploy_to().join("current")
    }

    /// A directory besides the volume, that ends with the rig.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Puma's output.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join(format!("{}puma.log", self.part))
    }

    /// Where the sockets and the state file are, for everybody outside of Puma's container.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Puma's own name for a path on the volume or in [`PumaRig::run_dir`].
    pub fn inside(&self, path: &Path) -> PathBuf {
        self.mounts().map_or_else(|| path.to_owned(), |mounts| mounts.inside(path))
    }

    /// Puma's state file, as Puma sees it.
    pub fn state_file(&self) -> PathBuf {
        self.inside(&self.run_dir().join(format!("{}puma.state", self.part)))
    }

    /// Adds a variable to the environment of the next start.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        self.setup.env.push((name.into(), value.into()));
    }

    /// Makes what follows in a command run in the image that Puma comes from, where the rig's own directory is to
    /// be seen under its usual name as well. Does nothing for this machine's own Puma.
    pub fn entrance(&self) -> impl Fn(&mut Command) + Send + 'static {
        let mounts = self.mounts();
        move |command| {
            if let Some(mounts) = &mounts {
                mounts.enter_with_all(command);
            }
        }
    }

    /// The control server's address, as Puma sees it.
    pub fn control_url(&self) -> String {
        format!("unix://{}", self.control_socket().display())
    }

    /// Where Puma listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What was set up.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The container, once [`PumaRig::run`] was called.
    pub fn container(&mut self) -> &mut Container {
        self.container.as_mut().expect("Puma was started")
    }

    /// How often Puma was started.
    pub fn starts(&self) -> usize {
        self.container.as_ref().map_or(0, Container::starts)
    }

    /// Puma's master: the first process, or a wrapper's child.
    pub fn master(&self) -> Option<i32> {
        let first = self.container.as_ref()?.pid()?;
        if self.setup.wrapper.stays() { children(first).first().copied() } else { Some(first) }
    }

    /// One GET on a fresh connection.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn get(&self, path: &str) -> io::Result<http::Answer> {
        http::get(self.port, path)
    }

    /// Waits until the app answers as this release, with any status.
    pub fn wait_for_release(&self, id: &str) {
        until(&format!("an answer from {id}"), || {
            let answer = self.get("/").ok()?;
            (answer.release.as_deref() == Some(id)).then_some(())
        });
        if self.setup.image != Image::Machine && self.setup.workers == 0 {
            self.wait_for_a_silent_log();
        }
    }

    /// On Ruby 3.3 a Puma that is told to stop within its first second may wait for ever for a thread that has
    /// ended. A cluster's master ends such a worker in time; a single process has nobody.
    fn wait_for_a_silent_log(&self) {
        let silent = |log: fs::Metadata| log.modified().ok()?.elapsed().ok().filter(|time| *time > GROWN_UP);
        until("Puma's first seconds are over", || fs::metadata(self.log()).ok().and_then(silent));
    }

    fn control_socket(&self) -> PathBuf {
        self.inside(&self.run_dir().join(format!("{}control.sock", self.part)))
    }

    fn puma_config(&self) -> String {
        let setup = &self.setup;
        let mut lines = vec![format!("threads {}, {}", setup.threads.0, setup.threads.1)];
        // Longer than what usual balancers keep.
        lines.push("persistent_timeout 75".into());
        if setup.wrapper != Wrapper::Rackup {
            lines.push(format!("bind 'tcp://{}:{}'", setup.host, self.port));
        }
        if setup.workers > 0 {
            lines.push(format!("workers {}", setup.workers));
            lines.push("worker_check_interval 1".into());
            lines.push(format!("worker_boot_timeout {}", setup.worker_boot_timeout));
            lines.push(format!("worker_shutdown_timeout {}", setup.worker_shutdown_timeout));
        }
        if let Some(preload) = setup.preload.filter(|_| setup.workers > 0) {
            lines.push(if preload { "preload_app!" } else { "preload_app! false" }.into());
        }
        if setup.directory == Directory::Literal {
            lines.push(format!("directory '{}'", self.inside(&self.current()).display()));
        }
        if setup.control {
            lines.push(format!("activate_control_app '{}', {{ auth_token: '{TOKEN}' }}", self.control_url()));
        }
        if setup.state_file {
            lines.push(format!("state_path '{}'", self.state_file().display()));
        }
        lines.push(self.named(&setup.config));
        lines.join("\n") + "\n"
    }

    /// Puts paths in the place of their words.
    fn named(&self, text: &str) -> String {
        let places =
            [("{current}", self.current()), ("{releases}", self.releases()), ("{run}", self.run_dir())];
        let put = |text: String, (word, path): &(&str, PathBuf)| {
            text.replace(word, &self.inside(path).display().to_string())
        };
        places.iter().fold(text.to_owned(), put)
    }

    /// Relative in the rule, so that a restart reads the new release's; absolute for a second Puma.
    fn config_file(&self) -> PathBuf {
        if self.part.is_empty() { "config/puma.rb".into() } else { self.run_dir().join("second-puma.rb") }
    }

    fn rewrite_configs(&self) {
        if !self.part.is_empty() {
            return fs::write(self.config_file(), self.puma_config()).expect("the second configuration");
        }
        for entry in fs::read_dir(self.releases()).expect("the releases").flatten() {
            fs::write(entry.path().join("config/puma.rb"), self.puma_config()).expect("the configuration");
        }
    }

    /// Runs a command line for a shell in `dir`, in a container like Puma's, to its end.
    ///
    /// # Panics
    /// When it cannot be started, or fails, with what it said.
    pub fn run_inside(&self, dir: &Path, line: &str) -> String {
        let mut launch = self.launch_in(dir.to_owned());
        launch.wrapper = Wrapper::Command("eval \"$RIG_COMMAND\"");
        launch.env.push(("RIG_COMMAND".into(), line.into()));
        let output = launch.command().output().expect("the container starts");
        let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        assert!(output.status.success(), "{line}: {}\n{out}{err}", output.status);
        out
    }

    fn recipe(&self) -> Recipe {
        let launch = self.launch_in(self.current());
        Box::new(move || launch.command())
    }

    fn launch_in(&self, dir: PathBuf) -> Launch {
        let (setup, run) = (&self.setup, self.run_dir());
        let mut env = vec![
            ("RIG_BOOT_SECONDS".to_owned(), setup.boot_seconds.to_string()),
            ("RIG_HOST".to_owned(), setup.host.clone()),
            ("RIG_PORT".to_owned(), self.port.to_string()),
            ("RIG_RUN".to_owned(), self.inside(&run).display().to_string()),
            ("RIG_CONFIG".to_owned(), self.inside(&self.config_file()).display().to_string()),
        ];
        env.extend(setup.env.iter().map(|(name, value)| (name.clone(), self.named(value))));
        Launch {
            mounts: self.mounts(),
            wrapper: setup.wrapper,
            uid: setup.uid,
            current: dir,
            resolved_pwd: setup.directory == Directory::Pinned,
            env,
        }
    }

    fn mounts(&self) -> Option<Mounts> {
        let root = self.setup.image.root()?;
        Some(Mounts { root, scratch: self.dir.path().to_owned() })
    }
}

/// The pids of a process's children.
pub fn children(pid: i32) -> Vec<i32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("permissions of the rig's directory");
}
