//! How much memory this process may take.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Resource, getrlimit};

/// Where the control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The memory of the container; `None` where it has no limit.
pub(crate) fn of_container() -> Option<u64> {
    container_bytes(Path::new("/proc/self/cgroup"), Path::new(CGROUPS))
}

/// What this process may take: its container's memory, or less.
pub(crate) fn of_process() -> Option<u64> {
    let own = getrlimit(Resource::Data).current;
    own.into_iter().chain(of_container()).min()
}

/// The least limit of this process's control group and of those above it. `None` when there is none.
fn container_bytes(own: &Path, mount: &Path) -> Option<u64> {
    let own = fs::read_to_string(own).ok()?;
    let groups = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        match controllers {
            "" => Some((mount.to_owned(), "memory.max", path)),
            named if named.split(',').any(|name| name == "memory") => {
                Some((mount.join("memory"), "memory.limit_in_bytes", path))
            }
            _ => None,
        }
    });
    groups.filter_map(|(mount, file, path)| least_above(&mount, path, file)).min()
}

/// Where the container sees its own group as the root of all, the path leads nowhere, and the root counts.
fn least_above(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let own: PathBuf = mount.join(path.trim_start_matches('/'));
    let places = own.ancestors().take_while(|place| place.starts_with(mount));
    let limits = places.filter_map(|place| fs::read_to_string(place.join(file)).ok()?.trim().parse().ok());
    // Without a limit v1 has a number that no machine comes near to.
    limits.filter(|limit| *limit < 1 << 60).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(own: &str, files: &[(&str, &str)]) -> Option<u64> {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("own"), own).unwrap();
        let mount = place.path().join("mount");
        for (name, text) in files {
            let file = mount.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        container_bytes(&place.path().join("own"), &mount)
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
}
