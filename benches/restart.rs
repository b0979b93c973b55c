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
    AgentRig, App, Load, PumaRig, Setup,
    figures::{Comparison, publish},
    load::{Plan, Record, Records},
    poll, until,
};
use rustix::process::{Pid, Signal, kill_process};

const RESTARTS: usize = 3;
/// What counts as "during" a restart: this long from the move on, or longer where it takes longer.
const WINDOW: Duration = Duration::from_secs(6);
const SHUTDOWN_SECONDS: u32 = 3;
const LONG_REQUEST: &str = "/slow?s=9";
const LONG_REQUESTS: usize = 3;

/// Which restart.
#[derive(Clone, Copy)]
enum Mode {
    Phased,
    Hot,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Phased => "phased",
            Self::Hot => "hot",
        }
    }

    fn signal(self) -> (Signal, &'static str) {
        match self {
            Self::Phased => (Signal::USR1, "ln -sfn && kill -USR1"),
            Self::Hot => (Signal::USR2, "ln -sfn && kill -USR2"),
        }
    }
}

/// Moves a running Puma from release to release.
trait Mover {
    fn puma(&self) -> &PumaRig;
    /// Makes Puma run this release; returns when it does.
    fn move_to(&self, id: &str);
}

struct Pitstop {
    agent: AgentRig,
    puma: PumaRig,
}

impl Pitstop {
    fn start(mode: Mode) -> Self {
        let mut puma = PumaRig::empty(setup());
        let mut agent = AgentRig::prepare(Path::new(env!("CARGO_BIN_EXE_pitstop")), &puma);
        agent.env.push(("PITSTOP_RESTART_MODE".into(), mode.name().into()));
        agent.start_from_v1(&mut puma);
        Self { puma, agent }
    }
}

impl Mover for Pitstop {
    fn puma(&self) -> &PumaRig {
        &self.puma
    }

    fn move_to(&self, id: &str) {
        self.agent.publish(&self.puma, App::Good, id);
        self.agent.promote(id);
        self.agent.wait_in_sync(id);
    }
}

struct ByHand {
    puma: PumaRig,
    mode: Mode,
}

impl ByHand {
    fn start(mode: Mode) -> Self {
        let mut puma = PumaRig::prepare(setup());
        puma.run();
        puma.wait_for_release("v1");
        Self { puma, mode }
    }
}

impl Mover for ByHand {
    fn puma(&self) -> &PumaRig {
        &self.puma
    }

    fn move_to(&self, id: &str) {
        self.puma.release(id, App::Good);
        self.puma.flip(id);
        let master = self.puma.master().and_then(Pid::from_raw).expect("Puma runs");
        kill_process(master, self.mode.signal().0).expect("Puma may be signalled");
        // Nobody proves anything here: twenty answers in a row from the new release are taken for the end.
        let mut in_a_row = 0;
        until("answers of the new release only", || {
            let answered = self.puma.get("/").ok().and_then(|answer| answer.release);
            in_a_row = if answered.as_deref() == Some(id) { in_a_row + 1 } else { 0 };
            (in_a_row == 20).then_some(())
        });
    }
}

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
    mover.move_to("long");
    let lost = answers.iter().filter(|answer| answer.recv().map_or(true, |record| record.failed(&[])));
    lost.count()
}

fn pass(time: Duration) {
    poll(time, || None::<()>);
}

fn compare(mode: Mode) -> Vec<Comparison> {
    let (pitstop, by_hand) = (Pitstop::start(mode), ByHand::start(mode));
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
        Comparison::smaller_is_better(&name(what), times, "ms").against(mode.signal().1, &load)
    };
    let failed = (ours.tally(&[]).failed, peer.tally(&[]).failed);
    vec![
        Comparison::fewer_is_better(&name("failed requests"), failed, "requests").against(
            mode.signal().1,
            &format!("{load}; of {} and {}", ours.requests().len(), peer.requests().len()),
        ),
        percentile("p50", 0.5),
        percentile("p99", 0.99),
        percentile("max", 1.0),
        Comparison::fewer_is_better(&name("long requests lost"), lost, "requests")
            .against(mode.signal().1, &long),
    ]
}

fn main() -> std::io::Result<()> {
    let comparisons: Vec<_> = [Mode::Phased, Mode::Hot].into_iter().flat_map(compare).collect();
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "restart", &comparisons)
}
