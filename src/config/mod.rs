//! Keys, defaults, and where each value came from.
//!
//! Three steps: `yaml` reads the file into keys with their lines, `load` lets the environment beat
//! it, `check` looks for what cannot work. No step stops at its first problem.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub(crate) mod advice;
mod check;
mod derived;
mod headers;
mod health_url;
mod keys;
mod listen_address;
mod load;
mod names;
mod notify;
mod places;
mod restart;
mod secrets;
mod server_facts;
mod source;
mod storage;
mod trust;
mod warmup;
pub(crate) mod yaml;

pub use crate::core::drain::Upgraded;
pub(crate) use derived::order;
pub(crate) use headers::parse as parse_header;
pub(crate) use health_url::{HealthAddress, HealthUrl};
pub(crate) use keys::nearest;
pub(crate) use listen_address::{ListenAddress, Place};
pub use load::{ConfigError, ConfigProblem, Loaded, Origin, environment, load, load_degraded};
pub(crate) use names::pointer_name;
pub(crate) use notify::{Notify, NotifyFormat};
pub use restart::RestartMode;
pub(crate) use restart::{LongRequests, Restart};
pub use server_facts::ServerFacts;
pub use source::S3Location;
pub(crate) use storage::Fetch;
pub use storage::S3;
pub(crate) use trust::Trust;
pub(crate) use warmup::Warmup;

/// In `state_dir`; there while the pod drains, so that the app can know.
pub(crate) const DRAIN_FILE: &str = "draining";
/// Tells the app where that is. No key: the agent needs no such thing.
pub(crate) const DRAIN_FILE_VARIABLE: &str = "PITSTOP_DRAIN_FILE";
/// Tells a server in which slot `pitstop exec` has started it. No key either.
pub(crate) const SLOT_VARIABLE: &str = "PITSTOP_SLOT";
/// Tells the app's middleware where it counts. No key either.
pub(crate) const COUNTS_VARIABLE: &str = "PITSTOP_COUNTS";

/// The whole configuration. Each part of the program gets its own section only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where releases and pointers are: `s3://bucket/prefix`, or a directory.
    pub(crate) source: Option<String>,
    /// How S3 is reached.
    pub(crate) s3: S3,
    /// The pointer: a name in the store, or `file:/path`.
    pub(crate) pointer: String,
    /// This pod's name; the host name by default.
    pub(crate) pod: Option<String>,
    /// What the app is called, for people who look at several.
    pub(crate) app: Option<String>,
    /// The node that the pod is on.
    pub(crate) node: Option<String>,
    /// The zone of that node.
    pub(crate) zone: Option<String>,
    /// The image of the app's container.
    pub(crate) image: Option<String>,
    /// Where the other end of a connection reaches this pod.
    pub(crate) address: Option<String>,
    /// The volume's root.
    pub(crate) deploy_to: PathBuf,
    /// The link that the app server runs from; `deploy_to/current` by default.
    pub(crate) current: Option<PathBuf>,
    /// A directory of the app's image with code that can be run when no release can be had.
    pub(crate) fallback_dir: Option<PathBuf>,
    /// A place of this pod's own that survives the agent (an emptyDir): admin socket, drain journal.
    pub(crate) state_dir: PathBuf,
    /// How often the pointer is read.
    #[serde(with = "humantime_serde")]
    pub(crate) poll_interval: Duration,
    /// How many releases stay on the volume.
    pub(crate) keep_releases: usize,
    /// How releases are written to the volume.
    pub(crate) fetch: Fetch,
    /// Take the content of an archive's only directory as the release.
    pub(crate) strip_prefix: bool,
    /// Directories of every release that are links into `deploy_to/shared`.
    pub(crate) linked_dirs: Vec<PathBuf>,
    /// The same for files.
    pub(crate) linked_files: Vec<PathBuf>,
    /// Directories of every release that are links into `pod_dir`.
    pub(crate) pod_dirs: Vec<PathBuf>,
    /// A place of the pod's own (an emptyDir), mounted at the same path in the app's container.
    pub(crate) pod_dir: PathBuf,
    /// Directories of the releases whose files are reachable below `deploy_to/shared`, those of all releases together.
    pub(crate) asset_dirs: Vec<PathBuf>,
    /// Which kind of server.
    pub(crate) app_server: AppServerKind,
    /// Puma's section.
    pub(crate) puma: Puma,
    /// Passenger's section.
    pub(crate) passenger: Passenger,
    /// Unicorn's section.
    pub(crate) unicorn: Unicorn,
    /// The section of a server that the user's own commands restart.
    pub(crate) command: Command,
    /// Restarts.
    pub(crate) restart: Restart,
    /// Commands of the user's.
    pub(crate) hooks: Hooks,
    /// Proof.
    pub(crate) verify: Verify,
    /// Requests that warm up a server before clients reach it.
    pub(crate) warmup: Warmup,
    /// Who is told when a pod needs somebody.
    pub(crate) notify: Notify,
    /// Whose signatures count.
    pub(crate) trust: Trust,
    /// The drain.
    pub(crate) drain: DrainKeys,
    /// The pod's terminationGracePeriodSeconds.
    #[serde(with = "humantime_serde")]
    pub(crate) grace_period: Duration,
    /// A file with the token that guards /prestop and the read endpoints.
    pub(crate) token_file: Option<PathBuf>,
    /// `pitstop exec`.
    pub(crate) exec: Exec,
    /// Where the endpoints listen; `[::]` is every address, IPv4 and IPv6.
    pub(crate) listen: SocketAddr,
    /// Logs.
    pub(crate) log: Log,
}

