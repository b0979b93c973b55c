//! Any other server: the user's own commands restart and check it.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    AppServer, SlotDescription, Wanted, WorkerDescription,
    addresses::random_addresses,
    aside,
    connections::requests_are_visible,
    driver::{self, Driver},
    fit::{Fit, Misfit, decide},
    inspector::{LIMIT, Location, Surroundings},
    memory,
    not_found::{NotFound, ServerKind},
    server::{self, Discovery, Search, Server},
    sides::{self, Processes, Settings, Sides},
    signaller::{Target, gone},
    slot_order::{self, Order},
    worker_count::WorkerCount,
};
use crate::{
    config::{self, RestartMode, ServerFacts},
    core::{
        Cwd, Detection, Generation, GenerationKey, Mode, Plan, Problem, Process, ProcessKey, Reason,
        ServerCommand,
    },
    finding::{Check, Code, Finding},
    procs::{Image, ProcessId},
    revision::ReleaseId,
    user_command::UserCommand,
};

mod check;
mod discovery;

use check::CheckCommand;
use discovery::{Found, Named, ServerProcesses};

const NAME: &str = CommandServer::KIND.name;

/// Between the end of a restart command and the first process that it has brought up.
const GAP: Duration = Duration::from_secs(10);

/// Beside the command's own time: finding the processes before it.
const MARGIN: Duration = Duration::from_secs(5);

struct CommandServer {
    named: Named,
    restart: UserCommand,
    check: CheckCommand,
    settings: Settings,
    current: PathBuf,
    /// When a restart command last ended.
    restarted: Mutex<Option<Instant>>,
}

/// What a look remembers of the earlier ones.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// How many processes each server should have, by its root.
    counts: HashMap<ProcessId, WorkerCount>,
    /// What the servers of the parent take.
    taken: memory::Memory,
}

struct Snapshot {
    processes: ServerProcesses,
    surroundings: Surroundings,
    counts: HashMap<ProcessId, WorkerCount>,
    check: CheckCommand,
    /// The parent's other servers.
    sides: Sides<ServerProcesses>,
}

/// Will look for the processes that are named, and run the commands in `current`. `shifts`: a new release gets its
/// traffic by shares.
///
/// # Errors
/// When its threads cannot be started.
pub(crate) fn start(
    section: &config::Command,
    (mode, shifts): (RestartMode, bool),
    location: Location,
) -> io::Result<Arc<dyn AppServer>> {
    let settings = Settings::new(mode, shifts, &location)?;
    let server = CommandServer::new(section, settings, location.current.clone())?;
    let named = server.named.to_string();
    Driver::start(server, Some(&named), location)
}

/// What such a server can do.
pub(crate) fn facts(section: &config::Command) -> ServerFacts {
    driver::facts::<CommandServer>(section)
}

impl CommandServer {
    fn new(section: &config::Command, settings: Settings, current: PathBuf) -> io::Result<Self> {
        let limit = section.timeout;
        let command = |key, line: &Option<String>| line.clone().map(|line| UserCommand { key, line, limit });
        let restart = command("command.restart", &section.restart);
        let unset = || io::Error::new(io::ErrorKind::InvalidInput, "command.restart is not set");
        Ok(Self {
            named: Named { text: section.r#match.clone(), pid_file: section.pid_file.clone() },
            restart: restart.ok_or_else(unset)?,
            check: CheckCommand::new(command("command.check", &section.check), &current),
            settings,
            current,
            restarted: Mutex::default(),
        })
    }

    async fn run_restart(&self) -> Result<(), Problem> {
        let current = self.current.clone();
        let release = move || {
            let tree = std::fs::read_link(current).unwrap_or_default();
            let release = tree.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            vec![("PITSTOP_RELEASE", release.to_owned())]
        };
        let result = self.restart.run(&self.current, release).await;
        *self.restarted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        result.map_err(|error| Problem::new(Reason::HookFailed, error.to_string()))
    }
}

/// What a command of the user's cuts, only the user knows.
impl Server for CommandServer {
    type Section = config::Command;
    type Processes = Box<Found>;
    type Memory = Memory;
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

    fn discover(&self, search: &Search) -> Discovery<Box<Found>> {
        let restarted = *self.restarted.lock().unwrap_or_else(PoisonError::into_inner);
        match discovery::discover(&self.named, search) {
            // A restart may end all of them before it starts others.
            Discovery::Nothing if restarted.is_some_and(|at| at.elapsed() < GAP) => Discovery::Starting,
            found => found,
        }
    }

    async fn snapshot(
        &self,
        driver: &Driver<Self>,
        memory: &mut Self::Memory,
        found: Box<Found>,
    ) -> Result<Snapshot, NotFound> {
        let Found { live: processes, beside, parent } = *found;
        let others = || beside.iter().filter_map(|one| one.processes.as_ref());
        let pids = others().flat_map(ServerProcesses::pids).chain(processes.pids()).collect();
        let surroundings = driver.inspector.surroundings(pids, &processes.ports).await;
        let now = Instant::now();
        let count = |one: &ServerProcesses| {
            let root = one.root.process;
            let before = memory.counts.get(&root).copied().unwrap_or_else(|| WorkerCount::new(now));
            (root, before.after(one.serving.len(), self.check.passed_all(&one.serving), now))
        };
        memory.counts = others().chain([&processes]).map(count).collect();
        let live = (processes.main(), &surroundings.ports[..]);
        let sides = Sides::look(driver, &self.settings, &mut memory.taken, (beside, parent), live).await;
        let (counts, check) = (memory.counts.clone(), self.check.clone());
        Ok(Snapshot { processes, surroundings, counts, check, sides })
    }

