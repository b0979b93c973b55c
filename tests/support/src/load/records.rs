use std::time::{Duration, Instant};

/// One request and what came of it.
#[derive(Debug, Clone)]
pub struct Record {
    /// What was asked for.
    pub path: String,
    /// When.
    pub began: Instant,
    /// Until the whole answer was there, or until it was given up; a retry included.
    pub took: Duration,
    /// The status of a whole answer.
    pub status: Option<u16>,
    /// The header `X-Release`: which release answered.
    pub release: Option<String>,
    /// Why there was no whole answer.
    pub lost: Option<String>,
    /// It was first sent on a connection that had served a request before.
    pub reused: bool,
    /// That connection was closed before any byte of the answer, and the request sent once more, on
    /// a fresh one.
    pub reset: bool,
    /// Part of the steady load.
    pub steady: bool,
}

impl Record {
    /// The expected answer: a whole 200.
    pub fn as_expected(&self) -> bool {
        self.status == Some(200)
    }

    /// A 500 of a release of which we know that it is broken.
    pub fn served_by(&self, bad: &[&str]) -> bool {
        self.status == Some(500) && self.release.as_deref().is_some_and(|release| bad.contains(&release))
    }

    /// Anything else.
    pub fn failed(&self, bad: &[&str]) -> bool {
        !self.as_expected() && !self.served_by(bad)
    }

    fn overlaps(&self, (from, to): (Instant, Option<Instant>)) -> bool {
        self.began + self.took >= from && to.is_none_or(|to| self.began < to)
    }

    fn inside(&self, (from, to): (Instant, Option<Instant>)) -> bool {
        self.began >= from && to.is_none_or(|to| self.began + self.took < to)
    }
}

/// Every request of a load, and when which phase began.
#[derive(Debug, Clone, Default)]
pub struct Records {
    requests: Vec<Record>,
    phases: Vec<(Instant, String)>,
}

/// The numbers that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// All.
    pub requests: usize,
    /// Those whose answer was not the expected one.
    pub failed: usize,
    /// Those that were sent once more because a reused connection was closed before any answer.
    pub resets: usize,
    /// 500s of a release of which we know that it is broken.
    pub served_by_bad_release: usize,
}

impl Records {
    /// A load that is worth its name, and every answer as expected.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        let failures: Vec<_> = self.failures(&[]).collect();
        assert!(self.requests.len() > 20, "only {} requests", self.requests.len());
        assert!(failures.is_empty(), "{} lost: {:?}", failures.len(), failures.first());
    }

    pub(super) fn push(&mut self, record: Record) {
        self.requests.push(record);
    }

    pub(super) fn enter(&mut self, phase: &str) {
        self.phases.push((Instant::now(), phase.to_owned()));
    }

    /// Adds what a later load saw.
    pub fn append(&mut self, later: Self) {
        self.requests.extend(later.requests);
        self.phases.extend(later.phases);
    }

    /// In the order in which they ended.
    pub fn requests(&self) -> &[Record] {
        &self.requests
    }

    /// Counts; `bad` are the releases whose 500s are theirs and not ours.
    pub fn tally(&self, bad: &[&str]) -> Tally {
        let count = |what: &dyn Fn(&Record) -> bool| self.requests.iter().filter(|r| what(r)).count();
        Tally {
            requests: self.requests.len(),
            failed: count(&|r| r.failed(bad)),
            resets: count(&|r| r.reset),
            served_by_bad_release: count(&|r| r.served_by(bad)),
        }
    }

    /// The requests that failed.
    pub fn failures<'a>(&'a self, bad: &'a [&str]) -> impl Iterator<Item = &'a Record> {
        self.requests.iter().filter(|record| record.failed(bad))
    }

    /// How long answers took that were waited for in this phase, even for a part of the time only.
    pub fn during(&self, phase: &str) -> Latencies {
        self.latencies(phase, Record::overlaps)
    }

    /// How long answers took whose whole time lies in this phase.
    pub fn within(&self, phase: &str) -> Latencies {
        self.latencies(phase, Record::inside)
    }

    fn latencies(&self, phase: &str, belongs: fn(&Record, (Instant, Option<Instant>)) -> bool) -> Latencies {
        let spans: Vec<_> = self.spans(phase).collect();
        let belongs = |record: &&Record| spans.iter().any(|span| belongs(record, *span));
        let answered = self.requests.iter().filter(|r| r.steady && r.status.is_some());
        Latencies::of(answered.filter(belongs).map(|record| record.took))
    }

    fn spans(&self, phase: &str) -> impl Iterator<Item = (Instant, Option<Instant>)> {
        let ends = self.phases.iter().skip(1).map(|(at, _)| Some(*at)).chain([None]);
        let named = self.phases.iter().zip(ends).filter(move |((_, name), _)| name == phase);
        named.map(|((from, _), to)| (*from, to))
    }
}

/// How long answers took.
#[derive(Debug, Clone, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<_> = times.collect();
        times.sort_unstable();
        Self(times)
    }

    /// How many answers.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest time that this share of the answers kept (0.99 for p99), in milliseconds; 0 when
    /// there were none.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).map_or(0.0, in_ms)
    }

    /// The longest, in milliseconds; 0 when there were none.
    pub fn max_ms(&self) -> f64 {
        self.0.last().map_or(0.0, in_ms)
    }
}

fn in_ms(time: &Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ms: impl Iterator<Item = u64>) -> Latencies {
        Latencies::of(ms.map(Duration::from_millis))
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let hundred = of((1..=100).rev());
        assert_eq!([0.5, 0.99, 1.0].map(|share| hundred.percentile_ms(share)), [50.0, 99.0, 100.0]);
        assert_eq!((hundred.max_ms(), hundred.count()), (100.0, 100));
        assert_eq!(of([7].into_iter()).percentile_ms(0.5), 7.0);
        assert_eq!((of([].into_iter()).percentile_ms(0.99), of([].into_iter()).max_ms()), (0.0, 0.0));
    }
}
