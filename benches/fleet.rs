//! How long a move takes until the whole fleet has made it, and what it asks of the store: 30, 100 and 300 agents in one
//! process, with the real supervisor, store client and reports, beside a simulated app server that restarts in half a
//! second. The store is an S3 server of its own, which counts requests.

use std::{
    io,
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use pitstop_rig::{
    S3Rig,
    figures::{Comparison, publish},
    s3::Seen,
};

#[path = "../tests/fleet/agents.rs"]
mod agents;
#[path = "../tests/fleet/asked.rs"]
mod asked;
#[path = "../tests/fleet/rig.rs"]
mod rig;

use asked::{Asked, BUDGET, Documented};
use rig::{Fleet, arrived};

const SIZES: [usize; 3] = [30, 100, 300];
/// A fleet at rest asks for nothing but the pointer for so long. The pod that watches the others looks after 20 s, 40 s,
/// 80 s and ever more seldom: a look of it says nothing about a day.
const AT_REST: Duration = Duration::from_secs(60);
/// A fleet comes to rest within this, or asks for something all the time.
const REST_WITHIN: Duration = Duration::from_secs(240);

struct Measured {
    pods: usize,
    seconds: f64,
    most_at_once: usize,
    /// Of one pod for the move, besides looks at the pointer.
    deploy: Asked,
    /// The same in a minute at rest.
    rest: Asked,
}

fn measure(pods: usize) -> Measured {
    let s3 = S3Rig::start();
    ["v1", "v2"].iter().for_each(|release| Fleet::publish(&s3.env(), release));
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    // As by default.
    command.arg("--bench");
    let mut agent = s3.env();
    agent.push(("PITSTOP_POLL_INTERVAL".into(), "30s".into()));
    let mut fleet = Fleet::start(command, pods, &agent, s3.env());
    fleet.pitstop(&["promote", "v1", "--create"]);
    arrived(&s3, pods, "v1", 1);
    let rest = at_rest(&s3, pods);
    fleet.most_at_once();
    let before = s3.seen().len();
    let began = Instant::now();
    fleet.pitstop(&["promote", "v2"]);
    arrived(&s3, pods, "v2", 2);
    let seconds = began.elapsed().as_secs_f64();
    thread::sleep(Duration::from_secs(30));
    let deploy = Asked::by(&besides_looks(&s3, before), pods);
    Measured { pods, seconds, most_at_once: fleet.most_at_once(), deploy, rest }
}

/// Waits for a minute in which nothing is asked for; else what is asked for in the last one.
fn at_rest(s3: &S3Rig, pods: usize) -> Asked {
    let (began, mut since, mut from) = (Instant::now(), Instant::now(), s3.seen().len());
    loop {
        thread::sleep(Duration::from_secs(1));
        let asked = besides_looks(s3, from);
        if since.elapsed() >= AT_REST && (asked.is_empty() || began.elapsed() >= REST_WITHIN) {
            asked.iter().for_each(|one| println!("at rest: {} {}", one.method, one.key));
            return Asked::by(&asked, pods);
        }
        if !asked.is_empty() && began.elapsed() + AT_REST < REST_WITHIN {
            (since, from) = (Instant::now(), s3.seen().len());
        }
    }
}

/// What was asked since then. All pods look at the pointer twice a minute, and began to at the same time: a minute says
/// nothing about a day.
fn besides_looks(s3: &S3Rig, from: usize) -> Vec<Seen> {
    let mut seen = s3.seen().split_off(from);
    seen.retain(|one| one.key != "pointers/production");
    seen
}

fn say(one: &Measured) {
    println!(
        "{} pods: {:.1} s, {} at once; a pod and deploy: {:.1} GET, {:.1} PUT, {:.1} LIST; a pod and minute at rest: \
         {:.2} GET, {:.2} PUT, {:.2} LIST",
        one.pods,
        one.seconds,
        one.most_at_once,
        one.deploy.gets,
        one.deploy.puts,
        one.deploy.lists,
        one.rest.gets,
        one.rest.puts,
        one.rest.lists
    );
}

fn main() -> io::Result<ExitCode> {
    if std::env::var_os(agents::PODS).is_some() {
        agents::run();
    }
    let sizes = std::env::var("FLEET_SIZES").ok();
    let sizes = sizes.map_or(SIZES.to_vec(), |sizes| {
        sizes.split(',').map(|size| size.parse().expect("numbers of pods")).collect()
    });
    let measured: Vec<_> = sizes.into_iter().map(measure).inspect(say).collect();
    let (small, large) = (&measured[0], measured.last().expect("a size"));
    let growth = large.pods as f64 / small.pods as f64;
    let how = |what: &str| {
        format!(
            "{what}; agents of one process beside a simulated app server that restarts in 0.5 s, a quarter of them at a \
             time, poll interval 30 s; an S3 server on the same machine; {} pods against {}",
            large.pods, small.pods
        )
    };
    let linear = |name: &str, ours: f64, peer: f64, unit: &str, what: &str| {
        Comparison::smaller_is_better(name, (ours, peer), unit).against("linear growth", &how(what))
    };
    let documented = Documented::read();
    let (rest, deploy) = (large.rest, large.deploy);
    let dollars = |asked: Asked| asked.dollars(documented.prices) * 1_000.0;
    let comparisons = [
        linear(
            "convergence",
            large.seconds,
            small.seconds * growth,
            "s",
            "from promote to the last pod's report",
        ),
        linear(
            "requests of a pod for a deploy, by price",
            dollars(deploy) / 1_000.0 * 1e6,
            dollars(small.deploy) / 1_000.0 * 1e6 * growth,
            "millionths of a dollar",
            "besides looks at the pointer",
        ),
        Comparison::smaller_is_better(
            "1,000 pods, a day with a deploy",
            (dollars(documented.day) + 1_440.0 * dollars(rest) + dollars(deploy), BUDGET),
            "dollars",
        )
        .against(
            "budget",
            &how("at list prices: looks and reports as documented, a minute at rest, and a deploy"),
        ),
        Comparison::smaller_is_better(
            "1,000 pods, a deploy",
            (dollars(deploy), dollars(documented.deploy)),
            "dollars",
        )
        .against("docs/sizing.md", &how("at list prices, besides looks at the pointer")),
    ];
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "fleet", &comparisons)?;
    let over = comparisons.iter().any(|comparison| comparison.ratio < 1.0);
    Ok(if over { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
