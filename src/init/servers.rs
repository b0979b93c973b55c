//! The servers of this container, done: sockets, processes, output. What is decided about them is in `slots`.

mod orders;

use std::{
    collections::HashMap, ffi::OsString, os::fd::OwnedFd, path::PathBuf, sync::mpsc::Sender, time::Duration,
};

use rustix::process::Signal;

use orders::send;

use super::{
    Event, Settings,
    aside::{Aside, Places},
    children,
    handing::Handing,
    learnt,
    output::{Outputs, Tail},
    questions::Asked,
    seen, signals,
    slots::{On, Order, Slots},
};
use crate::{
    config::{AppServerKind, ListenAddress, Place},
    core::Moment,
    failpoint,
    slots::{
        Ended, List, PROTOCOL, Reply, Request, Role, Run, Slot,
        listen::{Group, ListenError},
    },
};

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
const IN_USE: [&str; 2] = ["address already in use", "already a server bound to"];

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
    sockets: Handing,
    /// Connections to servers of which it is not known whether they accept any, by the number of the run.
    knocks: HashMap<u64, Vec<OwnedFd>>,
    /// New connections go where the slots say.
    steered: bool,
}

impl Servers {
    /// Before anything else is opened: a server of any kind gets its sockets under the lowest numbers.
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
            sockets: Handing::new(settings),
            knocks: HashMap::new(),
            steered: true,
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
        self.perform(now, On::Begin, orders)
    }

    /// The sockets, where it is known what the server binds. Where not, the command is started without slots.
    fn open(&self) -> Result<Vec<Group>, String> {
        let known = learnt::choose(&self.listen, &self.state_dir);
        let addresses = match self.server {
            AppServerKind::Command if known.is_empty() => {
                return Err("what the app server listens on is not known: set exec.listen".into());
            }
            AppServerKind::Unicorn
                if known.iter().any(|address| matches!(address.place(), Place::Unix(..))) =>
            {
                return Err("Unicorn finds an inherited unix socket by its path, and each of two servers has a path of \
                            its own: let Unicorn listen on TCP"
                    .into());
            }
            _ if known.is_empty() => learnt::from_files(&self.command_line, &self.current)?,
            _ => known,
        };
        self.sockets.can_be_given(addresses.len())?;
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

    /// What was prepared has been asked for.
    pub(crate) fn prepared(&self) {
        self.aside.started();
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
        let over = self.look_at_queues(now);
        let error = match self.perform_asked(now, request, self.slots.clone()) {
            Ok(()) => {
                if let Request::Share { run, permille } = request {
                    tracing::info!(run, permille, "the second server's share of new connections was set");
                }
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
        if let Some(tail) = self.tails.get(&run.number) {
            tail.wait_for_last(LAST_LINES);
        }
        let collided = run.inherited.is_none()
            && self.slots.holds()
            && IN_USE.iter().any(|words| self.said(&run, words));
        let orders = self.slots.ended(now, pid, how, collided)?;
        self.perform(now, On::End, orders)
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
        self.perform(now, On::Term, orders)
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
        let queues = (self.slots.watched() || !self.steered).then(|| now.plus(QUEUES_EVERY_MS));
        let processes = self.processes_every().map(|pause| self.processes_at.plus(pause).max(now));
        queues.into_iter().chain(processes).min()
    }

    pub(crate) fn tick(&mut self, now: Moment) -> Option<u8> {
        let mut over = None;
        if !self.steered {
            over = self.perform(now, On::End, vec![Order::Steer]);
        }
        if self.slots.watched() {
            over = over.or(self.look_at_queues(now));
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
        self.perform(now, On::Look, orders)
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
                AppServerKind::Command => self.accepts(slot, number).then_some(true),
                _ => seen::inherited(pid, &given),
            };
            if let Some(inherited) = inherited {
                tracing::info!(
                    run = number,
                    slot = slot.name(),
                    inherited,
                    "the server has started to listen"
                );
                failpoint::hit("parent.listens");
                let orders = self.slots.inherited(number, inherited);
                over = over.or(self.perform(now, On::Inherited, orders));
                self.check_binds(slot, pid);
            }
        }
        over
    }

    /// Whatever else a server of any kind does with its sockets, one that has booted accepts connections.
    fn accepts(&mut self, slot: Slot, number: u64) -> bool {
        if let Some(knocks) = self.knocks.remove(&number) {
            let waits = self.groups.iter().any(|group| group.waits(slot));
            if waits {
                self.knocks.insert(number, knocks);
            }
            return !waits;
        }
        let candidate = slot != self.slots.live();
        let made = self.groups.iter().map(|group| group.knock(slot, candidate)).collect();
        let made: std::io::Result<Vec<OwnedFd>> = made;
        match made {
            Ok(knocks) => drop(self.knocks.insert(number, knocks)),
            Err(error) => tracing::debug!(%error, "no connection to the server that was started"),
        }
        self.knocks.retain(|number, _| self.slots.knows(*number));
        false
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
                 exec.listen"
            ));
        }
    }

    /// The last of what was written goes on.
    pub(crate) fn finish(self) {
        self.outputs.finish(LAST_OUTPUT);
    }
}

fn explain_end(run: &Run, how: Ended) {
    let (pid, number, code) = (run.pid, run.number, children::exit_code(how));
    tracing::info!(pid, run = number, code, "the command exited");
}
