//! How long a sender's silence must last until it is no accident.
//!
//! The question at the end of a pod is not how long the mean gap between two requests is, but how
//! old the last request is at any moment: in bursty traffic nearly every moment lies in a long gap. So
//! each look adds the age of the last arrival, weighted by the time that it stands for. Its mean `a`
//! is the mean gap for arrivals at random, and much more for arrivals in bursts. By `n` such ages, a
//! silence of `n·a·(10^(6/n) − 1)` is an accident once in a million: 13.8 mean gaps where much is
//! known, more where little is. And since no traffic is quite at random, it must be twice the longest
//! silence seen as well.

use crate::core::observation::Moment;

/// A silence as long as this is not part of a rhythm: it begins anew.
pub(super) const FORGET_MS: u64 = 120_000;
/// A rhythm follows the last few hundred arrivals.
const ARRIVALS_KEPT: u64 = 256;
/// So many arrivals tell whether a sender has become slower than it was before the drain.
const SLOWER_BY: u64 = 4;

/// Ages of the last arrival, over a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Ages {
    /// How many of them are independent of each other: one for each arrival.
    arrivals: u64,
    /// The integral of the age over the time, in ms².
    area: u64,
    span_ms: u64,
}

impl Ages {
    fn add(&mut self, more: Self) {
        self.arrivals += more.arrivals;
        self.area = self.area.saturating_add(more.area);
        self.span_ms += more.span_ms;
        if self.arrivals > ARRIVALS_KEPT {
            let kept =
                |n: u64| u64::try_from(u128::from(n) * u128::from(ARRIVALS_KEPT) / u128::from(self.arrivals));
            (self.area, self.span_ms) =
                (kept(self.area).unwrap_or(u64::MAX), kept(self.span_ms).unwrap_or(u64::MAX));
            self.arrivals = ARRIVALS_KEPT;
        }
    }

    fn mean_ms(self) -> u64 {
        self.area / self.span_ms.max(1)
    }

