use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use rustix::process::Signal;
use tokio::sync::Mutex;

use super::{
    AppServer, Description, Look, WorkerDescription,
    addresses::random_addresses,
    inspector::{Inspector, LIMIT, Location},
    not_found::{self, ServerKind},
    signaller::{Signaller, gone, not_sent},
    worker_count::WorkerCount,
};
use crate::{
    config,
    core::{
        Cwd, Detection, Generation, GenerationKey, Mode, Plan, Problem, Process, Reason, ServerCommand,
        Sockets, Traffic, requirement::Requirement,
    },
    finding::{self, Check, Code, Finding},
    procs::{Image, ProcessId, ProcsError},
    revision::ReleaseId,
    user_command::UserCommand,
};

mod check;
mod discovery;

use check::CheckCommand;
use discovery::{Discovery, Named, ServerProcesses};

/// How it is called where it cannot be seen.
const KIND: ServerKind =
    ServerKind { name: "app server", section: "command", programs: &[], masters: |_| Vec::new() };

/// Between the end of a restart command and the first process that it has brought up.
const GAP: Duration = Duration::from_secs(10);

/// Beside the command's own time: finding the processes before it.
const MARGIN: Duration = Duration::from_secs(5);

/// Whatever the user's own commands restart and check.
#[derive(Debug)]
pub struct CommandServer {
    named: Named,
    restart: UserCommand,
    check: CheckCommand,
    current: PathBuf,
    memory: Mutex<Memory>,
    inspector: Inspector,
    signaller: Signaller,
}

#[derive(Debug, Default)]
struct Memory {
    processes: Option<ServerProcesses>,
    worker_count: Option<(ProcessId, WorkerCount)>,
    /// When a restart command last ended.
    restarted: Option<Instant>,
}

struct Snapshot {
    processes: ServerProcesses,
    cwds: std::collections::HashMap<i32, Cwd>,
    sockets: Option<Sockets>,
    ports: Vec<u16>,
    expected: usize,
}

impl CommandServer {
    /// Will look for the processes that are named, and run the commands in `current`.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub fn new(section: &config::Command, place: Location, current: PathBuf) -> io::Result<Self> {
        let limit = section.timeout;
        let command = |key, line: &Option<String>| line.clone().map(|line| UserCommand { key, line, limit });
        let restart = command("command.restart", &section.restart);
        let unset = || io::Error::new(io::ErrorKind::InvalidInput, "command.restart is not set");
        Ok(Self {
            named: Named { text: section.r#match.clone(), pid_file: section.pid_file.clone() },
            restart: restart.ok_or_else(unset)?,
            check: CheckCommand::new(command("command.check", &section.check), &current),
            current,
            memory: Mutex::default(),
            inspector: Inspector::open(&KIND, place)?,
            signaller: Signaller::start()?,
        })
    }

    async fn look(&self) -> Look {
        match self.see().await {
            Ok(snapshot) => {
                self.check.see_to(&snapshot.processes.serving);
                let generation = self.generation(&snapshot);
                Look {
                    detection: Detection::Seen(crate::core::AppServer {
                        generations: vec![generation],
                        old_workers: false,
                    }),
                    traffic: Traffic { workers: None, sockets: snapshot.sockets.clone() },
                    description: self.description(&snapshot),
                    findings: finding::findings(&self.checks(&snapshot)),
                }
            }
            Err(detection) => {
                let why = [self.why_not_found(&detection)];
                self.inspector.without(detection, &why).await
            }
        }
    }

    async fn see(&self) -> Result<Snapshot, Detection> {
        let mut memory = self.memory.lock().await;
        let named = self.named.clone();
        let processes = match self
            .inspector
            .processes
            .look(LIMIT, move || discovery::discover(&named))
            .await
            .unwrap_or(Discovery::Torn)
        {
            Discovery::Processes(processes) => processes,
            // A restart may end all of them before it starts others.
            Discovery::Nothing if memory.restarted.is_some_and(|at| at.elapsed() < GAP) => {
                return Err(Detection::Unclear);
            }
            Discovery::Nothing => return Err(Detection::Missing),
            Discovery::NotPermitted => return Err(Detection::NotPermitted),
            Discovery::Torn => return Err(Detection::Unclear),
        };
        let ports = self.inspector.watched(processes.ports.clone());
        let pids =
            processes.serving.iter().map(|image| image.process.pid).chain([processes.root.process.pid]);
        let (cwds, sockets) =
            tokio::join!(self.inspector.cwds(pids.collect()), self.inspector.connections(&ports));
        let expected = memory.learn(&processes, self.check.passed_all(&processes.serving));
        Ok(Snapshot { processes, cwds, sockets, ports, expected })
    }

