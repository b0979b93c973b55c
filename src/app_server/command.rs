//! Any other server: the user's own commands restart and check it.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    AppServer, Wanted, WorkerDescription,
    addresses::random_addresses,
    connections::requests_are_visible,
    driver::{self, Driver},
    inspector::{Location, Surroundings},
    not_found::{NotFound, ServerKind},
    server::{self, Discovery, Search, Server},
    signaller::{Target, gone},
    worker_count::WorkerCount,
};
use crate::{
    config::{self, ServerFacts},
    core::{Cwd, Detection, Generation, GenerationKey, Mode, Plan, Problem, Process, Reason, ServerCommand},
    finding::{Check, Code, Finding},
    procs::{Image, ProcessId},
    user_command::UserCommand,
};

mod check;
mod discovery;

use check::CheckCommand;
use discovery::{Named, ServerProcesses};

const NAME: &str = CommandServer::KIND.name;

/// Between the end of a restart command and the first process that it has brought up.
const GAP: Duration = Duration::from_secs(10);

/// Beside the command's own time: finding the processes before it.
const MARGIN: Duration = Duration::from_secs(5);

struct CommandServer {
    named: Named,
    restart: UserCommand,
    check: CheckCommand,
    current: PathBuf,
    /// When a restart command last ended.
    restarted: Mutex<Option<Instant>>,
}

struct Snapshot {
    processes: ServerProcesses,
    surroundings: Surroundings,
    expected: usize,
    check: CheckCommand,
}

/// Will look for the processes that are named, and run the commands in `current`.
///
/// # Errors
/// When its threads cannot be started.
pub(crate) fn start(
    section: &config::Command,
    location: Location,
    current: PathBuf,
) -> io::Result<Arc<dyn AppServer>> {
    let server = CommandServer::new(section, current)?;
    let named = server.named.to_string();
    Driver::start(server, Some(&named), location)
}

/// What such a server can do.
pub(crate) fn facts(section: &config::Command) -> ServerFacts {
    driver::facts::<CommandServer>(section)
}

impl CommandServer {
    fn new(section: &config::Command, current: PathBuf) -> io::Result<Self> {
        let limit = section.timeout;
        let command = |key, line: &Option<String>| line.clone().map(|line| UserCommand { key, line, limit });
        let restart = command("command.restart", &section.restart);
        let unset = || io::Error::new(io::ErrorKind::InvalidInput, "command.restart is not set");
        Ok(Self {
            named: Named { text: section.r#match.clone(), pid_file: section.pid_file.clone() },
            restart: restart.ok_or_else(unset)?,
            check: CheckCommand::new(command("command.check", &section.check), &current),
            current,
            restarted: Mutex::default(),
        })
    }

    async fn run_restart(&self) -> Result<(), Problem> {
        let release = std::fs::read_link(&self.current).unwrap_or_default();
        let release = release.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let result = self.restart.run(&self.current, &[("PITSTOP_RELEASE", &release)]).await;
        *self.restarted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        result.map_err(|error| Problem::new(Reason::HookFailed, error.to_string()))
    }
}

/// What a command of the user's cuts, only the user knows.
impl Server for CommandServer {
    type Section = config::Command;
    type Processes = ServerProcesses;
    /// How many processes there should be.
    type Memory = Option<(ProcessId, WorkerCount)>;
    type Snapshot = Snapshot;

    const KIND: ServerKind = ServerKind {
        name: "app server",
        section: "command",
        programs: &[],
        start: "start the app server in `current`",
        masters: |_| Vec::new(),
    };

    fn restart_timeout(section: &config::Command) -> Option<Duration> {
        Some(section.timeout)
    }

    fn discover(&self, _: &Search) -> Discovery<ServerProcesses> {
        let restarted = *self.restarted.lock().unwrap_or_else(PoisonError::into_inner);
        match discovery::discover(&self.named) {
            // A restart may end all of them before it starts others.
            Discovery::Nothing if restarted.is_some_and(|at| at.elapsed() < GAP) => Discovery::Starting,
            found => found,
        }
    }

    async fn snapshot(
        &self,
        driver: &Driver<Self>,
        memory: &mut Self::Memory,
        processes: ServerProcesses,
    ) -> Result<Snapshot, NotFound> {
        let surroundings = driver.inspector.surroundings(processes.pids(), &processes.ports).await;
        let (root, now) = (processes.root.process, Instant::now());
        let before = memory.filter(|(known, _)| *known == root).map(|(_, count)| count);
        let all_serve = self.check.passed_all(&processes.serving);
        let count =
            before.unwrap_or_else(|| WorkerCount::new(now)).after(processes.serving.len(), all_serve, now);
        *memory = Some((root, count));
        Ok(Snapshot { processes, surroundings, expected: count.expected(), check: self.check.clone() })
    }

    fn checks(&self, snapshot: &Snapshot) -> Vec<Check> {
        let (pid, count) = (snapshot.processes.root.process.pid, snapshot.processes.serving.len());
        let remedy = "set drain.ports to the port on which requests arrive";
        vec![
            Check::fine(NAME, format!("found: {count} processes, the oldest is {pid}")),
            requests_are_visible("the named processes are", &snapshot.surroundings.ports, remedy),
            self.last_check(),
            random_addresses(NAME),
        ]
    }

    async fn plan(&self, _: &Driver<Self>, _: &Snapshot, _: Wanted<'_>) -> Result<Plan, Problem> {
        let message = "command.restart cannot be run: there is no /bin/sh in the agent's container";
        if UserCommand::can_run() {
            Ok(Plan::new(Mode::Phased))
        } else {
            Err(Problem::new(Reason::ConfigInvalid, message))
        }
    }

