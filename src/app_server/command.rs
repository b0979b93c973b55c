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
    acts::{Acts, gone, not_sent},
    addresses::random_addresses,
    crew::Crew,
    eyes::{Eyes, LIMIT, Place},
    unseen::{self, Kind},
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

mod census;
mod trial;

use census::{Family, Found, Named};
use trial::Trial;

/// How it is called where it cannot be seen.
const KIND: Kind = Kind { name: "app server", section: "command", programs: &[], masters: |_| Vec::new() };

/// Between the end of a restart command and the first process that it has brought up.
const GAP: Duration = Duration::from_secs(10);

/// Beside the command's own time: finding the processes before it.
const MARGIN: Duration = Duration::from_secs(5);

/// Whatever the user's own commands restart and check.
#[derive(Debug)]
pub struct CommandServer {
    named: Named,
    restart: UserCommand,
    trial: Trial,
    current: PathBuf,
    memory: Mutex<Memory>,
    eyes: Eyes,
    acts: Acts,
}

#[derive(Debug, Default)]
struct Memory {
    family: Option<Family>,
    crew: Option<(ProcessId, Crew)>,
    /// When a restart command last ended.
    restarted: Option<Instant>,
}

struct View {
    family: Family,
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
    pub fn new(section: &config::Command, place: Place, current: PathBuf) -> io::Result<Self> {
        let limit = section.timeout;
        let command = |key, line: &Option<String>| line.clone().map(|line| UserCommand { key, line, limit });
        let restart = command("command.restart", &section.restart);
        let unset = || io::Error::new(io::ErrorKind::InvalidInput, "command.restart is not set");
        Ok(Self {
            named: Named { text: section.r#match.clone(), pid_file: section.pid_file.clone() },
            restart: restart.ok_or_else(unset)?,
            trial: Trial::new(command("command.check", &section.check), &current),
            current,
            memory: Mutex::default(),
            eyes: Eyes::open(&KIND, place)?,
            acts: Acts::start()?,
        })
    }

    async fn look(&self) -> Look {
        match self.see().await {
            Ok(view) => {
                self.trial.see_to(&view.family.serving);
                let generation = self.generation(&view);
                Look {
                    detection: Detection::Seen(crate::core::AppServer {
                        generations: vec![generation],
                        old_workers: false,
                    }),
                    traffic: Traffic { workers: None, sockets: view.sockets.clone() },
                    description: self.description(&view),
                    findings: finding::findings(&self.checks(&view)),
                }
            }
            Err(detection) => {
                let why = [self.why_unseen(&detection)];
                self.eyes.without(detection, &why).await
            }
        }
    }

    async fn see(&self) -> Result<View, Detection> {
        let mut memory = self.memory.lock().await;
        let named = self.named.clone();
        let family =
            match self.eyes.census.run(LIMIT, move || census::take(&named)).await.unwrap_or(Found::Torn) {
                Found::Processes(family) => family,
                // A restart may end all of them before it starts others.
                Found::Nothing if memory.restarted.is_some_and(|at| at.elapsed() < GAP) => {
                    return Err(Detection::Unclear);
                }
                Found::Nothing => return Err(Detection::Missing),
                Found::NotPermitted => return Err(Detection::NotPermitted),
                Found::Torn => return Err(Detection::Unclear),
            };
        let ports = self.eyes.watched(family.ports.clone());
        let pids = family.serving.iter().map(|image| image.process.pid).chain([family.root.process.pid]);
        let (cwds, sockets) = tokio::join!(self.eyes.cwds(pids.collect()), self.eyes.connections(&ports));
        let expected = memory.learn(&family, self.trial.passed_all(&family.serving));
        Ok(View { family, cwds, sockets, ports, expected })
    }

    fn generation(&self, view: &View) -> Generation {
        let root = view.family.root;
        let cwd = match view.cwd(root) {
            // Whoever only starts the others may work anywhere.
            Cwd::Elsewhere if !view.family.serving.contains(&root) => Cwd::Unknown,
            cwd => cwd,
        };
        let process = |image: &Image| Process {
            key: image.process_key(),
            cwd: view.cwd(*image),
            booted: self.trial.passed(*image),
        };
        Generation {
            key: root.generation_key(),
            master: root.process.key(),
            signalable: true,
            cwd,
            expected: view.expected,
            processes: view.family.serving.iter().map(process).collect(),
        }
    }

    fn description(&self, view: &View) -> Description {
        let worker = |image: &Image| WorkerDescription {
            pid: image.process.pid,
            key: image.process_key(),
            release: match view.cwd(*image) {
                Cwd::Release(release) => Some(release),
                Cwd::Elsewhere | Cwd::Unknown => None,
            },
            booted: self.trial.passed(*image),
        };
        Description {
            kind: "command".into(),
            pid: Some(view.family.root.process.pid),
            mode: None,
            workers: view.family.serving.iter().map(worker).collect(),
        }
    }

    fn checks(&self, view: &View) -> Vec<Check> {
        let (pid, count) = (view.family.root.process.pid, view.family.serving.len());
        let mut checks =
            vec![Check::fine(KIND.name, format!("found: {count} processes, the oldest is {pid}"))];
        checks.push(in_flight(view));
        checks.push(match self.trial.failed() {
            Some(why) => Check::found(
                KIND.name,
                Finding::risky(
                    Code::CommandCheckFails,
                    format!("{why}: what fails at rest fails after every restart as well, so that good releases are rejected"),
                    "run the command by hand in the agent's container, in `current`",
                ),
            ),
            None if self.trial.exists() => Check::fine(KIND.name, "command.check says that it works"),
            None => Check::fine(KIND.name, "there is no command.check: a process that is there counts as booted"),
        });
        checks.push(shell(UserCommand::can_run()));
        checks.push(random_addresses(KIND.name));
        checks
    }

    fn why_unseen(&self, detection: &Detection) -> Check {
        let named = match &self.named {
            Named { text: Some(text), .. } => format!("whose command line contains {text:?} (command.match)"),
            Named { pid_file, .. } => {
                format!("of {} (command.pid_file)", pid_file.clone().unwrap_or_default().display())
            }
        };
        let (code, message) = match detection {
            Detection::Missing => (Code::AppServerMissing, format!("there is no process {named}")),
            Detection::NotPermitted => {
                let there = census::all(&self.named).len();
                (Code::AppServerNotPermitted, format!("{there} processes {named} belong to somebody else"))
            }
            _ => return Check::unknown(KIND.name, "it changed under our eyes: look again"),
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
            Err(detection) => Err(unseen::problem(&KIND, &detection)),
        }
    }

    async fn act(&self, command: ServerCommand, on: GenerationKey) -> Result<(), Problem> {
        let family = self.see().await.map_err(|detection| unseen::problem(&KIND, &detection))?.family;
        if family.root.generation_key() != on {
            return Err(gone("the app server was restarted meanwhile"));
        }
        match command {
            ServerCommand::Restart(_) | ServerCommand::Abort(_) => self.run_restart().await,
            ServerCommand::Commit => Ok(()),
            ServerCommand::Recover => self.end(family).await,
        }
    }

    async fn run_restart(&self) -> Result<(), Problem> {
        let release = std::fs::read_link(&self.current).unwrap_or_default();
        let release = release.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let result = self.restart.run(&self.current, &[("PITSTOP_RELEASE", &release)]).await;
        self.memory.lock().await.restarted = Some(Instant::now());
        result.map_err(|error| Problem::new(Reason::HookFailed, error.to_string()))
    }

    async fn end(&self, family: Family) -> Result<(), Problem> {
        let deed = move |permit: &super::acts::Permit| {
            permit.take()?;
            for image in family.serving.iter().chain([&family.root]) {
                match image.signal(Signal::KILL) {
                    Ok(()) | Err(ProcsError::Gone(_)) => {}
                    Err(error) => return Err(not_sent(KIND.name, &error)),
                }
            }
            Ok(())
        };
        self.acts.carry_out(KIND.name, deed).await
    }
}

fn in_flight(view: &View) -> Check {
    const ABOUT: &str = "requests in flight";
    if !view.ports.is_empty() {
        return Check::fine(ABOUT, format!("known by the socket table of {:?}", view.ports));
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

impl View {
    fn cwd(&self, image: Image) -> Cwd {
        self.cwds.get(&image.process.pid).cloned().unwrap_or(Cwd::Unknown)
    }
}

impl Memory {
    /// How many processes there should be.
    fn learn(&mut self, family: &Family, all_serve: bool) -> usize {
        let (root, now) = (family.root.process, Instant::now());
        let before = self.crew.filter(|(known, _)| *known == root).map(|(_, crew)| crew);
        let crew = before.unwrap_or_else(|| Crew::new(now)).after(family.serving.len(), all_serve, now);
        self.crew = Some((root, crew));
        self.family = Some(family.clone());
        crew.expected()
    }
}

impl AppServer for CommandServer {
    fn observe(&self) -> BoxFuture<'_, Look> {
        Box::pin(self.look())
    }

    fn examine(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(async {
            match self.see().await {
                Ok(view) => self.checks(&view),
                Err(detection) => vec![self.why_unseen(&detection), shell(UserCommand::can_run())],
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
            let root = self.memory.lock().await.family.as_ref().map(|family| family.root.process.pid);
            self.eyes.lacks(root, requires).await
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
        let place = Place { deploy_to: "/".into(), fallback: None, ports: Vec::new() };
        let server = CommandServer::new(&section, place, "/".into()).unwrap();
        let root = Image { process: ProcessId { pid: i32::MAX, start: 1 }, at_random: 1 };
        let mut view = View {
            family: Family { root, serving: vec![root], ports: Vec::new() },
            cwds: std::collections::HashMap::new(),
            sockets: None,
            ports: Vec::new(),
            expected: 1,
        };
        assert_eq!(codes(&server.checks(&view)), ["NO_PORT_TO_WATCH"]);
        server.trial.see_to(&[root]);
        let why = loop {
            match server.trial.failed() {
                Some(why) => break why,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        assert!(why.contains("not today"), "{why}");
        view.ports = vec![3000];
        assert_eq!(codes(&server.checks(&view)), ["COMMAND_CHECK_FAILS"]);
    }

    #[test]
    fn without_a_shell_no_command_can_be_run() {
        assert_eq!(codes(&[shell(false)]), ["COMMAND_NO_SHELL"]);
        assert_eq!(codes(&[shell(true)]), [""; 0]);
    }
}
