//! `make bench BENCH=modes`: what clients notice of a deploy, for each way to restart, each kind of boot and each
//! version of Puma that is here, beside the same by hand: the link flipped and a bare `kill`.
//!
//! All get the same app and the same load, by turns in one run: clients that keep their connections and never close
//! them, and requests on fresh ones. A boot sleeps for 5 s, or burns 5 s of a core in a container that may use one or
//! two cores. By hand there is no second server, so *beside* stands against Puma's own hot restart. The
//! clock starts with the move (`promote`, or the flip). As root the Puma 6.6 of `target/roots/trixie` is measured too.
//!
//! Then a release that passes its check and answers 500 to one request in twenty: how many requests meet it in each way,
//! and with a share of the traffic first. Its errors are counted by the app's middleware.
//!
//! `BENCH_RUNS` (5) is the number of deploys of each kind whose boot sleeps, `BENCH_BURNS` (1) of those that burn, `BENCH_ERRORS` (60) the seconds
//! with the release that fails; 0 leaves them out.

use std::{
    fs,
    panic::catch_unwind,
    path::Path,
    time::{Duration, Instant},
};

use pitstop_rig::{
    App, CpuLimit, Image, Load, Setup,
    exec::descendants,
    figures::{Comparison, publish},
    is_root,
    load::{Plan, Record, Records},
    mover::{ByHand, ByPitstop, Mode, Mover},
    poll,
};

const BOOT_SECONDS: u32 = 5;
/// Without a deploy, to know what is normal.
const BEFORE: Duration = Duration::from_secs(6);
/// After the move, so that whoever waits has an answer.
const AFTER: Duration = Duration::from_secs(2);
const MODES: [Mode; 3] = [Mode::Phased, Mode::Hot, Mode::Beside];

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// How a release boots.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Boot {
    Sleeps,
    /// In a container that may use so many cores.
    Burns(u32),
}

impl Boot {
    fn name(self) -> String {
        match self {
            Self::Sleeps => format!("boot sleeps {BOOT_SECONDS} s"),
            Self::Burns(cores) => format!("boot burns {BOOT_SECONDS} s, cpu.max {cores}"),
        }
    }

    fn runs(self) -> usize {
        match self {
            Self::Sleeps => number("BENCH_RUNS", 5),
            Self::Burns(_) => number("BENCH_BURNS", 1),
        }
    }

    fn setup(self, image: Image, mode: Mode) -> Setup {
        let setup = Setup {
            threads: (3, 3),
            // Now and then a worker of 6.6 stops only when it is ended.
            worker_shutdown_timeout: 3,
            worker_boot_timeout: 60,
            // A phased restart needs it; the others are the same with and without.
            preload: Some(mode != Mode::Phased),
            ..Setup::default()
        };
        match self {
            Self::Sleeps => Setup { boot_seconds: BOOT_SECONDS as f32, ..setup },
            Self::Burns(_) => {
                Setup { env: vec![("RIG_BOOT_BURNS".into(), BOOT_SECONDS.to_string())], ..setup }
            }
        }
        .from(image)
    }

    /// What holds the container to its cores. Where no group can be made, nothing does.
    fn limit(self, mover: &dyn Mover) -> Option<CpuLimit> {
        let Self::Burns(cores) = self else { return None };
        let limit = CpuLimit::of(cores);
        match &limit {
            Some(limit) => limit.take(mover.first()),
            None => println!("no control group can be made here: the container has all cores"),
        }
        limit
    }
}

/// All deploys of one side.
struct Side {
    records: Records,
    /// Until the new release answered and the old one did no more, in ms.
    deploys: Vec<f64>,
    /// The longest wait for an answer, in ms: in a deploy, and in the time before it.
    longest: Vec<f64>,
    longest_before: Vec<f64>,
    /// Answers of the new release that came before it was proved.
    early: usize,
    /// Goes after the container.
    mover: Box<dyn Mover>,
    _limit: Option<CpuLimit>,
}

impl Side {
    fn of(mover: impl Mover + 'static, boot: Boot) -> Self {
        let limit = boot.limit(&mover);
        Self {
            records: Records::default(),
            deploys: Vec::new(),
            longest: Vec::new(),
            longest_before: Vec::new(),
            early: 0,
            mover: Box::new(mover),
            _limit: limit,
        }
    }

