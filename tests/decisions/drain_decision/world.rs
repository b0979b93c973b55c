//! A simulated Puma that knows the truth: every request with its begin and its end. What is shown of it is
//! what could be seen: numbers as old as the last check-in, and socket rows of this very moment.

use std::net::IpAddr;

use pitstop::core::{
    AppServer, Connection, Cwd, Detection, Generation, GenerationKey, Moment, Observation, Process,
    ProcessKey, Sockets, Traffic, WorkerLoad,
};
use pitstop_rig::Dice;

/// The pod has served for this long when the drain begins.
pub const BEGIN_MS: u64 = 30_000;
pub const WORKERS: u64 = 2;

#[derive(Debug, Clone)]
pub struct Sender {
    pub mean_gap_ms: u64,
    /// So many requests at once, each time.
    pub burst: u64,
    pub request_ms: u64,
    /// A connection for each request, or some that are kept.
    pub fresh_connections: bool,
    /// How long each request waits in the accept queue (fresh connections only).
    pub queued_ms: u64,
    /// The next request comes as soon as the last one is answered.
    pub closed_loop: bool,
    /// Answers trickle out all the time instead of coming at the end.
    pub streams: bool,
    pub starts_ms: u64,
    /// After the drain's begin.
    pub stops_after_ms: u64,
}

