//! What was expected, what was counted, and the summary of both.

use std::{fs, io, path::Path};

use pitstop_rig::load::{Record, Records};
use serde_json::json;

use crate::narrator;

/// The releases whose 500s are their own.
pub const BAD: [&str; 1] = ["v5"];

/// Names of the load's phases.
pub mod phase {
    /// Nothing is deployed.
    pub const BASELINE: &str = "baseline";
    /// A good phased deploy.
    pub const PHASED: &str = "phased";
    /// A good hot deploy.
    pub const HOT: &str = "hot";
    /// A bad release, and the way back.
    pub const BAD: &str = "bad release";
    /// A pod whose servers stand beside each other, without a deploy.
    pub const ALONE: &str = "beside, without a deploy";
    /// All deploys of that pod, bad and good.
    pub const BESIDE: &str = "beside";
    /// Everything else that is worth a name of its own.
    pub const OTHER: &str = "other";
}

/// Grows while the demo runs.
#[derive(Default)]
pub struct Report {
    expectations: Vec<(String, bool)>,
    /// What the clients saw.
    pub records: Records,
    /// Releases that came to run everywhere.
    pub deploys: u32,
    /// Releases that were undone.
    pub reverts: u32,
    /// How long /prestop was held.
    pub drain_seconds: Option<f64>,
    /// How long the pod that was born beside a sick dependency needed once that was back.
    pub birth_seconds: Option<f64>,
    /// Answers that a bad release gave which booted beside the one that serves.
    pub served_by_bad_release_beside: Option<usize>,
    /// Every act was played.
    pub played: bool,
}

impl Report {
    /// Notes whether something held, and says so at once.
    pub fn expect(&mut self, what: &str, held: bool, detail: impl ToString) {
        narrator::verdict(held, what, &detail.to_string());
        self.expectations.push((what.to_owned(), held));
    }

    /// Takes in what the clients of the last act saw, and how many of them met a bad release.
    pub fn beside(&mut self, records: Records, bad: &[&str]) {
        let met = |record: &&Record| record.release.as_deref().is_some_and(|by| bad.contains(&by));
        let met = records.requests().iter().filter(met).count();
        self.served_by_bad_release_beside = Some(met);
        self.expect("no client met a bad release", met == 0, format!("{met} answers"));
        self.records.append(records);
    }

    /// Prints and writes the summary; whether everything held.
    pub fn conclude(&mut self) -> io::Result<bool> {
        let tally = self.records.tally(&BAD);
        narrator::act("Summary", "");
        self.expect("the demo was played to its end", self.played, "");
        self.expect(
            "no request failed",
            tally.failed == 0,
            format!("{} of {}", tally.failed, tally.requests),
        );
        self.print_failures();
        self.print_times();
        self.write(Path::new(env!("CARGO_MANIFEST_DIR")))?;
        let broken: Vec<_> = self.expectations.iter().filter(|(_, held)| !held).collect();
        for (what, _) in &broken {
            println!("   did not hold: {what}");
        }
        println!(
            "demo: {} requests, {} failed, {} resets, {} answered by the bad release, {} deploys, {} reverts; \
             {} of {} expectations held",
            tally.requests,
            tally.failed,
            tally.resets,
            tally.served_by_bad_release,
            self.deploys,
            self.reverts,
            self.expectations.len() - broken.len(),
            self.expectations.len(),
        );
        Ok(broken.is_empty())
    }

    fn print_failures(&self) {
        for record in self.records.failures(&BAD).take(10) {
            let (status, lost) = (record.status, record.lost.as_deref().unwrap_or("a whole answer"));
            println!("   failed: {} after {:?}: status {status:?}, {lost}", record.path, record.took);
        }
    }

    fn print_times(&self) {
        let times = [
            ("without a deploy", self.records.within(phase::BASELINE)),
            ("during a phased deploy", self.records.during(phase::PHASED)),
            ("during a hot deploy", self.records.during(phase::HOT)),
            ("bad releases and the way back", self.records.during(phase::BAD)),
            ("beside, without a deploy", self.records.within(phase::ALONE)),
            ("beside, bad and good releases", self.records.during(phase::BESIDE)),
        ];
        println!("\n   {:<32}{:>9}{:>10}{:>10}{:>10}", "answers", "count", "p50 ms", "p99 ms", "max ms");
        for (name, times) in times {
            let [p50, p99] = [0.5, 0.99].map(|share| times.percentile_ms(share));
            println!("   {name:<32}{:>9}{p50:>10.1}{p99:>10.1}{:>10.1}", times.count(), times.max_ms());
        }
        if let Some(seconds) = self.drain_seconds {
            println!("   the end of the pod was held for {seconds:.1} s");
        }
        if let Some(seconds) = self.birth_seconds {
            println!(
                "   the pod that was born while the database was away was in sync {seconds:.1} s after it was back"
            );
        }
        if let Some(met) = self.served_by_bad_release_beside {
            let longest = self.records.during(phase::BESIDE).max_ms();
            println!(
                "   beside: the longest wait of a client was {longest:.0} ms, and {met} answers came from a bad release"
            );
        }
        println!();
    }

    fn write(&self, root: &Path) -> io::Result<()> {
        let tally = self.records.tally(&BAD);
        let summary = json!({
            "requests": tally.requests,
            "failed": tally.failed,
            "resets": tally.resets,
            "served_by_bad_release": tally.served_by_bad_release,
            "deploys": self.deploys,
            "reverted": self.reverts,
            "p99_ms_baseline": self.records.within(phase::BASELINE).percentile_ms(0.99),
            "p99_ms_during_phased": self.records.during(phase::PHASED).percentile_ms(0.99),
            "p99_ms_during_hot": self.records.during(phase::HOT).percentile_ms(0.99),
            "max_ms_during_beside": self.records.during(phase::BESIDE).max_ms(),
            "served_by_bad_release_beside": self.served_by_bad_release_beside,
            "drain_seconds": self.drain_seconds,
            "birth_seconds": self.birth_seconds,
        });
        let dir = root.join("target/demo");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("summary.json"), format!("{summary:#}\n"))
    }
}
