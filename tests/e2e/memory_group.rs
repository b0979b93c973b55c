//! A control group of memory, of either version of the kernel's interface.

use std::{fs, path::PathBuf};

use pitstop_rig::{PATIENCE, poll};

pub struct MemoryGroup {
    pub dir: PathBuf,
    v2: bool,
}

impl MemoryGroup {
    /// An empty one without a limit; `None` where this machine lets nobody make one.
    pub fn new() -> Option<Self> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let v2 = root.join("cgroup.controllers").exists();
        if v2 {
            fs::write(root.join("cgroup.subtree_control"), "+memory").ok()?;
        }
        let place = if v2 { root } else { root.join("memory") };
        let dir = place.join(format!("pitstop-test-{}-{}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&dir).ok()?;
        Some(Self { dir, v2 })
    }

    /// Gives it a limit, or takes it away. False where the kernel refuses it: more is taken, and cannot be dropped.
    pub fn limit(&self, bytes: Option<u64>) -> bool {
        let (file, none) = if self.v2 { ("memory.max", "max") } else { ("memory.limit_in_bytes", "-1") };
        fs::write(self.dir.join(file), bytes.map_or(none.to_owned(), |bytes| bytes.to_string())).is_ok()
    }

    /// What is taken, files in memory included.
    pub fn taken(&self) -> u64 {
        let file = if self.v2 { "memory.current" } else { "memory.usage_in_bytes" };
        fs::read_to_string(self.dir.join(file))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or_default()
    }

    /// How many of its processes the kernel has killed for their memory.
    pub fn kills(&self) -> u64 {
        let file = if self.v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let counted = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        counted.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its processes end with the pod.
        let _ = poll(PATIENCE, || fs::remove_dir(&self.dir).ok());
    }
}
