//! Which processes are the Puma: a master is found by its title, then followed by pid and start time, because between
//! an exec and its title it looks like any other Ruby. Its workers are what descends from it, and serves or says so in
//! its title: a process may be given any title, and an app may change those of its workers.

use std::time::Duration;

use rustix::process::Signal;

use super::title::{self, Title};
use crate::{
    app_server::{
        server::{Discovery, Search},
        sides,
        trees::{Tree, Trees},
    },
    hook,
    procs::{self, Credentials, Descent, Entry, Image, ProcessId, ProcsError},
};

/// Puma names the thread that accepts requests, in workers and in single mode, only once its app is
/// loaded.
const SERVING_THREAD: &str = "puma srv";
/// The thread that waits for slow clients. There is none with `queue_requests false`.
const REACTOR_THREAD: &str = "puma reactor";
/// A process that lives longer was not started for a moment's work.
const LONG_LIVED_MS: u64 = 5_000;
/// What the names of the pool's threads begin with, and of those that look after it.
const POOL_THREADS: &str = "puma srv t";

/// Puma asks only whether it is set, not to what.
const SKIP_HOT: &str = "PUMA_SKIP_SIGUSR2";

/// No Puma needs longer from its exec to its title: it loads itself and its bundle, not the app.
const LONGEST_START_MS: u64 = 60_000;

/// A look that an exec tears is repeated this often, after a pause: an exec takes a millisecond or so.
const TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(2);

/// The Puma that is looked for, and what its parent has besides.
pub(super) type Found = sides::Found<ServerProcesses>;
pub(super) type Neighbour = sides::Neighbour<ServerProcesses>;

/// A master and its workers, all seen while the master's image stayed the same.
#[derive(Debug)]
pub(super) struct ServerProcesses {
    pub(crate) image: Image,
    /// Its title; `None` between exec and title.
    pub(crate) title: Option<title::Master>,
    /// What it was started with, while that is still to be seen: before the title.
    pub(crate) command_line: Option<String>,
    /// It has a handler for SIGUSR1.
    pub(crate) catches_phased: bool,
    /// It has a handler for SIGUSR2. Ruby has one of its own, so that this alone does not prove Puma's.
    pub(crate) catches_hot: bool,
    /// It was told to have none of its own for SIGUSR2, and would end by the signal.
    pub(crate) skips_hot: bool,
    /// Its own server: single mode, app loaded.
    pub(crate) server: Server,
    /// The TCP ports that it listens on: by its title, else by its open sockets.
    pub(crate) ports: Vec<u16>,
    pub(crate) workers: Vec<Worker>,
    /// What else descends from it.
    pub(crate) others: Vec<Other>,
}

impl ServerProcesses {
    /// SIGUSR2 would restart it, as far as can be seen.
    pub(crate) fn takes_hot(&self) -> bool {
        self.catches_hot && !self.skips_hot
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        let workers = self.workers.iter().map(|worker| worker.id.pid);
        let others = self.others.iter().map(|other| other.id.pid);
        workers.chain(others).chain([self.image.process.pid]).collect()
    }

    /// Takes in what the master itself calls its workers, whatever titles they have.
    pub(crate) fn adopt(&mut self, pids: impl Iterator<Item = i32>) {
        let told: Vec<i32> = pids.collect();
        let (workers, others) = self.others.drain(..).partition(|other| told.contains(&other.id.pid));
        let workers: Vec<Other> = workers;
        self.workers.extend(workers.iter().map(|other| Worker { id: other.id, serves: other.serves }));
        self.others = others;
    }

    /// A child of the master that stays and is no worker: a phased restart leaves it as it is.
    pub(crate) fn long_lived_child(&self) -> Option<&Other> {
        self.others.iter().find(|other| other.is_child && other.age_ms >= LONG_LIVED_MS)
    }
}

/// Puma's server in one process, by its threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Server {
    /// The thread that accepts. Told to stop, it accepts nothing any more, but lives until all others have ended.
    pub(crate) acceptor: bool,
    /// The reactor, the first to be ended in a stop.
    pub(crate) reactor: bool,
    /// At least one of the pool's.
    pub(crate) pool: bool,
}

impl Server {
    fn of(pid: i32) -> Self {
        let threads = procs::threads(pid);
        let named = |name: &str| threads.iter().any(|thread| thread == name);
        Self {
            acceptor: named(SERVING_THREAD),
            reactor: named(REACTOR_THREAD),
            pool: threads.iter().any(|thread| thread.starts_with(POOL_THREADS)),
        }
    }

