use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use crate::{exec::descendants, poll};

/// Of CPU time, in which the quota is granted: the kernel's default, and Kubernetes'.
const PERIOD_US: u32 = 100_000;

/// A control group that may use so many cores, as a container's `limits.cpu`. It goes with its last process; drop it
/// after what is in it.
pub struct CpuLimit(PathBuf);

impl CpuLimit {
    /// `None` where no group can be made: only root can, and not everywhere.
    pub fn of(cores: u32) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("pitstop-rig-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        Self::second(&name, cores).or_else(|| Self::first(&name, cores))
    }

    /// cgroup v2.
    fn second(name: &str, cores: u32) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        fs::metadata(root.join("cgroup.controllers")).ok()?;
        let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
        Self::make(&root.join(name), "cpu.max", &format!("{} {PERIOD_US}", cores * PERIOD_US))
    }

    /// cgroup v1.
    fn first(name: &str, cores: u32) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup/cpu");
        fs::metadata(root.join("cpu.cfs_quota_us"))
            .or_else(|_| fs::metadata(root.join("cgroup.procs")))
            .ok()?;
        Self::make(&root.join(name), "cpu.cfs_quota_us", &(cores * PERIOD_US).to_string())
    }

    fn make(dir: &Path, file: &str, quota: &str) -> Option<Self> {
        fs::create_dir(dir).ok()?;
        // Before the write: a group that takes no quota goes again.
        let group = Self(dir.to_owned());
        fs::metadata(dir.join(file)).and_then(|_| fs::write(dir.join(file), quota)).ok()?;
        Some(group)
    }

    /// Puts a process and what it has started into the group; what they start later is in it too.
    ///
    /// # Panics
    /// When the process cannot be put there.
    pub fn take(&self, pid: i32) {
        let put = |pid: i32| fs::write(self.0.join("cgroup.procs"), pid.to_string());
        put(pid).expect("the group takes a process");
        // Those that end meanwhile need no place.
        descendants(pid).into_iter().for_each(|pid| drop(put(pid)));
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        poll(Duration::from_secs(5), || fs::remove_dir(&self.0).ok());
    }
}
