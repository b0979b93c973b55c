//! Which process is Passenger's core, and where its socket for orders is.

use std::path::{Path, PathBuf};

use super::boots::Children;
use crate::{
    app_server::server::Discovery,
    plain_file,
    procs::{self, Entry, Image, ProcessId, ProcsError},
};

/// What the core calls itself.
const CORE: &str = "Passenger core";

/// It starts the core, and starts it again should it die.
const WATCHDOG: &str = "Passenger watchdog";

/// Its name below the instance directory.
const API_SOCKET: &str = "agents.s/core_api";

/// A few lines that the core has written.
const LARGEST: u64 = 256 << 10;

/// Passenger's core: it takes the requests, starts the app and hands them on.
#[derive(Debug, Clone)]
pub(super) struct Core {
    pub(crate) image: Image,
    /// What it has started.
    pub(crate) children: Children,
    /// Its instance directory, by a path of ours; `None` before it has one.
    pub(crate) instance: Option<Instance>,
    /// The TCP ports that requests come in by: its own, else those of the web server in front.
    pub(crate) ports: Vec<u16>,
}

/// The directory in which a Passenger keeps what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    dir: PathBuf,
    /// What stands in front, by Passenger's own word.
    pub(crate) front: Front,
}

/// What takes the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    /// Passenger Standalone with the core's own web server.
    Builtin,
    /// nginx, of Standalone or with the module.
    Nginx,
    /// Apache with the module.
    Apache,
    /// It does not say.
    Unknown,
}

impl Instance {
    /// Where orders are taken.
    pub(crate) fn api(&self) -> PathBuf {
        self.dir.join(API_SOCKET)
    }

    fn of(core: i32) -> Option<Self> {
        let sockets = procs::unix_sockets(core);
        let dir = sockets.iter().find(|path| path.ends_with(API_SOCKET))?.parent()?.parent()?;
        let dir = procs::in_root_of(core, dir);
        let front = plain_file::read(&dir.join("properties.json"), LARGEST);
        let front = front.map_or(Front::Unknown, |json| Front::of(&json));
        Some(Self { dir, front })
    }
}

impl Front {
    fn of(properties: &[u8]) -> Self {
        let Ok(properties) = serde_json::from_slice::<serde_json::Value>(properties) else {
            return Self::Unknown;
        };
        match (properties["integration_mode"].as_str(), properties["standalone_engine"].as_str()) {
            (Some("standalone"), Some("builtin")) => Self::Builtin,
            (Some("standalone"), Some("nginx")) | (Some("nginx"), _) => Self::Nginx,
            (Some("apache"), _) => Self::Apache,
            _ => Self::Unknown,
        }
    }
}

/// Looks for the core: the one that is followed while it lives, else the only one.
pub(super) fn discover(followed: &[ProcessId]) -> Discovery<Core> {
    let Ok(entries) = procs::list(|_| true) else { return Discovery::Torn };
    let cores: Vec<&Entry> = cores(&entries).collect();
    let known = cores.iter().find(|core| followed.contains(&core.id));
    match (known, &cores[..]) {
        (Some(known), _) => look_at(known.id, &entries),
        (None, [only]) => look_at(only.id, &entries),
        (None, [_, ..]) => Discovery::Ambiguous,
        (None, []) if entries.iter().any(|entry| entry.title.starts_with(WATCHDOG)) => Discovery::Starting,
        (None, []) => Discovery::Nothing,
    }
}

/// All cores that can be seen, of any user.
pub(super) fn all(_: Option<&str>) -> Vec<Entry> {
    let entries = procs::list(|title| title.starts_with(CORE)).unwrap_or_default();
    cores(&entries).cloned().collect()
}

/// A child that was just forked still wears its parent's title and is no core.
fn cores(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    let is_core = |entry: &&Entry| entry.title.starts_with(CORE);
    entries.iter().filter(is_core).filter(move |entry| {
        !entries.iter().any(|other| other.id.pid == entry.parent && other.title.starts_with(CORE))
    })
}

fn look_at(core: ProcessId, entries: &[Entry]) -> Discovery<Core> {
    match Core::of(core, entries) {
        Ok(core) => Discovery::One(core),
        Err(ProcsError::NotPermitted(_)) => Discovery::NotPermitted(Vec::new()),
        Err(ProcsError::Gone(_)) => Discovery::Nothing,
        Err(_) => Discovery::Torn,
    }
}