/// The kinds of app servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AppServerKind {
    /// Puma.
    #[default]
    Puma,
    /// Passenger.
    Passenger,
    /// Unicorn.
    Unicorn,
    /// Whatever the user's own commands restart and check.
    Command,
}

impl AppServerKind {
    /// Every kind.
    pub(crate) const ALL: [Self; 4] = [Self::Puma, Self::Passenger, Self::Unicorn, Self::Command];

    /// As the key `app_server` and its section are called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Puma => "puma",
            Self::Passenger => "passenger",
            Self::Unicorn => "unicorn",
            Self::Command => "command",
        }
    }

    /// As people call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Puma => "Puma",
            Self::Passenger => "Passenger",
            Self::Unicorn => "Unicorn",
            Self::Command => "app server",
        }
    }
}

/// How Puma is found and asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Puma {
    /// A text that the master's title must contain, when several Pumas run.
    pub r#match: Option<String>,
    /// `unix:///path` or `tcp://host:port`, as Puma's control server sees it.
    pub control_url: Option<String>,
    /// Its token.
    pub control_token: Option<String>,
    /// Puma's state file, to read both from.
    pub state_file: Option<PathBuf>,
    /// Puma's `worker_shutdown_timeout`.
    #[serde(with = "humantime_serde")]
    pub worker_shutdown_timeout: Duration,
}

/// How Passenger is found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Passenger {
    /// A text that the app's name must contain, as `passenger-status` shows it, when several apps run.
    pub(crate) r#match: Option<String>,
}

/// How Unicorn is found, and what it was told itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Unicorn {
    /// A text that a master's title must contain, when several Unicorns run.
    pub(crate) r#match: Option<String>,
    /// Unicorn's `timeout`: a worker that takes longer for one request is killed.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
}

impl Default for Unicorn {
    fn default() -> Self {
        Self { r#match: None, timeout: Duration::from_secs(60) }
    }
}

/// How any other server is found, restarted and checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Command {
    /// A command line for a shell: restarts the server onto `current`.
    pub(crate) restart: Option<String>,
    /// A command line for a shell: ends with 0 when the server works.
    pub(crate) check: Option<String>,
    /// A text of the command lines of the processes that serve.
    pub(crate) r#match: Option<String>,
    /// A file with the pid of the process that serves.
    pub(crate) pid_file: Option<PathBuf>,
    /// How long either command may take, and a restart until it counts as failed.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
}

impl Default for Command {
    fn default() -> Self {
        Self { restart: None, check: None, r#match: None, pid_file: None, timeout: Duration::from_secs(120) }
    }
}

/// Commands of the user's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Hooks {
    /// Tries a release before anything is moved; the shell runs it in the release's directory.
    pub(crate) check: Option<String>,
    /// How long that may take.
    #[serde(with = "humantime_serde")]
    pub(crate) check_timeout: Duration,
}

