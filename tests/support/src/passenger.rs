use std::{fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Directory, Image, PumaRig, Setup, Wrapper, puma::children};

/// Passenger Standalone as Debian ships it, with the core's own web server, and everything that it writes
/// outside of the release.
const COMMAND: &str = "mkdir -p \"$RIG_RUN/tmp\" && export HOME=\"$RIG_RUN\" TMPDIR=\"$RIG_RUN/tmp\" \
    PASSENGER_INSTANCE_REGISTRY_DIR=\"$RIG_RUN\" && exec passenger start --engine builtin --address 127.0.0.1 \
    --port \"$RIG_PORT\" --environment production --min-instances 2 --max-pool-size 3 \
    --max-request-queue-size \"${RIG_QUEUE:-100}\" --disable-security-update-check \
    --disable-anonymous-telemetry --log-file \"$RIG_RUN/passenger.log\" --pid-file \"$RIG_RUN/passenger.pid\"";

/// A Passenger that keeps two processes, three at most.
pub fn setup() -> Setup {
    Setup {
        server: "passenger",
        wrapper: Wrapper::Command(COMMAND),
        directory: Directory::Pwd,
        // The other Debians have none.
        image: Image::Machine,

        ..Setup::default()
    }
}

/// The core, while there is one.
pub fn core(rig: &PumaRig) -> Option<i32> {
    instances(&rig.run_dir()).into_iter().find_map(|dir| pid_in(&dir.join("core.pid")))
}

/// Ends all that Passenger has started, when it is dropped: its watchdog belongs to no group of the rig's. A test
/// that fails shows Passenger's log.
pub(crate) struct Ended(pub std::path::PathBuf);

impl Drop for Ended {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.0.join("passenger.log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the end of passenger.log\n{}", lines[lines.len().saturating_sub(50)..].join("\n"));
        }
        let mut pids = Vec::new();
        for dir in instances(&self.0) {
            // The watchdog first, or it would start another core.
            pids.extend(["watchdog.pid", "core.pid"].into_iter().filter_map(|file| pid_in(&dir.join(file))));
        }
        for entry in fs::read_dir(self.0.join("tmp")).into_iter().flatten().flatten() {
            pids.extend(pid_in(&entry.path().join("temp_dir_toucher.pid")));
        }
        let mut at = 0;
        while let Some(pid) = pids.get(at).copied() {
            pids.extend(children(pid));
            kill(pid);
            at += 1;
        }
    }
}

fn instances(registry: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(registry).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.join("properties.json").exists()).collect()
}

fn pid_in(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 1) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