    fn deploy(&mut self, id: &str) {
        self.mover.prepare(id);
        let plan = Plan {
            keep_alive: 8,
            patience: Duration::from_secs(90),
            ..Plan::modest(self.mover.puma().port())
        };
        let load = Load::start(plan, "before");
        poll(BEFORE, || None::<()>);
        load.phase("deploy");
        let began = Instant::now();
        let unproved = self.mover.move_to(id);
        poll(AFTER, || None::<()>);
        let records = load.finish();
        let early = |record: &&Record| by(record, id) && record.began + record.took < unproved;
        self.early += records.requests().iter().filter(early).count();
        self.deploys.push(in_ms(deployed(&records, id, began)));
        self.longest.push(records.during("deploy").max_ms());
        self.longest_before.push(records.within("before").max_ms());
        self.records.append(records);
        self.mover.settle();
    }

    fn failed(&self) -> usize {
        self.records.tally(&[]).failed
    }

    fn p99(&self) -> f64 {
        self.records.during("deploy").percentile_ms(0.99)
    }
}

fn by(record: &Record, id: &str) -> bool {
    record.release.as_deref() == Some(id)
}

/// When the new release had answered, and the old one was asked for the last time.
fn deployed(records: &Records, id: &str, began: Instant) -> Duration {
    let since = |moment: Instant| moment.saturating_duration_since(began);
    let answered = |new: bool| {
        let answered = move |record: &&Record| record.release.is_some() && by(record, id) == new;
        records.requests().iter().filter(answered)
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
    let title = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = mover.first();
    let titles = std::iter::once(first).chain(descendants(first)).map(title);
    let version = |title: String| Some(title.strip_prefix("puma ")?.split(' ').next()?.to_owned());
    titles.into_iter().find_map(version).unwrap_or_else(|| "unknown".into())
}

/// The ways of one boot on one Puma.
fn compare(image: Image, boot: Boot) -> Vec<Comparison> {
    let binary = Path::new(env!("CARGO_BIN_EXE_pitstop"));
    let mut found = Vec::new();
    let mut hot_by_hand = None;
    for mode in MODES {
        let setup = boot.setup(image, mode);
        let mut ours = Side::of(ByPitstop::start(binary, setup.clone(), mode), boot);
        let mut peer =
            if mode == Mode::Beside { None } else { Some(Side::of(ByHand::start(setup, mode), boot)) };
        let kind = format!("Puma {}, {}, {}", version(&*ours.mover), boot.name(), mode.name());
        for number in 1..=boot.runs() {
            println!("{kind}: deploy {number} of {}: by pitstop, then by hand …", boot.runs());
            let id = format!("v{}", number + 1);
            // By turns, so that whatever else this machine does hits both.
            ours.deploy(&id);
            if let Some(peer) = &mut peer {
                peer.deploy(&id);
            }
        }
        let by_hand = peer.as_ref().or(hot_by_hand.as_ref()).expect("hot comes before beside");
        found.extend(figures(&kind, (mode, boot), &ours, by_hand));
        if mode == Mode::Hot {
            hot_by_hand = peer;
        }
    }
    table(&found);
    found
}

fn figures(kind: &str, (mode, boot): (Mode, Boot), ours: &Side, peer: &Side) -> Vec<Comparison> {
    let how = format!(
        "{} deploys, 2 workers of 3 threads, {}; 8 clients that keep their connections, 40 requests a second on fresh \
         ones",
        boot.runs(),
        boot.name()
    );
    let compared = |what: &str, times, how: &str| {
        Comparison::smaller_is_better(&format!("{kind}: {what}"), times, "ms")
            .against(mode.by_hand(), how)
            .with_lost((ours.failed(), peer.failed()))
    };
    let until_old = format!(
        "{how}; median time from the move until the new release has answered and the old one gets no more requests"
    );
    let during = format!("{how}; from the move until {} s after the proof", AFTER.as_secs());
    let longest = format!("{during}; median of the deploys");
    let before = format!("{longest}; without a deploy: the {} s before", BEFORE.as_secs());
    let early = format!("{during}; by hand: until twenty answers in a row came from the new release");
    vec![
        compared("deploy time", (median(&ours.deploys), median(&peer.deploys)), &until_old),
        compared("p99", (ours.p99(), peer.p99()), &during),
        compared("longest wait", (median(&ours.longest), median(&peer.longest)), &longest),
        compared("longest wait, and without", (median(&ours.longest), median(&ours.longest_before)), &before)
            .against("without a deploy", &before),
        Comparison::fewer_is_better(
            &format!("{kind}: unproved answers"),
            (ours.early, peer.early),
            "answers",
        )
        .against(mode.by_hand(), &early),
    ]
}

/// Its name, and what the agent is told.
type Way = (&'static str, Mode, &'static [(&'static str, &'static str)]);

const IN_STEPS: Way = (
    "beside in steps",
    Mode::Beside,
    &[("PITSTOP_RESTART_SHIFT", "10%,50%,100%"), ("PITSTOP_RESTART_BAKE", "2m")],
);
const AT_ONCE: [Way; 3] =
    [("beside at once", Mode::Beside, &[]), ("phased", Mode::Phased, &[]), ("hot", Mode::Hot, &[])];

/// How many requests a release that fails one in twenty answered, and how many of those with an error, in so many
/// seconds from its promotion on.
fn errors((name, mode, env): Way, seconds: u64) -> [usize; 2] {
    println!("a release with 5 % errors, {name} …");
    let middleware = include_str!("../src/cli/middleware/pitstop_counts.rb");
    let files = vec![("pitstop_counts.rb", middleware.to_owned())];
    let setup = Setup { files, preload: Some(mode != Mode::Phased), threads: (3, 3), ..Setup::default() };
    let binary = Path::new(env!("CARGO_BIN_EXE_pitstop"));
    let mover = ByPitstop::start_with(binary, setup, mode, env);
    let plan = Plan { keep_alive: 8, ..Plan::modest(mover.puma().port()) };
    let load = Load::start(plan, "deploy");
    mover.deploy(App::FailsNowAndThen, "v2");
    poll(Duration::from_secs(seconds), || None::<()>);
    let records = load.finish();
    let met = records.requests().iter().filter(|record| by(record, "v2"));
    [met.clone().count(), met.filter(|record| record.served_by(&["v2"])).count()]
}

fn compare_errors(seconds: u64) -> Vec<Comparison> {
    let [met, failed] = errors(IN_STEPS, seconds);
    let how = format!(
        "{seconds} s from the promotion on; 8 clients that keep their connections, 40 requests a second on fresh ones; in \
         steps: {failed} errors"
    );
    let against = |way: Way| {
        let [of_peer, failed] = errors(way, seconds);
        let how = format!("{how}; {}: {failed}", way.0);
        Comparison::fewer_is_better(
            &format!("5 % errors, in steps and {}: requests that met it", way.0),
            (met, of_peer),
            "requests",
        )
        .against(way.0, &how)
    };
    AT_ONCE.into_iter().map(against).collect()
}

fn main() -> std::io::Result<()> {
    let images = if is_root() { vec![Image::Machine, Image::Trixie] } else { vec![Image::Machine] };
    let boots = [Boot::Sleeps, Boot::Burns(2), Boot::Burns(1)].into_iter().filter(|boot| boot.runs() > 0);
    let kinds = images.into_iter().flat_map(|image| boots.clone().map(move |boot| (image, boot)));
    // What went well stays, whatever becomes of the rest.
    let results: Vec<_> = kinds.map(|(image, boot)| catch_unwind(|| compare(image, boot))).collect();
    let seconds = number("BENCH_ERRORS", 60) as u64;
    let bad = catch_unwind(|| if seconds > 0 { compare_errors(seconds) } else { Vec::new() });
    let results: Vec<_> = results.into_iter().chain([bad]).collect();
    let broken = results.iter().filter(|result| result.is_err()).count();
    let comparisons: Vec<_> = results.into_iter().flatten().flatten().collect();
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "modes", &comparisons)?;
    if broken == 0 { Ok(()) } else { Err(std::io::Error::other(format!("{broken} kinds were not measured"))) }
}

/// As the README has it.
fn table(comparisons: &[Comparison]) {
    println!("| | longest wait | without a deploy | by hand | p99 | by hand | failed | unproved answers |");
    println!("|---|---|---|---|---|---|---|---|");
    for of_kind in comparisons.chunks(5) {
        let [_, p99, longest, before, early] = of_kind else { continue };
        let (kind, _) = p99.name.rsplit_once(": ").unwrap_or_default();
        println!(
            "| {kind} | {:.0} ms | {:.0} ms | {:.0} ms | {:.0} ms | {:.0} ms | {} | {} |",
            longest.ours,
            before.peer,
            longest.peer,
            p99.ours,
            p99.peer,
            p99.ours_lost.unwrap_or_default(),
            early.ours,
        );
    }
}
