//! Health probes and scrapers: they go on to the very end, so that waiting for their silence would be
//! waiting for the deadline. Paths and user agents cannot be seen, but the pattern can: the same
//! peer sends a request of the same length at the same interval, like a clock.

use crate::core::observation::Moment;

/// So many requests in a row on the beat, the present one not counted.
const BEATS: usize = 9;
/// So many of them may be missed or late.
const MISSES: usize = 1;
/// The shortest interval of a prober. Clients that ask more often than this are clients.
const SHORTEST_MS: u64 = 900;
/// The longest.
const LONGEST_MS: u64 = 120_000;
/// How far off the beat it may be: a fiftieth of the interval, within these bounds.
const SLACK_MS: (u64, u64) = (80, 250);
/// So many probers may share a peer, a length and an interval: the three probes of a container.
const SHARE: usize = 3;
/// Shorter intervals than this are not shared: who asks several times a second is a client.
const SHARED_FROM_MS: u64 = 2000;
/// The kubelet's probes have a connection each, few headers, and periods of whole seconds, as measured here.
const PROBE_BYTES: u64 = 200;
const SECOND_MS: u64 = 1000;
const SECOND_SLACK_MS: u64 = 80;
/// So many probes of different lengths may be the first of their kind: readiness and liveness.
const FIRST_OF_THEIR_KIND: usize = 2;
/// Lengths told apart for one peer, and the requests of each that are remembered.
const LENGTHS_KEPT: usize = 32;
const REQUESTS_KEPT: usize = 40;

/// One peer's requests, by their length.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct ProberDetector {
    lengths: Vec<Length>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Length {
    bytes: u64,
    /// The latest ones, in order.
    at: Vec<Moment>,
}

impl ProberDetector {
    /// Takes in a request of this length, and says whether it is one more of a prober's.
    pub(crate) fn request(&mut self, at: Moment, bytes: u64) -> bool {
        let length = self.length(bytes);
        let regular = length.on_the_beat(at);
        length.at.push(at);
        length.at.sort_unstable();
        if length.at.len() > REQUESTS_KEPT {
            length.at.remove(0);
        }
        regular
    }

    /// The same of a peer that is a kubelet. Proxies share its address, so that not all of it is probes: one is
    /// if it is short, and the first of its length or some whole seconds after another.
    pub(crate) fn request_of_a_kubelet(&mut self, at: Moment, bytes: u64) -> bool {
        let known = self.lengths.iter().position(|length| length.is(bytes));
        let probe = bytes <= PROBE_BYTES
            && match known {
                Some(known) => self.lengths[known].after_whole_seconds(at),
                None => self.lengths.len() < FIRST_OF_THEIR_KIND,
            };
        self.request(at, bytes) || probe
    }

    /// Whether all that is known of a peer are a kubelet's probes.
    pub(crate) fn is_all_probes(&self) -> bool {
        let first = self.lengths.iter().filter(|length| length.at.len() == 1).count();
        let probes = |length: &Length| {
            let explained = |at: &Moment| length.after_whole_seconds(*at) || length.before_whole_seconds(*at);
            length.bytes <= PROBE_BYTES && (length.at.len() == 1 || length.at.iter().all(explained))
        };
        first <= FIRST_OF_THEIR_KIND && self.lengths.iter().all(probes)
    }

    /// The latest request of a length that may be a prober's.
    pub(crate) fn last(&self) -> Option<Moment> {
        let several = self.lengths.iter().filter(|length| length.at.len() > 1);
        several.filter_map(|length| length.at.last().copied()).max()
    }

    /// All requests of this peer are of one length.
    pub(crate) fn is_alone(&self) -> bool {
        self.lengths.len() == 1
    }

    /// The end mark of a connection counts as one byte, and is seen or not.
    fn length(&mut self, bytes: u64) -> &mut Length {
        let known = self.lengths.iter().position(|length| length.is(bytes));
        let index = known.unwrap_or_else(|| {
            if self.lengths.len() == LENGTHS_KEPT {
                let least = |length: &Length| (length.at.len(), length.at.last().copied());
                let index = (0..LENGTHS_KEPT).min_by_key(|i| least(&self.lengths[*i]));
                self.lengths.remove(index.unwrap_or(0));
            }
            self.lengths.push(Length { bytes, at: Vec::new() });
            self.lengths.len() - 1
        });
        &mut self.lengths[index]
    }
}

impl Length {
    fn is(&self, bytes: u64) -> bool {
        self.bytes.abs_diff(bytes) <= 1
    }

    fn after_whole_seconds(&self, at: Moment) -> bool {
        self.at.iter().any(|earlier| self.whole_seconds(*earlier, at))
    }

    fn before_whole_seconds(&self, at: Moment) -> bool {
        self.at.iter().any(|later| self.whole_seconds(at, *later))
    }