impl Core {
    fn of(core: ProcessId, entries: &[Entry]) -> Result<Self, ProcsError> {
        let ProcessId { pid, .. } = core;
        let image = Image::of(pid)?;
        if image.process != core {
            return Err(ProcsError::Gone(pid));
        }
        if !procs::may_signal(pid) {
            return Err(ProcsError::NotPermitted(pid));
        }
        let own = || entries.iter().filter(|entry| entry.parent == pid);
        let children = Children {
            all: own().map(|entry| entry.id).collect(),
            loading: own().filter(|entry| boots_app(&entry.title)).map(|entry| entry.id).collect(),
        };
        let instance = Instance::of(pid);
        let ports = Some(procs::listening_ports(pid)).filter(|ports| !ports.is_empty());
        let of_web_server = || web_server(pid, entries).map(procs::listening_ports);
        let ports = ports.or_else(of_web_server).unwrap_or_default();
        Ok(Self { image, children, instance, ports })
    }
}

/// A module's watchdog is a child of the web server's first process.
fn web_server(core: i32, entries: &[Entry]) -> Option<i32> {
    let parent = |pid| entries.iter().find(|entry| entry.id.pid == pid).map(|entry| entry.parent);
    parent(core).and_then(parent)
}

/// A script of Passenger's that loads an app, or what it has become. The core has other children as well,
/// for a moment each: it removes its scratch directories by `rm`.
fn boots_app(title: &str) -> bool {
    let named = title.strip_prefix("Passenger ").is_some_and(|rest| {
        rest.starts_with("AppPreloader") || rest.split(':').next().is_some_and(|kind| kind.ends_with("App"))
    });
    named || title.contains("/helper-scripts/")
}

/// Whether a release asks Passenger to restart by a file of its own.
pub(super) fn has_restart_file(core: i32, app_root: &Path) -> bool {
    let tmp = procs::in_root_of(core, &app_root.join("tmp"));
    ["restart.txt", "always_restart.txt"].iter().any(|name| tmp.join(name).exists())
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// `properties.json` of an instance.
    pub(crate) fn properties(bytes: &[u8]) {
        let _ = Front::of(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front(json: &str) -> Front {
        Front::of(json.as_bytes())
    }

    #[test]
    fn what_stands_in_front_is_told_by_passenger() {
        let builtin = r#"{"integration_mode":"standalone","standalone_engine":"builtin"}"#;
        assert_eq!(front(builtin), Front::Builtin);
        assert_eq!(front(r#"{"integration_mode":"standalone","standalone_engine":"nginx"}"#), Front::Nginx);
        assert_eq!(front(r#"{"integration_mode":"nginx"}"#), Front::Nginx);
        assert_eq!(front(r#"{"integration_mode":"apache"}"#), Front::Apache);
        assert_eq!(front("half a fi"), Front::Unknown);
    }

    fn entry(pid: i32, parent: i32, title: &str) -> Entry {
        Entry { id: ProcessId { pid, start: 1 }, parent, title: title.into() }
    }

    #[test]
    fn only_what_loads_the_app_is_an_attempt_to_boot_it() {
        for title in [
            "ruby /usr/share/passenger/helper-scripts/rack-preloader.rb",
            "Passenger AppPreloader: /srv/app/current",
            "Passenger RubyApp: /srv/app/current (production)",
        ] {
            assert!(boots_app(title), "{title}");
        }
        for title in [
            "rm -rf /tmp/passenger.spawn.XXXXMTPZ36",
            "Passenger core",
            "/usr/lib/passenger/support-binaries/PassengerAgent spawn-env-setupper /tmp/passenger.spawn.XXXX2t66dh",
        ] {
            assert!(!boots_app(title), "{title}");
        }
    }

    #[test]
    fn what_the_core_has_just_forked_is_no_second_core() {
        let entries = [
            entry(7, 1, "Passenger watchdog"),
            entry(9, 7, "Passenger core      "),
            entry(12, 9, "Passenger core      "),
            entry(39, 9, "Passenger AppPreloader: /srv/app/current"),
        ];
        let found: Vec<i32> = cores(&entries).map(|core| core.id.pid).collect();
        assert_eq!(found, [9]);
        assert_eq!(web_server(9, &entries), Some(1));
    }
}
