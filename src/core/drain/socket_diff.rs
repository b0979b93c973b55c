//! What has changed from one socket table to the next: requests that came in, and connections that
//! have turned into something else than requests and answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::core::observation::{Connection, END_MARK, Moment, Sockets};

/// Connections told apart; the counters of all further ones are summed.
const CONNECTIONS_KEPT: usize = 16_384;
/// Puma gives up a request that is not complete after 30 s (`first_data_timeout`), so that one that
/// seems to wait for its answer longer, while no worker is busy, is none.
const NO_REQUEST_MS: u64 = 35_000;
/// An answer that has come in so many pieces, with pauses between, for so long after its request was read, is
/// one that does not end by itself: server-sent events.
const ENDLESS: (u8, u64) = (3, 10_000);
/// Between two pieces of it.
const LONGEST_PAUSE_MS: u64 = 60_000;
/// What goes out after a pause of this is another piece.
const PAUSE_MS: u64 = 500;
/// A websocket speaks each few seconds (Action Cable: 3), or is none that could be known as one.
const SPEAKS_WITHIN_MS: u64 = 6000;

/// What the look at the table is taken with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(crate) now: Moment,
    pub(crate) draining: bool,
    /// Bytes sent count as traffic: no control server tells of answers under way.
    pub(crate) count_sent: bool,
    /// Requests that no socket showed may be those of ignored peers, so that they say nothing.
    pub(crate) unseen_is_ignored: bool,
    /// No request is being served, by fresh numbers.
    pub(crate) all_idle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Counters {
    received: Option<u64>,
    sent: u64,
    unread: u32,
}

impl Counters {
    fn of(connection: &Connection) -> Self {
        Self { received: connection.received, sent: connection.sent.unwrap_or(0), unread: connection.unread }
    }

    /// How much came in: more than an end mark. Where the kernel counts no bytes, what waits to be
    /// read is all there is to see.
    fn received_since(self, before: Self) -> Option<u64> {
        match (self.received, before.received) {
            (Some(now), before) => {
                let bytes = now.wrapping_sub(before.unwrap_or(0));
                (bytes > END_MARK).then_some(bytes)
            }
            (None, _) => (self.unread != before.unread).then_some(u64::from(self.unread).max(1)),
        }
    }
}

/// One connection, as the last look saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Known {
    counters: Counters,
    busy: bool,
    /// Something went out though nobody asks and no worker is busy.
    upgraded: bool,
    /// An answer that does not end by itself: a worker is busy with it.
    endless: bool,
    /// It was opened by a prober: what goes out on it is its answer.
    probe: bool,
    /// In so many pieces, with pauses between, something has gone out since something came in.
    pieces: u8,
    pushed_at: Option<Moment>,
}

impl Known {
    fn next(self, connection: &Connection, sample: &Sample) -> Self {
        let counters = Counters::of(connection);
        let pushed = self.pushed(counters);
        let unasked = (pushed && !self.busy) || (connection.waits_for_an_answer() && is_old(connection));
        let paused = self.pushed_at.is_none_or(|at| sample.now.since(at) >= PAUSE_MS);
        let (pieces, pushed_at) = match counters.received_since(self.counters) {
            Some(_) => (0, None),
            None if pushed => (self.pieces.saturating_add(u8::from(paused)), Some(sample.now)),
            None => (self.pieces, self.pushed_at),
        };
        let for_long = connection.last_received_ms.is_some_and(|ms| ms >= ENDLESS.1);
        let upgraded = self.upgraded || (sample.all_idle && unasked);
        // While it goes on, a worker is busy with it; without the workers' numbers, something is sent.
        let lately = |ms| pushed_at.is_some_and(|at| sample.now.since(at) < ms);
        let goes_on =
            if sample.count_sent { lately(ENDLESS.1) } else { !sample.all_idle && lately(LONGEST_PAUSE_MS) };
        // Whose peer takes what it gets slowly is a download: that ends.
        let endless = !upgraded && pieces >= ENDLESS.0 && for_long && goes_on && connection.unsent == 0;
        Self { counters, busy: connection.busy(), upgraded, endless, pieces, pushed_at, ..self }
    }

    /// Something went out and nothing came in.
    fn pushed(self, now: Counters) -> bool {
        now.received_since(self.counters).is_none() && now.sent > self.counters.sent
    }

    /// It speaks again and again, and has done so lately: more than a request and its answer, perhaps.
    fn speaks(self, now: Moment) -> bool {
        let lately = self.pushed_at.is_some_and(|at| now.since(at) < SPEAKS_WITHIN_MS);
        self.pieces > 1 && lately && !self.upgraded && !self.endless
    }
}

