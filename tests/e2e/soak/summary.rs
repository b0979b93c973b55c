//! What a soak counts, and how it is judged.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    fs,
    time::{Duration, Instant},
};

use pitstop_rig::load::{Record, Records};

use super::plan::{Fault, Mode};

/// How much later than the kill a request may have begun that was lost by it.
const SLACK: Duration = Duration::from_millis(300);
/// The life of a process that is shorter has no slope that means anything.
const LIFE_MIN: Duration = Duration::from_secs(600);
/// An agent may grow by so much in an hour.
const KIB_PER_HOUR_MAX: f64 = 4096.0;
/// Descriptors and threads at rest vary by so many: connections to the store, threads of finished work.
const SPREAD_MAX: u64 = 16;

/// A time in which Puma itself cannot keep what it works on.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    pub fault: Fault,
    pub from: Instant,
    /// Somebody serves again.
    pub until: Instant,
}

impl Loss {
    fn excuses(&self, record: &Record) -> bool {
        record.began <= self.until + SLACK && record.began + record.took + SLACK >= self.from
    }

    /// What it is called.
    fn name(fault: Fault) -> &'static str {
        match fault {
            Fault::Worker => "in killed workers",
            Fault::Master => "by killed masters",
            Fault::Parent => "by killed containers",
            _ => "by the kernel's OOM killer",
        }
    }
}

/// How a deploy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Verified,
    Reverted,
    Superseded,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verified => "verified",
            Self::Reverted => "reverted",
            Self::Superseded => "superseded",
        })
    }
}

/// A process at a moment of rest.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub at: Duration,
    pub pid: i32,
    pub rss_kib: u64,
    pub descriptors: u64,
    pub threads: u64,
}

impl Sample {
    /// `None` when the process ends meanwhile.
    pub fn of(pid: i32, at: Duration) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        Some(Self { at, pid, rss_kib: number("VmRSS:")?, descriptors, threads: number("Threads:")? })
    }
}

/// One program's processes, one after another.
#[derive(Debug, Default)]
pub struct Series(pub Vec<Sample>);

impl Series {
    /// The samples of each process that lived long, without the first fifth of its life.
    fn warm(&self) -> Vec<&[Sample]> {
        let lives = self.0.chunk_by(|a, b| a.pid == b.pid);
        let long = |life: &&[Sample]| life[life.len() - 1].at - life[0].at >= LIFE_MIN;
        lives.filter(long).map(|life| &life[life.len().div_ceil(5)..]).collect()
    }

    /// How long processes were watched in all, after their warm-up.
    fn watched(&self) -> Duration {
        self.warm().iter().map(|life| life[life.len() - 1].at - life[0].at).sum()
    }

    /// KiB in an hour: one slope for all lives, each with its own beginning.
    fn slope(&self) -> f64 {
        let (mut both, mut square) = (0.0, 0.0);
        for life in self.warm() {
            let mean = |of: fn(&Sample) -> f64| life.iter().map(of).sum::<f64>() / life.len() as f64;
            let (hours, rss) = (|s: &Sample| s.at.as_secs_f64() / 3600.0, |s: &Sample| s.rss_kib as f64);
            let (mean_hours, mean_rss) = (mean(hours), mean(rss));
            for sample in life {
                both += (hours(sample) - mean_hours) * (rss(sample) - mean_rss);
                square += (hours(sample) - mean_hours).powi(2);
            }
        }
        if square > 0.0 { both / square } else { 0.0 }
    }

    /// The most by which a process's number varied at rest.
    fn spread(&self, of: fn(&Sample) -> u64) -> u64 {
        let spread = |life: &&[Sample]| {
            let (least, most) = (life.iter().map(of).min(), life.iter().map(of).max());
            most.unwrap_or_default() - least.unwrap_or_default()
        };
        self.warm().iter().map(spread).max().unwrap_or_default()
    }

    /// Why this is not flat.
    pub fn problems(&self, name: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if self.slope() > KIB_PER_HOUR_MAX {
            problems.push(format!("{name} grows by {:.0} KiB in an hour", self.slope()));
        }
        for (what, spread) in
            [("descriptors", self.spread(|s| s.descriptors)), ("threads", self.spread(|s| s.threads))]
        {
            if spread > SPREAD_MAX {
                problems.push(format!("the {what} of {name} vary by {spread}"));
            }
        }
        problems
    }

    fn line(&self, name: &str) -> String {
        let at = |index: usize| self.0.get(index).or(self.0.last());
        let [start, middle, end] = [0, self.0.len() / 2, self.0.len().saturating_sub(1)].map(at);
        let three = |of: &dyn Fn(&Sample) -> String| {
            [start, middle, end].map(|sample| sample.map(of).unwrap_or_default()).join(", ")
        };
        format!(
            "{name} at start, middle, end: RSS {} MiB; {} descriptors; {} threads; slope of RSS {:+.0} KiB/h over {} s of warm processes",
            three(&|s| format!("{:.1}", s.rss_kib as f64 / 1024.0)),
            three(&|s| s.descriptors.to_string()),
            three(&|s| s.threads.to_string()),
            self.slope(),
            self.watched().as_secs(),
        )
    }
}

