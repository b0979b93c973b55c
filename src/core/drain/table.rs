//! What has changed from one socket table to the next: requests that came in, and connections that
//! have turned into something else than requests and answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::core::observation::{Connection, Moment, Sockets};

/// Connections told apart; the counters of all further ones are summed.
const CONNECTIONS_KEPT: usize = 16_384;
/// The mark of a connection's end counts as one byte received. No request is that short.
const END_MARK: u64 = 1;
/// Puma gives up a request that is not complete after 30 s (`first_data_timeout`), so that one that
/// seems to wait for its answer longer, while no worker is busy, is none.
const NO_REQUEST_MS: u64 = 35_000;

/// The circumstances of one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub now: Moment,
    pub draining: bool,
    /// Bytes sent count as traffic: no control server tells of answers under way.
    pub count_sent: bool,
    /// Requests that no socket showed may be those of ignored peers, so that they say nothing.
    pub unseen_is_ignored: bool,
    /// So many requests are being served, as the workers last told.
    pub busy: Option<u64>,
    /// None is, by fresh numbers.
    pub all_idle: bool,
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
    upgraded: bool,
}

impl Known {
    /// Something went out though nobody asks and no worker is busy; or something came in that nobody
    /// answers.
    fn next(self, connection: &Connection, look: &Look) -> Self {
        let counters = Counters::of(connection);
        let pushed = !self.busy && self.pushed(counters);
        let endless = connection.waits_for_an_answer() && is_old(connection);
        let upgraded = self.upgraded || (look.all_idle && (pushed || endless));
        Self { counters, busy: connection.busy(), upgraded }
    }

    /// Something went out and nothing came in.
    fn pushed(self, now: Counters) -> bool {
        now.received_since(self.counters).is_none() && now.sent > self.counters.sent
    }
}

fn is_old(connection: &Connection) -> bool {
    connection.last_received_ms.is_some_and(|ms| ms >= NO_REQUEST_MS)
}

/// A request, or more than one; or a part of an answer, where no control server tells of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub peer: IpAddr,
    pub at: Moment,
    pub bytes: u64,
    /// Something came in. What only goes out comes at a pace that is not the sender's.
    pub request: bool,
}

/// What a look at the table tells beyond the look before.
#[derive(Debug, Default)]
pub(super) struct News {
    /// In the order of their time.
    pub arrivals: Vec<Arrival>,
    /// Something came in on one of too many connections to be told apart.
    pub crowd: bool,
    /// Connections of the very first table: whom they are with, and when they were last used.
    pub known_before: Vec<(IpAddr, Moment)>,
}

/// The last table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Table {
    /// There was one: connections that are new in the next one really are.
    begun: bool,
    connections: BTreeMap<u64, Known>,
    rest: (usize, u64),
}

impl Table {
    /// Takes in the next one.
    pub fn next(&mut self, look: &Look, sockets: &Sockets) -> News {
        let last = std::mem::take(self);
        let mut news = News::default();
        let ended = sockets.ended.as_deref().unwrap_or_default();
        for connection in ended {
            last.compare(look, connection, true, &mut news);
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
            let known = last.compare(look, connection, false, &mut news);
            self.connections.insert(connection.key, known);
        }
        self.name_upgraded(look, &last, sockets);
        news.crowd = last.begun && last.rest != self.rest;
        news.arrivals.sort_by_key(|arrival| arrival.at);
        news
    }

    /// More old connections are sent something than workers are busy: not all of it is streamed
    /// answers. A streamed answer that is taken for more is forgotten when Puma closes its connection,
    /// some seconds after its end.
    fn name_upgraded(&mut self, look: &Look, last: &Self, sockets: &Sockets) {
        let Some(busy) = look.busy else { return };
        let sent_to = |c: &&Connection| {
            let before = last.connections.get(&c.key);
            is_old(c) && before.is_some_and(|before| before.pushed(Counters::of(c)))
        };
        let sent_to: Vec<u64> = sockets.connections.iter().filter(sent_to).map(|c| c.key).collect();
        if sent_to.len() as u64 > busy {
            for key in sent_to {
                self.connections.entry(key).and_modify(|known| known.upgraded = true);
            }
        }
    }

    fn compare(&self, look: &Look, connection: &Connection, ended: bool, news: &mut News) -> Known {
        let peer = connection.peer;
        let at = Moment(look.now.0.saturating_sub(connection.last_received_ms.unwrap_or(0)));
        let known = self.connections.get(&connection.key);
        // What ended is known for sure to be news, also at the first look: the listener began with it.
        if known.is_none() && !self.begun && !ended {
            if connection.received.is_none_or(|bytes| bytes > END_MARK) {
                news.known_before.push((peer, at));
            }
            return Known::default().next(connection, look);
        }
        let before = known.copied().unwrap_or_default();
        let next = before.next(connection, look);
        let new = known.is_none() && connection.received.is_none();
        let sent = look.count_sent && next.counters.sent != before.counters.sent;
        let received = next.counters.received_since(before.counters);
        let bytes = received.or((new || (sent && !ended)).then_some(1));
        if let Some(bytes) = bytes {
            let at = if sent { look.now } else { at };
            news.arrivals.push(Arrival { peer, at, bytes, request: received.is_some() || new });
        }
        next
    }

    /// Whether this connection has turned into something else: a websocket, a hijacked socket.
    pub fn upgraded(&self, connection: &Connection) -> bool {
        self.connections.get(&connection.key).is_some_and(|known| known.upgraded)
    }
}
