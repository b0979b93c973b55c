//! How a program is measured: seconds, memory, and what it asked a volume.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use pitstop_rig::{SlowVolume, slow_volume::Counts};

const BETWEEN_LOOKS: Duration = Duration::from_millis(4);

/// What one run took.
#[derive(Debug, Clone)]
pub struct Measured {
    pub seconds: f64,
    /// The most memory that one of its processes had.
    pub rss_mib: f64,
    /// Of processors, its own and the kernel's for it. The volume's own is not part of it.
    pub cpu_seconds: f64,
    /// Of the volume, if it was on one.
    pub counts: Option<Counts>,
}

/// Runs a program to its end.
///
/// # Panics
/// When it fails.
pub fn run(what: &str, command: &mut Command, volume: Option<&SlowVolume>) -> Measured {
    all(what, vec![command], volume)
}

/// Runs several at once.
pub fn all(what: &str, commands: Vec<&mut Command>, volume: Option<&SlowVolume>) -> Measured {
    if let Some(volume) = volume {
        volume.reset();
    }
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let start = |command: &mut Command| {
        command.stdout(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{what}: {e}"))
    };
    let mut children: Vec<_> = commands.into_iter().map(start).collect();
    let (mut rss_kib, mut left) = (0, children.len());
    while left > 0 {
        rss_kib = rss_kib.max(children.iter().map(|child| peak_kib(child.id())).max().unwrap_or(0));
        std::thread::sleep(BETWEEN_LOOKS);
        let ended = children.iter_mut().filter_map(|child| child.try_wait().expect("it is our child"));
        let ended: Vec<_> = ended.collect();
        assert!(ended.iter().all(|status| status.success()), "{what} failed");
        left = children.len() - ended.len();
    }
    let seconds = began.elapsed().as_secs_f64();
    let (rss_mib, cpu_seconds) = (rss_kib as f64 / 1024.0, cpu_seconds() - cpu);
    let measured = Measured { seconds, rss_mib, cpu_seconds, counts: volume.map(SlowVolume::counts) };
    println!("  {what}: {measured}");
    measured
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} s ({:.2} of CPU), {:.0} MiB", self.seconds, self.cpu_seconds, self.rss_mib)?;
        self.counts.iter().try_for_each(|counts| write!(f, "; {counts}"))
    }
}

impl Measured {
    /// What the volume was asked.
    pub fn operations(&self) -> u64 {
        self.counts.as_ref().map_or(0, |counts| counts.operations)
    }
}

/// The run with the median of the seconds.
pub fn median(mut runs: Vec<Measured>) -> Measured {
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    runs.swap_remove(runs.len() / 2)
}

/// Of all processes that have ended.
fn cpu_seconds() -> f64 {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the kernel counts");
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(used.user_time()) + seconds(used.system_time())
}

/// What a process has in memory now.
pub fn resident_mib(pid: u32) -> f64 {
    in_kib(pid, "VmRSS:") as f64 / 1024.0
}

/// A line of the process's status.
fn in_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
    line.and_then(|kib| kib.parse().ok()).unwrap_or_default()
}

/// The most that the process, or one of its children, has had so far.
fn peak_kib(pid: u32) -> u64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    children.map(peak_kib).max().unwrap_or_default().max(in_kib(pid, "VmHWM:"))
}