    fn generation(&self, snapshot: &Snapshot) -> Generation {
        let root = snapshot.processes.root;
        let cwd = match snapshot.cwd(root) {
            // Whoever only starts the others may work anywhere.
            Cwd::Elsewhere if !snapshot.processes.serving.contains(&root) => Cwd::Unknown,
            cwd => cwd,
        };
        let process = |image: &Image| Process {
            key: image.process_key(),
            cwd: snapshot.cwd(*image),
            booted: self.check.passed(*image),
        };
        Generation {
            key: root.generation_key(),
            master: root.process.key(),
            signalable: true,
            cwd,
            expected: snapshot.expected,
            processes: snapshot.processes.serving.iter().map(process).collect(),
        }
    }

    fn description(&self, snapshot: &Snapshot) -> Description {
        let worker = |image: &Image| WorkerDescription {
            pid: image.process.pid,
            key: image.process_key(),
            release: match snapshot.cwd(*image) {
                Cwd::Release(release) => Some(release),
                Cwd::Elsewhere | Cwd::Unknown => None,
            },
            booted: self.check.passed(*image),
        };
        Description {
            kind: "command".into(),
            pid: Some(snapshot.processes.root.process.pid),
            mode: None,
            workers: snapshot.processes.serving.iter().map(worker).collect(),
        }
    }

    fn checks(&self, snapshot: &Snapshot) -> Vec<Check> {
        let (pid, count) = (snapshot.processes.root.process.pid, snapshot.processes.serving.len());
        let mut checks =
            vec![Check::fine(KIND.name, format!("found: {count} processes, the oldest is {pid}"))];
        checks.push(in_flight(snapshot));
        checks.push(match self.check.failed() {
            Some(why) => Check::found(
                KIND.name,
                Finding::risky(
                    Code::CommandCheckFails,
                    format!("{why}: what fails at rest fails after every restart as well, so that good releases are rejected"),
                    "run the command by hand in the agent's container, in `current`",
                ),
            ),
            None if self.check.exists() => Check::fine(KIND.name, "command.check says that it works"),
            None => Check::fine(KIND.name, "there is no command.check: a process that is there counts as booted"),
        });
        checks.push(shell(UserCommand::can_run()));
        checks.push(random_addresses(KIND.name));
        checks
    }

    fn why_not_found(&self, detection: &Detection) -> Check {
        let named = match &self.named {
            Named { text: Some(text), .. } => format!("whose command line contains {text:?} (command.match)"),
            Named { pid_file, .. } => {
                format!("of {} (command.pid_file)", pid_file.clone().unwrap_or_default().display())
            }
        };
        let (code, message) = match detection {
            Detection::Missing => (Code::AppServerMissing, format!("there is no process {named}")),
            Detection::NotPermitted => {
                let there = discovery::all(&self.named).len();
                (Code::AppServerNotPermitted, format!("{there} processes {named} belong to somebody else"))
            }
            _ => return Check::unknown(KIND.name, "it changed while it was read: look again"),
        };
        let remedy = "see the app container's log, that the pod's spec has shareProcessNamespace: true, and that both \
                      containers have the same runAsUser and runAsGroup";
        Check::found(KIND.name, Finding::broken(code, message, remedy))
    }

    async fn plan_restart(&self) -> Result<Plan, Problem> {
        match self.see().await {
            Ok(_) | Err(Detection::Unclear) if UserCommand::can_run() => Ok(Plan { mode: Mode::Phased }),
            Ok(_) | Err(Detection::Unclear | Detection::Seen(_) | Detection::Ambiguous) => Err(Problem::new(
                Reason::ConfigInvalid,
                "command.restart cannot be run: there is no /bin/sh in the agent's container",
            )),
            Err(detection) => Err(not_found::problem(&KIND, &detection)),
        }
    }

    async fn act(&self, command: ServerCommand, on: GenerationKey) -> Result<(), Problem> {
        let processes =
            self.see().await.map_err(|detection| not_found::problem(&KIND, &detection))?.processes;
        if processes.root.generation_key() != on {
            return Err(gone("the app server was restarted meanwhile"));
        }
        match command {
            ServerCommand::Restart(_) | ServerCommand::Abort(_) => self.run_restart().await,
            ServerCommand::Commit => Ok(()),
            ServerCommand::Recover => self.end(processes).await,
        }
    }

