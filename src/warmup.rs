//! Requests that warm up a server before clients reach it: code that is loaded when it is first used, connections,
//! caches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use crate::{
    config,
    core::observation::Warmed,
    probe::{Prober, Whom},
};

/// So many requests at once reach every worker of most servers.
const AT_ONCE: usize = 32;

const BETWEEN_ROUNDS: Duration = Duration::from_millis(100);

/// What a server is asked before clients reach it.
#[derive(Debug, Clone)]
pub struct Warmup {
    prober: Prober,
    paths: Arc<[String]>,
    /// How often each path is asked.
    count: usize,
    timeout: Duration,
    limit: Option<Duration>,
}

/// The answers of one round.
#[derive(Debug, Default)]
struct Round {
    took: Vec<Duration>,
    failed: usize,
    /// One of the failures, in words.
    failure: Option<String>,
}

impl Warmup {
    /// `None`: nothing is to be asked.
    pub(crate) fn new(section: &config::Warmup, prober: Option<&Prober>) -> Option<Self> {
        let prober = prober.filter(|_| !section.requests.is_empty())?.clone();
        Some(Self {
            prober,
            paths: section.requests.clone().into(),
            count: section.count as usize,
            timeout: section.timeout,
            limit: section.limit,
        })
    }

    /// When it counts as failed.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks each path as often as is wanted, so many times at once that each of `workers` gets some. Again, while answers
    /// are missing, say 5xx, or come later than the limit.
    ///
    /// # Errors
    /// What was still wrong when the time was over, in words.
    pub(crate) async fn run(&self, whom: Whom, workers: usize) -> Result<Warmed, String> {
        let begun = Instant::now();
        let (mut requests, mut before) = (0, None);
        loop {
            let left = self.timeout.saturating_sub(begun.elapsed());
            let round = self.round(whom, workers.clamp(1, AT_ONCE), left).await;
            requests += round.took.len();
            match round.verdict(self.limit) {
                Ok(p95) => {
                    let p95_ms = u64::try_from(p95.as_millis()).unwrap_or(u64::MAX);
                    return Ok(Warmed { requests, p95_ms });
                }
                Err(why) if begun.elapsed() >= self.timeout => {
                    // The last round was cut off; what was wrong with it says less.
                    let why = before.unwrap_or(why);
                    let timeout = humantime::format_duration(self.timeout);
                    return Err(format!("the warm-up failed within {timeout} (warmup.timeout): {why}"));
                }
                // A server that refuses at once is not asked in a circle.
                Err(why) => {
                    before = Some(why);
                    tokio::time::sleep(BETWEEN_ROUNDS).await;
                }
            }
        }
    }

    async fn round(&self, whom: Whom, at_once: usize, left: Duration) -> Round {
        let (end, next) = (Instant::now() + left, Arc::new(AtomicUsize::new(0)));
        let mut askers = JoinSet::new();
        for _ in 0..at_once {
            let (this, next) = (self.clone(), next.clone());
            askers.spawn(async move {
                let mut round = Round::default();
                while let Some(path) = this.path(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let answer = this.prober.status(whom, path, end.saturating_duration_since(begun)).await;
                    round.take(path, begun.elapsed(), answer);
                }
                round
            });
        }
        askers.join_all().await.into_iter().fold(Round::default(), Round::and)
    }

    fn path(&self, at: usize) -> Option<&str> {
        (at < self.paths.len() * self.count).then(|| self.paths[at % self.paths.len()].as_str())
    }
}

impl Round {
    fn take(&mut self, path: &str, took: Duration, answer: Result<u16, String>) {
        self.took.push(took);
        let failure = match answer {
            Ok(..500) => return,
            Ok(status) => format!("GET {path} answered {status}"),
            Err(why) => format!("GET {path} failed: {why}"),
        };
        self.failed += 1;
        self.failure.get_or_insert(failure);
    }

    fn and(mut self, other: Self) -> Self {
        self.took.extend(other.took);
        Self { took: self.took, failed: self.failed + other.failed, failure: self.failure.or(other.failure) }
    }

    fn verdict(mut self, limit: Option<Duration>) -> Result<Duration, String> {
        self.took.sort_unstable();
        let all = self.took.len();
        let p95 = self.took.get((all * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
        match (self.failure, limit) {
            (Some(failure), _) => Err(format!("{failure}; {} of {all} requests failed", self.failed)),
            (None, Some(limit)) if p95 > limit => {
                Err(format!("95 % of the answers came within {p95:.1?}, and warmup.limit is {limit:?}"))
            }
            (None, _) => Ok(p95),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, routing::get};

    use super::*;

    /// An app that is slow, and then fails, and then is warm.
    async fn app() -> (String, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let warming = move || {
            let before = count.fetch_add(1, Ordering::SeqCst);
            async move { if before < 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK } }
        };
        let slow = async || tokio::time::sleep(Duration::from_millis(60)).await;
        let app = Router::new()
            .route("/warming", get(warming))
            .route("/slow", get(slow))
            .route("/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR))
            .route("/denied", get(async || StatusCode::UNAUTHORIZED));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        (format!("http://{address}/up"), asked)
    }

    async fn told(url: &str, path: &str, timeout_ms: u64, limit_ms: Option<u64>) -> Result<Warmed, String> {
        let prober = Prober::new(url, &config::Verify::default()).unwrap();
        let section = config::Warmup {
            requests: vec![path.into()],
            count: 5,
            timeout: Duration::from_millis(timeout_ms),
            limit: limit_ms.map(Duration::from_millis),
        };
        Warmup::new(&section, Some(&prober)).unwrap().run(Whom::Live, 2).await
    }

    #[tokio::test]
    async fn paths_are_asked_again_until_they_answer() {
        let (url, asked) = app().await;
        assert_eq!(told(&url, "/warming", 60_000, Some(60_000)).await.unwrap().requests, 10);
        assert_eq!(asked.load(Ordering::SeqCst), 10);
        assert_eq!(told(&url, "/denied", 60_000, None).await.unwrap().requests, 5, "that is an answer");
    }

    #[tokio::test]
    async fn what_stays_broken_or_slow_fails_and_says_why() {
        let (url, _) = app().await;
        let broken = told(&url, "/broken", 300, None).await.unwrap_err();
        assert!(broken.contains("(warmup.timeout): GET /broken answered 500; 5 of 5"), "{broken}");
        let slow = told(&url, "/slow", 1_000, Some(1)).await.unwrap_err();
        assert!(slow.contains("warmup.limit is 1ms"), "{slow}");
    }

    #[test]
    fn the_slowest_of_twenty_may_be_slower() {
        let of = |ms: std::ops::RangeInclusive<u64>| Round {
            took: ms.map(Duration::from_millis).collect(),
            ..Round::default()
        };
        assert_eq!(of(1..=20).verdict(None), Ok(Duration::from_millis(19)));
        assert_eq!(of(1..=1).verdict(None), Ok(Duration::from_millis(1)));
        assert!(of(1..=20).verdict(Some(Duration::from_millis(18))).is_err());
    }

    #[test]
    fn without_paths_or_an_address_there_is_nothing_to_ask() {
        let prober = Prober::new("http://127.0.0.1:1/up", &config::Verify::default()).unwrap();
        assert!(Warmup::new(&config::Warmup::default(), Some(&prober)).is_none());
        let section = config::Warmup { requests: vec!["/".into()], ..config::Warmup::default() };
        assert!(Warmup::new(&section, None).is_none());
    }
}