    /// Whether it accepts requests: it does not from the moment on when its reactor, if it `had` one, has ended.
    pub(crate) fn accepts(self, had_reactor: bool) -> bool {
        self.acceptor && (self.reactor || self.pool && !had_reactor)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Worker {
    pub(crate) id: ProcessId,
    pub(crate) serves: bool,
}

/// A process that descends from the master and is no worker, as far as is known.
#[derive(Debug, Clone)]
pub(super) struct Other {
    pub(crate) id: ProcessId,
    /// What it calls itself.
    pub(crate) title: String,
    /// The master itself has started it.
    pub(crate) is_child: bool,
    pub(crate) serves: bool,
    /// For how long it has been there.
    pub(crate) age_ms: u64,
}

/// Looks for the master: the one that is followed while it lives, and any whose title contains the text wanted.
/// A master that is followed and alone, or chosen, is looked at; of others only the list is given. What the parent has
/// in other slots than the live one is never meant. `starting` gets Rubies that may be about to become a master, with
/// their command lines.
pub(super) fn discover(search: &Search, starting: impl FnOnce(Vec<Entry>)) -> Discovery<Box<Found>> {
    let Some(table) = Table::read() else { return Discovery::Torn };
    let trees = Trees::of(search.parent.as_ref(), &table.entries, &table.descent);
    if let Some(chosen) = search.chosen {
        return table.found(chosen, trees, search);
    }
    let is_beside = |id: &ProcessId| trees.is_beside(id.pid);
    let followed = search.known.first().copied().filter(|known| !is_beside(known));
    let masters = table.masters(search.matching.as_deref()).map(|entry| entry.id);
    let mut masters: Vec<ProcessId> = of_our_user(masters.filter(|id| !is_beside(id)).collect());
    if let Some(known) = followed.filter(|known| known.lives() && !masters.contains(known)) {
        masters.push(known);
    }
    if masters.iter().any(|id| trees.is_live(id.pid)) {
        masters.retain(|id| trees.is_live(id.pid));
    }
    let wanted = followed.is_none() || !trees.others.is_empty();
    let young = if wanted { table.starting() } else { Vec::new() };
    let becomes_one = young.iter().any(|entry| !is_beside(&entry.id));
    starting(young);
    match masters[..] {
        [] if followed.is_none() && becomes_one => Discovery::Starting,
        [] => Discovery::Nothing,
        [one] if followed == Some(one) || trees.is_live(one.pid) => table.found(one, trees, search),
        _ => Discovery::Candidates(masters.into_iter().map(|master| vec![master]).collect()),
    }
}

/// Looks at this master, whichever others there are.
pub(super) fn look_at(master: ProcessId) -> Discovery<ServerProcesses> {
    Table::read().map_or(Discovery::Torn, |table| table.look_at(master))
}

/// All masters that can be seen, of any user.
pub(super) fn masters_of(narrow: Option<&str>) -> Vec<Entry> {
    Table::read().map(|table| table.masters(narrow).cloned().collect()).unwrap_or_default()
}

/// If one belongs to the agent's own user, those of other users are strangers.
fn of_our_user(masters: Vec<ProcessId>) -> Vec<ProcessId> {
    let Ok(ours) = Credentials::of_this_process() else { return masters };
    let is_ours = |master: &ProcessId| Credentials::of(master.pid).is_ok_and(|theirs| theirs.uid == ours.uid);
    let own: Vec<ProcessId> = masters.iter().copied().filter(is_ours).collect();
    if own.is_empty() { masters } else { own }
}

/// All processes, as they were seen together.
struct Table {
    entries: Vec<Entry>,
    descent: Descent,
}

impl Table {
    fn read() -> Option<Self> {
        let entries = procs::list(|_| true).ok()?;
        Some(Self { descent: Descent::of(&entries), entries })
    }

    fn entry(&self, pid: i32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id.pid == pid)
    }

    /// The masters. What descends from one is none: a child that was just forked still wears its parent's title, and a
    /// worker of Puma 6.6 or later that got a SIGUSR1 of its own takes a master's title, with the tag of where
    /// `current` leads by then.
    fn masters<'a>(&'a self, narrow: Option<&'a str>) -> impl Iterator<Item = &'a Entry> {
        let below_one =
            |entry: &Entry| self.descent.above(entry.id.pid).filter_map(|pid| self.entry(pid)).any(is_master);
        self.entries.iter().filter(move |entry| {
            is_master(entry)
                && narrow.is_none_or(|text| entry.title.contains(text))
                && !below_one(entry)
                && !is_tried(entry)
        })
    }

    /// Rubies that may be about to become a master.
    fn starting(&self) -> Vec<Entry> {
        let young = |entry: &Entry| procs::age_ms(entry.id).is_none_or(|age| age < LONGEST_START_MS);
        let starting = |entry: &&Entry| title::is_starting(&entry.title) && young(entry);
        self.entries.iter().filter(starting).cloned().collect()
    }

    /// The master, and what stands beside it.
    fn found(&self, master: ProcessId, trees: Trees, search: &Search) -> Discovery<Box<Found>> {
        let live = match self.look_at(master) {
            Discovery::One(live) => live,
            Discovery::NotPermitted(ports) => return Discovery::NotPermitted(ports),
            Discovery::Torn => return Discovery::Torn,
            _ => return Discovery::Nothing,
        };
        let beside = trees.others.into_iter().map(|tree| self.neighbour(tree)).collect();
        Discovery::One(Box::new(Found { live, beside, parent: search.parent.clone() }))
    }

    fn neighbour(&self, tree: Tree) -> Neighbour {
        let mut masters = self.masters(None).map(|entry| entry.id).filter(|id| tree.pids.contains(&id.pid));
        let processes = match (masters.next(), masters.next()) {
            (Some(one), None) => match self.look_at(one) {
                Discovery::One(processes) => Some(processes),
                _ => None,
            },
            _ => None,
        };
        Neighbour { tree, processes }
    }

    fn look_at(&self, master: ProcessId) -> Discovery<ServerProcesses> {
        for _ in 0..TRIES {
            match self.processes(master) {
                Ok(processes) => return Discovery::One(processes),
                Err(ProcsError::NotPermitted(_)) => return Discovery::NotPermitted(self.ports_of(master)),
                Err(ProcsError::Gone(_)) => return Discovery::Nothing,
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        Discovery::Torn
    }

    /// The title is there for everybody to read.
    fn ports_of(&self, master: ProcessId) -> Vec<u16> {
        let entry = self.entries.iter().find(|entry| entry.id == master);
        match entry.and_then(|entry| Title::parse(&entry.title)) {
            Some(Title::Master(title)) => title.ports(),
            _ => Vec::new(),
        }
    }

    fn processes(&self, master: ProcessId) -> Result<ServerProcesses, ProcsError> {
        let ProcessId { pid, .. } = master;
        let image = Image::of(pid)?;
        if image.process != master {
            return Err(ProcsError::Gone(pid));
        }
        if !procs::may_signal(pid) {
            return Err(ProcsError::NotPermitted(pid));
        }
        let line = Entry::read(pid)?.title;
        let title = match Title::parse(&line) {
            Some(Title::Master(title)) => Some(title),
            _ => None,
        };
        let command_line = title::is_starting(&line).then_some(line);
        let ports = title.as_ref().map(title::Master::ports).filter(|ports| !ports.is_empty());
        let ports = ports.unwrap_or_else(|| procs::listening_ports(pid));
        let caught = procs::caught_signals(pid)?;
        let server = Server::of(pid);
        let (workers, others) = self.below(pid);
        // Everything above was seen of one and the same image, or it proves nothing.
        if Image::of(pid)? != image {
            return Err(ProcsError::Torn(pid));
        }
        let catches = |signal: Signal| caught >> (signal.as_raw() - 1) & 1 == 1;
        let (catches_phased, catches_hot) = (catches(Signal::USR1), catches(Signal::USR2));
        let skips_hot = title.as_ref().is_some_and(title::Master::may_skip_hot)
            && procs::environment(pid, SKIP_HOT).is_some();
        Ok(ServerProcesses {
            image,
            title,
            command_line,
            catches_phased,
            catches_hot,
            skips_hot,
            server,
            ports,
            workers,
            others,
        })
    }

    /// The workers of a master, and what else descends from it.
    fn below(&self, master: i32) -> (Vec<Worker>, Vec<Other>) {
        let (mut workers, mut others) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            if self.is_worker(entry, master) {
                workers.extend(worker(entry));
            } else if self.descent.descends(entry.id.pid, master) {
                others.push(other(entry, master));
            }
        }
        (workers, others)
    }

    fn is_worker(&self, entry: &Entry, master: i32) -> bool {
        let pid = entry.id.pid;
        let titled = Title::parse(&entry.title) == Some(Title::Worker { master });
        if self.descent.descends(pid, master) {
            let forked = self.entry(entry.parent).is_some_and(|parent| parent.title == entry.title);
            // A process that accepts requests on the master's sockets is one, whatever the app calls it.
            titled && !forked || Server::of(pid).acceptor && procs::share_a_socket(pid, master)
        } else {
            // `fork_worker`: the worker that has forked it may have ended.
            titled && procs::same_user(pid, master) && procs::share_a_socket(pid, master)
        }
    }
}

/// A trial boot may be a whole Puma, but it has no clients.
fn is_tried(entry: &Entry) -> bool {
    procs::environment(entry.id.pid, hook::MARK).is_some()
}

fn is_master(entry: &Entry) -> bool {
    matches!(Title::parse(&entry.title), Some(Title::Master(_)))
}

fn other(entry: &Entry, master: i32) -> Other {
    Other {
        id: entry.id,
        title: entry.title.clone(),
        is_child: entry.parent == master,
        serves: Server::of(entry.id.pid).acceptor,
        age_ms: procs::age_ms(entry.id).unwrap_or(0),
    }
}

fn worker(entry: &Entry) -> Option<Worker> {
    let serves = Server::of(entry.id.pid).acceptor;
    // The list is older than the image; only what is still there belongs to it.
    entry.id.lives().then_some(Worker { id: entry.id, serves })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_reactor_has_ended_accepts_nothing_any_more() {
        let accepts = |acceptor, reactor, pool, had| Server { acceptor, reactor, pool }.accepts(had);
        assert!(accepts(true, true, true, true));
        assert!(accepts(true, true, false, true), "no thread is needed while nobody asks");
        assert!(accepts(true, false, true, false), "queue_requests false");
        assert!(!accepts(true, false, true, true), "it waits for its last requests");
        assert!(!accepts(true, false, false, false), "it waits for a thread that has ended");
        assert!(!accepts(false, true, true, true), "its app is not loaded");
    }
}