/// All that was counted.
#[derive(Debug, Default)]
pub struct Counts {
    pub deploys: BTreeMap<(Mode, &'static str, Outcome), u64>,
    /// Of each fault: how often it was done, and how often there was nobody to do it to.
    pub faults: BTreeMap<Fault, (u64, u64)>,
    pub agent: Series,
    pub parent: Series,
}

/// The requests that got no good answer.
pub struct Lost {
    /// By the exception that names why.
    excused: BTreeMap<&'static str, u64>,
    /// By what the client saw.
    pub others: BTreeMap<String, u64>,
    pub first_others: Vec<Record>,
}

/// What Puma itself loses when it stops workers, by hand as well.
#[derive(Debug, Default)]
pub struct OfPuma {
    /// How often its log says that a worker which stops has answered a kept connection with 500.
    pub read_lost: u64,
    /// Phased and hot deploys: a worker that stops closes a new connection now and then, without a word.
    pub in_place: Vec<(Instant, Instant)>,
}

impl OfPuma {
    const READ_LOST: &str = "by Puma's stopping workers (`stream closed in another thread`)";
    const CLOSED: &str = "by Puma's stopping workers (new connection closed)";

    /// The exception that names why a request was lost, if one is left.
    fn excuse(&mut self, record: &Record, closed: u64) -> Option<&'static str> {
        if record.status == Some(500) && record.reused && self.read_lost > 0 {
            self.read_lost -= 1;
            return Some(Self::READ_LOST);
        }
        let unanswered =
            record.lost.as_ref().is_some_and(|why| why.contains("connection closed before message"));
        let stops = self.in_place.iter().any(|(from, until)| (*from..=*until).contains(&record.began));
        // Seldom: one in ten restarts, and one in a short run.
        let seldom = closed <= self.in_place.len() as u64 / 10;
        (unanswered && !record.reused && stops && seldom).then_some(Self::CLOSED)
    }
}

impl Lost {
    pub fn of(records: &Records, losses: &[Loss], mut puma: OfPuma) -> Self {
        let mut lost = Self { excused: BTreeMap::new(), others: BTreeMap::new(), first_others: Vec::new() };
        for record in records.failures(&[]) {
            let loss = losses.iter().find(|loss| loss.excuses(record)).map(|loss| Loss::name(loss.fault));
            let closed = lost.excused.get(OfPuma::CLOSED).copied().unwrap_or_default();
            if let Some(why) = loss.or_else(|| puma.excuse(record, closed)) {
                *lost.excused.entry(why).or_default() += 1;
                continue;
            }
            let seen = || record.lost.clone().unwrap_or_default();
            *lost.others.entry(record.status.map_or_else(seen, |status| status.to_string())).or_default() +=
                1;
            lost.first_others.push(record.clone());
        }
        lost.first_others.truncate(20);
        lost
    }
}

/// The row of docs/reliability.md.
pub fn row(counts: &Counts, lost: &Lost, minutes: u64, test: &str) -> String {
    let name = |fault: &Fault| match fault {
        Fault::Agent => "kill -9 of agents",
        Fault::Candidate => "candidates",
        Fault::Worker => "workers",
        Fault::Master => "masters",
        Fault::Parent => "`pitstop exec`",
        Fault::StoreErrors => "S3 errors",
        Fault::StoreSilent => "silence",
        Fault::StoreCut => "cuts",
        Fault::StoreAway => "outages",
        Fault::StoreStale => "stale reads",
        Fault::DiskFull => "full volume",
        Fault::Memory => "little memory",
        Fault::Drain => "drains",
    };
    let done = counts.faults.iter().filter(|(_, (done, _))| *done > 0);
    let done: Vec<_> = done.map(|(fault, (done, _))| format!("{} ({done})", name(fault))).collect();
    let why: Vec<_> = lost.excused.iter().map(|(why, count)| format!("{count} lost {why}")).collect();
    let why = if why.is_empty() { "nothing lost".to_owned() } else { why.join(", ") };
    format!("- soak of {minutes} minutes: {}: {why}. `{test}`", done.join(", "))
}

/// What is printed at the end.
pub fn text(counts: &Counts, requests: usize, lost: &Lost) -> String {
    let mut text = String::new();
    let others: u64 = lost.others.values().sum();
    let excused: u64 = lost.excused.values().sum();
    let all: u64 = counts.deploys.values().sum();
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes all");
    line(format!(
        "{requests} requests; {others} failed outside of the exceptions; {excused} by exceptions; {all} deploys"
    ));
    lost.others.iter().for_each(|(kind, count)| line(format!("  failed: {count} × {kind}")));
    lost.excused.iter().for_each(|(why, count)| line(format!("  exception: {count} lost {why}")));
    for ((mode, release, outcome), count) in &counts.deploys {
        line(format!("  {}: {count} × {release}: {outcome}", mode.name()));
    }
    for (fault, (done, missed)) in &counts.faults {
        let missed = if *missed > 0 { format!(" ({missed} met nobody)") } else { String::new() };
        line(format!("  fault {}: {done}{missed}", fault.name()));
    }
    line(counts.agent.line("  agent"));
    line(counts.parent.line("  pitstop exec"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(lives: &[(i32, &[u64])]) -> Series {
        let mut at = 0;
        let samples = lives.iter().flat_map(|(pid, rss)| rss.iter().map(move |rss| (*pid, *rss)));
        let mut sample = |(pid, rss_kib)| {
            at += 60;
            Sample { at: Duration::from_secs(at), pid, rss_kib, descriptors: 20, threads: 8 }
        };
        Series(samples.map(&mut sample).collect())
    }

    #[test]
    fn soak_summary_sees_growth_within_a_process_and_not_between_two() {
        let flat = series(&[(1, &[9000; 12]), (2, &[12000; 12])]);
        assert_eq!(flat.slope(), 0.0);
        assert!(flat.problems("agent").is_empty());
        let grows: Vec<u64> = (0..20).map(|minute| 9000 + minute * 100).collect();
        let grows = series(&[(1, &grows)]);
        assert!((grows.slope() - 6000.0).abs() < 1.0);
        assert_eq!(grows.problems("agent"), ["agent grows by 6000 KiB in an hour"]);
    }
}
