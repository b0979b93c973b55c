//! Which processes are the Unicorn: masters by their titles, a master that is still loading by its parent,
//! and which of them belong together by the sockets that they hand to each other.
//!
//! A fork looks like its parent until it has given itself a title. But it has its parent's addresses too,
//! where a master that was started anew has addresses of its own (see [`crate::procs`]).

use std::collections::HashMap;

use rustix::process::Signal;

use super::title::{self, Title};
use crate::{
    app_server::{
        server::{Discovery, Search},
        sides::{self, Neighbour, Processes},
        trees::{Tree, Trees},
    },
    config::SLOT_VARIABLE,
    procs::{self, Entry, Image, ProcessId, ProcsError},
};

/// Handed from master to master; the first one has none.
const INHERITED: &str = "UNICORN_FD";
/// Set in a worker that is started by an exec (`worker_exec`).
const IS_WORKER: &str = "UNICORN_WORKER";

/// The masters of one server, oldest first; at least one.
#[derive(Debug, Clone)]
pub(super) struct ServerProcesses {
    pub(crate) masters: Vec<Master>,
}

/// One master and its workers.
#[derive(Debug, Clone)]
pub(super) struct Master {
    pub(crate) image: Image,
    pub(crate) parent: i32,
    /// `None` while it loads.
    pub(crate) title: Option<title::Master>,
    /// No other master started it: the container may end with it.
    pub(crate) first: bool,
    /// Its input is a terminal: it ignores SIGWINCH.
    pub(crate) on_terminal: bool,
    /// The TCP ports that it listens on.
    pub(crate) ports: Vec<u16>,
    pub(crate) sockets: Vec<u64>,
    pub(crate) workers: Vec<Worker>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Worker {
    pub(crate) id: ProcessId,
    /// It has loaded the app and accepts requests.
    pub(crate) booted: bool,
}

impl ServerProcesses {
    /// The master that was started last.
    pub(crate) fn newest(&self) -> &Master {
        self.masters.last().expect("a server has a master")
    }

    /// Those that serve, or are to serve. A master without workers that stands before another only holds the
    /// container.
    pub(crate) fn generations(&self) -> Vec<&Master> {
        let newest = self.newest().image;
        self.masters.iter().filter(|master| !master.workers.is_empty() || master.image == newest).collect()
    }

    /// Its masters, oldest first.
    pub(crate) fn ids(&self) -> Vec<ProcessId> {
        self.masters.iter().map(|master| master.image.process).collect()
    }

    /// Everything that it listens on over TCP.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.masters.iter().flat_map(|master| master.ports.clone()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

impl Processes for ServerProcesses {
    fn main(&self) -> i32 {
        self.newest().image.process.pid
    }