    async fn run_restart(&self) -> Result<(), Problem> {
        let release = std::fs::read_link(&self.current).unwrap_or_default();
        let release = release.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let result = self.restart.run(&self.current, &[("PITSTOP_RELEASE", &release)]).await;
        self.memory.lock().await.restarted = Some(Instant::now());
        result.map_err(|error| Problem::new(Reason::HookFailed, error.to_string()))
    }

    async fn end(&self, processes: ServerProcesses) -> Result<(), Problem> {
        let deed = move |send_once: &super::signaller::SendOnce| {
            send_once.take()?;
            for image in processes.serving.iter().chain([&processes.root]) {
                match image.signal(Signal::KILL) {
                    Ok(()) | Err(ProcsError::Gone(_)) => {}
                    Err(error) => return Err(not_sent(KIND.name, &error)),
                }
            }
            Ok(())
        };
        self.signaller.carry_out(KIND.name, deed).await
    }
}

fn in_flight(snapshot: &Snapshot) -> Check {
    const ABOUT: &str = "requests in flight";
    if !snapshot.ports.is_empty() {
        return Check::fine(ABOUT, format!("known by the socket table of {:?}", snapshot.ports));
    }
    Check::found(
        ABOUT,
        Finding::broken(
            Code::NoPortToWatch,
            "the processes that are named listen on no TCP port, so that nobody sees their requests: a drain ends \
             at its deadline, and may end too early",
            "set drain.ports to the port that requests come in by",
        ),
    )
}

fn shell(there: bool) -> Check {
    if there {
        return Check::fine(KIND.name, "commands can be run: there is a shell");
    }
    Check::found(
        KIND.name,
        Finding::broken(
            Code::CommandNoShell,
            "there is no /bin/sh in the agent's container: neither command.restart nor command.check can be run",
            "run the agent in an image that has a shell and what the commands need: the app's (`pitstop install`)",
        ),
    )
}

impl Snapshot {
    fn cwd(&self, image: Image) -> Cwd {
        self.cwds.get(&image.process.pid).cloned().unwrap_or(Cwd::Unknown)
    }
}

impl Memory {
    /// How many processes there should be.
    fn learn(&mut self, processes: &ServerProcesses, all_serve: bool) -> usize {
        let (root, now) = (processes.root.process, Instant::now());
        let before =
            self.worker_count.filter(|(known, _)| *known == root).map(|(_, worker_count)| worker_count);
        let worker_count =
            before.unwrap_or_else(|| WorkerCount::new(now)).after(processes.serving.len(), all_serve, now);
        self.worker_count = Some((root, worker_count));
        self.processes = Some(processes.clone());
        worker_count.expected()
    }
}

impl AppServer for CommandServer {
    fn observe(&self) -> BoxFuture<'_, Look> {
        Box::pin(self.look())
    }

    fn examine(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(async {
            match self.see().await {
                Ok(snapshot) => self.checks(&snapshot),
                Err(detection) => vec![self.why_not_found(&detection), shell(UserCommand::can_run())],
            }
        })
    }

    fn plan<'a>(
        &'a self,
        _: Option<&'a ReleaseId>,
        _: &'a ReleaseId,
    ) -> BoxFuture<'a, Result<Plan, Problem>> {
        Box::pin(self.plan_restart())
    }

    fn lacks(&self, requires: Vec<Requirement>) -> BoxFuture<'_, Result<Vec<String>, Problem>> {
        Box::pin(async move {
            let root =
                self.memory.lock().await.processes.as_ref().map(|processes| processes.root.process.pid);
            self.inspector.lacks(root, requires).await
        })
    }

    fn perform_limit(&self) -> Duration {
        self.restart.limit.saturating_add(MARGIN)
    }

    fn perform(&self, command: ServerCommand, on: GenerationKey) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.act(command, on))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let place = Location { deploy_to: "/".into(), fallback: None, ports: Vec::new() };
        let server = CommandServer::new(&section, place, "/".into()).unwrap();
        let root = Image { process: ProcessId { pid: i32::MAX, start: 1 }, at_random: 1 };
        let mut snapshot = Snapshot {
            processes: ServerProcesses { root, serving: vec![root], ports: Vec::new() },
            cwds: std::collections::HashMap::new(),
            sockets: None,
            ports: Vec::new(),
            expected: 1,
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
        snapshot.ports = vec![3000];
        assert_eq!(codes(&server.checks(&snapshot)), ["COMMAND_CHECK_FAILS"]);
    }

    #[test]
    fn without_a_shell_no_command_can_be_run() {
        assert_eq!(codes(&[shell(false)]), ["COMMAND_NO_SHELL"]);
        assert_eq!(codes(&[shell(true)]), [""; 0]);
    }
}
