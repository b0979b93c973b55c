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
    time::Duration,
};

use rustix::{
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    process::Signal,
};

use super::{
    Settings, children,
    output::{Outputs, Tail},
    reach::{self, Tree},
    seen, signals,
    slots::{Order, Slots},
};
use crate::{
    config::{DRAIN_FILE, DRAIN_FILE_VARIABLE, ListenAddress, SLOT_VARIABLE},
    core::Moment,
    procs::ProcessId,
    slots::{Ended, List, PROTOCOL, Reply, Request, Run, Slot, listen::Group},
};

/// The descriptors that a server inherits begin here: a Puma that restarts itself may close some of them by their
/// numbers once more, and Ruby's own are lower.
const FIRST_DESCRIPTOR: i32 = 200;
/// Between two looks at the queues, while two servers are there.
const QUEUES_EVERY_MS: u64 = 15;
/// Between two looks at what a server listens on, while that is not known.
const PROCESSES_EVERY_MS: u64 = 200;
/// For what was written to go on, at the end.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// What Puma says when it cannot have its address.
const IN_USE: &str = "Address already in use";

#[derive(Debug)]
pub(crate) struct Servers {
    slots: Slots,
    groups: Vec<Group>,
    outputs: Outputs,
    tails: HashMap<u64, Tail>,
    command_line: Vec<OsString>,
    drain_file: PathBuf,
    json_log: bool,
    processes_at: Moment,
}

impl Servers {
    /// Opens the addresses, if any are known. Where that fails, the command is started without slots.
    pub(crate) fn new(settings: &Settings) -> Self {
        let (groups, unfit) = open(&settings.listen);
        let addresses = groups.iter().map(|group| group.address().text().to_owned()).collect();
        Self {
            slots: Slots::new(addresses, unfit),
            groups,
            outputs: Outputs::new(),
            tails: HashMap::new(),
            command_line: settings.command.clone(),
            drain_file: settings.state_dir.join(DRAIN_FILE),
            json_log: settings.json_log,
            processes_at: Moment(0),
        }
    }

    /// Starts the container's first server. `Some` whenever the container's end has come: the exit code.
    pub(crate) fn begin(&mut self, now: Moment) -> Option<u8> {
        let orders = self.slots.begin(now);
        self.perform(now, orders)
    }

    pub(crate) fn ask(&mut self, now: Moment, request: &Request) -> (Reply, Option<u8>) {
        // A look at the queues goes with each answer.
        let mut over = self.look_at_queues(now);
        let error = match self.slots.ask(now, request) {
            Ok(orders) => {
                over = over.or(self.perform(now, orders));
                None
            }
            Err(why) => Some(why),
        };
        if let (Some(error), false) = (&error, *request == Request::List) {
            tracing::warn!(error, "the agent's request was refused");
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
        let collided = run.inherited.is_none() && self.slots.holds() && self.said(&run, IN_USE);
        let orders = self.slots.ended(now, pid, how, collided)?;
        self.perform(now, orders)
    }

    fn said(&self, run: &Run, words: &str) -> bool {
        let lines = self.tails.get(&run.number).map(Tail::lines).unwrap_or_default();
        lines.iter().any(|line| line.contains(words))
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
        let processes = self.unknown().then(|| self.processes_at.plus(PROCESSES_EVERY_MS).max(now));
        queues.into_iter().chain(processes).min()
    }

    pub(crate) fn tick(&mut self, now: Moment) -> Option<u8> {
        let mut over = None;
        if self.slots.watched() {
            over = self.look_at_queues(now);
        }
        if self.unknown() && now >= self.processes_at.plus(PROCESSES_EVERY_MS) {
            over = over.or(self.look_at_processes(now));
        }
        over
    }

    /// It is not known yet of each server whether it has taken its sockets.
    fn unknown(&self) -> bool {
        self.slots.holds() && self.slots.alive().any(|(_, run)| run.inherited.is_none())
    }

    fn look_at_queues(&mut self, now: Moment) -> Option<u8> {
        let waits = Slot::ALL.map(|slot| self.groups.iter().any(|group| group.waits(slot)));
        let orders = self.slots.look(now, waits);
        self.perform(now, orders)
    }

    fn look_at_processes(&mut self, now: Moment) -> Option<u8> {
        self.processes_at = now;
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
            if let Some(inherited) = seen::inherited(pid, &given) {
                tracing::info!(
                    run = number,
                    slot = slot.name(),
                    inherited,
                    "the server has started to listen"
                );
                let orders = self.slots.inherited(number, inherited);
                over = over.or(self.perform(now, orders));
            }
        }
        over
    }

    fn perform(&mut self, now: Moment, orders: Vec<Order>) -> Option<u8> {
        let mut over = None;
        for order in orders {
            match order {
                Order::Empty(slot) => self.empty(slot),
                Order::Steer => self.steer(),
                Order::Spawn(slot) => over = over.or(self.spawn(now, slot)),
                Order::Signal(pid, signal) => {
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
        over
    }

    fn empty(&self, slot: Slot) {
        let found: usize = self.groups.iter().map(|group| group.empty(slot)).sum();
        if found > 0 {
            tracing::warn!(slot = slot.name(), found, "closed connections that nobody would have accepted");
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
        command.env(DRAIN_FILE_VARIABLE, &self.drain_file).process_group(0);
        command
    }

    /// `PUMA_INHERIT_n=FD:URL`, for each name that a socket may have a descriptor of its own: Puma closes those that
    /// it has no use for.
    fn give_sockets(&self, command: &mut Command, slot: Slot) -> rustix::io::Result<Vec<OwnedFd>> {
        let mut given = Vec::new();
        for group in &self.groups {
            let Some(socket) = group.socket(slot) else { continue };
            for name in group.address().names() {
                let copy = fcntl_dupfd_cloexec(socket, FIRST_DESCRIPTOR)?;
                fcntl_setfd(&copy, FdFlags::empty())?;
                command.env(format!("PUMA_INHERIT_{}", given.len()), format!("{}:{name}", copy.as_raw_fd()));
                given.push(copy);
            }
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

fn open(addresses: &[ListenAddress]) -> (Vec<Group>, Option<String>) {
    if addresses.is_empty() {
        return (Vec::new(), Some("exec.listen is not set".into()));
    }
    let groups: Result<Vec<Group>, _> =
        addresses.iter().map(|address| Group::open(address, Slot::A)).collect();
    match groups {
        Ok(groups) => (groups, None),
        Err(error) => {
            tracing::error!(%error, "a second server cannot be started beside the first");
            (Vec::new(), Some(error.to_string()))
        }
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
