//! `make bench BENCH=drain`: how long the end of a pod takes, and what is lost, with pitstop and with what
//! users have today: `sleep 30`, `sleep 5`, no hook.
//!
//! The same ends, drawn by the same seeds, with each of them; all four at the same time, so that
//! whatever else this machine does hits them alike.

use std::{env, path::Path, thread, time::Duration};

use pitstop_rig::{
    Setup, Termination,
    figures::{Comparison, publish},
    kubelet::Hook,
    termination::Outcome,
};

const PITSTOP: &str = env!("CARGO_BIN_EXE_pitstop");
const PEERS: [(&str, Hook); 3] = [
    ("preStop sleep 30", Hook::Sleep(Duration::from_secs(30))),
    ("preStop sleep 5", Hook::Sleep(Duration::from_secs(5))),
    ("no preStop hook", Hook::None),
];

/// Pods live for hours; so long suffices to know who sends.
const SERVES: Duration = Duration::from_secs(40);

fn number(name: &str, fallback: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(fallback)
}

fn setup() -> Setup {
    Setup { threads: (5, 5), ..Setup::default() }
}

/// What came of one seed: with pitstop, then with each peer.
fn compare(seed: u64) -> Vec<Outcome> {
    let termination = Termination::draw(seed, SERVES);
    thread::scope(|scope| {
        let ours = scope.spawn(|| termination.with_pitstop(Path::new(PITSTOP), setup()));
        let peers = PEERS.map(|(_, hook)| {
            let termination = &termination;
            scope.spawn(move || termination.without(hook, setup()))
        });
        [ours].into_iter().chain(peers).map(|run| run.join().expect("a run that works")).collect()
    })
}

struct Column<'a>(Vec<&'a Outcome>);

impl Column<'_> {
    fn median(&self, of: impl Fn(&Outcome) -> f64) -> f64 {
        let mut all: Vec<f64> = self.0.iter().map(|outcome| of(outcome)).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    }

    fn term(&self) -> f64 {
        self.median(|outcome| outcome.end.term.as_secs_f64())
    }

    fn excess(&self) -> f64 {
        self.median(Outcome::excess)
    }

    fn lost(&self) -> usize {
        self.0.iter().map(|outcome| outcome.lost.len()).sum()
    }

    fn requests(&self) -> usize {
        self.0.iter().map(|outcome| outcome.requests).sum()
    }
}

fn figures(outcomes: &[Vec<Outcome>], how: &str) -> Vec<Comparison> {
    let column = |index: usize| Column(outcomes.iter().map(|row| &row[index]).collect());
    let ours = column(0);
    let mut comparisons = Vec::new();
    for (index, (peer_name, _)) in PEERS.iter().enumerate() {
        let peer = column(index + 1);
        let lost = (ours.lost(), peer.lost());
        let how = format!(
            "{how}; of {} and {} requests; SIGTERM came after {:.1} s and {:.1} s (median)",
            ours.requests(),
            peer.requests(),
            ours.term(),
            peer.term()
        );
        let finish = |c: Comparison| c.against(peer_name, &how).with_lost(lost);
        comparisons.push(finish(Comparison::fewer_is_better("lost requests", lost, "requests")));
        // Who ends sooner by losing requests is not quicker.
        if index == 0 {
            let times = (ours.term(), peer.term());
            comparisons.push(finish(Comparison::smaller_is_better("until SIGTERM, median", times, "s")));
            let excess = (ours.excess().max(0.1), peer.excess().max(0.1));
            let name = "longer than the lag and the longest request, median";
            comparisons.push(finish(Comparison::smaller_is_better(name, excess, "s")));
        }
    }
    comparisons
}

fn main() -> std::io::Result<()> {
    let (count, first) = (number("RIG_TERMINATIONS", 8), number("RIG_SEED", 1));
    let mut outcomes = Vec::new();
    for seed in first..first + count {
        let row = compare(seed);
        println!("pitstop: {}", row[0]);
        for ((name, _), outcome) in PEERS.iter().zip(&row[1..]) {
            println!(
                "  {name}: {} lost, SIGTERM after {:.1} s",
                outcome.lost.len(),
                outcome.end.term.as_secs_f64()
            );
        }
        outcomes.push(row);
    }
    let how = format!(
        "{count} ends of a Puma of 2 workers, seeds {first} to {}; one or two proxies that hear of the end after \
         0-3 s (80 %) or 3-15 s, seven of ten with 6 to 30 requests a second, the others sparse or in bursts; drain.min 5s, drain.quiet 15s",
        first + count - 1
    );
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "drain", &figures(&outcomes, &how))
}
