//! `make bench BENCH=footprint`: what an idle `pitstop run` costs beside an idle Puma, against its budget.

use std::{fs, io, path::Path, process::ExitCode, time::Duration};

use pitstop_rig::{
    AgentRig, PumaRig, Setup,
    figures::{Comparison, publish},
    poll,
};

const SETTLE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(45);

const RSS_BUDGET_MIB: f64 = 12.0;
const BINARY_BUDGET_MB: f64 = 10.0;
const CPU_BUDGET_PERCENT: f64 = 0.1;

fn main() -> io::Result<ExitCode> {
    let binary = Path::new(env!("CARGO_BIN_EXE_pitstop"));
    let mut puma = PumaRig::empty(Setup::default());
    let mut agent = AgentRig::prepare(binary, &puma);
    // As often as by default, and not as often as tests like it.
    agent.env.push(("PITSTOP_POLL_INTERVAL".into(), "30s".into()));
    agent.start_from_v1(&mut puma);
    pass(SETTLE);
    let pid = agent.pid().expect("the agent runs");
    let before = cpu_seconds(pid)?;
    pass(WINDOW);
    let cpu = (cpu_seconds(pid)? - before) / WINDOW.as_secs_f64() * 100.0;
    report(binary, rss_mib(pid)?, cpu)
}

fn report(binary: &Path, rss: f64, cpu: f64) -> io::Result<ExitCode> {
    let size = fs::metadata(binary)?.len() as f64 / 1e6;
    let idle = format!(
        "release build, default poll interval, beside an idle Puma of 2 workers with its control server; in \
         sync for {} s",
        (SETTLE + WINDOW).as_secs()
    );
    let how_cpu =
        format!("{idle}; time of all threads by /proc/PID/task/*/schedstat, last {} s", WINDOW.as_secs());
    let comparisons = [
        Comparison::smaller_is_better("idle RSS", (rss, RSS_BUDGET_MIB), "MiB")
            .against("budget", &format!("{idle}; VmRSS")),
        Comparison::smaller_is_better("binary", (size, BINARY_BUDGET_MB), "MB")
            .against("budget", "size of the stripped release binary"),
        Comparison::smaller_is_better("idle CPU", (cpu, CPU_BUDGET_PERCENT), "% of a core")
            .against("budget", &how_cpu),
    ];
    publish(Path::new(env!("CARGO_MANIFEST_DIR")), "footprint", &comparisons)?;
    let over: Vec<_> = comparisons.iter().filter(|c| c.ours > c.peer).collect();
    over.iter().for_each(|c| println!("over the budget: {}", c.name));
    Ok(if over.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn pass(time: Duration) {
    poll(time, || None::<()>);
}

fn rss_mib(pid: i32) -> io::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| io::Error::other("no VmRSS in /proc/PID/status"))
}

/// Threads that ended meanwhile are missing; an idle agent has none of those that count.
fn cpu_seconds(pid: i32) -> io::Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += stat.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(nanoseconds / 1e9)
}
