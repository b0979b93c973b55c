//! The servers of this container, done: sockets, processes, output. What is decided about them is in `slots`.

use std::{
    collections::HashMap,
    ffi::OsString,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::Command,
    sync::mpsc::Sender,
    time::Duration,
};

use rustix::{
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    process::Signal,
};

use super::{
    Event, Settings,
    aside::{Aside, Places},
    children, learnt,
    output::{Outputs, Tail},
    questions::Asked,
    reach::{self, Tree},
    seen, signals,
    slots::{Order, Slots},
};
use crate::{
    config::{AppServerKind, COUNTS_VARIABLE, DRAIN_FILE, DRAIN_FILE_VARIABLE, ListenAddress, SLOT_VARIABLE},
    core::Moment,
    procs::ProcessId,
    slots::{
        Ended, List, PROTOCOL, Reply, Request, Role, Run, Slot, counts,
        listen::{Group, ListenError},
    },
};

/// The descriptors that a server inherits begin here: a Puma that restarts itself may close some of them by their
/// numbers once more, and Ruby's own are lower.
const FIRST_DESCRIPTOR: i32 = 200;
/// Between two looks at the queues, while two servers are there.
const QUEUES_EVERY_MS: u64 = 15;
/// Between two looks at what a server listens on, while that is not known.
const PROCESSES_EVERY_MS: u64 = 200;
/// Between two looks for what the server binds, while that is not known: in its first minute, and later.
const BINDS_EVERY_MS: [u64; 2] = [1_000, 30_000];
const FIRST_MINUTE_MS: u64 = 60_000;
/// For what was written to go on, at the end.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// For what a server wrote last to be read, once it has ended.
const LAST_LINES: Duration = Duration::from_millis(300);
/// What servers say when they cannot have their address, in small letters.
const IN_USE: &str = "address already in use";

#[derive(Debug)]
pub(crate) struct Servers {
    slots: Slots,
    groups: Vec<Group>,
    outputs: Outputs,
    tails: HashMap<u64, Tail>,
    command_line: Vec<OsString>,
    listen: Vec<ListenAddress>,
    server: AppServerKind,
    current: PathBuf,
    state_dir: PathBuf,
    json_log: bool,
    aside: Aside,
    processes_at: Moment,
    /// What the server binds is known, or kept for the next start.
    learnt: bool,
}

impl Servers {
    pub(crate) fn new(settings: &Settings, events: Sender<Event>) -> Self {
        Self {
            slots: Slots::new(),
            groups: Vec::new(),
            outputs: Outputs::new(),
            tails: HashMap::new(),
            command_line: settings.command.clone(),
            listen: settings.listen.clone(),
            server: settings.server,
            state_dir: settings.state_dir.clone(),
            current: settings.current.clone(),
            json_log: settings.json_log,
            aside: Aside::new(events),
            processes_at: Moment(0),
            learnt: false,
        }
    }

    /// Starts the container's first server. `Some` whenever the container's end has come: the exit code.
    pub(crate) fn begin(&mut self, now: Moment) -> Option<u8> {
        match self.open() {
            Ok(groups) => self.groups = groups,
            Err(why) => self.slots.unfit(why),
        }
        let addresses = self.groups.iter().map(|group| group.address().text().to_owned()).collect();
        let orders = self.slots.begin(now, addresses);
        self.perform(now, orders)
    }

    /// The sockets, where it is known what the server binds. Where not, the command is started without slots.
    fn open(&self) -> Result<Vec<Group>, String> {
        let known = learnt::choose(&self.listen, &self.state_dir);
        let addresses =
            if known.is_empty() { learnt::from_files(&self.command_line, &self.current)? } else { known };
        let groups = addresses.iter().map(|address| Group::open(address, Slot::A)).collect();
        let groups: Result<Vec<Group>, ListenError> = groups;
        groups.map_err(|error| {
            tracing::error!(%error, "no server can be started beside the first");
            error.to_string()
        })
    }

    /// Takes a start for which files have to go aside first: it comes back as [`Event::Prepared`].
    pub(crate) fn prepare(&self, asked: Asked) -> Option<Asked> {
        let Request::Start { slot, aside, .. } = &asked.request else { return Some(asked) };
        let live = self.slots.run(self.slots.live()).map(|run| (run.number, self.slots.live()));
        let (Some(live), Ok(()), false) = (live, self.slots.may_start(*slot), aside.is_empty()) else {
            return Some(asked);
        };
        let files = aside.clone();
        self.aside.before(asked, files, live).err()
    }

