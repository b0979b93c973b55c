//! How many processes there should be, where nobody tells: as many as there were.

use std::time::{Duration, Instant};

/// Fewer than before are what was wanted, once nothing has changed for so long.
const STEADY: Duration = Duration::from_secs(10);

/// A number of processes, as it was seen over time.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkerCount {
    most: usize,
    now: usize,
    since: Instant,
}

impl WorkerCount {
    /// Nobody was seen yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { most: 0, now: 0, since: now }
    }

    /// After another look: so many are there, and all of them serve or not.
    #[must_use]
    pub(crate) fn after(self, count: usize, all_serve: bool, now: Instant) -> Self {
        let since = if count == self.now { self.since } else { now };
        let settled = now.duration_since(since) >= STEADY && all_serve;
        let most = if settled { count } else { self.most.max(count) };
        Self { most, now: count, since }
    }

    /// How many there should be; at least one.
    pub(crate) fn expected(&self) -> usize {
        self.most.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_missing_is_waited_for_until_it_is_clear_that_nobody_comes() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let two = WorkerCount::new(begun).after(2, true, at(0)).after(1, true, at(1));
        assert_eq!(two.expected(), 2);
        assert_eq!(two.after(1, true, at(10)).expected(), 2);
        assert_eq!(two.after(1, false, at(11)).expected(), 2, "one that boots may not be the last");
        assert_eq!(two.after(1, true, at(11)).expected(), 1);
        assert_eq!(two.after(0, true, at(2)).after(0, true, at(20)).expected(), 1);
    }
}
