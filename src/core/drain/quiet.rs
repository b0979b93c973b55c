//! Does traffic still arrive? Asked for each sender by itself: one sender's silence proves nothing
//! about another's. How long a silence must last follows from the sender's own rhythm (see
//! `rhythm.rs`), within the budget's bounds; what a sparse sender's silence cannot prove, `drain.min`
//! covers. Probers (see `regular.rs`) go on to the very end and are not waited for.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use super::{
    regular::Pattern,
    rhythm::{FORGET_MS, Rhythm},
    table::{Arrival, Look, Table},
    words::Budget,
};
use crate::core::ProcessKey;
use crate::core::observation::{Moment, Sockets, WorkerLoad};

/// Senders told apart; all further ones count as one that needs the longest silence.
const PEERS_KEPT: usize = 1024;
/// Requests seen on sockets that a worker has yet to report, at most.
const CREDIT_KEPT: u64 = 4096;
/// The shortest request: so many bytes may be so many requests on one connection.
const SHORTEST_REQUEST: u64 = 27;
/// Addresses that are known as a kubelet's.
const KUBELETS_KEPT: usize = 8;
/// Patterns of the slowest probers are kept for as long as this.
const FORGET_PATTERN_MS: u64 = 2 * FORGET_MS;

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

/// The senders and their rhythms.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Quiet {
    sources: BTreeMap<Source, Sender>,
    /// Kubelets have asked the agent from here.
    kubelets: VecDeque<IpAddr>,
    table: Table,
    counts: BTreeMap<ProcessKey, u64>,
    /// Arrivals seen on sockets that a worker's request count has yet to confirm.
    credit: u64,
    /// The same for arrivals of probers and ignored peers, which go on when everybody else is silent.
    background: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sender {
    /// `None` while only a prober was seen.
    rhythm: Option<Rhythm>,
    pattern: Pattern,
    /// The last arrival that the present look has seen.
    seen: Option<Moment>,
}

impl Quiet {
    /// A drain begins: its own rates are counted apart.
    pub fn begin(&mut self) {
        self.sources.values_mut().filter_map(|sender| sender.rhythm.as_mut()).for_each(Rhythm::begin);
    }

    /// A kubelet asks from this address: what it has asked the app server were probes, if they look like it.
    pub fn kubelet(&mut self, address: IpAddr) {
        let address = address.to_canonical();
        if !self.kubelets.contains(&address) {
            self.kubelets.truncate(KUBELETS_KEPT - 1);
            self.kubelets.push_front(address);
        }
        if let Some(sender) = self.sources.get_mut(&Source::Peer(address)) {
            sender.forgive();
        }
    }

    /// Takes in a socket table; says whether something arrived from a peer that counts.
    pub fn sockets(&mut self, look: &Look, sockets: &Sockets, budget: &Budget) -> bool {
        let news = self.table.next(look, sockets);
        for (peer, at) in news.known_before {
            if !budget.ignores(peer) {
                self.introduce(peer, at);
            }
        }
        let mut arrived = news.crowd;
        for arrival in news.arrivals {
            let requests = (arrival.bytes / SHORTEST_REQUEST).max(1);
            if arrival.ours || budget.ignores(arrival.peer) {
                self.background = (self.background + requests).min(CREDIT_KEPT);
            } else if self.arrival(&arrival) {
                self.credit = (self.credit + requests).min(CREDIT_KEPT);
                arrived = true;
            } else {
                self.background = (self.background + 1).min(CREDIT_KEPT);
            }
        }
        if news.crowd {
            self.sender(Source::Crowd).seen = Some(look.now);
        }
        self.learn(look);
        arrived
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
        let mut unseen = served;
        for credit in [&mut self.background, &mut self.credit] {
            let confirmed = unseen.min(*credit);
            (unseen, *credit) = (unseen - confirmed, *credit - confirmed);
        }
        if unseen > 0 && !look.unseen_is_ignored {
            self.sender(Source::Unattributed).counted(look, unseen);
        }
    }

    /// Every worker has reported since the last arrival: credit that is left belonged to no request.
    pub fn settle(&mut self) {
        self.credit = 0;
    }

