//! `make bench BENCH=footprint`: what an idle `pitstop run` costs beside an idle Puma, against its budget. All its
//! processes count. Ends with 1 when a budget is exceeded.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use pitstop_rig::{
    Pod, Setup,
    figures::{Comparison, publish},
    poll,
};

const SETTLE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(45);
/// The kubelet's: readiness and liveness of both containers, each 10 s.
const BETWEEN_PROBES: Duration = Duration::from_secs(5);

/// Says that this process is the one in a network of its own.
const MARK: &str = "FOOTPRINT_OWN_NETWORK";

/// Half of what the chart requests.
const RSS_BUDGET_MIB: f64 = 16.0;
/// Most of what idles in memory is the program: it must fit there.
const BINARY_BUDGET_MB: f64 = 16.0;
const CPU_BUDGET_PERCENT: f64 = 0.1;
/// Each probe of Puma ends a connection, of which the agent hears; each of the agent's own is answered.
const PROBED_CPU_BUDGET_PERCENT: f64 = 0.2;

fn main() -> io::Result<ExitCode> {
    if let Some(done) = in_a_network_of_its_own()? {
        return Ok(done);
    }
    // The image's, for one, is linked otherwise and maps no libraries.
    let binary = std::env::var_os("BENCH_BINARY").unwrap_or(env!("CARGO_BIN_EXE_pitstop").into());
    let binary = Path::new(&binary);
    // As often as by default, and not as often as tests like it.
    let mut pod = Pod::prepare(binary, Setup::default()).with("PITSTOP_POLL_INTERVAL", "30s");
    pod.agent.kept = true;
    let pod = pod.in_sync();
    pass(SETTLE);
    let pid = pod.agent.pid().expect("the agent runs");
    let idle = share_of_a_core(pid, || pass(WINDOW))?;
    let memory = memory_mib(pid)?;
    let probed = share_of_a_core(pid, || {
        for _ in 0..WINDOW.as_secs() / BETWEEN_PROBES.as_secs() {
            pod.puma.get("/up").expect("Puma answers");
            pod.agent.get("/live").expect("the agent answers");
            pass(BETWEEN_PROBES);
        }
    })?;
    report(binary, memory, (idle, probed))
}

/// As in a pod: an agent hears of every connection that ends in its network namespace, and beside a pod's
/// containers nobody is there. `None` where it is so already, or cannot be had (only root can).
fn in_a_network_of_its_own() -> io::Result<Option<ExitCode>> {
    let alone = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-c", &format!("ip link set lo up && {command}")]).env(MARK, "1");
        unshare
    };
    if own_network() || !alone("true").status().is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let status = alone("exec \"$0\"").arg(std::env::current_exe()?).status()?;
    Ok(Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn own_network() -> bool {
    std::env::var_os(MARK).is_some()
}

/// In percent, while this goes on.
fn share_of_a_core(pid: i32, while_this: impl FnOnce()) -> io::Result<f64> {
    let (before, since) = (cpu_seconds(pid)?, Instant::now());
    while_this();
    let after = cpu_seconds(pid)?;
    let spent = after.iter().map(|(thread, seconds)| seconds - before.get(thread).unwrap_or(&0.0));
    Ok(spent.sum::<f64>() / since.elapsed().as_secs_f64() * 100.0)
}

fn report(binary: &Path, memory: f64, (cpu, probed): (f64, f64)) -> io::Result<ExitCode> {
    let size = fs::metadata(binary)?.len() as f64 / 1e6;
    let network =
        if own_network() { "in a network namespace of their own" } else { "in the machine's own network" };
    let idle = format!(
        "release build, default poll interval, beside an idle Puma of 2 workers with its control server, {network}; \
         in sync for {} s",
        SETTLE.as_secs()
    );
    let how_cpu = |what: &str| {
        format!(
            "{idle}; time of all threads of all its processes by /proc/PID/task/*/schedstat, the next {} s, {what}",
            WINDOW.as_secs()
        )
    };
    let comparisons = [
        Comparison::smaller_is_better("idle RSS", (memory, RSS_BUDGET_MIB), "MiB").against(
            "budget",
            &format!(
                "{idle}; by /proc/PID/smaps: Rss of its largest process and what the others have for themselves, \
                 without pages of libraries that other programs have in memory too"
            ),
        ),
        Comparison::smaller_is_better("binary", (size, BINARY_BUDGET_MB), "MB")
            .against("budget", "size of the stripped release binary, as a file"),
        Comparison::smaller_is_better("idle CPU", (cpu, CPU_BUDGET_PERCENT), "% of a core")
            .against("budget", &how_cpu("with no request at all")),
        Comparison::smaller_is_better(
            "CPU beside probes",
            (probed, PROBED_CPU_BUDGET_PERCENT),
            "% of a core",
        )
        .against("budget", &how_cpu("a request to Puma and one to the agent each 5 s, as a kubelet's probes are")),
    ];
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "footprint", &comparisons)?;
    let over: Vec<_> = comparisons.iter().filter(|c| c.ours > c.peer).collect();
    over.iter().for_each(|c| println!("over the budget: {}", c.name));
    Ok(if over.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn pass(time: Duration) {
    poll(time, || None::<()>);
}

/// This process and those that it has started, and so on.
fn family(pid: i32) -> io::Result<Vec<i32>> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&of) = all.get(next) {
        for task in fs::read_dir(format!("/proc/{of}/task"))? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
        next += 1;
    }
    Ok(all)
}

/// Every page once: all that the largest process has, and of the others what is theirs alone, since they run the same
/// program. Pages of libraries that other programs on the machine have in memory as well are left out: the image's
/// program maps none.
fn memory_mib(pid: i32) -> io::Result<f64> {
    let mut each = Vec::new();
    for pid in family(pid)? {
        let program = fs::read_link(format!("/proc/{pid}/exe"))?;
        each.push(memory_of(&fs::read_to_string(format!("/proc/{pid}/smaps"))?, &program));
    }
    let largest = each.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
    let others = each.iter().map(|(_, own)| own).sum::<f64>() - largest.1;
    Ok((largest.0 + others) / 1024.0)
}

/// Of one process, in KiB: what counts, and what of that is in no other.
fn memory_of(smaps: &str, program: &Path) -> (f64, f64) {
    let (mut all, mut own, mut library) = (0.0, 0.0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
        let kib = value.parse::<f64>().unwrap_or(0.0);
        match key {
            "Rss:" => all += kib,
            "Private_Clean:" | "Private_Dirty:" => own += kib,
            "Shared_Clean:" if library => all -= kib,
            key if key.ends_with(':') => {}
            // The head of a mapping: its addresses, and at the end its file.
            _ => {
                let file = line.split_once('/').map(|(_, path)| format!("/{path}"));
                library = file.is_some_and(|file| Path::new(&file) != program);
            }
        }
    }
    (all, own)
}

/// Of each thread. What one that ends meanwhile has used since is missing: the watch on a directory, renewed
/// with each look at the pointer, is one.
fn cpu_seconds(pid: i32) -> io::Result<HashMap<PathBuf, f64>> {
    let mut threads = HashMap::new();
    for pid in family(pid)? {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let Ok(stat) = fs::read_to_string(task.join("schedstat")) else { continue };
            let nanoseconds =
                stat.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0);
            threads.insert(task, nanoseconds / 1e9);
        }
    }
    Ok(threads)
}