    /// The silence that is an accident once in a million.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of a few seconds; the cast saturates"
    )]
    fn silence_ms(self) -> u64 {
        if self.arrivals == 0 {
            return u64::MAX;
        }
        let n = self.arrivals as f64;
        let mean = self.area as f64 / self.span_ms.max(1) as f64;
        (n * mean.max(1.0) * (10f64.powf(6.0 / n) - 1.0)) as u64
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct GapEstimator {
    last: Moment,
    /// Until when it was watched.
    watched: Moment,
    longest_ms: u64,
    before: Ages,
    during: Ages,
    /// Since the last arrival. Part of the rhythm only once the next one has come: a silence must not be
    /// its own measure.
    pending: Ages,
}

impl GapEstimator {
    /// One arrival, at this moment.
    pub(crate) fn first(at: Moment) -> Self {
        let none = Ages::default();
        Self { last: at, watched: at, longest_ms: 0, before: none, during: none, pending: none }
    }

    pub(crate) fn last(&self) -> Moment {
        self.last
    }

    /// A drain begins: what it sees is counted apart.
    pub(crate) fn begin(&mut self) {
        self.during = Ages::default();
    }

    /// A look found no arrival.
    pub(crate) fn silent(&mut self, now: Moment) {
        let (span_ms, age) = (now.since(self.watched), now.since(self.last));
        self.pending.add(Ages { arrivals: 0, area: age.saturating_mul(span_ms), span_ms });
        self.watched = now;
    }

    /// A look found arrivals, the last of them at this moment.
    pub(crate) fn arrived(&mut self, now: Moment, at: Moment, draining: bool) {
        let gap = at.since(self.last);
        if gap > FORGET_MS {
            *self = Self::first(at);
            return;
        }
        // What came between two looks may be many: only silences that a look saw are known.
        self.longest_ms = match self.pending.span_ms {
            0 => self.faded(),
            _ => self.faded().max(self.watched.since(self.last)),
        };
        self.last = self.last.max(at);
        let (span_ms, age) = (now.since(self.watched), now.since(self.last));
        let mut ages = Ages { arrivals: 1, area: age.saturating_mul(span_ms), span_ms };
        ages.add(std::mem::take(&mut self.pending));
        self.watched = now;
        if draining { &mut self.during } else { &mut self.before }.add(ages);
    }

    /// So many requests since the last look, at moments that nobody knows: taken for evenly spread.
    pub(crate) fn counted(&mut self, now: Moment, requests: u64, draining: bool) {
        let gap = now.since(self.last);
        if gap > FORGET_MS {
            *self = Self::first(now);
            return;
        }
        let area = (gap / requests.max(1)).max(1).saturating_mul(gap);
        let ages = Ages { arrivals: requests, area, span_ms: gap };
        if draining { &mut self.during } else { &mut self.before }.add(ages);
        (self.last, self.watched, self.pending) = (now, now, Ages::default());
    }

    /// The longest silence fades as arrivals follow.
    fn faded(&self) -> u64 {
        let full = self.before.arrivals == ARRIVALS_KEPT;
        if full { self.longest_ms * 99 / 100 } else { self.longest_ms }
    }

    /// The silence that proves something, before the budget's bounds.
    pub(crate) fn silence_ms(&self) -> u64 {
        let slower = self.during.arrivals >= SLOWER_BY && self.during.mean_ms() > 2 * self.before.mean_ms();
        let mut known = self.during;
        if !slower {
            known.add(self.before);
        }
        known.silence_ms().max(self.longest_ms.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks each `look_ms` for a minute; arrivals at these moments.
    fn watched(look_ms: u64, arrivals: impl Fn(u64) -> Option<u64>) -> u64 {
        let mut rhythm = GapEstimator::first(Moment(0));
        for now in (look_ms..60_000).step_by(look_ms as usize) {
            match arrivals(now).filter(|at| *at > rhythm.last().0) {
                Some(at) => rhythm.arrived(Moment(now), Moment(at), false),
                None => rhythm.silent(Moment(now)),
            }
        }
        rhythm.silence_ms()
    }

    #[test]
    fn seldom_looks_at_frequent_traffic_know_that_it_is_frequent() {
        // Each 70 ms, looked at each second.
        let silence = watched(1000, |now| Some(now / 70 * 70));
        assert!(silence < 1000, "{silence}");
    }

    #[test]
    fn traffic_in_bursts_needs_a_longer_silence_than_as_many_requests_at_random() {
        // Five a second: evenly, or twenty within a moment each four seconds.
        let even = watched(100, |now| Some(now / 200 * 200));
        let bursts = watched(100, |now| Some(now / 4000 * 4000));
        assert!(even < 3000 && bursts > 15_000, "{even} {bursts}");
    }

    #[test]
    fn a_sender_of_whom_little_is_known_needs_a_longer_silence() {
        let mut rhythm = GapEstimator::first(Moment(0));
        assert_eq!(rhythm.silence_ms(), u64::MAX);
        for at in [200, 400, 600, 800, 1000, 1200] {
            rhythm.arrived(Moment(at), Moment(at - 100), true);
        }
        let six = rhythm.silence_ms();
        for at in (1400..10_000).step_by(200) {
            rhythm.arrived(Moment(at), Moment(at - 100), true);
        }
        assert!(rhythm.silence_ms() < six / 2, "{six}");
    }

    #[test]
    fn a_sender_that_has_become_slower_is_measured_by_what_it_is_now() {
        let mut rhythm = GapEstimator::first(Moment(0));
        for at in (100..20_000).step_by(100) {
            rhythm.arrived(Moment(at), Moment(at - 20), false);
        }
        let fast = rhythm.silence_ms();
        rhythm.begin();
        for now in (20_000..28_000).step_by(100) {
            match now % 1000 {
                0 => rhythm.arrived(Moment(now), Moment(now - 20), true),
                _ => rhythm.silent(Moment(now)),
            }
        }
        assert!(rhythm.silence_ms() > 8 * fast.max(500), "{fast} {}", rhythm.silence_ms());
    }
}
