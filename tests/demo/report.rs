//! What was expected, what was counted, and the summary of both.

use std::{fs, io, path::Path};

use pitstop_rig::load::Records;
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
}

impl Report {
    /// Notes whether something held, and says so at once.
    pub fn expect(&mut self, what: &str, held: bool, detail: impl ToString) {
        narrator::verdict(held, what, &detail.to_string());
        self.expectations.push((what.to_owned(), held));
    }

    /// Prints and writes the summary; whether everything held.
    pub fn conclude(&mut self) -> io::Result<bool> {
        let tally = self.records.tally(&BAD);
        narrator::act("Summary", "");
        self.expect("the demo was played to its end", self.birth_seconds.is_some(), "");
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
            "drain_seconds": self.drain_seconds,
            "birth_seconds": self.birth_seconds,
        });
        let dir = root.join("target/demo");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("summary.json"), format!("{summary:#}\n"))
    }
}
