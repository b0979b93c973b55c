//! Does traffic still arrive? Asked for each sender by itself: one sender's silence proves nothing
//! about another's.
//!
//! A silence counts when it is too long to be an accident. A sender that made `n` gaps in a time
//! `s` stays silent for `t` by chance with probability `(s / (s + t))^n` (Poisson arrivals, the rate
//! itself uncertain), so the silence must last `s · (10^(6/n) − 1)` for one in a million. Traffic in
//! bursts is no Poisson process: twice the longest gap seen is required as well. Both are kept
//! within the budget's bounds; what a sparse sender's silence cannot prove, `drain.min` covers.
//!
//! A sender that is rare and as regular as a clock is a health checker: it goes on to the very end,
//! so that its silence is not waited for.

use std::{collections::BTreeMap, net::IpAddr};

use super::words::Budget;
use crate::core::ProcessKey;
use crate::core::observation::{Connection, Moment, Sockets, WorkerLoad};

/// A gap as long as this is not part of a sender's rhythm: it begins anew.
const FORGET_MS: u64 = 120_000;
/// Rates follow the last few hundred events.
const EVENTS_KEPT: u64 = 256;
/// Senders told apart; all further ones count as one that needs the longest silence.
const PEERS_KEPT: usize = 1024;
/// Connections told apart; the counters of all further ones are summed.
const CONNECTIONS_KEPT: usize = 16_384;
/// Gaps as long as this, this many of them, none of them much longer than the others: a health checker.
const CHECKER_GAP_MS: u64 = 5000;
const CHECKER_EVENTS: u64 = 20;
/// Requests seen on a socket that a worker has yet to report.
const CREDIT_KEPT: u64 = 64;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Source {
    /// This address.
    Peer(IpAddr),
    /// One of too many to be told apart.
    Crowd,
    /// Requests that workers counted and no socket showed.
    Unattributed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Rate {
    events: u64,
    span_ms: u64,
}

impl Rate {
    fn add(&mut self, events: u64, span_ms: u64) {
        self.events += events;
        self.span_ms += span_ms;
        if self.events > EVENTS_KEPT {
            self.span_ms = self.span_ms * EVENTS_KEPT / self.events;
            self.events = EVENTS_KEPT;
        }
    }

    /// The silence that is an accident once in a million.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of a few seconds; the cast saturates"
    )]
    fn silence_ms(self) -> u64 {
        if self.events == 0 {
            return u64::MAX;
        }
        let factor = 10f64.powf(6.0 / self.events as f64) - 1.0;
        (self.span_ms.max(1) as f64 * factor) as u64
    }
}

/// One sender's rhythm.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pace {
    last: Moment,
    longest_gap_ms: u64,
    /// Before the drain: looks are a second or so apart, so that it reads as slower than it is.
    before: Rate,
    during: Rate,
}

impl Pace {
    fn first(at: Moment) -> Self {
        Self { last: at, longest_gap_ms: 0, before: Rate::default(), during: Rate::default() }
    }

    fn event(&mut self, look: &Look, events: u64) {
        let now = look.now;
        let gap = now.since(self.last);
        if gap > FORGET_MS {
            *self = Self::first(now);
            return;
        }
        self.lengthen(gap, events);
        if look.draining { &mut self.during } else { &mut self.before }.add(events, gap);
        self.last = now;
    }

    /// Keeps the longest gap, which fades as others follow.
    fn lengthen(&mut self, gap: u64, events: u64) {
        let full = self.before.events + events > EVENTS_KEPT;
        self.longest_gap_ms = gap.max(if full { self.longest_gap_ms * 9 / 10 } else { self.longest_gap_ms });
    }

    fn health_checker(&self) -> bool {
        let Rate { events, span_ms } = self.before;
        let mean_ms = span_ms / events.max(1);
        let regular = self.longest_gap_ms * 4 <= mean_ms * 5;
        let still = self.during.events == 0 || self.during.span_ms / self.during.events >= CHECKER_GAP_MS;
        events >= CHECKER_EVENTS && mean_ms >= CHECKER_GAP_MS && regular && still
    }

