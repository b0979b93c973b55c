//! Does traffic still arrive? Asked for each sender by itself: one sender's silence proves nothing
//! about another's. How long a silence must last follows from the sender's own rhythm (see
//! `gaps.rs`), within the budget's bounds; what a sparse sender's silence cannot prove, `drain.min`
//! covers. Probers (see `probers.rs`) go on to the very end and are not waited for.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use super::{
    gaps::{FORGET_MS, GapEstimator},
    probers::ProberDetector,
    socket_diff::{Arrival, Sample, SocketDiff},
    types::Budget,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum SenderId {
    Peer(IpAddr),
    /// One of too many to be told apart.
    Crowd,
    /// Requests that workers counted and no socket showed.
    Unattributed,
}

/// The senders and their rhythms.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Quiet {
    senders: BTreeMap<SenderId, Sender>,
    /// Kubelets have asked the agent from here.
    kubelets: VecDeque<IpAddr>,
    diff: SocketDiff,
    counts: BTreeMap<ProcessKey, u64>,
    /// Arrivals seen on sockets that a worker's request count has yet to confirm.
    credit: u64,
    /// The same for arrivals of probers and ignored peers, which go on when everybody else is silent.
    background: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sender {
    /// `None` while only a prober was seen.
    gaps: Option<GapEstimator>,
    prober: ProberDetector,
    /// The last arrival that the present look has seen.
    seen: Option<Moment>,
}

impl Quiet {
    /// A drain begins: its own rates are counted apart.
    pub(crate) fn begin(&mut self) {
        self.senders.values_mut().filter_map(|sender| sender.gaps.as_mut()).for_each(GapEstimator::begin);
    }

    /// A kubelet asks from this address: what it has asked the app server were probes, if they look like it.
    pub(crate) fn kubelet(&mut self, address: IpAddr) {
        let address = address.to_canonical();
        if !self.kubelets.contains(&address) {
            self.kubelets.truncate(KUBELETS_KEPT - 1);
            self.kubelets.push_front(address);
        }
        if let Some(sender) = self.senders.get_mut(&SenderId::Peer(address)) {
            sender.forgive();
        }
    }

    /// Takes in a socket table; says whether something arrived from a peer that counts.
    pub(crate) fn sockets(&mut self, sample: &Sample, sockets: &Sockets, budget: &Budget) -> bool {
        let arrivals = self.diff.next(sample, sockets);
        for (peer, at) in arrivals.known_before {
            if !budget.ignores(peer) {
                self.introduce(peer, at);
            }
        }
        let mut arrived = arrivals.crowd;
        for arrival in arrivals.counted {
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
        if arrivals.crowd {
            self.sender(SenderId::Crowd).seen = Some(sample.now);
        }
        self.learn(sample);
        arrived
    }

    /// Takes in the workers' request counts: requests that no socket showed are traffic as well.
    pub(crate) fn workers(&mut self, sample: &Sample, workers: &[WorkerLoad]) {
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
        if unseen > 0 && !sample.unseen_is_ignored {
            self.sender(SenderId::Unattributed).counted(sample, unseen);
        }
    }

    /// Every worker has reported since the last arrival: credit that is left belonged to no request.
    pub(crate) fn settle(&mut self) {
        self.credit = 0;
    }

    /// Senders whose silence until this moment is not long enough, the latest one last.
    pub(crate) fn loud(&self, until: Moment, budget: &Budget) -> Vec<SenderId> {
        let loud = |(id, sender): (&SenderId, &Sender)| {
            let gaps = sender.gaps.as_ref()?;
            let required = match id {
                SenderId::Crowd => budget.quiet_max_ms,
                _ => gaps.silence_ms().min(budget.quiet_max_ms).max(budget.quiet_min_ms),
            };
            (until.since(gaps.last()) < required).then_some((gaps.last(), *id))
        };
        let mut senders: Vec<_> = self.senders.iter().filter_map(loud).collect();
        senders.sort_unstable();
        senders.into_iter().map(|(_, id)| id).collect()
    }

    /// Forgets senders that have been away for long.
    pub(crate) fn forget(&mut self, now: Moment) {
        self.senders.retain(|_, sender| {
            sender.gaps = sender.gaps.take().filter(|gaps| now.since(gaps.last()) <= FORGET_MS);
            let prober = sender.prober.last().is_some_and(|last| now.since(last) <= FORGET_PATTERN_MS);
            sender.gaps.is_some() || prober
        });
    }

    /// The connections, as the last look saw them.
    pub(crate) fn diff(&self) -> &SocketDiff {
        &self.diff
    }

    /// One request or more; whether they are no prober's.
    fn arrival(&mut self, arrival: &Arrival) -> bool {
        let id = self.id(arrival.peer);
        let kubelet = self.kubelets.contains(&arrival.peer.to_canonical());
        let sender = self.sender(id);
        let (at, bytes) = (arrival.at, arrival.bytes);
        let probe = arrival.request
            && id != SenderId::Crowd
            && if kubelet {
                sender.prober.request_of_a_kubelet(at, bytes)
            } else {
                sender.prober.request(at, bytes)
            };
        match probe {
            // Who is known by now to do nothing else has done nothing else before.
            true if sender.prober.is_alone() && !kubelet => (sender.gaps, sender.seen) = (None, None),
            true if kubelet => sender.forgive(),
            true => {}
            false => sender.seen = sender.seen.max(Some(arrival.at)),
        }
        self.diff.is_probe(arrival.key, probe);
        !probe
    }

    fn id(&self, peer: IpAddr) -> SenderId {
        let id = SenderId::Peer(peer.to_canonical());
        let known = self.senders.contains_key(&id) || self.senders.len() < PEERS_KEPT;
        if known { id } else { SenderId::Crowd }
    }

    fn sender(&mut self, id: SenderId) -> &mut Sender {
        let unknown = || Sender { gaps: None, prober: ProberDetector::default(), seen: None };
        self.senders.entry(id).or_insert_with(unknown)
    }

    fn introduce(&mut self, peer: IpAddr, at: Moment) {
        let id = self.id(peer);
        let gaps = &mut self.sender(id).gaps;
        if gaps.as_ref().is_none_or(|known| known.last() < at) {
            *gaps = Some(GapEstimator::first(at));
        }
    }

    /// One look is one sample of each gaps, however many requests it saw.
    fn learn(&mut self, sample: &Sample) {
        for (id, sender) in &mut self.senders {
            match (sender.seen.take(), &mut sender.gaps) {
                (Some(at), Some(gaps)) => gaps.arrived(sample.now, at, sample.draining),
                (Some(at), gaps) => *gaps = Some(GapEstimator::first(at)),
                (None, Some(gaps)) if *id != SenderId::Unattributed => gaps.silent(sample.now),
                (None, _) => {}
            }
        }
    }
}

impl Sender {
    /// Of a kubelet, when all that it has done were probes.
    fn forgive(&mut self) {
        if self.prober.is_all_probes() {
            (self.gaps, self.seen) = (None, None);
        }
    }

    fn counted(&mut self, sample: &Sample, requests: u64) {
        match &mut self.gaps {
            Some(gaps) => gaps.counted(sample.now, requests, sample.draining),
            None => self.gaps = Some(GapEstimator::first(sample.now)),
        }
    }
}
