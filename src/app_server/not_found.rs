//! Why no app server is found: told from what anybody may see of processes.

use std::{fmt::Write, path::Path};

use crate::{
    core::{Detection, Problem, Reason},
    finding::{Check, Code, Finding},
    procs::{self, Credentials, Entry},
};

/// A kind of server, as people and the process table know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerKind {
    /// As people call it.
    pub(crate) name: &'static str,
    /// Its section of the configuration, which has a key `match`.
    pub(crate) section: &'static str,
    /// How the names of its programs begin.
    pub(crate) programs: &'static [&'static str],
    /// How it is started in `current`, as a remedy.
    pub(crate) start: &'static str,
    /// The masters that can be seen, of any user, whose title contains this.
    pub(crate) masters: fn(Option<&str>) -> Vec<Entry>,
}

/// A look that found no server.
#[derive(Debug)]
pub(super) struct NotFound {
    pub(crate) detection: Detection,
    /// The ports that it listens on, where that can be seen all the same.
    pub(crate) ports: Vec<u16>,
    /// Why, where the look itself has shown it.
    pub(crate) why: Option<Check>,
}

impl From<Detection> for NotFound {
    fn from(detection: Detection) -> Self {
        Self { detection, ports: Vec::new(), why: None }
    }
}

impl NotFound {
    /// What it means for a deploy.
    pub(crate) fn problem(&self, kind: &ServerKind) -> Problem {
        let problem = problem(kind, &self.detection);
        match self.why.as_ref().and_then(Check::finding) {
            Some(why) => Problem { message: why.message.clone(), ..problem },
            None => problem,
        }
    }
}

/// What such a look means for a deploy.
pub(super) fn problem(kind: &ServerKind, detection: &Detection) -> Problem {
    let (name, section) = (kind.name, kind.section);
    let (reason, message) = match detection {
        Detection::Missing => (
            Reason::AppServerMissing,
            format!("no {name} is running here: check that the pod has shareProcessNamespace: true"),
        ),
        Detection::Ambiguous => (
            Reason::AppServerAmbiguous,
            format!("several {name} servers are running here: select one with {section}.match"),
        ),
        Detection::NotPermitted => (
            Reason::NotPermitted,
            format!("{name} runs as another user: give the agent the same runAsUser and runAsGroup"),
        ),
        Detection::Unclear | Detection::Seen(_) => {
            (Reason::AppServerMissing, format!("{name} is starting or restarting and is not ready yet"))
        }
    };
    Problem::new(reason, message)
}

/// The only one that is there was never seen in a release of ours, and may be a sidecar's.
pub(super) fn stranger(kind: &ServerKind, name: &str, releases: &Path) -> Problem {
    let message = format!(
        "{name} does not run in a release of {}: start it in `current`, or select it with {}.match if it is the right \
         one",
        releases.display(),
        kind.section
    );
    Problem::new(Reason::WrongCwd, message)
}

/// What a look that found none means. Reads /proc, so it runs on a lane.
pub(super) fn diagnose(kind: &ServerKind, detection: &Detection, matching: Option<&str>) -> Check {
    let found = match detection {
        Detection::Missing => missing(kind, matching),
        Detection::Ambiguous => ambiguous(kind, matching),
        Detection::NotPermitted => not_permitted(kind, matching),
        Detection::Unclear | Detection::Seen(_) => {
            return Check::unknown(kind.name, "is starting, or changed while it was read: run this again");
        }
    };
    Check::found(kind.name, found)
}

/// It can be looked into, and the kernel refuses signals to it.
pub(super) fn denied(name: &'static str, message: String) -> Check {
    let remedy =
        "give both containers the same appArmorProfile and seLinuxOptions, or allow signals between them";
    Check::found(name, Finding::broken(Code::AppServerNotPermitted, message, remedy))
}

fn missing(kind: &ServerKind, matching: Option<&str>) -> Finding {
    let (name, section) = (kind.name, kind.section);
    if let Some(matching) = matching.filter(|_| !(kind.masters)(None).is_empty()) {
        return Finding::broken(
            Code::AppServerMissing,
            format!("no {name} here has \"{matching}\" in its title; running: {}", listed(kind, None)),
            format!("set {section}.match to a part of the right title, or leave it out"),
        );
    }
    // A sandbox has an init of its own in front of all containers; else pid 1 is this container's own.
    if let Some(alone) = Entry::read(1).ok().and_then(|first| alone_with(kind, &first.title)) {
        return alone;
    }
    let dead = procs::zombies(|program| kind.programs.iter().any(|known| program.starts_with(known)));
    let message = match dead.first() {
        Some(pid) => format!(
            "no {name} is running here; process {pid} is a zombie: PID 1 of its container does not reap child processes"
        ),
        None => format!("no {name} is running here: a deploy only unpacks the release, and waits"),
    };
    Finding::broken(
        Code::AppServerMissing,
        message,
        format!(
            "check the app container's log, and that the pod has shareProcessNamespace: true; before {name} starts, \
             run `pitstop doctor --init`"
        ),
    )
}

/// The first process is our own.
fn alone_with(kind: &ServerKind, first: &str) -> Option<Finding> {
    let message = format!(
        "no {} is visible, and PID 1 is `{}`: the containers of this pod do not share a process namespace, so nothing \
         can be deployed, and the end of the pod is not delayed",
        kind.name,
        shortened(first)
    );
    let remedy = "set shareProcessNamespace: true in the pod's spec (or run both in one container)";
    is_ours(first).then(|| Finding::broken(Code::ProcessNamespaceNotShared, message, remedy))
}

