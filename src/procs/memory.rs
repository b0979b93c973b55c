//! How much memory there is, and who takes it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::{
    param::page_size,
    process::{Resource, getrlimit},
};

use super::in_root_of;

/// Where the control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Makes glibc's allocator return what is freed: a fetch takes tens of MiB for seconds, and an agent waits for days. A
/// thread keeps no small block back and shares its arena with no other; a large block is mapped by itself. Set for the agent by
/// whoever starts it, since glibc reads it once, at the start.
pub(crate) const RETURN_FREED: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:glibc.malloc.arena_max=128:\
     glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072",
);

/// A control group's limit, and what of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Container {
    /// In bytes.
    pub(crate) limit: u64,
    /// In bytes, without the files that the kernel keeps in memory and drops when it needs room; `None` where it is
    /// not told.
    pub(crate) taken: Option<u64>,
}

impl Container {
    /// That of a process in any container of the pod; `None` where it has no limit, or none that can be seen.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::read(Path::new(&format!("/proc/{pid}/cgroup")), &in_root_of(pid, Path::new(CGROUPS)))
    }

    /// The least limit of the control group and of those above it.
    fn read(own: &Path, mount: &Path) -> Option<Self> {
        let own = fs::read_to_string(own).ok()?;
        let groups = own.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            match controllers {
                "" => Some((mount.to_owned(), &V2, path)),
                named if named.split(',').any(|name| name == "memory") => {
                    Some((mount.join("memory"), &V1, path))
                }
                _ => None,
            }
        });
        let all = groups.flat_map(|(mount, version, path)| version.above(&mount, path));
        all.min_by_key(|container| container.limit)
    }
}

/// The names of a control group's files.
struct Version {
    limit: &'static str,
    usage: &'static str,
    /// Lines of `memory.stat`: what the kernel can drop.
    droppable: &'static [&'static str],
}

const V2: Version = Version {
    limit: "memory.max",
    usage: "memory.current",
    droppable: &["inactive_file", "active_file", "slab_reclaimable"],
};
const V1: Version = Version {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    droppable: &["total_inactive_file", "total_active_file"],
};

impl Version {
    /// Where the container sees its own group as the root of all, the path leads nowhere, and the root counts.
    fn above(&self, mount: &Path, path: &str) -> Vec<Container> {
        let own: PathBuf = mount.join(path.trim_start_matches('/'));
        let places = own.ancestors().take_while(|place| place.starts_with(mount));
        // Without a limit v1 has a number that no machine comes near to.
        let limited = places
            .filter_map(|place| Some((place, number(&place.join(self.limit)).filter(|n| *n < 1 << 60)?)));
        limited.map(|(place, limit)| Container { limit, taken: self.taken(place) }).collect()
    }

    fn taken(&self, group: &Path) -> Option<u64> {
        let usage = number(&group.join(self.usage))?;
        let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
        let pairs = stat.lines().filter_map(|line| line.split_once(' '));
        let droppable = pairs.filter(|(name, _)| self.droppable.contains(name));
        let droppable = droppable.filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok()).sum();
        Some(usage.saturating_sub(droppable))
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The memory of the container; `None` where it has no limit.
pub(crate) fn of_container() -> Option<u64> {
    Container::read(Path::new("/proc/self/cgroup"), Path::new(CGROUPS)).map(|container| container.limit)
}

/// What this process may take: its container's memory, or less.
pub(crate) fn of_process() -> Option<u64> {
    let own = getrlimit(Resource::Data).current;
    own.into_iter().chain(of_container()).min()
}

/// What these processes take in bytes, what they share counted once where the kernel tells (PSS); else their resident
/// memory. `None` where nothing is told of any of them. The kernel walks through all of it: not for each look.
pub(crate) fn taken_by(pids: &[i32]) -> Option<u64> {
    pids.iter().filter_map(|pid| shared_once(*pid).or_else(|| resident(*pid))).reduce(u64::saturating_add)
}

fn shared_once(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn resident(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(page_size() as u64)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// The control groups of a process.
    pub(crate) fn control_groups(bytes: &[u8]) {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join("cgroup");
        fs::write(&own, bytes).expect("it is written");
        let _ = Container::read(&own, dir.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(own: &str, files: &[(&str, &str)]) -> Option<u64> {
        read(own, files).map(|container| container.limit)
    }

    fn read(own: &str, files: &[(&str, &str)]) -> Option<Container> {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("own"), own).unwrap();
        let mount = place.path().join("mount");
        for (name, text) in files {
            let file = mount.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        Container::read(&place.path().join("own"), &mount)
    }

    #[test]
    fn the_least_limit_of_the_own_group_and_those_above_counts_in_both_versions() {
        let v2 = [("memory.max", "max\n"), ("pod/memory.max", "500\n"), ("pod/agent/memory.max", "max\n")];
        assert_eq!(limit("0::/pod/agent\n", &v2), Some(500));
        let v1 = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/pod/memory.limit_in_bytes", "700\n"),
        ];
        assert_eq!(limit("5:cpu:/\n4:memory:/pod\n0::/\n", &v1), Some(700));
        assert_eq!(limit("0::/\n", &[("memory.max", "300\n")]), Some(300), "a namespace of its own");
        let seen_as_root = [("memory/memory.limit_in_bytes", "800\n")];
        assert_eq!(limit("4:memory:/kubepods/pod1/agent\n", &seen_as_root), Some(800));
        assert_eq!(limit("0::/\n", &[("memory.max", "max\n")]), None);
        assert_eq!(limit("", &[]), None);
    }

    #[test]
    fn what_the_kernel_can_drop_is_not_taken() {
        let stat = "anon 600\nfile 350\ninactive_file 200\nactive_file 100\nshmem 50\nslab_reclaimable 30\n";
        let v2 = [("memory.max", "2000\n"), ("memory.current", "1000\n"), ("memory.stat", stat)];
        assert_eq!(read("0::/\n", &v2), Some(Container { limit: 2000, taken: Some(670) }));
        let v1 = [
            ("memory/memory.limit_in_bytes", "2000\n"),
            ("memory/memory.usage_in_bytes", "900\n"),
            ("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n"),
        ];
        assert_eq!(read("4:memory:/pod\n", &v1), Some(Container { limit: 2000, taken: Some(750) }));
        assert_eq!(read("0::/\n", &v2[..1]), Some(Container { limit: 2000, taken: None }));
        let of_the_pod =
            [("memory.max", "max\n"), ("pod/memory.max", "500\n"), ("pod/memory.current", "400\n")];
        let pod = [&of_the_pod[..], &[("pod/app/memory.max", "900\n"), ("pod/memory.stat", "")]].concat();
        assert_eq!(read("0::/pod/app\n", &pod), Some(Container { limit: 500, taken: Some(400) }));
    }

    #[test]
    fn what_processes_take_is_more_than_nothing_and_of_none_it_is_not_known() {
        let own = i32::try_from(std::process::id()).unwrap();
        let shared = shared_once(own).unwrap();
        let resident = resident(own).unwrap();
        assert!((1 << 20..=resident.saturating_mul(2)).contains(&shared), "{shared} of {resident}");
        assert!(taken_by(&[own, own]).unwrap() > shared);
        assert_eq!(taken_by(&[i32::MAX]), None);
    }
}