impl Sender {
    pub fn gap_ms(&self) -> u64 {
        if self.closed_loop { self.request_ms + self.queued_ms } else { self.mean_gap_ms }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witnesses {
    Both,
    Sockets,
    Control,
    Neither,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub seed: u64,
    pub senders: Vec<Sender>,
    /// A health prober on connections of its own, with this interval, that never stops.
    pub prober_ms: Option<u64>,
    /// The kernel tells of connections that end.
    pub ends: bool,
    pub long_request: Option<(u64, u64)>,
    pub check_interval_ms: u64,
    pub witnesses: Witnesses,
    pub counts_at_start: bool,
    pub max_ms: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub sender: usize,
    pub connection: u64,
    pub worker: u64,
    pub arrives: u64,
    pub starts: u64,
    pub ends: u64,
    pub streams: bool,
    pub bytes: u64,
}

pub const PROBER: usize = 50;

pub struct World {
    pub case: Case,
    pub requests: Vec<Request>,
}

/// How long until the next one, where they come at random.
fn exponential(dice: &mut Dice, mean: u64) -> u64 {
    (-dice.unit().ln() * mean as f64) as u64
}

impl World {
    pub fn new(case: Case) -> Self {
        let mut requests = Vec::new();
        let mut dice = Dice(case.seed);
        for (index, sender) in case.senders.iter().enumerate() {
            Self::send(index, sender, &mut dice, &mut requests);
        }
        if let Some((after, length)) = case.long_request {
            let arrives = BEGIN_MS + after;
            let (connection, streams) = (999_999, false);
            requests.push(Request {
                sender: 99,
                connection,
                worker: 0,
                arrives,
                starts: arrives,
                ends: arrives + length,
                streams,
                bytes: 200,
            });
        }
        if let Some(interval) = case.prober_ms {
            Self::probe(interval, case.max_ms, &mut dice, &mut requests);
        }
        requests.sort_by_key(|r| r.arrives);
        Self { case, requests }
    }

    pub fn probe(interval: u64, max_ms: u64, dice: &mut Dice, requests: &mut Vec<Request>) {
        for number in 0..(BEGIN_MS + max_ms) / interval + 1 {
            let arrives = number * interval + dice.number() % 20;
            let (connection, worker) = (5_000_000 + number, dice.number() % WORKERS);
            let ends = arrives + 1 + dice.number() % 5;
            let (sender, streams, bytes) = (PROBER, false, 113);
            requests.push(Request {
                sender,
                connection,
                worker,
                arrives,
                starts: arrives,
                ends,
                streams,
                bytes,
            });
        }
    }

    pub fn send(index: usize, sender: &Sender, dice: &mut Dice, requests: &mut Vec<Request>) {
        let mut at = sender.starts_ms + dice.number() % (sender.gap_ms() + 1);
        // When each kept connection is free again.
        let mut kept: Vec<u64> = Vec::new();
        let mut number = 0;
        while at < BEGIN_MS + sender.stops_after_ms {
            let mut ends = at;
            for _ in 0..sender.burst {
                let request = Self::request(index, sender, at, dice, &mut kept, &mut number);
                ends = ends.max(request.ends);
                requests.push(request);
            }
            at = if sender.closed_loop { ends } else { at + 1 + exponential(dice, sender.mean_gap_ms) };
        }
    }

    pub fn request(
        index: usize,
        sender: &Sender,
        at: u64,
        dice: &mut Dice,
        kept: &mut Vec<u64>,
        number: &mut u64,
    ) -> Request {
        let queued = if sender.fresh_connections { sender.queued_ms } else { 0 };
        let ends = at + queued + 1 + exponential(dice, sender.request_ms).min(10_000);
        let slot = match kept.iter().position(|&free| free <= at) {
            Some(slot) if !sender.fresh_connections => slot as u64,
            _ => {
                *number += 1;
                kept.push(0);
                *number - 1
            }
        };
        kept[slot as usize] = ends;
        Request {
            sender: index,
            connection: (index as u64 + 1) * 100_000 + slot,
            worker: dice.number() % WORKERS,
            arrives: at,
            starts: at + queued,
            ends,
            streams: sender.streams,
            bytes: 200 + dice.number() % 100,
        }
    }

    /// What counts: a prober's requests do not.
    pub fn meant(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|r| r.sender != PROBER)
    }

    /// Requests in flight. Without a socket table nobody can know of one that a worker has taken
    /// since its last check-in.
    pub fn in_flight(&self, at: u64) -> usize {
        let knowable =
            |r: &Request| self.case.witnesses != Witnesses::Control || r.starts <= self.pushed(r.worker, at);
        self.meant().filter(|r| r.arrives <= at && at < r.ends && knowable(r)).count()
    }

    /// When the worker last checked in.
    pub fn pushed(&self, worker: u64, at: u64) -> u64 {
        let interval = self.case.check_interval_ms;
        let phase = worker * interval / WORKERS + self.case.seed % interval;
        if at < phase { 0 } else { (at - phase) / interval * interval + phase }
    }

    pub fn last_arrival(&self, sender: usize) -> Option<u64> {
        self.requests.iter().filter(|r| r.sender == sender).map(|r| r.arrives).max()
    }

    pub fn truth_ends(&self) -> u64 {
        self.meant().map(|r| r.ends).max().unwrap_or(0)
    }

    pub fn look(&self, since: u64, at: u64) -> Observation {
        let (control, sockets) = match self.case.witnesses {
            Witnesses::Both => (true, true),
            Witnesses::Sockets => (false, true),
            Witnesses::Control => (true, false),
            Witnesses::Neither => (false, false),
        };
        let traffic = Traffic {
            workers: control.then(|| (0..WORKERS).map(|w| self.worker(w, at)).collect()),
            sockets: sockets.then(|| self.sockets(since, at)),
        };
        Observation::new(Moment(at), Detection::Seen(server()), traffic)
    }

    /// What the worker pushed at its last check-in.
    pub fn worker(&self, worker: u64, at: u64) -> WorkerLoad {
        let pushed = self.pushed(worker, at);
        let mine = || self.requests.iter().filter(move |r| r.worker == worker);
        let busy = mine().filter(|r| r.starts <= pushed && pushed < r.ends).count();
        let counted =
            |r: &&Request| if self.case.counts_at_start { r.starts <= pushed } else { r.ends <= pushed };
        WorkerLoad {
            key: ProcessKey(worker),
            requests: mine().filter(counted).count() as u64,
            busy: busy as u32,
            backlog: 0,
            checkin: pushed / 1000,
        }
    }

    pub fn sockets(&self, since: u64, at: u64) -> Sockets {
        let queued = self.requests.iter().filter(|r| r.arrives <= at && at < r.starts).count();
        let mut connections: Vec<Connection> = Vec::new();
        let mut ended = Vec::new();
        for request in self.requests.iter().filter(|r| r.starts <= at) {
            if self.fresh(request) && request.ends <= at {
                if request.ends > since {
                    let mut row = connection(request.connection, request.sender);
                    show(&mut row, request, at);
                    // The end mark is counted, or not.
                    row.received = row.received.map(|n| n + request.connection % 2);
                    ended.push(row);
                }
                continue;
            }
            let known = connections.iter().position(|c| c.key == request.connection);
            let row = match known {
                Some(row) => &mut connections[row],
                None => {
                    connections.push(connection(request.connection, request.sender));
                    connections.last_mut().unwrap()
                }
            };
            show(row, request, at);
        }
        let ended = self.case.ends.then_some(ended);
        Sockets { accept_queue: queued as u32, connections, ended, closed: false }
    }

    pub fn fresh(&self, request: &Request) -> bool {
        request.sender == PROBER || self.case.senders.get(request.sender).is_some_and(|s| s.fresh_connections)
    }
}

pub fn connection(key: u64, sender: usize) -> Connection {
    Connection {
        key,
        peer: peer(sender),
        unread: 0,
        unsent: 0,
        received: Some(0),
        sent: Some(0),
        last_received_ms: Some(u64::MAX),
        last_sent_ms: Some(u64::MAX),
        ours: false,
        half_closed: false,
        lost: false,
    }
}

/// By the kernel's clock, which ticks each 4 ms.
pub fn age(at: u64, then: u64) -> u64 {
    at / 4 * 4 - then / 4 * 4
}

pub fn show(row: &mut Connection, request: &Request, at: u64) {
    row.received = row.received.map(|n| n + request.bytes);
    row.last_received_ms = Some(age(at, request.starts));
    if at >= request.ends {
        row.sent = row.sent.map(|n| n + 500);
        row.last_sent_ms = Some(age(at, request.ends));
    } else if request.streams {
        let chunks = (at - request.starts) / 250;
        row.sent = row.sent.map(|n| n + chunks);
        if chunks > 0 {
            row.last_sent_ms = Some(age(at, request.starts + chunks * 250));
        }
    }
}

pub fn peer(sender: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, sender as u8 + 1])
}

pub fn server() -> AppServer {
    let process = |key| Process { key: ProcessKey(key), cwd: Cwd::Unknown, booted: true };
    let generation = Generation {
        key: GenerationKey(1),
        master: ProcessKey(1),
        signalable: true,
        cwd: Cwd::Unknown,
        expected: WORKERS as usize,
        processes: (0..WORKERS).map(process).collect(),
    };
    AppServer { generations: vec![generation], ..AppServer::default() }
}