    fn checks(&self, snapshot: &Snapshot) -> Vec<Check> {
        let (pid, count) = (snapshot.processes.root.process.pid, snapshot.processes.serving.len());
        let remedy = "set drain.ports to the port on which requests arrive";
        let mut checks = vec![
            Check::fine(NAME, format!("found: {count} processes, the oldest is {pid}")),
            requests_are_visible("the named processes are", &snapshot.surroundings.ports, remedy),
            self.last_check(),
            random_addresses(NAME),
        ];
        checks.extend(snapshot.sides.checks(&snapshot.beside(None), &self.settings));
        checks
    }

    async fn plan(&self, _: &Driver<Self>, snapshot: &Snapshot, wanted: Wanted<'_>) -> Result<Plan, Problem> {
        let beside = || snapshot.beside(Some(wanted.release));
        if let Some(Fit { make_room, .. }) = decide(self.settings.mode, wanted.beside, beside)? {
            return Ok(Plan { mode: Mode::Beside, make_room });
        }
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
        if let Some(order) = Order::of(command) {
            return slot_order::give(driver, order, on, self.shared_files(driver)).await;
        }
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

    async fn raised(&self, driver: &Driver<Self>) -> Option<String> {
        sides::raised(&driver.memory().await.parent?)
    }

    /// command.check would ask the live server while a candidate boots: that one has its own check (`verify.url`).
    async fn after_look(&self, _: &Driver<Self>, snapshot: &Snapshot) {
        match snapshot.sides.candidate_processes() {
            Some((run, candidate)) if run.inherited == Some(true) => self.check.accept(&candidate.serving),
            Some(_) => {}
            None => self.check.see_to(&snapshot.processes.serving),
        }
        self.settings.measuring.measure(snapshot.sides.servers(&snapshot.processes)).await;
    }
}

impl CommandServer {
    /// The pid file, which a second server would write its own number into.
    async fn shared_files(&self, driver: &Driver<Self>) -> Vec<PathBuf> {
        let live = driver.memory().await.known.last().copied();
        let Some((live, file)) = live.zip(self.named.pid_file.clone()) else { return Vec::new() };
        let shared = move || aside::shared_name(live.pid, &file);
        driver.inspector.files.look(LIMIT, shared).await.flatten().into_iter().collect()
    }

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

impl Snapshot {
    /// Whether there could be a second server now, of this release.
    fn beside(&self, release: Option<&ReleaseId>) -> Result<Fit, Misfit> {
        self.sides.fit(|| Ok(()), release)
    }

    fn generation(&self, processes: &ServerProcesses) -> Generation {
        let root = processes.root;
        let cwd = match self.surroundings.cwd(root.process.pid) {
            // A process that only starts the others may work anywhere.
            Cwd::Elsewhere if !processes.serving.contains(&root) => Cwd::Unknown,
            cwd => cwd,
        };
        let process = |image: &Image| Process {
            key: image.process_key(),
            cwd: self.surroundings.cwd(image.process.pid),
            booted: self.check.passed(*image),
        };
        Generation {
            key: root.generation_key(),
            master: root.process.key(),
            signalable: true,
            cwd,
            expected: self.counts.get(&root.process).map_or(1, WorkerCount::expected),
            processes: processes.serving.iter().map(process).collect(),
        }
    }

    /// A server that was started beside another one has booted once it takes connections.
    fn candidate_generation(&self, processes: &ServerProcesses) -> Generation {
        let takes = self.sides.candidate_processes().is_some_and(|(run, _)| run.inherited == Some(true));
        let mut generation = self.generation(processes);
        generation.processes.iter_mut().for_each(|process| process.booted = takes);
        generation
    }
}

impl server::Snapshot for Snapshot {
    fn app_server(&self) -> crate::core::AppServer {
        let beside = self.sides.for_core(&self.surroundings, |one| self.candidate_generation(one));
        let generations = vec![self.generation(&self.processes)];
        crate::core::AppServer { generations, old_workers: false, beside }
    }

    fn candidate(&self) -> Vec<(i32, ProcessKey)> {
        let serving = self.sides.candidate_processes().map(|(_, one)| &one.serving[..]);
        serving.unwrap_or_default().iter().map(|image| (image.process.pid, image.process_key())).collect()
    }

    fn slots(&self) -> Vec<SlotDescription> {
        self.sides.describe(&self.processes, &self.surroundings)
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
        let dir = tempfile::tempdir().unwrap();
        let location = Location {
            deploy_to: "/".into(),
            fallback: None,
            ports: Vec::new(),
            current: "/".into(),
            state_dir: dir.path().into(),
        };
        let settings = Settings::new(RestartMode::Auto, false, &location).unwrap();
        let server = CommandServer::new(&section, settings, "/".into()).unwrap();
        let root = Image { process: ProcessId { pid: i32::MAX, start: 1 }, at_random: 1 };
        let mut snapshot = Snapshot {
            processes: ServerProcesses { root, serving: vec![root], ports: Vec::new() },
            surroundings: Surroundings::default(),
            counts: HashMap::new(),
            check: server.check.clone(),
            sides: Sides::none(),
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