    /// Senders whose silence until this moment is not long enough, the latest one last.
    pub fn loud(&self, until: Moment, budget: &Budget) -> Vec<Source> {
        let loud = |(source, sender): (&Source, &Sender)| {
            let rhythm = sender.rhythm.as_ref()?;
            let required = match source {
                Source::Crowd => budget.quiet_max_ms,
                _ => rhythm.silence_ms().min(budget.quiet_max_ms).max(budget.quiet_min_ms),
            };
            (until.since(rhythm.last()) < required).then_some((rhythm.last(), *source))
        };
        let mut sources: Vec<_> = self.sources.iter().filter_map(loud).collect();
        sources.sort_unstable();
        sources.into_iter().map(|(_, source)| source).collect()
    }

    /// Forgets senders that have been away for long.
    pub fn forget(&mut self, now: Moment) {
        self.sources.retain(|_, sender| {
            sender.rhythm = sender.rhythm.take().filter(|rhythm| now.since(rhythm.last()) <= FORGET_MS);
            let pattern = sender.pattern.last().is_some_and(|last| now.since(last) <= FORGET_PATTERN_MS);
            sender.rhythm.is_some() || pattern
        });
    }

    /// The connections, as the last look saw them.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Moves every stored moment.
    pub fn rebase(&mut self, shift: impl Fn(Moment) -> Moment + Copy) {
        for sender in self.sources.values_mut() {
            sender.rhythm.iter_mut().for_each(|rhythm| rhythm.rebase(shift));
            sender.pattern.rebase(shift);
        }
        self.table.rebase(shift);
    }

    /// One request or more; whether they are no prober's.
    fn arrival(&mut self, arrival: &Arrival) -> bool {
        let source = self.source(arrival.peer);
        let kubelet = self.kubelets.contains(&arrival.peer.to_canonical());
        let sender = self.sender(source);
        let (at, bytes) = (arrival.at, arrival.bytes);
        let probe = arrival.request
            && source != Source::Crowd
            && if kubelet {
                sender.pattern.request_of_a_kubelet(at, bytes)
            } else {
                sender.pattern.request(at, bytes)
            };
        match probe {
            // Who is known by now to do nothing else has done nothing else before.
            true if sender.pattern.is_alone() && !kubelet => (sender.rhythm, sender.seen) = (None, None),
            true if kubelet => sender.forgive(),
            true => {}
            false => sender.seen = sender.seen.max(Some(arrival.at)),
        }
        self.table.is_probe(arrival.key, probe);
        !probe
    }

    fn source(&self, peer: IpAddr) -> Source {
        let source = Source::Peer(peer.to_canonical());
        let known = self.sources.contains_key(&source) || self.sources.len() < PEERS_KEPT;
        if known { source } else { Source::Crowd }
    }

    fn sender(&mut self, source: Source) -> &mut Sender {
        let unknown = || Sender { rhythm: None, pattern: Pattern::default(), seen: None };
        self.sources.entry(source).or_insert_with(unknown)
    }

    fn introduce(&mut self, peer: IpAddr, at: Moment) {
        let source = self.source(peer);
        let rhythm = &mut self.sender(source).rhythm;
        if rhythm.as_ref().is_none_or(|known| known.last() < at) {
            *rhythm = Some(Rhythm::first(at));
        }
    }

    /// One look is one sample of each rhythm, however many requests it saw.
    fn learn(&mut self, look: &Look) {
        for (source, sender) in &mut self.sources {
            match (sender.seen.take(), &mut sender.rhythm) {
                (Some(at), Some(rhythm)) => rhythm.arrived(look.now, at, look.draining),
                (Some(at), rhythm) => *rhythm = Some(Rhythm::first(at)),
                (None, Some(rhythm)) if *source != Source::Unattributed => rhythm.silent(look.now),
                (None, _) => {}
            }
        }
    }
}

impl Sender {
    /// Of a kubelet, when all that it has done were probes.
    fn forgive(&mut self) {
        if self.pattern.is_all_probes() {
            (self.rhythm, self.seen) = (None, None);
        }
    }

    fn counted(&mut self, look: &Look, requests: u64) {
        match &mut self.rhythm {
            Some(rhythm) => rhythm.counted(look.now, requests, look.draining),
            None => self.rhythm = Some(Rhythm::first(look.now)),
        }
    }
}