    fn whole_seconds(&self, earlier: Moment, later: Moment) -> bool {
        let interval_ms = later.since(earlier);
        let off = (interval_ms + SECOND_SLACK_MS) % SECOND_MS;
        (SHORTEST_MS..=LONGEST_MS).contains(&interval_ms)
            && off <= 2 * SECOND_SLACK_MS
            && self.at.iter().filter(|at| **at > earlier && **at < later).count() < SHARE
    }

    /// Several probers may share a peer and a length: any earlier request may be the one before.
    fn on_the_beat(&self, at: Moment) -> bool {
        let intervals = self.at.iter().rev().map(|earlier| at.since(*earlier));
        intervals.filter(|ms| (SHORTEST_MS..=LONGEST_MS).contains(ms)).any(|ms| self.kept_since(at, ms))
    }

    /// Whether there was a request at each of the last beats.
    fn kept_since(&self, at: Moment, interval_ms: u64) -> bool {
        if self.is_crowded(at, interval_ms) {
            return false;
        }
        let slack = (interval_ms / 50).clamp(SLACK_MS.0, SLACK_MS.1);
        let (mut beat, mut misses) = (at, 0);
        for _ in 0..BEATS {
            let due = beat.0.saturating_sub(interval_ms);
            let found = self.at.iter().min_by_key(|at| at.0.abs_diff(due));
            let hit = found.copied().filter(|found| *found < beat && found.0.abs_diff(due) <= slack);
            misses += usize::from(hit.is_none());
            // From where it was, not from where it should have been: a clock may drift.
            beat = hit.unwrap_or(Moment(due));
        }
        misses <= MISSES
    }

    /// Among many requests some are always on some beat.
    fn is_crowded(&self, at: Moment, interval_ms: u64) -> bool {
        let share = if interval_ms < SHARED_FROM_MS { 1 } else { SHARE };
        let lately = |earlier: &&Moment| at.since(**earlier) < interval_ms * BEATS as u64;
        self.at.iter().filter(lately).count() > share * (BEATS + MISSES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(requests: impl IntoIterator<Item = (u64, u64)>) -> Vec<bool> {
        let mut pattern = ProberDetector::default();
        requests.into_iter().map(|(at, bytes)| pattern.request(Moment(at), bytes)).collect()
    }

    fn dice(number: u64) -> u64 {
        let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33
    }

    #[test]
    fn a_prober_is_recognised_after_ten_probes() {
        for period in [1000, 10_000, 60_000] {
            // Some jitter, and an end mark that is counted or not.
            let seen = recognised((1..16).map(|i| (i * period + i * 37 % 50, 113 + i % 2)));
            assert!(!seen[..8].contains(&true), "{period}: {seen:?}");
            assert!(seen[9..].iter().all(|regular| *regular));
        }
    }

    #[test]
    fn one_probe_that_is_late_costs_itself_and_its_neighbour_at_most() {
        let late = |i: u64| if i == 14 { 400 } else { 0 };
        let seen = recognised((1..24).map(|i| (i * 1000 + late(i), 113)));
        assert!(seen[9..].iter().filter(|regular| !**regular).count() <= 2, "{seen:?}");
    }

    #[test]
    fn two_probers_of_one_node_are_recognised() {
        let both = (1..30).flat_map(|i| [(i * 10_000, 120), (i * 10_000 + 3000, 120)]);
        assert!(recognised(both).into_iter().skip(20).all(|regular| regular));
    }

    #[test]
    fn probes_are_recognised_among_the_requests_of_users_of_the_same_peer() {
        let mut requests: Vec<(u64, u64)> = (1..40).map(|i| (i * 5000, 113)).collect();
        requests.extend((0..400).map(|i| (dice(i) % 195_000, 400 + dice(i + 400) % 40)));
        requests.sort_unstable();
        let seen = recognised(requests.iter().copied());
        let regular = requests.iter().zip(&seen).filter(|(_, regular)| **regular);
        assert!(regular.clone().all(|((_, bytes), _)| *bytes == 113));
        assert!(regular.count() >= 29);
    }

    #[test]
    fn clients_are_no_probers() {
        // Thirty of the same length each second; and one that is as rare as a prober, but no clock.
        assert!(!recognised((0..400).map(|i| (i * 33, 113))).contains(&true));
        // Several a second, at a fixed pace or at none.
        assert!(!recognised((0..400).map(|i| (i * 300, 113))).contains(&true));
        assert!(!recognised((0..400).map(|i| (i * 300 + dice(i) % 250, 113))).contains(&true));
        assert!(!recognised((0..60).map(|i| (i * 5000 + dice(i) % 2500, 113))).contains(&true));
        // Regular, but another length each time.
        assert!(!recognised((0..60).map(|i| (i * 5000, 100 + i * 3))).contains(&true));
    }

    #[test]
    fn one_that_stops_and_comes_back_must_prove_itself_again() {
        let mut requests: Vec<(u64, u64)> = (1..13).map(|i| (i * 2000, 113)).collect();
        requests.extend((1..9).map(|i| (100_700 + i * 2000, 113)));
        assert!(!recognised(requests)[13..].contains(&true));
    }
}
