//! The files of releases that processes have loaded: open, or mapped into memory.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use procfs::process::{FDTarget, MMapPath, Process as ProcDir};

use super::{Inode, in_root_of};
use crate::{core::Files, revision::ReleaseId};

/// The standard streams come from whoever started the process.
const STREAMS: std::ops::RangeInclusive<i32> = 0..=2;

/// Which releases of this directory each process has files of, those left out that `parent` has as well:
/// they were inherited. Asks the volume: may hang as long as that does.
pub(crate) fn releases_of(releases: &Path, parent: Option<i32>, pids: &[i32]) -> Vec<(i32, Files)> {
    let mut search = Search { releases: known(releases), seen: HashMap::new() };
    let inherited = parent.and_then(Paths::of).unwrap_or_default();
    let files = |pid: &i32| {
        let paths = Paths::of(*pid)?;
        let open = search.releases_among(*pid, paths.open.difference(&inherited.open));
        let mapped = search.releases_among(*pid, paths.mapped.difference(&inherited.mapped));
        Some((*pid, Files { open, mapped }))
    };
    pids.iter().filter_map(files).collect()
}

fn known(releases: &Path) -> HashMap<ReleaseId, Inode> {
    let entries = std::fs::read_dir(releases).into_iter().flatten().flatten();
    let release = |entry: std::fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        Some((id, Inode::of(&entry.path()).ok()?))
    };
    entries.filter_map(release).collect()
}

#[derive(Default)]
struct Paths {
    open: BTreeSet<PathBuf>,
    mapped: BTreeSet<PathBuf>,
}

impl Paths {
    fn of(pid: i32) -> Option<Self> {
        let process = ProcDir::new(pid).ok()?;
        let open = process.fd().ok()?.flatten().filter(|fd| !STREAMS.contains(&fd.fd));
        let open = open.filter_map(|fd| match fd.target {
            FDTarget::Path(path) => Some(path),
            _ => None,
        });
        let mapped = process.maps().ok()?.0.into_iter().filter_map(|map| match map.pathname {
            MMapPath::Path(path) => Some(path),
            _ => None,
        });
        Some(Self { open: open.collect(), mapped: mapped.collect() })
    }
}

struct Search {
    releases: HashMap<ReleaseId, Inode>,
    /// Directories as a process names them, and the release that each is.
    seen: HashMap<(i32, PathBuf), Option<ReleaseId>>,
}

impl Search {
    fn releases_among<'a>(
        &mut self,
        pid: i32,
        paths: impl Iterator<Item = &'a PathBuf>,
    ) -> BTreeSet<ReleaseId> {
        paths.filter_map(|path| self.release_above(pid, path)).collect()
    }

    /// The name only suggests a release; being the same directory proves it.
    fn release_above(&mut self, pid: i32, file: &Path) -> Option<ReleaseId> {
        file.ancestors().skip(1).find_map(|dir| {
            let id: ReleaseId = dir.file_name()?.to_str()?.parse().ok()?;
            let inode = *self.releases.get(&id)?;
            let proved = || Inode::of(&in_root_of(pid, dir)).is_ok_and(|there| there == inode).then_some(id);
            self.seen.entry((pid, dir.to_owned())).or_insert_with(proved).clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        process::{Child, Command},
    };

    use super::*;

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A shell that holds these files open besides its streams; a second one is its child.
    fn shell(command: &str) -> (Ended, i32) {
        let child = Ended(Command::new("bash").args(["-c", command]).spawn().unwrap());
        let pid = child.0.id().try_into().unwrap();
        (child, pid)
    }

    fn of(releases: &Path, parent: Option<i32>, pid: i32) -> Files {
        releases_of(releases, parent, &[pid]).pop().map(|(_, files)| files).unwrap_or_default()
    }

    fn ids(names: &[&str]) -> BTreeSet<ReleaseId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn open_and_mapped_files_tell_their_release_and_what_is_inherited_or_linked_away_does_not() {
        let home = tempfile::tempdir().unwrap();
        let releases = home.path().join("releases");
        for release in ["v1", "v2"] {
            fs::create_dir_all(releases.join(release).join("lib")).unwrap();
            fs::write(releases.join(release).join("lib/data"), "").unwrap();
        }
        let log = home.path().join("shared/log");
        fs::create_dir_all(&log).unwrap();
        std::os::unix::fs::symlink(&log, releases.join("v2/log")).unwrap();
        let program = releases.join("v1/lib/sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        let dir = releases.display();
        let command = format!(
            "exec 7<{dir}/v2/lib/data 8>>{dir}/v2/log/x.log 2>>{dir}/v1/lib/data; exec {} 60",
            program.display()
        );
        let (_child, pid) = shell(&command);
        let expected = Files { open: ids(&["v2"]), mapped: ids(&["v1"]) };
        for _ in 0..3000 {
            if of(&releases, None, pid) == expected {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(of(&releases, None, pid), expected);
        assert_eq!(of(&releases, Some(pid), pid), Files::default(), "all of it is its parent's");
    }
}
