use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use crate::{
    Dice,
    load::{Plan, Record, request, request_once},
};

/// How its requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Traffic {
    /// So many a second, at random.
    Steady(f64),
    /// So many times a second, at random, so many at once.
    Bursty(f64, u32),
    /// One each so often, like a clock: a health prober, which hears of no removal.
    Probing(Duration),
}

impl Traffic {
    /// How often a second it can be seen to be there.
    pub fn per_second(self) -> f64 {
        match self {
            Self::Steady(rate) | Self::Bursty(rate, _) => rate,
            Self::Probing(interval) => 1.0 / interval.as_secs_f64(),
        }
    }
}

/// A proxy in front of the pod, with an address of its own.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its address: one of 127.0.0.0/8.
    pub address: Ipv4Addr,
    /// How its requests come.
    pub traffic: Traffic,
    /// On connections that are kept, or on a fresh one for each request.
    pub keeps: bool,
    /// How long after the pod's deletion it hears of it.
    pub lag: Duration,
    /// The longest request that it sends.
    pub longest: Duration,
    /// Decides on everything else.
    pub seed: u64,
}

/// Proxies that send.
pub struct Proxies {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    deleted: Mutex<Option<Instant>>,
    stopped: AtomicBool,
    records: Mutex<Vec<(usize, Record)>>,
}

impl Shared {
    /// Whether a proxy of this lag still sends.
    fn sends(&self, lag: Option<Duration>) -> bool {
        let deleted = *self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = lag.zip(deleted).is_some_and(|(lag, deleted)| deleted.elapsed() >= lag);
        !removed && !self.stopped.load(Ordering::SeqCst)
    }

    fn push(&self, number: usize, record: Record) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push((number, record));
    }
}

impl Proxies {
    /// Each of them begins to send to this port.
    pub fn start(port: u16, proxies: &[Proxy]) -> Self {
        let shared = Arc::<Shared>::default();
        let start = |(number, proxy): (usize, &Proxy)| {
            let (shared, proxy) = (shared.clone(), proxy.clone());
            std::thread::spawn(move || run(number, &proxy, port, &shared))
        };
        let threads = proxies.iter().enumerate().map(start).collect();
        Self { shared, threads }
    }

    /// The pod is deleted now: each of them hears of it after its own lag.
    pub fn deleted(&self) {
        *self.shared.deleted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Stops those that go on, waits for every answer, and gives every request with its proxy's number.
    pub fn finish(mut self) -> Vec<(usize, Record)> {
        self.end();
        std::mem::take(&mut *self.shared.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(number: usize, proxy: &Proxy, port: u16, shared: &Arc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the system gives us a runtime for a proxy").block_on(async {
        let plan =
            Plan { from: proxy.address.into(), patience: Duration::from_secs(70), ..Plan::modest(port) };
        let mut sender =
            Sender { number, plan: Arc::new(plan), shared: shared.clone(), kept: Arc::default() };
        let mut dice = Dice(proxy.seed);
        let mut under_way = JoinSet::new();
        let lag = (!matches!(proxy.traffic, Traffic::Probing(_))).then_some(proxy.lag);
        loop {
            pause(proxy.traffic, &mut dice).await;
            if !shared.sends(lag) {
                break;
            }
            for _ in 0..proxy.at_once() {
                under_way.spawn(sender.clone().send(proxy.path(&mut dice), proxy.keeps));
            }
            while under_way.try_join_next().is_some() {}
        }
        under_way.join_all().await;
        sender.kept = Arc::default();
    });
}

/// In short steps would be useless: whoever sleeps when it hears of the removal sends no more.
async fn pause(traffic: Traffic, dice: &mut Dice) {
    let seconds = match traffic {
        Traffic::Probing(interval) => interval.as_secs_f64(),
        Traffic::Steady(rate) | Traffic::Bursty(rate, _) => -dice.unit().ln() / rate,
    };
    sleep(Duration::from_secs_f64(seconds.min(60.0))).await;
}

impl Proxy {
    fn at_once(&self) -> u32 {
        if let Traffic::Bursty(_, size) = self.traffic { size } else { 1 }
    }

    /// Quick ones, most of the time; now and then a slow one, an upload or a stream.
    fn path(&self, dice: &mut Dice) -> String {
        if matches!(self.traffic, Traffic::Probing(_)) {
            return "/up".into();
        }
        let longest = self.longest.as_secs_f64();
        match dice.below(100) {
            0 | 1 => format!("/slow?s={:.1}", 0.2 + dice.unit() * (longest - 0.2)),
            2 => format!("/upload?n={}", 1 + dice.below((longest * 10.0) as u64)),
            3 => format!("/stream?n={}", 1 + dice.below((longest * 10.0) as u64)),
            _ => format!("/page/{}", dice.below(1_000_000)),
        }
    }
}

#[derive(Clone)]
struct Sender {
    number: usize,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    kept: Arc<Mutex<Vec<crate::load::Connection>>>,
}

impl Sender {
    async fn send(self, path: String, keeps: bool) {
        let record = if keeps {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let record = request(&self.plan, &path, &mut kept).await;
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
            record
        } else {
            request_once(&self.plan, &path).await
        };
        self.shared.push(self.number, record);
    }
}
