//! What the core is told about the app server and its traffic. No pid, no path: processes and
//! images are opaque keys that the adapter makes and the core only compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::revision::ReleaseId;

/// Milliseconds of CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment plus `ms` milliseconds.
    pub(crate) fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`, 0 if it lies ahead.
    pub(crate) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One image of the app server's master: changes with every exec and with every new master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GenerationKey(pub u64);

/// One process that serves requests (a worker, or the single-mode master in one of its images).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessKey(pub u64);

/// One look at the app server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Observation {
    /// When the look began: nothing in it is older.
    pub began: Moment,
    /// What was seen.
    pub detection: Detection,
    /// What the app's own health path said, if it was asked: the live server's.
    pub answers: Vec<Answer>,
    /// What the candidate's said, which is asked from an address that reaches nobody else.
    pub candidate_answers: Vec<Answer>,
    /// What was asked and what came, in words, where an answer was not a good one: the candidate's, where one was
    /// asked.
    pub said: Option<String>,
    /// The last exception in what the app server wrote since its restart, in words.
    pub raised: Option<String>,
    /// The files of releases that processes have loaded; `None` when nobody looked, or the look failed.
    pub files: Option<BTreeMap<ProcessKey, Files>>,
    /// Requests and connections.
    pub traffic: Traffic,
}

impl Observation {
    /// A look in which the app was not asked anything.
    pub fn new(began: Moment, detection: Detection, traffic: Traffic) -> Self {
        Self {
            began,
            detection,
            answers: Vec::new(),
            candidate_answers: Vec::new(),
            said: None,
            raised: None,
            files: None,
            traffic,
        }
    }

    /// The answers in one: the worst of them.
    pub(crate) fn probe(&self) -> Option<Probe> {
        self.answers.iter().map(|answer| answer.probe).max()
    }
}

/// Whether there is an app server to be seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "there is one look at a time")]
pub enum Detection {
    /// There is none: the processes known before are gone and no other was found.
    Missing,
    /// Several could be meant.
    Ambiguous,
    /// There is one that may not be looked into or signalled.
    NotPermitted,
    /// This look failed or was torn by a change; it proves nothing.
    Unclear,
    /// Here it is.
    Seen(AppServer),
}

/// The app server: one generation, or two while a server like Unicorn changes masters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct AppServer {
    /// Oldest first.
    pub generations: Vec<Generation>,
    /// Whether workers of an ended phase are still there, by the server's own count.
    pub old_workers: bool,
    /// What stands beside it in other slots, by the list of their parent.
    pub beside: Beside,
}

/// Servers in other slots than the live one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Beside {
    /// It gets no connection but our own probes.
    pub(crate) candidate: Option<Candidate>,
    /// These have had their last new connection, the one that was live last first.
    pub(crate) lingering: Vec<Lingering>,
    /// What the live server has served since its start; `None`: nobody counts, or it could not be read.
    pub(crate) served_by_live: Option<Served>,
}

impl Beside {
    /// The candidate that has not ended.
    pub(crate) fn standing(&self) -> Option<&Candidate> {
        self.candidate.as_ref().filter(|candidate| !candidate.ended)
    }

    /// The runs that are there, or were there last.
    pub(crate) fn keys(&self) -> impl Iterator<Item = GenerationKey> {
        let lingering = self.lingering.iter().map(|one| one.key);
        self.candidate.iter().map(|candidate| candidate.key).chain(lingering)
    }

    /// This run is there and could be switched to.
    pub(crate) fn waits_for_connections(&self, key: GenerationKey) -> bool {
        let candidate = self.standing().is_some_and(|candidate| candidate.key == key);
        candidate || self.lingering.iter().any(|one| one.key == key && !one.told)
    }
}

/// A server that has never been live.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    /// Its run in a slot: what [`crate::core::ServerCommand`]s to it name. It stays the same while the server execs.
    pub(crate) key: GenerationKey,
    /// What is seen of it; `None` before it can be told, and after its end. Its keys stay the same when it becomes the
    /// live server.
    pub(crate) generation: Option<Generation>,
    /// It was asked what it is to be warmed up with, or there is nothing to be asked. No verdict comes before that.
    pub(crate) warm: Option<Warmed>,
    /// It has ended.
    pub(crate) ended: bool,
    /// What two servers side by side have to do with its failure, so that its release is not to blame.
    pub(crate) trouble: Option<super::effect::Problem>,
    /// So many of 1000 new connections go to it.
    pub(crate) share: u32,
    /// What it has served since its start, by the same count as the live server; `None` as there.
    pub(crate) served: Option<Served>,
}

/// What a server has answered since its start, all its processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Served {
    /// Requests that were answered, or ended by an exception.
    pub(crate) requests: u64,
    /// Those of them that were answered with 5xx, or ended by an exception; `None` where only requests are counted.
    pub(crate) errors: Option<u64>,
    /// 95 of 100 requests took no longer than this, in milliseconds; `None` where nobody measures.
    pub(crate) p95_ms: Option<u64>,
}

/// How a warm-up went, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Warmed {
    pub(crate) requests: usize,
    /// 95 % of the last answers came within this, in milliseconds.
    pub(crate) p95_ms: u64,
}

/// A server that was live before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lingering {
    /// Its run in a slot.
    pub(crate) key: GenerationKey,
    /// What it runs.
    pub(crate) release: Option<ReleaseId>,
    /// For how long nobody has waited in its queues, in milliseconds.
    pub(crate) queue_empty_ms: u64,
    /// For how long its oldest request in flight has been there, in milliseconds; `None`: there is none.
    pub(crate) oldest_request_ms: Option<u64>,
    /// SIGTERM was sent to it.
    pub(crate) told: bool,
}

/// One master image and its processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Which image.
    pub key: GenerationKey,
    /// The process that runs it: the same after an exec, another after a new start.
    pub master: ProcessKey,
    /// A signal would be handled: the image has its title back and, where that matters, the app is
    /// loaded. Means little unless the image is known to have changed since the last signal.
    pub signalable: bool,
    /// Where the master itself runs. A master whose working directory is a bad release goes on
    /// booting that one, wherever `current` points.
    pub cwd: Cwd,
    /// How many serving processes it should have; 0 when the server says that it has tried to start them
    /// in vain and has stopped trying, or tries only for requests that come.
    pub expected: usize,
    /// Those that it has.
    pub processes: Vec<Process>,
}

impl Generation {
    /// How many of its processes have booted, once all have that it should have.
    pub(crate) fn all_booted(&self) -> Option<usize> {
        let booted = self.processes.iter().filter(|process| process.booted).count();
        (self.expected > 0 && booted >= self.expected).then_some(booted)
    }
}

/// One serving process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// Which one.
    pub key: ProcessKey,
    /// Where it runs.
    pub cwd: Cwd,
    /// Whether it accepts requests.
    pub booted: bool,
}

/// Where a process runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cwd {
    /// In this release, by device and inode.
    Release(ReleaseId),
    /// In no release of ours, or in a deleted one.
    Elsewhere,
    /// It could not be read.
    Unknown,
}

/// One answer of the app's health path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The process that gave it, where that is known.
    pub(crate) by: Option<ProcessKey>,
    /// What it said.
    pub(crate) probe: Probe,
}

/// The answer of the app's health path, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Probe {
    /// The expected answer.
    Healthy,
    /// Anything else, or none in time.
    Unhealthy,
    /// Healthy, but the app names another release than the one meant.
    OtherRelease,
}

/// The releases below which a process has files that it did not inherit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Files {
    /// Files that it holds open.
    pub(crate) open: BTreeSet<ReleaseId>,
    /// Files that are mapped into its memory, as libraries are.
    pub(crate) mapped: BTreeSet<ReleaseId>,
}

/// What is known of requests and connections. A part that could not be read is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Traffic {
    /// Each worker's own numbers, from the control server; `None` without one.
    pub workers: Option<Vec<WorkerLoad>>,
    /// The socket table of the app server's ports.
    pub sockets: Option<Sockets>,
}

/// One worker's numbers, as old as its last check-in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerLoad {
    /// Which worker.
    pub key: ProcessKey,
    /// Requests served so far.
    pub requests: u64,
    /// Requests being served.
    pub busy: u32,
    /// Requests accepted and waiting.
    pub backlog: u32,
    /// The check-in as an opaque number that grows: compared with itself only, never with our clock.
    pub checkin: u64,
}

/// The socket table of the app server's listening ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Sockets {
    /// Nothing listens on the ports: the server is stopping, or has not begun.
    pub closed: bool,
    /// Connections the kernel has accepted and the server has not.
    pub accept_queue: u32,
    /// Established connections.
    pub connections: Vec<Connection>,
    /// Connections that ended since the last look; `None` when not all of them are known.
    pub ended: Option<Vec<Connection>>,
}

/// The mark of a connection's end counts as one byte received. No request is that short.
pub(crate) const END_MARK: u64 = 1;

/// One established connection, from the server's side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Which one (the socket's cookie or inode).
    pub key: u64,
    /// Who is at the other end.
    pub peer: IpAddr,
    /// Bytes received that the server has not read.
    pub unread: u32,
    /// Bytes sent that the peer has not acknowledged.
    pub unsent: u32,
    /// Bytes received so far; `None` where the kernel does not tell.
    pub received: Option<u64>,
    /// Bytes sent so far.
    pub sent: Option<u64>,
    /// Milliseconds since the last byte came in.
    pub last_received_ms: Option<u64>,
    /// Milliseconds since the last byte went out.
    pub last_sent_ms: Option<u64>,
    /// The agent's own: it asks for the health path.
    pub ours: bool,
    /// The peer has sent its end mark: it may still read, or have gone.
    pub half_closed: bool,
    /// What was sent last was sent again and again, and nobody has acknowledged it: the peer is gone.
    pub lost: bool,
}

impl Connection {
    /// Whether a request is being received, served or answered on it. Not proof of idleness when
    /// false: see the module docs of [`crate::core::drain`].
    pub fn busy(&self) -> bool {
        let unanswered = self.received.is_some_and(|n| n > 0) && self.sent == Some(0);
        let asked_after_answer =
            matches!((self.last_received_ms, self.last_sent_ms), (Some(r), Some(s)) if r < s);
        self.unread > 0 || self.unsent > 0 || unanswered || asked_after_answer
    }

    /// A request came in, and no byte of an answer has gone out since.
    pub(crate) fn unanswered(&self) -> bool {
        let never = self.sent == Some(0);
        let since = matches!((self.last_received_ms, self.last_sent_ms), (Some(r), Some(s)) if r < s);
        self.received.is_some_and(|bytes| bytes > END_MARK) && (never || since)
    }

    /// Something came in after the last answer, and all of it was read. A request, most often.
    pub(crate) fn waits_for_an_answer(&self) -> bool {
        self.busy() && self.unread == 0 && self.unsent == 0 && self.sent.is_some_and(|bytes| bytes > 0)
    }

    /// The last bytes came in and went out within one tick of the kernel's clock (1 to 4 ms), so that
    /// the times do not tell whether a request was answered at once or the next one came at once.
    pub fn ambiguous(&self) -> bool {
        !self.busy()
            && self.received.is_some_and(|n| n > 0)
            && self.last_received_ms.is_some()
            && self.last_received_ms == self.last_sent_ms
    }

    /// For how long a request has been in flight on it, in milliseconds; `None` when none seems to be.
    pub fn request_age_ms(&self) -> Option<u64> {
        self.busy().then(|| self.last_received_ms.unwrap_or(0))
    }
}

impl Traffic {
    /// Whether the server has a request that it has taken and not answered: by the workers' own numbers, else
    /// by the socket table. What nobody has read yet waits for any server, and is none.
    pub(crate) fn at_work(&self) -> bool {
        match &self.workers {
            Some(workers) if !workers.is_empty() => workers.iter().any(|w| w.busy > 0 || w.backlog > 0),
            _ => {
                let connections = self.sockets.iter().flat_map(|sockets| &sockets.connections);
                connections.into_iter().any(|c| c.busy() && c.unread == 0)
            }
        }
    }

    /// Requests that are served or wait, by the workers' own numbers, else by the socket table; `None` when nothing
    /// can tell.
    pub(crate) fn in_flight(&self) -> Option<u32> {
        let told = self.workers.as_ref().filter(|workers| !workers.is_empty());
        let told =
            told.map(|workers| workers.iter().map(|worker| worker.busy.saturating_add(worker.backlog)).sum());
        let shown = || {
            let sockets = self.sockets.as_ref()?;
            let busy = sockets.connections.iter().filter(|connection| connection.busy()).count();
            Some(u32::try_from(busy).unwrap_or(u32::MAX).saturating_add(sockets.accept_queue))
        };
        told.or_else(shown)
    }

    /// For how long the oldest request in flight has been there, in milliseconds, as far as the
    /// socket table tells; `None` when none seems to be. Where workers say that they are busy with
    /// more requests than the table shows, ambiguous connections count as well.
    pub(crate) fn oldest_request_ms(&self) -> Option<u64> {
        let connections = &self.sockets.as_ref()?.connections;
        let busy = connections.iter().filter(|c| c.busy()).count() as u64;
        let told: u64 = self.workers.iter().flatten().map(|w| u64::from(w.busy) + u64::from(w.backlog)).sum();
        let doubtful = |c: &Connection| (told > busy && c.ambiguous()).then_some(c.last_received_ms?);
        connections.iter().filter_map(|c| c.request_age_ms().or_else(|| doubtful(c))).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(unread: u32, sent: u64) -> Connection {
        Connection {
            key: 1,
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
            unread,
            unsent: 0,
            received: Some(100),
            sent: Some(sent),
            last_received_ms: Some(50),
            last_sent_ms: Some(if sent > 0 { 10 } else { 50 }),
            ours: false,
            half_closed: false,
            lost: false,
        }
    }

    #[test]
    fn what_a_server_has_taken_is_at_work_and_what_waits_for_it_is_not() {
        let table = |connections: Vec<Connection>| {
            let sockets = Sockets { accept_queue: 1, connections, ..Sockets::default() };
            Traffic { workers: None, sockets: Some(sockets) }
        };
        assert!(table(vec![connection(0, 0)]).at_work(), "it was read and not answered");
        assert!(!table(vec![connection(100, 0)]).at_work(), "nobody has read it");
        assert!(!table(vec![connection(0, 9)]).at_work(), "it was answered");
        let told = |busy, backlog| {
            let load = WorkerLoad { key: ProcessKey(1), requests: 0, busy, backlog, checkin: 0 };
            Traffic { workers: Some(vec![load]), ..table(vec![connection(0, 0)]) }.at_work()
        };
        assert_eq!([told(0, 0), told(1, 0), told(0, 1)], [false, true, true], "its own numbers know better");
    }
}
