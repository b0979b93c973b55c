//! `make bench BENCH=modes`: how long a deploy takes and what clients notice of it, for each way to restart and each
//! version of Puma that is here, beside the same by hand: the link flipped and a bare `kill`.
//!
//! Both sides get the same Puma, the same app and the same load, by turns in one run. The clock starts with the move
//! (`promote`, or the flip) and stops when the new release has answered and the old one does no more. What pitstop does besides (noticing
//! the move, fetching, checking every byte, the journal) is in its figure. As root the Puma 6.6 of
//! `target/roots/trixie` is measured too.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use pitstop_rig::{
    Image, Load, Setup,
    figures::{Comparison, publish},
    is_root,
    load::{Plan, Record, Records},
    mover::{ByHand, ByPitstop, Mode, Mover},
    poll,
};

/// Restarts of each kind; `BENCH_RUNS` says otherwise.
const RUNS: usize = 5;
/// What counts as "during" a restart: this long from the move on, or longer where it takes longer.
const WINDOW: Duration = Duration::from_secs(5);
const BOOT_SECONDS: f32 = 1.0;

fn runs() -> usize {
    std::env::var("BENCH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS)
}

fn setup(image: Image) -> Setup {
    // Now and then a worker of 6.6 stops only when it is ended.
    let limits = Setup { worker_shutdown_timeout: 3, boot_seconds: BOOT_SECONDS, ..Setup::default() };
    Setup { threads: (3, 3), ..limits }.from(image)
}

/// All restarts of one side.
#[derive(Default)]
struct Side {
    records: Records,
    /// Until the new release answered and the old one did no more, in ms.
    deploys: Vec<f64>,
    /// Until the mover was sure, in ms.
    sure: Vec<f64>,
}

impl Side {
    fn restart(&mut self, mover: &dyn Mover, id: &str) {
        mover.prepare(id);
        let load = Load::start(Plan::modest(mover.puma().port()), "before");
        poll(Duration::from_secs(1), || None::<()>);
        load.phase("restart");
        let began = Instant::now();
        mover.move_to(id);
        self.sure.push(in_ms(began.elapsed()));
        poll(WINDOW.saturating_sub(began.elapsed()), || None::<()>);
        let records = load.finish();
        self.deploys.push(in_ms(deployed(&records, id, began)));
        self.records.append(records);
    }

    fn failed(&self) -> usize {
        self.records.tally(&[]).failed
    }
}

/// When the new release had answered, and the old one was asked for the last time.
fn deployed(records: &Records, id: &str, began: Instant) -> Duration {
    let since = |moment: Instant| moment.saturating_duration_since(began);
    let answered = |new: bool| {
        let by = move |record: &&Record| record.release.as_deref().is_some_and(|by| (by == id) == new);
        records.requests().iter().filter(by)
    };
    let first = answered(true).map(|record| since(record.began + record.took)).min();
    let last = answered(false).map(|record| since(record.began)).max();
    first.max(last).unwrap_or_default()
}

fn in_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// As the master's title tells it.
fn version(mover: &dyn Mover) -> String {
    let pid = mover.puma().master().expect("Puma runs");
    let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    title.split(' ').nth(1).unwrap_or("unknown").to_owned()
}

fn compare(image: Image, mode: Mode) -> Vec<Comparison> {
    let pitstop = ByPitstop::start(Path::new(env!("CARGO_BIN_EXE_pitstop")), setup(image), mode);
    let by_hand = ByHand::start(setup(image), mode);
    let (mut ours, mut peer) = (Side::default(), Side::default());
    let version = version(&by_hand);
    // By turns, so that whatever else this machine does hits both.
    for number in 1..=runs() {
        println!(
            "Puma {version}, {} restart {number} of {}: by pitstop, then by hand …",
            mode.name(),
            runs()
        );
        let id = format!("v{}", number + 1);
        ours.restart(&pitstop, &id);
        peer.restart(&by_hand, &id);
    }
    figures(&format!("Puma {version}, {}", mode.name()), mode, &ours, &peer)
}

fn figures(kind: &str, mode: Mode, ours: &Side, peer: &Side) -> Vec<Comparison> {
    let load = format!(
        "{} restarts, 2 workers that boot in {BOOT_SECONDS} s, about 100 requests a second, half of them on fresh \
         connections",
        runs()
    );
    let until_old = format!(
        "{load}; median time from the move until the new release has answered and the old one does no more; sure of it were \
         pitstop after {:.0} ms (its soak of 1 s included), the script after {:.0} ms",
        median(&ours.sure),
        median(&peer.sure)
    );
    let during = format!("{load}; the {} s from each move on", WINDOW.as_secs());
    let percentile = |side: &Side| side.records.during("restart").percentile_ms(0.99);
    let compared = |what: &str, times, how: &str| {
        Comparison::smaller_is_better(&format!("{kind}: {what}"), times, "ms")
            .against(mode.by_hand(), how)
            .with_lost((ours.failed(), peer.failed()))
    };
    vec![
        compared("deploy time", (median(&ours.deploys), median(&peer.deploys)), &until_old),
        compared("p99", (percentile(ours), percentile(peer)), &during),
    ]
}

fn main() -> std::io::Result<()> {
    let images = if is_root() { vec![Image::Machine, Image::Trixie] } else { vec![Image::Machine] };
    let kinds = images.into_iter().flat_map(|image| [Mode::Phased, Mode::Hot].map(|mode| (image, mode)));
    let comparisons: Vec<_> = kinds.flat_map(|(image, mode)| compare(image, mode)).collect();
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "modes", &comparisons)
}
