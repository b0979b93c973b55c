//! The commands of `--before` and `--smoke`: run by a shell here, with all that this process has in its environment.

use std::{io, os::fd::AsFd, os::unix::process::ExitStatusExt, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::{journal::Journal, machine::Which, seen::Pod};
use crate::user_command::SHELL;

/// What is told to end has so long before it is killed.
const GRACE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// What the user gave on this command line.
#[derive(Debug, Clone, Default)]
pub(super) struct Commands {
    pub(super) before: Option<String>,
    pub(super) smoke: Option<String>,
}

impl Commands {
    /// Runs one, and says how it ended unless with 0. It is ended with all that it started if nobody waits any longer.
    pub(super) async fn run(
        &self,
        which: Which,
        pointer: &str,
        journal: &Journal,
        pods: &[Pod],
    ) -> Result<(), String> {
        let (line, name, limit) = match which {
            Which::Before => (&self.before, "--before", None),
            Which::Smoke => (&self.smoke, "--smoke", Some(journal.options.timeout)),
        };
        let Some(line) = line else { return Err(format!("{name} is not given")) };
        let variables = variables(pointer, journal, pods);
        let mut running =
            Running::start(line, &variables).map_err(|e| format!("{name} cannot be run: {e}"))?;
        let ended = match limit {
            None => running.child.wait().await,
            Some(limit) => match tokio::time::timeout(limit, running.child.wait()).await {
                Ok(ended) => ended,
                Err(_) => {
                    let limit = humantime::format_duration(limit);
                    return Err(format!("{name} took longer than {limit} and was ended"));
                }
            },
        };
        let status = ended.map_err(|e| format!("{name}: lost track of it: {e}"))?;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(format!("{name} ended with exit code {code}")),
            (None, signal) => Err(format!("{name} was killed by signal {}", signal.unwrap_or_default())),
        }
    }
}

fn variables(pointer: &str, journal: &Journal, pods: &[Pod]) -> Vec<(&'static str, String)> {
    let addresses: Vec<_> = pods.iter().filter_map(|pod| pod.address.clone()).collect();
    let names: Vec<_> = pods.iter().map(|pod| pod.name.clone()).collect();
    vec![
        ("PITSTOP_RELEASE", journal.release.to_string()),
        ("PITSTOP_SEQUENCE", journal.sequence.to_string()),
        ("PITSTOP_POINTER", pointer.to_owned()),
        ("PITSTOP_CANARY_PODS", names.join(" ")),
        ("PITSTOP_CANARY_ADDRESSES", addresses.join(" ")),
    ]
}

/// A process group.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn start(line: &str, variables: &[(&str, String)]) -> io::Result<Self> {
        // Standard output is for the answer of pitstop itself.
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        let mut command = Command::new(SHELL);
        command.arg("-c").arg(line).envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output).process_group(0);
        let child = command.spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, group })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its number is its own until it was waited for.
        let Some(group) = self.group.filter(|_| self.child.id().is_some()) else { return };
        let _ = kill_process_group(group, Signal::TERM);
        for _ in 0..GRACE.as_millis() / LOOK.as_millis() {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let _ = kill_process_group(group, Signal::KILL);
    }
}