    fn pids(&self) -> Vec<i32> {
        let workers = self.masters.iter().flat_map(|master| &master.workers).map(|worker| worker.id.pid);
        workers.chain(self.ids().into_iter().map(|master| master.pid)).collect()
    }
}

impl Master {
    /// Its end must not be the container's: nobody else holds that.
    pub(crate) fn holds_container(&self) -> bool {
        self.first && !self.title.as_ref().is_some_and(title::Master::daemonized)
    }
}

/// The Unicorn that is looked for, and what its parent has besides.
pub(super) type Found = sides::Found<ServerProcesses>;

/// Takes the masters of a tree from those that were found.
fn taken(tree: Tree, servers: &mut Vec<ServerProcesses>) -> Neighbour<ServerProcesses> {
    let masters: Vec<Master> = servers
        .iter_mut()
        .flat_map(|server| {
            server.masters.extract_if(.., |master| tree.pids.contains(&master.image.process.pid))
        })
        .collect();
    servers.retain(|server| !server.masters.is_empty());
    Neighbour { tree, processes: (!masters.is_empty()).then_some(ServerProcesses { masters }) }
}

/// Looks for the servers whose title contains the text. What the parent has in other slots than the live one is never
/// meant.
pub(super) fn discover(search: &Search) -> Discovery<Box<Found>> {
    let Some(Table { entries, mut servers, denied }) = Table::read(&search.known) else {
        return Discovery::Torn;
    };
    servers.retain(|server| is_meant(server, search.matching.as_deref(), &entries));
    let trees = Trees::read(search.parent.as_ref());
    let beside: Vec<_> = trees.others.into_iter().map(|tree| taken(tree, &mut servers)).collect();
    if let Some(live) = trees.live.and_then(|tree| taken(tree, &mut servers).processes) {
        servers = vec![live];
    }
    let found = |live| Discovery::One(Box::new(Found { live, beside, parent: search.parent.clone() }));
    let starting = entries.iter().any(|entry| title::is_starting(&entry.title));
    let has = |master: &ProcessId| servers.iter().position(|server| server.ids().contains(master));
    let known = search.known.iter().find_map(has).filter(|_| servers.len() == 1);
    match (search.chosen.as_ref().and_then(has).or(known), servers.is_empty()) {
        (Some(at), _) => found(servers.swap_remove(at)),
        (None, false) => Discovery::Candidates(servers.iter().map(ServerProcesses::ids).collect()),
        (None, true) if denied => Discovery::NotPermitted(Vec::new()),
        (None, true) if starting && search.known.is_empty() => Discovery::Starting,
        (None, true) => Discovery::Nothing,
    }
}

/// All Unicorns, as they were seen together.
pub(super) struct Table {
    entries: Vec<Entry>,
    pub(crate) servers: Vec<ServerProcesses>,
    /// There is a master that may not be looked into.
    pub(crate) denied: bool,
}

impl Table {
    /// A master of `known` counts though it has no title yet. `None` when one changed while it was read.
    pub(crate) fn read(known: &[ProcessId]) -> Option<Self> {
        let wanted = |title: &str| Title::parse(title).is_some() || title::is_starting(title);
        let entries = procs::list(wanted).ok()?;
        let mut found =
            Masters { entries: &entries, known, images: HashMap::new(), masters: vec![], denied: false };
        found.look().ok()?;
        let (masters, denied) = (found.masters, found.denied);
        Some(Self { servers: servers(masters), denied, entries })
    }
}

/// All masters that can be seen, of any user.
pub(super) fn masters_of(narrow: Option<&str>) -> Vec<Entry> {
    let is_master = |title: &str| {
        matches!(Title::parse(title), Some(Title::Master(_)))
            && narrow.is_none_or(|narrow| title.contains(narrow))
    };
    procs::list(is_master).unwrap_or_default()
}

fn is_meant(processes: &ServerProcesses, narrow: Option<&str>, entries: &[Entry]) -> bool {
    let Some(narrow) = narrow else { return true };
    let titled = |pid: i32| entries.iter().any(|entry| entry.id.pid == pid && entry.title.contains(narrow));
    processes.masters.iter().any(|master| titled(master.image.process.pid))
}

/// Looks for the masters among the processes, oldest first.
struct Masters<'a> {
    entries: &'a [Entry],
    known: &'a [ProcessId],
    images: HashMap<i32, Image>,
    masters: Vec<Master>,
    /// There is one that may not be looked into.
    denied: bool,
}

impl Masters<'_> {
    fn look(&mut self) -> Result<(), ProcsError> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        entries.sort_by_key(|entry| (entry.id.start, entry.id.pid));
        for entry in entries {
            match self.weigh(entry) {
                // Gone since the list was read.
                Ok(()) | Err(ProcsError::Gone(_)) => {}
                Err(ProcsError::NotPermitted(_)) => self.denied |= Title::parse(&entry.title).is_some(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn weigh(&mut self, entry: &Entry) -> Result<(), ProcsError> {
        let title = match Title::parse(&entry.title) {
            Some(Title::Worker) => return Ok(()),
            Some(Title::Master(title)) => Some(title),
            None => None,
        };
        let image = Image::of(entry.id.pid)?;
        self.images.insert(entry.id.pid, image);
        let parent = self.images.get(&entry.parent);
        let is_fork = parent.is_some_and(|parent| parent.at_random == image.at_random);
        let of_ours = self.masters.iter().any(|master| master.image.process.pid == entry.parent);
        let counts = title.is_some() || of_ours || self.known.contains(&entry.id);
        let is_worker = || procs::environment(entry.id.pid, IS_WORKER).is_some();
        if image.process == entry.id && !is_fork && counts && (title.is_some() || !is_worker()) {
            self.masters.push(Master {
                first: !of_ours && is_first(entry.id.pid),
                ..master(image, entry, title, self.entries)?
            });
        }
        Ok(())
    }
}

/// No other one has handed its sockets to it; the parent may have given it some.
fn is_first(pid: i32) -> bool {
    let given = |name| procs::environment(pid, name).is_some();
    !given(INHERITED) || given(SLOT_VARIABLE)
}

fn master(
    image: Image,
    entry: &Entry,
    title: Option<title::Master>,
    entries: &[Entry],
) -> Result<Master, ProcsError> {
    let pid = entry.id.pid;
    if !procs::may_signal(pid) {
        return Err(ProcsError::NotPermitted(pid));
    }
    let is_worker = |other: &&Entry| other.parent == pid && Title::parse(&other.title) == Some(Title::Worker);
    let workers = entries.iter().filter(is_worker).filter_map(worker).collect();
    let input = std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap_or_default();
    Ok(Master {
        image,
        parent: entry.parent,
        title,
        first: false,
        on_terminal: input.starts_with("/dev/pts") || input.starts_with("/dev/tty"),
        ports: procs::listening_ports(pid),
        sockets: procs::sockets_of(pid),
        workers,
    })
}

/// A worker ignores SIGUSR1 until it has loaded the app, and handles it from then on.
fn worker(entry: &Entry) -> Option<Worker> {
    let caught = procs::caught_signals(entry.id.pid).ok()?;
    let booted = caught >> (Signal::USR1.as_raw() - 1) & 1 == 1;
    entry.id.lives().then_some(Worker { id: entry.id, booted })
}

/// Masters belong together when one started the other, or when they hold a socket in common. They come
/// oldest first, and go so.
fn servers(masters: Vec<Master>) -> Vec<ServerProcesses> {
    let mut servers: Vec<ServerProcesses> = Vec::new();
    for master in masters {
        let related =
            |processes: &ServerProcesses| processes.masters.iter().any(|other| are_related(other, &master));
        match servers.iter_mut().find(|processes| related(processes)) {
            Some(processes) => processes.masters.push(master),
            None => servers.push(ServerProcesses { masters: vec![master] }),
        }
    }
    servers
}

fn are_related(older: &Master, younger: &Master) -> bool {
    younger.parent == older.image.process.pid
        || younger.sockets.iter().any(|socket| older.sockets.contains(socket))
}
