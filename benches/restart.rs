//! `make bench BENCH=restart`: what clients notice of a restart by pitstop, and of the same restart by
//! hand: the link flipped and a bare `kill`.
//!
//! Both sides get the same Puma, the same app and the same load, by turns in one run.

use std::{
    path::Path,
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use pitstop_rig::{
    Load, Setup,
    figures::{Comparison, publish},
    load::{Plan, Record, Records},
    mover::{ByHand, ByPitstop, Mode, Mover},
    poll,
};

const RESTARTS: usize = 3;
/// What counts as "during" a restart: this long from the move on, or longer where it takes longer.
const WINDOW: Duration = Duration::from_secs(6);
const SHUTDOWN_SECONDS: u32 = 3;
const LONG_REQUEST: &str = "/slow?s=9";
const LONG_REQUESTS: usize = 3;

fn setup() -> Setup {
    Setup {
        threads: (3, 3),
        worker_shutdown_timeout: SHUTDOWN_SECONDS,
        boot_seconds: 1.0,
        ..Setup::default()
    }
}

/// One restart under load.
fn under_load(mover: &dyn Mover, id: &str) -> Records {
    let load = Load::start(Plan::modest(mover.puma().port()), "before");
    pass(Duration::from_secs(1));
    load.phase("restart");
    let began = Instant::now();
    mover.prepare(id);
    mover.move_to(id);
    pass(WINDOW.saturating_sub(began.elapsed()));
    load.finish()
}

/// One restart while requests are in flight that take longer than Puma grants them; how many were lost.
fn long_requests_lost(mover: &dyn Mover) -> usize {
    let plan = Plan { keep_alive: 0, fresh_per_second: 0, ..Plan::modest(mover.puma().port()) };
    let load = Load::start(plan, "long");
    let answers: Vec<Receiver<Record>> = (0..LONG_REQUESTS).map(|_| load.send(LONG_REQUEST)).collect();
    // Longer than Puma grants them, so that an agent can see that they are long.
    pass(Duration::from_secs(u64::from(SHUTDOWN_SECONDS) + 1));
    mover.prepare("long");
    mover.move_to("long");
    let lost = answers.iter().filter(|answer| answer.recv().map_or(true, |record| record.failed(&[])));
    lost.count()
}

fn pass(time: Duration) {
    poll(time, || None::<()>);
}

fn compare(mode: Mode) -> Vec<Comparison> {
    let pitstop = ByPitstop::start(Path::new(env!("CARGO_BIN_EXE_pitstop")), setup(), mode);
    let by_hand = ByHand::start(setup(), mode);
    let (mut ours, mut peer) = (Records::default(), Records::default());
    // By turns, so that whatever else this machine does hits both.
    for number in 1..=RESTARTS {
        println!("{} restart {number} of {RESTARTS}: by pitstop, then by hand …", mode.name());
        let id = format!("v{}", number + 1);
        ours.append(under_load(&pitstop, &id));
        peer.append(under_load(&by_hand, &id));
    }
    println!("{} restart with long requests in flight: by pitstop, then by hand …", mode.name());
    let lost = (long_requests_lost(&pitstop), long_requests_lost(&by_hand));
    figures(mode, (&ours, &peer), lost)
}

fn figures(mode: Mode, (ours, peer): (&Records, &Records), lost: (usize, usize)) -> Vec<Comparison> {
    let name = |what: &str| format!("{}: {what}", mode.name());
    let load = format!(
        "{RESTARTS} {} restarts of a Puma of 2 workers that boot in 1 s; about 100 requests a second, half of \
         them on fresh connections; the {} s from each move on",
        mode.name(),
        WINDOW.as_secs()
    );
    let long = format!(
        "{LONG_REQUESTS} requests of 9 s, in flight for {} s when the restart comes; worker_shutdown_timeout \
         {SHUTDOWN_SECONDS} s",
        SHUTDOWN_SECONDS + 1
    );
    let (ours_times, peer_times) = (ours.during("restart"), peer.during("restart"));
    let percentile = |what, share| {
        let times = (ours_times.percentile_ms(share), peer_times.percentile_ms(share));
        Comparison::smaller_is_better(&name(what), times, "ms").against(mode.by_hand(), &load)
    };
    let failed = (ours.tally(&[]).failed, peer.tally(&[]).failed);
    vec![
        Comparison::fewer_is_better(&name("failed requests"), failed, "requests").against(
            mode.by_hand(),
            &format!("{load}; of {} and {}", ours.requests().len(), peer.requests().len()),
        ),
        percentile("p50", 0.5),
        percentile("p99", 0.99),
        percentile("max", 1.0),
        Comparison::fewer_is_better(&name("long requests lost"), lost, "requests")
            .against(mode.by_hand(), &long),
    ]
}

fn main() -> std::io::Result<()> {
    let comparisons: Vec<_> = [Mode::Phased, Mode::Hot].into_iter().flat_map(compare).collect();
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "restart", &comparisons)
}