fn is_old(connection: &Connection) -> bool {
    connection.last_received_ms.is_some_and(|ms| ms >= NO_REQUEST_MS)
}

/// A request, or more than one; or a part of an answer, where no control server tells of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(crate) key: u64,
    pub(crate) peer: IpAddr,
    pub(crate) ours: bool,
    pub(crate) at: Moment,
    pub(crate) bytes: u64,
    /// Something came in. What only goes out comes at a pace that is not the sender's.
    pub(crate) request: bool,
}

/// What has come in since the sample before.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// In the order of their time.
    pub(crate) counted: Vec<Arrival>,
    /// Something came in on one of too many connections to be told apart.
    pub(crate) crowd: bool,
    /// Connections of the very first table: whom they are with, and when they were last used.
    pub(crate) known_before: Vec<(IpAddr, Moment)>,
}

/// The connections of the last sample.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct SocketDiff {
    /// There was one: connections that are new in the next one really are.
    begun: bool,
    connections: BTreeMap<u64, Known>,
    rest: (usize, u64),
}

impl SocketDiff {
    /// Takes in the next one.
    pub(crate) fn next(&mut self, sample: &Sample, sockets: &Sockets) -> Arrivals {
        let last = std::mem::take(self);
        let mut arrivals = Arrivals::default();
        let ended = sockets.ended.as_deref().unwrap_or_default();
        for connection in ended {
            last.compare(sample, connection, true, &mut arrivals);
        }
        // What ended while the table was read may be in both.
        let gone: BTreeSet<u64> = ended.iter().map(|connection| connection.key).collect();
        self.begun = true;
        for connection in sockets.connections.iter().filter(|c| !gone.contains(&c.key)) {
            if self.connections.len() == CONNECTIONS_KEPT {
                let counters = Counters::of(connection);
                self.rest.0 += 1;
                self.rest.1 =
                    self.rest.1.wrapping_add(counters.received.unwrap_or(0) + u64::from(counters.unread));
                continue;
            }
            let known = last.compare(sample, connection, false, &mut arrivals);
            self.connections.insert(connection.key, known);
        }
        arrivals.crowd = last.begun && last.rest != self.rest;
        arrivals.counted.sort_by_key(|arrival| arrival.at);
        arrivals
    }

    fn compare(
        &self,
        sample: &Sample,
        connection: &Connection,
        ended: bool,
        arrivals: &mut Arrivals,
    ) -> Known {
        let peer = connection.peer;
        let at = Moment(sample.now.0.saturating_sub(connection.last_received_ms.unwrap_or(0)));
        let known = self.connections.get(&connection.key);
        // What ended surely arrived in between, also at the first sample: the listener began with it.
        if known.is_none() && !self.begun && !ended {
            if !connection.ours && connection.received.is_none_or(|bytes| bytes > END_MARK) {
                arrivals.known_before.push((peer, at));
            }
            return Known::default().next(connection, sample);
        }
        let before = known.copied().unwrap_or_default();
        let next = before.next(connection, sample);
        let new = known.is_none() && connection.received.is_none();
        let sent = next.counters.sent != before.counters.sent && !ended && !next.probe;
        let received = next.counters.received_since(before.counters);
        let arrival =
            Arrival { key: connection.key, peer, ours: connection.ours, at, bytes: 1, request: true };
        if received.is_some() || new {
            arrivals.counted.push(Arrival { bytes: received.unwrap_or(1), ..arrival });
        } else if sample.count_sent && sent {
            arrivals.counted.push(Arrival { at: sample.now, request: false, ..arrival });
        }
        next
    }

    /// What came in on this connection was a probe, or not.
    pub(crate) fn is_probe(&mut self, key: u64, probe: bool) {
        self.connections.entry(key).and_modify(|known| known.probe = probe);
    }

    /// Whether this connection has turned into something else: a websocket, a hijacked socket, an endless answer.
    pub(crate) fn upgraded(&self, connection: &Connection) -> bool {
        self.connections.get(&connection.key).is_some_and(|known| known.upgraded || known.endless)
    }

    /// Whether a worker is busy with an answer on it that does not end.
    pub(crate) fn endless(&self, connection: &Connection) -> bool {
        self.connections.get(&connection.key).is_some_and(|known| known.endless)
    }

    /// Whether it may be a websocket that nothing has shown to be one yet.
    pub(crate) fn speaks(&self, connection: &Connection, now: Moment) -> bool {
        self.connections.get(&connection.key).is_some_and(|known| known.speaks(now))
    }
}