    /// Where the files of each run are.
    pub(crate) fn put_aside(&mut self, places: Vec<(u64, Places)>) {
        for (number, places) in places {
            if let Some(run) = self.slots.run_mut(number) {
                run.aside = places;
            }
        }
    }

    pub(crate) fn ask(&mut self, now: Moment, request: &Request) -> (Reply, Option<u8>) {
        // A look at the queues goes with each answer.
        let mut over = self.look_at_queues(now);
        let error = match self.slots.ask(now, request) {
            Ok(orders) => {
                if let Request::Share { run, permille } = request {
                    tracing::info!(run, permille, "the second server's share of new connections was set");
                }
                over = over.or(self.perform(now, orders));
                None
            }
            Err(why) => Some(why),
        };
        if let (Some(error), false) = (&error, *request == Request::List) {
            tracing::warn!(error, "the agent's request was refused");
            self.aside.settle();
        }
        (Reply { v: PROTOCOL, error, list: self.list(now) }, over)
    }

    fn list(&self, now: Moment) -> List {
        let mut list = self.slots.list(now);
        for run in list.slots.iter_mut().filter_map(|state| state.run.as_mut()) {
            run.tail = self.tails.get(&run.number).map(Tail::lines).unwrap_or_default();
        }
        list
    }

    /// A process of ours has ended, perhaps a server.
    pub(crate) fn ended(&mut self, now: Moment, pid: i32, how: Ended) -> Option<u8> {
        let run = self.slots.alive().find(|(_, run)| run.pid == pid).map(|(_, run)| run.clone())?;
        explain_end(&run, how);
        if let Some(tail) = self.tails.get(&run.number) {
            tail.wait_for_last(LAST_LINES);
        }
        let collided = run.inherited.is_none() && self.slots.holds() && self.said(&run, IN_USE);
        let orders = self.slots.ended(now, pid, how, collided)?;
        self.perform(now, orders)
    }

    fn said(&self, run: &Run, words: &str) -> bool {
        let lines = self.tails.get(&run.number).map(Tail::lines).unwrap_or_default();
        lines.iter().any(|line| line.to_lowercase().contains(words))
    }

    /// SIGTERM was received, and is held.
    pub(crate) fn stop_soon(&mut self) {
        self.slots.stop_soon();
    }

    /// Passes the signal for the end on to all, and gives the sockets up.
    pub(crate) fn stop_all(&mut self, now: Moment, signal: Signal) -> Option<u8> {
        let orders = self.slots.stop_all(signal);
        self.perform(now, orders)
    }

    /// Gives any other signal to the live server.
    pub(crate) fn pass_on(&self, signal: Signal) {
        if let Some(pid) = self.slots.live_pid() {
            send(pid, signal);
        }
    }

