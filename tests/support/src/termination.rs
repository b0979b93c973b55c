use std::{fmt, net::Ipv4Addr, path::Path, thread, time::Duration};

use crate::{
    Dice, Pod, PumaRig, Setup,
    kubelet::{self, End, Hook},
    load::Record,
    proxy::{Proxies, Proxy, Traffic},
};

/// The pod's `terminationGracePeriodSeconds`.
pub const GRACE_PERIOD: Duration = Duration::from_secs(60);
/// `drain.min` and `drain.quiet` of every run: the defaults.
pub const MIN: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_secs(15);
/// An end that took so many seconds more than needed says why.
const LONG: f64 = 5.0;
/// A silence of `drain.quiet` is an accident less than once in a million above this rate.
const PROVABLE_PER_SECOND: f64 = 1.2;

/// One end of a pod, drawn by its seed: who sends, how, and how late each hears of the end.
#[derive(Debug, Clone)]
pub struct Termination {
    /// Decides on everything.
    pub seed: u64,
    /// Who sends.
    pub proxies: Vec<Proxy>,
    /// For how long the pod serves until it is deleted: the agent knows its senders the better, the longer
    /// it has watched them.
    pub serves: Duration,
}

/// How it went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Of this termination.
    pub termination: Termination,
    /// The container's side.
    pub end: End,
    /// All requests of users.
    pub requests: usize,
    /// Those that failed, with the number of their proxy; without those of probers.
    pub lost: Vec<(usize, Record)>,
    /// What the agent said at the drain's end.
    pub said: String,
}

impl Termination {
    /// One or two proxies; a prober beside them in one of four runs.
    pub fn draw(seed: u64, serves: Duration) -> Self {
        let mut dice = Dice(seed);
        let count = 1 + dice.below(2) as u8;
        let mut proxies: Vec<Proxy> = (0..count).map(|i| proxy(i + 2, &mut dice)).collect();
        if dice.percent(25) {
            let interval = Duration::from_secs_f64(dice.between(0.95, 1.25));
            let prober = Proxy { traffic: Traffic::Probing(interval), keeps: false, ..proxy(200, &mut dice) };
            proxies.push(prober);
        }
        Self { seed, proxies, serves }
    }

    /// Senders that hear of the end, without the probers.
    pub fn senders(&self) -> impl Iterator<Item = &Proxy> {
        self.proxies.iter().filter(|proxy| !matches!(proxy.traffic, Traffic::Probing(_)))
    }

    /// Whether no request of this proxy may be lost: it hears of the end within `drain.min`, or sends so
    /// often that its silence proves something.
    pub fn guaranteed(&self, number: usize) -> bool {
        let Some(proxy) = self.proxies.get(number) else { return false };
        proxy.lag <= MIN || proxy.traffic.per_second() >= PROVABLE_PER_SECOND
    }

    /// From the deletion until the last proxy has heard of it, and its longest request is over.
    pub fn needed(&self) -> Duration {
        self.senders().map(|proxy| proxy.lag + proxy.longest).max().unwrap_or_default()
    }

    /// Runs it with pitstop beside Puma. `binary` is the built pitstop.
    pub fn with_pitstop(&self, binary: &Path, setup: Setup) -> Outcome {
        let mut pod = Pod::prepare(binary, setup);
        let port = pod.puma.port();
        for (name, value) in [
            ("DRAIN_MIN", format!("{}s", MIN.as_secs())),
            ("DRAIN_QUIET", format!("{}s", QUIET.as_secs())),
            ("GRACE_PERIOD", format!("{}s", GRACE_PERIOD.as_secs())),
            // Other runs go on in this process namespace.
            ("PUMA_MATCH", format!("(tcp://127.0.0.1:{port})")),
        ] {
            pod.set(&format!("PITSTOP_{name}"), value);
        }
        pod = pod.in_sync();
        assert_eq!(port, pod.puma.port(), "another port than the agent was told");
        let hook = Hook::HttpGet(pod.agent.port());
        let mut outcome = self.run(&mut pod.puma, hook);
        pod.agent.terminate();
        let log = pod.log();
        let last = log.lines().rfind(|line| line.contains("drain: "));
        outcome.said = last.unwrap_or_default().into();
        outcome
    }