/// Proof.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Verify {
    /// The app's health path, as this pod reaches it.
    pub(crate) url: Option<String>,
    /// What it is asked with: `Name: value`.
    pub(crate) headers: Vec<String>,
    /// The response header that names the running release.
    pub(crate) release_header: Option<String>,
    /// The same where the answer is JSON: the field's path, with dots.
    pub(crate) release_field: Option<String>,
    /// The field of the same answer that has the pid of the process that gave it.
    pub(crate) pid_field: Option<String>,
    /// How many answers in a row decide.
    pub(crate) successes: u32,
    /// How long everything must hold.
    #[serde(with = "humantime_serde")]
    pub(crate) soak: Duration,
    /// How long one answer may take.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
}

/// The drain.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DrainKeys {
    /// Never answer sooner.
    #[serde(with = "humantime_serde")]
    pub(crate) min: Duration,
    /// The most that a silence has to last; at least 2s, adaptive in between.
    #[serde(with = "humantime_serde")]
    pub(crate) quiet: Duration,
    /// Time kept for the app server's own stop.
    #[serde(with = "humantime_serde")]
    pub(crate) reserve: Duration,
    /// Never answer later; grace_period − reserve − 2s when absent.
    #[serde(with = "humantime_serde")]
    pub(crate) max: Option<Duration>,
    /// The TCP ports whose connections are counted; those that the app server listens on when empty.
    pub(crate) ports: Vec<Port>,
    /// Peers whose traffic never counts.
    pub(crate) ignore_peers: Vec<IpAddr>,
    /// What to do about websockets and hijacked connections.
    pub(crate) upgraded: Upgraded,
}

/// A TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Port(pub(crate) u16);

impl TryFrom<String> for Port {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let port = text.parse().ok().filter(|port| *port != 0);
        port.map(Self).ok_or_else(|| format!("\"{text}\" is not a TCP port"))
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.0.to_string()
    }
}

/// `pitstop exec`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// What the app server listens on, as Puma's `bind` writes it; found out when empty.
    pub(crate) listen: Vec<ListenAddress>,
    /// An app server that was ended by the signal that asked for it has ended well.
    pub(crate) stop_is_success: bool,
}

/// Logs.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// Their form.
    pub(crate) format: LogFormat,
}

/// The form of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

impl Default for Puma {
    fn default() -> Self {
        Self {
            r#match: None,
            control_url: None,
            control_token: None,
            state_file: None,
            worker_shutdown_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self { check: None, check_timeout: Duration::from_secs(120) }
    }
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            url: None,
            headers: Vec::new(),
            release_header: None,
            release_field: None,
            pid_field: None,
            successes: 3,
            soak: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Default for DrainKeys {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(5),
            quiet: Duration::from_secs(15),
            reserve: Duration::from_secs(10),
            max: None,
            ports: Vec::new(),
            ignore_peers: Vec::new(),
            upgraded: Upgraded::Wait,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            source: None,
            s3: S3::default(),
            pointer: "production".into(),
            pod: None,
            app: None,
            node: None,
            zone: None,
            image: None,
            address: None,
            deploy_to: "/srv/app".into(),
            current: None,
            fallback_dir: None,
            state_dir: "/run/pitstop".into(),
            poll_interval: Duration::from_secs(30),
            keep_releases: 5,
            fetch: Fetch::default(),
            strip_prefix: false,
            linked_dirs: Vec::new(),
            linked_files: Vec::new(),
            pod_dirs: Vec::new(),
            pod_dir: "/srv/pod".into(),
            asset_dirs: ["public/assets", "public/packs", "public/vite"].map(Into::into).to_vec(),
            app_server: AppServerKind::Puma,
            puma: Puma::default(),
            passenger: Passenger::default(),
            unicorn: Unicorn::default(),
            command: Command::default(),
            restart: Restart::default(),
            hooks: Hooks::default(),
            verify: Verify::default(),
            warmup: Warmup::default(),
            notify: Notify::default(),
            trust: Trust::default(),
            drain: DrainKeys::default(),
            grace_period: Duration::from_secs(30),
            token_file: None,
            exec: Exec::default(),
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9750)),
            log: Log::default(),
        }
    }
}