    /// The processes that were started and have not ended.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.slots.alive().map(|(_, run)| run.pid).collect()
    }

    /// When there is something to look at.
    pub(crate) fn due(&self, now: Moment) -> Option<Moment> {
        let queues = self.slots.watched().then(|| now.plus(QUEUES_EVERY_MS));
        let processes = self.processes_every().map(|pause| self.processes_at.plus(pause).max(now));
        queues.into_iter().chain(processes).min()
    }

    pub(crate) fn tick(&mut self, now: Moment) -> Option<u8> {
        let mut over = None;
        if self.slots.watched() {
            over = self.look_at_queues(now);
        }
        if self.processes_every().is_some_and(|pause| now >= self.processes_at.plus(pause)) {
            self.processes_at = now;
            over = over.or(if self.slots.holds() { self.look_at_processes(now) } else { self.learn() });
        }
        over
    }

    /// Processes are looked at while it is not known of a server whether it has taken its sockets, or what it binds.
    fn processes_every(&self) -> Option<u64> {
        let unknown = self.slots.alive().any(|(_, run)| run.inherited.is_none());
        match self.slots.holds() {
            true => unknown.then_some(PROCESSES_EVERY_MS),
            false => {
                let live =
                    self.slots.run(self.slots.live()).filter(|run| !self.learnt && run.ended.is_none())?;
                let young = self.processes_at.0.saturating_sub(live.started_ms) < FIRST_MINUTE_MS;
                Some(BINDS_EVERY_MS[usize::from(!young)])
            }
        }
    }

    fn learn(&mut self) -> Option<u8> {
        let binds = seen::binds_of(self.slots.live_pid()?)?;
        self.learnt = true;
        let unfit = learnt::keep(&binds, &self.state_dir);
        tracing::info!("{unfit}");
        self.slots.unfit(unfit);
        None
    }

    fn look_at_queues(&mut self, now: Moment) -> Option<u8> {
        let waits = Slot::ALL.map(|slot| self.groups.iter().any(|group| group.waits(slot)));
        let orders = self.slots.look(now, waits);
        self.perform(now, orders)
    }

    fn look_at_processes(&mut self, now: Moment) -> Option<u8> {
        let unknown: Vec<(Slot, u64, i32)> = self
            .slots
            .alive()
            .filter(|(_, run)| run.inherited.is_none())
            .map(|(slot, run)| (slot, run.number, run.pid))
            .collect();
        let mut over = None;
        for (slot, number, pid) in unknown {
            let given = |group: &Group| Some((group.inode(slot)?, group.address().names().len()));
            let given: Vec<_> = self.groups.iter().filter_map(given).collect();
            let inherited = match self.server {
                AppServerKind::Unicorn => seen::inherited_by_unicorn(pid, &given),
                _ => seen::inherited(pid, &given),
            };
            if let Some(inherited) = inherited {
                tracing::info!(
                    run = number,
                    slot = slot.name(),
                    inherited,
                    "the server has started to listen"
                );
                let orders = self.slots.inherited(number, inherited);
                over = over.or(self.perform(now, orders));
                self.check_binds(slot, pid);
            }
        }
        over
    }

    /// Where the live server listens besides, a second one could not.
    fn check_binds(&mut self, slot: Slot, pid: i32) {
        if slot != self.slots.live() || !self.slots.holds() {
            return;
        }
        let names: Vec<String> = self.groups.iter().flat_map(|group| group.address().names()).collect();
        let binds = seen::binds_of(pid).unwrap_or_default();
        if let Some(other) = binds.into_iter().find(|bind| !names.contains(bind)) {
            self.slots.unfit(format!(
                "the app server also listens on {other}, where a second one could not: name all of its addresses in \
                 exec.listen, and let it listen on TCP only"
            ));
        }
    }

    fn perform(&mut self, now: Moment, orders: Vec<Order>) -> Option<u8> {
        let mut over = None;
        for order in orders {
            match order {
                Order::Empty(slot) => self.empty(slot),
                Order::Steer => self.steer(),
                Order::Spawn(slot) => over = over.or(self.spawn(now, slot)),
                Order::Signal(pid, signal) => {
                    let signal = self.graceful(pid, signal);
                    tracing::info!(pid, signal = signals::name(signal), "signal sent to a server");
                    send(pid, signal);
                }
                Order::Kill(pid) => kill(pid),
                Order::Close => {
                    let live = self.slots.live();
                    self.groups.drain(..).for_each(|group| group.close(live));
                }
                Order::Over(how) => over = Some(children::exit_code(how)),
            }
        }
        self.aside.alive(self.slots.alive().map(|(slot, run)| (run.number, slot)).collect());
        over
    }

    /// Nobody is left who would take connections there: a server that went into the background has no run any more.
    fn empty(&self, slot: Slot) {
        let sockets: Vec<u64> = self.groups.iter().filter_map(|group| group.inode(slot)).collect();
        let running: Vec<i32> = self.pids().into_iter().filter(|pid| *pid > 0).collect();
        if slot != self.slots.live() {
            seen::left_behind(&sockets, &running).into_iter().for_each(kill);
        }
        let found: usize = self.groups.iter().map(|group| group.empty(slot)).sum();
        if found > 0 {
            tracing::info!(slot = slot.name(), found, "closed connections that nobody would have accepted");
        }
    }

    fn steer(&self) {
        let (live, candidate) = (self.slots.live(), self.slots.candidate());
        for group in &self.groups {
            if let Err(error) = group.steer(live, candidate) {
                tracing::error!(address = group.address().text(), %error, "new connections cannot be steered");
            }
        }
    }

    fn spawn(&mut self, now: Moment, slot: Slot) -> Option<u8> {
        let number = self.slots.run(slot)?.number;
        let started = self.start(slot, number);
        let Err(code) = started else { return None };
        // Never started, and so ended.
        self.slots.started(slot, 0, 0);
        let orders = self.slots.ended(now, 0, Ended::Code(code.into()), false)?;
        self.perform(now, orders)
    }

    fn start(&mut self, slot: Slot, number: u64) -> Result<(), u8> {
        let mut command = self.trampoline();
        // Open until the child has them.
        let _given = self.give_sockets(&mut command, slot).map_err(not_run)?;
        if self.slots.holds() {
            match counts::prepare(&self.state_dir, number, |number| self.slots.knows(number)) {
                Ok(dir) => {
                    command.env(COUNTS_VARIABLE, dir);
                }
                Err(error) => tracing::warn!(%error, "the requests of this server are not counted"),
            }
            let tail = self.outputs.take(&mut command).map_err(not_run)?;
            self.tails.retain(|number, _| self.slots.knows(*number));
            self.tails.insert(number, tail);
        }
        let pid = children::spawn(command)?;
        let start_time = ProcessId::of(pid).map_or(0, |process| process.start);
        tracing::info!(pid, run = number, slot = slot.name(), "command started");
        self.slots.started(slot, pid, start_time);
        Ok(())
    }

    /// `pitstop exec --child-of US -- LINE`: see `trampoline`. Its group is its own, so that signals to the
    /// whole group of ours (`dumb-init`) reach nobody but us.
    fn trampoline(&self) -> Command {
        let mut command = Command::new(children::OURSELVES);
        command.arg0("pitstop").args(self.json_log.then_some("--json")).arg("exec");
        command.arg("--child-of").arg(children::own_pid().to_string()).arg("--").args(&self.command_line);
        command.env(DRAIN_FILE_VARIABLE, self.state_dir.join(DRAIN_FILE)).process_group(0);
        command
    }

    /// What asks Unicorn to drop its requests asks it to finish them instead, unless no client has any: SIGTERM is other
    /// servers' signal for a graceful end.
    fn graceful(&self, pid: i32, signal: Signal) -> Signal {
        let candidate = self.slots.alive().any(|(_, run)| run.pid == pid && run.role == Role::Candidate);
        let drops = self.server == AppServerKind::Unicorn && signal == Signal::TERM;
        if drops && !candidate { Signal::QUIT } else { signal }
    }

    /// `PUMA_INHERIT_n=FD:URL`, for each name that a socket may have a descriptor of its own: Puma closes those that
    /// it has no use for. `UNICORN_FD=FD,FD`: Unicorn looks what each of them is bound to.
    fn give_sockets(&self, command: &mut Command, slot: Slot) -> rustix::io::Result<Vec<OwnedFd>> {
        let mut given: Vec<OwnedFd> = Vec::new();
        let unicorn = self.server == AppServerKind::Unicorn;
        for group in &self.groups {
            let Some(socket) = group.socket(slot) else { continue };
            let names = group.address().names();
            for name in names.iter().take(if unicorn { 1 } else { names.len() }) {
                // Where so many may not be open, any number does.
                let copy = fcntl_dupfd_cloexec(socket, FIRST_DESCRIPTOR)
                    .or_else(|_| fcntl_dupfd_cloexec(socket, 3))?;
                fcntl_setfd(&copy, FdFlags::empty())?;
                if !unicorn {
                    command
                        .env(format!("PUMA_INHERIT_{}", given.len()), format!("{}:{name}", copy.as_raw_fd()));
                }
                given.push(copy);
            }
        }
        if unicorn && !given.is_empty() {
            let numbers: Vec<String> = given.iter().map(|copy| copy.as_raw_fd().to_string()).collect();
            command.env("UNICORN_FD", numbers.join(","));
        }
        if !given.is_empty() {
            command.env(SLOT_VARIABLE, slot.name());
        }
        Ok(given)
    }

    /// The last of what was written goes on.
    pub(crate) fn finish(self) {
        self.outputs.finish(LAST_OUTPUT);
    }
}

fn not_run(error: impl Into<std::io::Error>) -> u8 {
    let error: std::io::Error = error.into();
    tracing::error!(%error, "the command cannot be started: check the limit of open files");
    children::NOT_RUN
}

/// To the processes that handle it, past shells that it would kill.
fn send(pid: i32, signal: Signal) {
    let reached = Tree::now().map_or(0, |tree| tree.send(pid, signal));
    match reached {
        0 if reach::ends_by_default(signal) => children::send(pid, signal),
        0 => tracing::warn!(
            signal = signals::name(signal),
            "signal not forwarded: no process of the command handles it"
        ),
        _ => {}
    }
}

fn kill(pid: i32) {
    tracing::warn!(pid, "sending SIGKILL to a server");
    let below = Tree::now().map(|tree| tree.below(pid)).unwrap_or_default();
    for pid in std::iter::once(pid).chain(below) {
        children::send(pid, Signal::KILL);
    }
}

fn explain_end(run: &Run, how: Ended) {
    let (pid, number, code) = (run.pid, run.number, children::exit_code(how));
    tracing::info!(pid, run = number, code, "the command exited");
}
