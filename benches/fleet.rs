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
use serde_json::Value;

#[path = "../tests/fleet/agents.rs"]
mod agents;
#[path = "../tests/fleet/rig.rs"]
mod rig;

use rig::{Fleet, PATIENCE};

const SIZES: [usize; 3] = [30, 100, 300];
/// A fleet at rest is watched for so long.
const AT_REST: Duration = Duration::from_secs(60);
/// List prices of the assumptions in docs/sizing.md, in dollars for one request.
const GET: f64 = 0.0004 / 1_000.0;
const PUT: f64 = 0.005 / 1_000.0;

/// What a pod asks for.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    gets: f64,
    puts: f64,
    lists: f64,
}

impl Asked {
    fn by(seen: &[Seen], pods: usize) -> Self {
        let count = |of: &dyn Fn(&&Seen) -> bool| seen.iter().filter(of).count() as f64 / pods as f64;
        Self {
            gets: count(&|one| one.method == "GET" && !one.key.starts_with('?')),
            puts: count(&|one| one.method == "PUT"),
            lists: count(&|one| one.method == "GET" && one.key.starts_with('?')),
        }
    }

    fn all(self) -> f64 {
        self.gets + self.puts + self.lists
    }

    fn dollars(self) -> f64 {
        self.gets * GET + (self.puts + self.lists) * PUT
    }
}

struct Measured {
    pods: usize,
    seconds: f64,
    most_at_once: usize,
    /// Of one pod for the move, besides what it asks at rest in that time.
    deploy: Asked,
    /// Of one pod in a minute at rest.
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
    // What the first pods do after they have arrived is over by then.
    thread::sleep(Duration::from_secs(30));
    let before = s3.seen().len();
    thread::sleep(AT_REST);
    let rest = Asked::by(&s3.seen()[before..], pods);
    fleet.most_at_once();
    let before = s3.seen().len();
    let began = Instant::now();
    fleet.pitstop(&["promote", "v2"]);
    arrived(&s3, pods, "v2", 2);
    let seconds = began.elapsed().as_secs_f64();
    thread::sleep(Duration::from_secs(30));
    let minutes = began.elapsed().as_secs_f64() / AT_REST.as_secs_f64();
    let all = Asked::by(&s3.seen()[before..], pods);
    let deploy = Asked {
        gets: all.gets - rest.gets * minutes,
        puts: all.puts - rest.puts * minutes,
        lists: all.lists - rest.lists * minutes,
    };
    Measured { pods, seconds, most_at_once: fleet.most_at_once(), deploy, rest }
}

/// Waits until all pods say so; looks into the store's files, which is no request.
fn arrived(s3: &S3Rig, pods: usize, release: &str, sequence: u64) {
    let says = |pod: usize| {
        let bytes = s3.object(&format!("fleet/production/web-{pod}"))?;
        let report: Value = serde_json::from_slice(&bytes).ok()?;
        let desired = report["desired"]["sequence"] == sequence;
        (report["in_sync"] == true && report["running"] == release && desired).then_some(())
    };
    let since = Instant::now();
    while !(0..pods).all(|pod| says(pod).is_some()) {
        assert!(since.elapsed() < 3 * PATIENCE, "{release} does not arrive in all {pods} pods");
        thread::sleep(Duration::from_millis(200));
    }
}

fn main() -> io::Result<ExitCode> {
    if std::env::var_os(agents::PODS).is_some() {
        agents::run();
    }
    let sizes = std::env::var("FLEET_SIZES").ok();
    let sizes = sizes.map_or(SIZES.to_vec(), |sizes| {
        sizes.split(',').map(|size| size.parse().expect("numbers of pods")).collect()
    });
    let measured: Vec<_> = sizes.into_iter().map(measure).collect();
    for one in &measured {
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
    let day = Asked {
        gets: large.rest.gets * 1_440.0,
        puts: large.rest.puts * 1_440.0,
        lists: large.rest.lists * 1_440.0,
    };
    let comparisons = [
        linear(
            "convergence",
            large.seconds,
            small.seconds * growth,
            "s",
            "from promote to the last pod's report",
        ),
        linear(
            "requests of a pod for a deploy",
            large.deploy.all(),
            small.deploy.all() * growth,
            "requests",
            "beyond those at rest",
        ),
        Comparison::smaller_is_better("1,000 pods at rest", (day.dollars() * 1_000.0, 2.0), "dollars a day")
            .against("budget", &how("at list prices, by a minute at rest")),
        Comparison::smaller_is_better(
            "1,000 pods, a deploy",
            (large.deploy.dollars() * 1_000.0, 0.2),
            "dollars",
        )
        .against("budget", &how("at list prices, beyond what they ask at rest")),
    ];
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "fleet", &comparisons)?;
    Ok(ExitCode::SUCCESS)
}