    async fn order(
        &self,
        driver: &Driver<Self>,
        command: ServerCommand,
        on: GenerationKey,
    ) -> Result<(), Problem> {
        let processes = driver.see().await.map_err(|not_found| driver.nothing_sent(&not_found))?.processes;
        if processes.root.generation_key() != on {
            return Err(gone("the app server was restarted meanwhile"));
        }
        if command != ServerCommand::Recover {
            return self.run_restart().await;
        }
        let all = processes.serving.iter().chain([&processes.root]);
        let kills = all.map(|image| (Target::Image(*image), Signal::KILL)).collect();
        driver.send(move |_| Ok(kills)).await
    }

    fn order_limit(&self) -> Duration {
        self.restart.limit.saturating_add(MARGIN)
    }

    fn why_not_found(&self, detection: &Detection, _: Option<&str>) -> Check {
        let named = &self.named;
        let (code, message) = match detection {
            Detection::Missing => (Code::AppServerMissing, format!("there is no process {named}")),
            Detection::NotPermitted => {
                let there = discovery::all(named).len();
                (Code::AppServerNotPermitted, format!("{there} processes {named} belong to another user"))
            }
            _ => return Check::unknown(NAME, "changed while it was read: run this again"),
        };
        let remedy = "check the app container's log, that the pod has shareProcessNamespace: true, and that both \
                      containers have the same runAsUser and runAsGroup";
        Check::found(NAME, Finding::broken(code, message, remedy))
    }

    fn checks_without_it(&self) -> Vec<Check> {
        vec![shell(UserCommand::can_run())]
    }

    async fn after_look(&self, _: &Driver<Self>, snapshot: &Snapshot) {
        self.check.see_to(&snapshot.processes.serving);
    }
}

impl CommandServer {
    /// What command.check said last.
    fn last_check(&self) -> Check {
        match self.check.failed() {
            Some(why) => Check::found(
                NAME,
                Finding::risky(
                    Code::CommandCheckFails,
                    format!(
                        "{why}: the check fails though no deploy is running, so it fails after every restart as well, and \
                         good releases are rejected"
                    ),
                    "run the command by hand in the agent's container, in `current`",
                ),
            ),
            None if self.check.exists() => Check::fine(NAME, "command.check passes"),
            None => Check::fine(NAME, "there is no command.check: a process that runs counts as booted"),
        }
    }
}

fn shell(there: bool) -> Check {
    if there {
        return Check::fine(NAME, "commands can be run: there is a shell");
    }
    Check::found(
        NAME,
        Finding::broken(
            Code::CommandNoShell,
            "there is no /bin/sh in the agent's container: neither command.restart nor command.check can be run",
            "run the agent in an image that has a shell and what the commands need: the app's (`pitstop install`)",
        ),
    )
}

impl server::Snapshot for Snapshot {
    fn app_server(&self) -> crate::core::AppServer {
        let root = self.image();
        let cwd = match self.surroundings.cwd(root.process.pid) {
            // A process that only starts the others may work anywhere.
            Cwd::Elsewhere if !self.processes.serving.contains(&root) => Cwd::Unknown,
            cwd => cwd,
        };
        let process = |image: &Image| Process {
            key: image.process_key(),
            cwd: self.surroundings.cwd(image.process.pid),
            booted: self.check.passed(*image),
        };
        let generation = Generation {
            key: root.generation_key(),
            master: root.process.key(),
            signalable: true,
            cwd,
            expected: self.expected,
            processes: self.processes.serving.iter().map(process).collect(),
        };
        crate::core::AppServer { generations: vec![generation], old_workers: false, ..Default::default() }
    }

    fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    fn image(&self) -> Image {
        self.processes.root
    }

    fn name(&self) -> String {
        format!("the app server {}", self.image().process.pid)
    }

    fn workers(&self) -> Vec<WorkerDescription> {
        let describe = |image: &Image| WorkerDescription {
            key: image.process_key(),
            ..self.surroundings.describe(image.process, self.check.passed(*image))
        };
        self.processes.serving.iter().map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding;

    fn codes(checks: &[Check]) -> Vec<&'static str> {
        finding::findings(checks).into_iter().map(|finding| finding.code.code()).collect()
    }

    #[tokio::test]
    async fn a_check_that_says_no_at_rest_and_requests_that_nobody_sees_are_found() {
        let section = config::Command {
            restart: Some("true".into()),
            check: Some("echo not today; false".into()),
            timeout: Duration::from_secs(60),
            ..config::Command::default()
        };
        let server = CommandServer::new(&section, "/".into()).unwrap();
        let root = Image { process: ProcessId { pid: i32::MAX, start: 1 }, at_random: 1 };
        let mut snapshot = Snapshot {
            processes: ServerProcesses { root, serving: vec![root], ports: Vec::new() },
            surroundings: Surroundings::default(),
            expected: 1,
            check: server.check.clone(),
        };
        assert_eq!(codes(&server.checks(&snapshot)), ["NO_PORT_TO_WATCH"]);
        server.check.see_to(&[root]);
        let why = loop {
            match server.check.failed() {
                Some(why) => break why,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        assert!(why.contains("not today"), "{why}");
        snapshot.surroundings.ports = vec![3000];
        assert_eq!(codes(&server.checks(&snapshot)), ["COMMAND_CHECK_FAILS"]);
    }

    #[test]
    fn without_a_shell_no_command_can_be_run() {
        assert_eq!(codes(&[shell(false)]), ["COMMAND_NO_SHELL"]);
        assert_eq!(codes(&[shell(true)]), [""; 0]);
    }
}
