//! Which processes are the Puma: found by title, then followed by pid and start time, because between
//! an exec and its title a master looks like any other Ruby.

use std::time::Duration;

use rustix::process::Signal;

use super::title::{self, Title};
use crate::hook;
use crate::procs::{self, Entry, Image, ProcessId, ProcsError};

/// Puma names the thread that accepts requests, in workers and in single mode, only once its app is
/// loaded.
const SERVING_THREAD: &str = "puma srv";
/// The thread that waits for slow clients. There is none with `queue_requests false`.
const REACTOR_THREAD: &str = "puma reactor";
/// What the names of the pool's threads begin with, and of those that look after it.
const POOL_THREADS: &str = "puma srv t";

/// Puma asks only whether it is set, not to what.
const SKIP_HOT: &str = "PUMA_SKIP_SIGUSR2";

/// A look that an exec tears is repeated this often, after a pause: an exec takes a millisecond or so.
const TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(2);

/// What a look at the process table gave.
#[derive(Debug)]
pub(super) enum Found {
    /// No master, and nothing that would become one.
    Nothing,
    /// No master that was known, but Rubies that may be about to become one, with their command lines.
    Starting(Vec<Entry>),
    /// Masters of which none is followed yet, or that stand beside the one that is.
    Candidates(Vec<ProcessId>),
    /// A master of somebody else's, that listens on these ports by its title.
    NotPermitted(Vec<u16>),
    /// It changed under our eyes.
    Torn,
    /// One.
    One(Box<Family>),
}

/// A master and its workers, all seen while the master's image stayed the same.
#[derive(Debug)]
pub(super) struct Family {
    /// The master's image.
    pub image: Image,
    /// Its title; `None` between exec and title.
    pub title: Option<title::Master>,
    /// What it was started with, while that is still to be seen: before the title.
    pub command_line: Option<String>,
    /// It has a handler for SIGUSR1.
    pub catches_phased: bool,
    /// It has a handler for SIGUSR2. Ruby has one of its own, so that this alone does not prove Puma's.
    pub catches_hot: bool,
    /// It was told to have none of its own for SIGUSR2, and would end by the signal.
    pub skips_hot: bool,
    /// Its own server: single mode, app loaded.
    pub server: Server,
    /// The TCP ports that it listens on: by its title, else by its open sockets.
    pub ports: Vec<u16>,
    /// Its workers.
    pub workers: Vec<Worker>,
}

impl Family {
    /// SIGUSR2 would restart it, as far as can be seen.
    pub fn takes_hot(&self) -> bool {
        self.catches_hot && !self.skips_hot
    }
}

/// Puma's server in one process, by its threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Server {
    /// The thread that accepts. Told to stop, it accepts nothing any more, but lives until all others have ended.
    pub acceptor: bool,
    /// The reactor, the first to be ended in a stop.
    pub reactor: bool,
    /// At least one of the pool's.
    pub pool: bool,
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
    pub fn accepts(self, had_reactor: bool) -> bool {
        self.acceptor && (self.reactor || self.pool && !had_reactor)
    }
}

/// One worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worker {
    /// Which.
    pub id: ProcessId,
    /// It accepts requests.
    pub serves: bool,
}

/// Looks for the master: the one in `followed` while it lives, and any whose title contains `narrow`.
/// A master that is followed and alone is looked at; of others only the list is given.
pub(super) fn take(followed: Option<ProcessId>, narrow: Option<&str>) -> Found {
    let Ok(entries) = procs::list(|title| Title::parse(title).is_some() || title::is_starting(title)) else {
        return Found::Torn;
    };
    let mut masters: Vec<ProcessId> = masters(&entries, narrow).map(|entry| entry.id).collect();
    if let Some(known) = followed.filter(|known| known.lives() && !masters.contains(known)) {
        masters.push(known);
    }
    match masters[..] {
        [] if followed.is_none() && entries.iter().any(starting) => {
            Found::Starting(entries.into_iter().filter(starting).collect())
        }
        [] => Found::Nothing,
        [one] if followed == Some(one) => look_at(one, &entries),
        _ => Found::Candidates(masters),
    }
}

/// Looks at this master, whichever others there are.
pub(super) fn of(master: ProcessId) -> Found {
    procs::list(|title| Title::parse(title).is_some())
        .map_or(Found::Torn, |entries| look_at(master, &entries))
}