/// Whether the first process is the sidecar itself. `exec` runs the app server in the same container.
fn is_ours(title: &str) -> bool {
    let mut words = title.split(' ');
    let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    if words.any(|word| word == "exec") {
        return false;
    }
    let own = std::env::current_exe().ok();
    let own = own.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    program == "pitstop" || Some(program) == own
}

fn ambiguous(kind: &ServerKind, matching: Option<&str>) -> Finding {
    let (name, section) = (kind.name, kind.section);
    Finding::broken(
        Code::AppServerAmbiguous,
        format!("several {name} servers are running here, so none is signalled: {}", listed(kind, matching)),
        format!("set {section}.match to a text that only the right title contains"),
    )
}

fn not_permitted(kind: &ServerKind, matching: Option<&str>) -> Finding {
    let name = kind.name;
    let why = (kind.masters)(matching).iter().find_map(|master| difference(name, master.id.pid));
    Finding::broken(
        Code::AppServerNotPermitted,
        format!(
            "{}: there are no deploys, and a drain sees only the socket table",
            why.unwrap_or_else(|| format!("the kernel does not let the agent inspect and signal {name}"))
        ),
        format!(
            "give both containers the same runAsUser and runAsGroup, and {name} no more capabilities than the agent"
        ),
    )
}

/// In which way a process is somebody else's, for us.
fn difference(name: &str, pid: i32) -> Option<String> {
    let (theirs, ours) = (Credentials::of(pid).ok()?, Credentials::of_this_process().ok()?);
    let mut text = told_apart(&format!("{name} {pid}"), theirs, ours);
    if ours.uid == 0 && theirs.uid != 0 {
        text.push_str(" (root would follow any link that the other user creates on the volume)");
    }
    Some(text)
}

/// User, group and capabilities of both sides.
fn told_apart(whose: &str, theirs: Credentials, ours: Credentials) -> String {
    let mut text = format!("{whose} runs as {theirs}, and this process as {ours}");
    let more = theirs.capabilities & !ours.capabilities;
    if (theirs.uid, theirs.gid) == (ours.uid, ours.gid) && more != 0 {
        let _ = write!(
            text,
            "; it has capabilities that this process does not have: {} ({:#x} against {:#x})",
            capabilities(more),
            theirs.capabilities,
            ours.capabilities
        );
    }
    text + "; so the kernel does not let the agent inspect and signal it"
}

/// By their names in a pod's `securityContext`.
fn capabilities(set: u64) -> String {
    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let held = NAMES.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1);
    held.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

fn listed(kind: &ServerKind, narrow: Option<&str>) -> String {
    let masters = (kind.masters)(narrow);
    let lines: Vec<_> =
        masters.iter().map(|master| format!("{} `{}`", master.id.pid, shortened(&master.title))).collect();
    lines.join(", ")
}

fn shortened(title: &str) -> String {
    title.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(masters: fn(Option<&str>) -> Vec<Entry>) -> ServerKind {
        ServerKind {
            name: "Puma",
            section: "puma",
            programs: &["puma"],
            start: "start Puma in `current`",
            masters,
        }
    }

    fn two(_: Option<&str>) -> Vec<Entry> {
        let id = procs::ProcessId { pid: i32::MAX, start: 1 };
        let title = |tag: &str| format!("puma 5.6.5 (tcp://0.0.0.0:3000) [{tag}]");
        ["blog", "shop"].map(|tag| Entry { id, parent: 0, title: title(tag) }).into()
    }

    #[test]
    fn each_reason_for_seeing_nobody_is_found_and_names_what_is_there() {
        let found = |detection: Detection| diagnose(&kind(two), &detection, None).finding().cloned().unwrap();
        let ambiguous = found(Detection::Ambiguous);
        assert_eq!(ambiguous.code.code(), "APP_SERVER_AMBIGUOUS");
        assert!(ambiguous.message.contains("[blog]") && ambiguous.message.contains("[shop]"));
        assert_eq!(found(Detection::NotPermitted).code.code(), "APP_SERVER_NOT_PERMITTED");
        let narrow = diagnose(&kind(two), &Detection::Missing, Some("forum"));
        assert!(narrow.finding().unwrap().message.contains("\"forum\""));
        let alone = alone_with(&kind(two), "/usr/local/bin/pitstop run").unwrap();
        assert_eq!(alone.code.code(), "PROCESS_NAMESPACE_NOT_SHARED");
    }

    #[test]
    fn capabilities_of_both_sides_are_named() {
        let ours = Credentials { uid: 1000, gid: 1000, capabilities: 0 };
        let theirs = Credentials { capabilities: 1 << 10 | 1 << 5, ..ours };
        let text = told_apart("Puma 7", theirs, ours);
        assert!(text.contains("KILL, NET_BIND_SERVICE (0x420 against 0x0)"), "{text}");
        let other = told_apart("Puma 7", Credentials { uid: 0, ..ours }, ours);
        assert!(other.contains("user 0 group 1000") && other.contains("user 1000 group 1000"), "{other}");
    }

    #[test]
    fn only_a_sidecar_of_ours_in_front_means_that_nothing_is_shared() {
        assert!(is_ours("/usr/local/bin/pitstop --config /etc/pitstop.yml run"));
        for title in
            ["/pause", "/catatonit -P", "sh -c pitstop run", "pitstop exec -- puma", "", "vi pitstop"]
        {
            assert!(!is_ours(title), "{title:?}");
        }
    }
}