    /// Runs it with another hook, or none.
    pub fn without(&self, hook: Hook, setup: Setup) -> Outcome {
        let mut puma = PumaRig::start(setup);
        self.run(&mut puma, hook)
    }

    fn run(&self, puma: &mut PumaRig, hook: Hook) -> Outcome {
        let proxies = Proxies::start(puma.port(), &self.proxies);
        thread::sleep(self.serves);
        proxies.deleted();
        let end = kubelet::end(puma, hook, GRACE_PERIOD);
        // Who has not heard of the end yet goes on sending, to nobody.
        let last = self.senders().map(|proxy| proxy.lag).max().unwrap_or_default();
        thread::sleep(last.saturating_sub(end.deleted.elapsed()));
        let records = proxies.finish();
        let user = |number: usize| !matches!(self.proxies[number].traffic, Traffic::Probing(_));
        let requests = records.iter().filter(|(number, _)| user(*number)).count();
        let lost = |(number, record): &(usize, Record)| user(*number) && !record.as_expected();
        let lost = records.into_iter().filter(lost).collect();
        Outcome { termination: self.clone(), end, requests, lost, said: String::new() }
    }
}

fn proxy(address: u8, dice: &mut Dice) -> Proxy {
    let traffic = match dice.below(20) {
        0..14 => Traffic::Steady(dice.between(6.0, 30.0)),
        14..16 => Traffic::Steady(dice.between(PROVABLE_PER_SECOND, 6.0)),
        16..19 => Traffic::Bursty(dice.between(PROVABLE_PER_SECOND, 6.0), 2 + dice.below(6) as u32),
        _ => Traffic::Steady(dice.between(0.1, 0.5)),
    };
    let lag = if dice.percent(80) { dice.between(0.0, 3.0) } else { dice.between(3.0, 15.0) };
    Proxy {
        address: Ipv4Addr::new(127, 0, 0, address),
        traffic,
        keeps: dice.percent(50),
        lag: Duration::from_secs_f64(lag),
        longest: Duration::from_secs_f64(dice.between(0.5, 3.0)),
        seed: dice.number(),
    }
}

impl Outcome {
    /// Lost requests that must not be.
    pub fn broken(&self) -> usize {
        self.lost.iter().filter(|(number, _)| self.termination.guaranteed(*number)).count()
    }

    /// How much longer than needed SIGTERM was held back, in seconds; below 0 when it came sooner.
    pub fn excess(&self) -> f64 {
        self.end.term.as_secs_f64() - self.termination.needed().as_secs_f64()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, term) = (self.termination.seed, self.end.term.as_secs_f64());
        let (lost, needed) = (self.lost.len(), self.termination.needed().as_secs_f64());
        write!(
            f,
            "seed {seed}: {} requests, {lost} lost, SIGTERM after {term:.1} s of {needed:.1} s needed",
            self.requests
        )?;
        for proxy in &self.termination.proxies {
            let connections = if proxy.keeps { "kept" } else { "fresh" };
            write!(
                f,
                "; {:?} on {connections} connections, lag {:.1} s",
                proxy.traffic,
                proxy.lag.as_secs_f64()
            )?;
        }
        for (number, record) in self.lost.iter().take(5) {
            let at = record.began.saturating_duration_since(self.end.deleted).as_secs_f64();
            let what = record.lost.as_deref().unwrap_or("another status");
            write!(
                f,
                "\n  lost by proxy {number}: {} at {at:.2} s, {what} ({:?})",
                record.path, record.status
            )?;
        }
        if !self.lost.is_empty() || self.excess() > LONG {
            write!(f, "\n  {}", self.said)?;
        }
        Ok(())
    }
}