/// All masters that are to be seen, whoever they belong to.
pub(super) fn masters_of(narrow: Option<&str>) -> Vec<Entry> {
    let entries = procs::list(|title| Title::parse(title).is_some()).unwrap_or_default();
    masters(&entries, narrow).cloned().collect()
}

fn starting(entry: &Entry) -> bool {
    title::is_starting(&entry.title)
}

/// The masters; a child that was just forked still wears its parent's title and is none.
fn masters<'a>(entries: &'a [Entry], narrow: Option<&'a str>) -> impl Iterator<Item = &'a Entry> {
    entries.iter().filter(move |entry| {
        is_master(entry)
            && narrow.is_none_or(|text| entry.title.contains(text))
            && !wears_its_parents_title(entry, entries)
            && !is_tried(entry)
    })
}

/// A trial boot may be a whole Puma; nobody's clients are there.
fn is_tried(entry: &Entry) -> bool {
    procs::environment(entry.id.pid, hook::MARK).is_some()
}

/// Just forked, or a worker of Puma 6.6 or later that got a SIGUSR1 of its own: that one takes a master's
/// title, with the tag of where `current` leads by then.
fn wears_its_parents_title(entry: &Entry, entries: &[Entry]) -> bool {
    let alike = |other: &Entry| other.title == entry.title || is_master(other) && is_master(entry);
    entries.iter().any(|other| other.id.pid == entry.parent && alike(other))
}

fn is_master(entry: &Entry) -> bool {
    matches!(Title::parse(&entry.title), Some(Title::Master(_)))
}

fn look_at(master: ProcessId, entries: &[Entry]) -> Found {
    for _ in 0..TRIES {
        match family(master, entries) {
            Ok(family) => return Found::One(Box::new(family)),
            Err(ProcsError::NotPermitted(_)) => return Found::NotPermitted(ports_of(master, entries)),
            Err(ProcsError::Gone(_)) => return Found::Nothing,
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
    Found::Torn
}

/// The title is there for everybody to read.
fn ports_of(master: ProcessId, entries: &[Entry]) -> Vec<u16> {
    let entry = entries.iter().find(|entry| entry.id == master);
    match entry.and_then(|entry| Title::parse(&entry.title)) {
        Some(Title::Master(title)) => title.ports(),
        _ => Vec::new(),
    }
}

/// Workers are matched by the master's pid in their title: with `fork_worker` they are no children of
/// the master.
fn family(master: ProcessId, entries: &[Entry]) -> Result<Family, ProcsError> {
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
    let workers = entries.iter().filter(|entry| is_worker(entry, pid, entries)).filter_map(worker).collect();
    // Everything above was seen of one and the same image, or it proves nothing.
    if Image::of(pid)? != image {
        return Err(ProcsError::Torn(pid));
    }
    let catches = |signal: Signal| caught >> (signal.as_raw() - 1) & 1 == 1;
    let (catches_phased, catches_hot) = (catches(Signal::USR1), catches(Signal::USR2));
    let skips_hot = title.as_ref().is_some_and(title::Master::may_skip_hot)
        && procs::environment(pid, SKIP_HOT).is_some();
    Ok(Family { image, title, command_line, catches_phased, catches_hot, skips_hot, server, ports, workers })
}

fn is_worker(entry: &Entry, master: i32, entries: &[Entry]) -> bool {
    let by_title = Title::parse(&entry.title) == Some(Title::Worker { master });
    by_title && !wears_its_parents_title(entry, entries) || is_disguised(entry, master)
}

/// A worker that calls itself a master: what was just forked accepts nothing yet.
fn is_disguised(entry: &Entry, master: i32) -> bool {
    entry.parent == master && is_master(entry) && Server::of(entry.id.pid).acceptor
}

fn worker(entry: &Entry) -> Option<Worker> {
    let serves = Server::of(entry.id.pid).acceptor;
    // The list is older than the image; only what is still there belongs to it.
    entry.id.lives().then_some(Worker { id: entry.id, serves })
}

/// The processes that call themselves workers of this master, dead or alive.
pub(super) fn workers_of(master: i32) -> Vec<ProcessId> {
    let entries = procs::list(|title| Title::parse(title).is_some()).unwrap_or_default();
    let is_worker = |entry: &&Entry| {
        Title::parse(&entry.title) == Some(Title::Worker { master }) || is_disguised(entry, master)
    };
    entries.iter().filter(is_worker).map(|entry| entry.id).collect()
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