    /// The silence that proves something, before the budget's bounds.
    fn silence_ms(&self, gaps_count: bool) -> u64 {
        if self.health_checker() {
            return 0;
        }
        let by_rate = self.before.silence_ms().min(self.during.silence_ms());
        if gaps_count { by_rate.max(self.longest_gap_ms.saturating_mul(2)) } else { by_rate }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Counters {
    received: u64,
    sent: u64,
    unread: u32,
}

impl Counters {
    fn of(connection: &Connection) -> Self {
        Self {
            received: connection.received.unwrap_or(0),
            sent: connection.sent.unwrap_or(0),
            unread: connection.unread,
        }
    }

    /// Something came in; or, where nobody else tells of answers under way, something went out.
    fn moved(self, before: Self, count_sent: bool) -> bool {
        self.received != before.received
            || self.unread != before.unread
            || (count_sent && self.sent != before.sent)
    }
}

/// The senders and their rhythms.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Quiet {
    sources: BTreeMap<Source, Pace>,
    /// `None` until the first table: its connections are old ones, not arrivals.
    table: Option<Table>,
    counts: BTreeMap<ProcessKey, u64>,
    /// Arrivals seen on sockets that a worker's request count has yet to confirm.
    credit: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Table {
    connections: BTreeMap<u64, Counters>,
    rest: Counters,
    rest_len: usize,
}

impl Quiet {
    /// A drain begins: its own rates are counted apart.
    pub fn begin(&mut self) {
        for pace in self.sources.values_mut() {
            pace.during = Rate::default();
        }
    }

    /// Takes in a socket table; says whether something arrived from a peer that counts.
    pub fn sockets(&mut self, look: &Look, sockets: &Sockets, budget: &Budget) -> bool {
        let mut next = Table::default();
        let mut arrivals: BTreeMap<Source, u64> = BTreeMap::new();
        let known = self.table.take();
        for connection in &sockets.connections {
            let counters = Counters::of(connection);
            if next.connections.len() == CONNECTIONS_KEPT {
                next.add_rest(counters);
                continue;
            }
            next.connections.insert(connection.key, counters);
            let before = known.as_ref().and_then(|t| t.connections.get(&connection.key)).copied();
            let arrived = match (before, &known) {
                (Some(before), _) => counters.moved(before, look.count_sent),
                (None, Some(_)) => true,
                (None, None) => {
                    self.introduce(look, connection, budget);
                    false
                }
            };
            if arrived {
                self.credit = (self.credit + 1).min(CREDIT_KEPT);
                if !budget.ignores(connection.peer) {
                    *arrivals.entry(self.source(connection.peer)).or_default() += 1;
                }
            }
        }
        if known.as_ref().is_some_and(|t| t.rest_differs(&next, look.count_sent)) {
            arrivals.insert(Source::Crowd, 1);
        }
        self.table = Some(next);
        for (&source, &events) in &arrivals {
            self.event(look, source, events);
        }
        !arrivals.is_empty()
    }

    /// Takes in the workers' request counts: requests that no socket showed are traffic as well.
    pub fn workers(&mut self, look: &Look, workers: &[WorkerLoad]) {
        let mut served = 0;
        let mut next = BTreeMap::new();
        for worker in workers {
            let before = self.counts.get(&worker.key).copied();
            // A worker that is first seen while others are known has served all its requests since.
            let before = before.unwrap_or(if self.counts.is_empty() { worker.requests } else { 0 });
            served += worker.requests.saturating_sub(before);
            next.insert(worker.key, worker.requests);
        }
        self.counts = next;
        let unseen = served.saturating_sub(self.credit);
        self.credit -= served.min(self.credit);
        if unseen > 0 && !look.unseen_is_ignored {
            self.event(look, Source::Unattributed, unseen);
        }
    }

    /// Every worker has reported since the last arrival: credit that is left belonged to no request.
    pub fn settle(&mut self) {
        self.credit = 0;
    }

    /// Senders whose silence until this moment is not long enough, the latest one last.
    pub fn loud(&self, until: Moment, budget: &Budget) -> Vec<Source> {
        let bounded = |ms: u64| ms.min(budget.quiet_max_ms).max(budget.quiet_min_ms);
        let loud = |(source, pace): (&Source, &Pace)| {
            let required = match source {
                Source::Crowd => budget.quiet_max_ms,
                // Beside a socket table these are what its looks missed: their gaps are accidents.
                Source::Unattributed => bounded(pace.silence_ms(self.table.is_none())),
                Source::Peer(_) => bounded(pace.silence_ms(true)),
            };
            (until.since(pace.last) < required).then_some((pace.last, *source))
        };
        let mut sources: Vec<_> = self.sources.iter().filter_map(loud).collect();
        sources.sort_unstable();
        sources.into_iter().map(|(_, source)| source).collect()
    }

    /// Forgets senders that have been away for long.
    pub fn forget(&mut self, now: Moment) {
        self.sources.retain(|_, pace| now.since(pace.last) <= FORGET_MS);
    }

    /// Moves every stored moment.
    pub fn rebase(&mut self, shift: impl Fn(Moment) -> Moment) {
        for pace in self.sources.values_mut() {
            pace.last = shift(pace.last);
        }
    }

    fn source(&self, peer: IpAddr) -> Source {
        let source = Source::Peer(peer.to_canonical());
        let known = self.sources.contains_key(&source) || self.sources.len() < PEERS_KEPT;
        if known { source } else { Source::Crowd }
    }

    fn introduce(&mut self, look: &Look, connection: &Connection, budget: &Budget) {
        if budget.ignores(connection.peer) {
            return;
        }
        let age = connection.last_received_ms.unwrap_or(0);
        let last = Moment(look.began.0.saturating_sub(age));
        let source = self.source(connection.peer);
        let pace = self.sources.entry(source).or_insert_with(|| Pace::first(last));
        pace.last = pace.last.max(last);
    }

    fn event(&mut self, look: &Look, source: Source, events: u64) {
        match self.sources.get_mut(&source) {
            Some(pace) => pace.event(look, events),
            None => {
                self.sources.insert(source, Pace::first(look.now));
            }
        }
    }
}

impl Table {
    fn add_rest(&mut self, counters: Counters) {
        self.rest_len += 1;
        self.rest.received = self.rest.received.wrapping_add(counters.received);
        self.rest.sent = self.rest.sent.wrapping_add(counters.sent);
        self.rest.unread = self.rest.unread.wrapping_add(counters.unread);
    }

    fn rest_differs(&self, next: &Self, count_sent: bool) -> bool {
        self.rest_len != next.rest_len || next.rest.moved(self.rest, count_sent)
    }
}

/// The circumstances of one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub now: Moment,
    pub began: Moment,
    pub draining: bool,
    /// Bytes sent count as traffic: no control server tells of answers under way.
    pub count_sent: bool,
    /// Requests that no socket showed may be those of ignored peers, so that they say nothing.
    pub unseen_is_ignored: bool,
}
