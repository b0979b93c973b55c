//! The files that a second server with the same configuration would take from the first: control socket, state file, pid
//! file. The parent keeps those of each server apart, and says where they are.

use std::path::{Path, PathBuf};

use crate::{
    app_server::ruby::{located, release_named},
    procs::{self, WorkingDirectory},
    slots::Run,
};

/// Where a server's files are while another one has their names: name, place.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside(Vec<(PathBuf, PathBuf)>);

impl Aside {
    pub(crate) fn of(run: Option<&Run>) -> Self {
        Self(run.map(|run| run.aside.clone()).unwrap_or_default())
    }

    /// Where we reach a file of this process that has this name for it. Asks its file systems.
    pub(crate) fn reached(&self, pid: i32, name: &Path) -> PathBuf {
        if self.0.is_empty() {
            return located(pid, name);
        }
        let found = in_its_root(pid, name);
        let meant = |(name, _): &&(PathBuf, PathBuf)| procs::in_root_of(pid, name) == found;
        self.0.iter().find(meant).map_or(found, |(_, place)| procs::in_root_of(pid, place))
    }
}

fn in_its_root(pid: i32, name: &Path) -> PathBuf {
    match WorkingDirectory::of(pid) {
        Ok(cwd) if name.is_relative() && !cwd.deleted => procs::in_root_of(pid, &cwd.name.join(name)),
        _ => located(pid, name),
    }
}

/// The name, in the container, of a file that a process has there: without links, so that it stays where it is when
/// `current` moves. `None` for what is not there, or lies in one release: another release's Puma has its own.
pub(super) fn shared_name(pid: i32, name: &Path) -> Option<PathBuf> {
    let found = in_its_root(pid, name);
    let name = Path::new("/").join(found.strip_prefix(format!("/proc/{pid}/root")).ok()?);
    (found.symlink_metadata().is_ok() && release_named(&name).is_none()).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_file_that_was_renamed_is_reached_by_any_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        fs::create_dir_all(dir.join("pod/tmp")).unwrap();
        fs::create_dir_all(dir.join("releases/v1")).unwrap();
        symlink(dir.join("pod/tmp"), dir.join("releases/v1/tmp")).unwrap();
        let (plain, behind) = (dir.join("pod/tmp/puma.state"), dir.join("releases/v1/tmp/puma.state"));
        let place = dir.join("pod/tmp/puma.state.pitstop-a");
        let ours = |path: &Path| procs::in_root_of(us, path);
        assert_eq!(Aside::default().reached(us, &behind), ours(&plain));
        let aside = Aside(vec![(plain.clone(), place.clone())]);
        assert_eq!(aside.reached(us, &behind), ours(&place));
        assert_eq!(aside.reached(us, &plain), ours(&place));
        assert_eq!(aside.reached(us, &dir.join("pod/other")), ours(&dir.join("pod/other")));
    }

    #[test]
    fn only_what_both_servers_would_write_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        for place in ["pod", "releases/v1/log"] {
            fs::create_dir_all(dir.join(place)).unwrap();
            fs::write(dir.join(place).join("puma.state"), "").unwrap();
        }
        symlink(dir.join("pod"), dir.join("releases/v1/tmp")).unwrap();
        let shared = |name: &str| shared_name(us, &dir.join(name));
        assert_eq!(shared("pod/puma.state"), Some(dir.join("pod/puma.state")));
        assert_eq!(shared("releases/v1/tmp/puma.state"), Some(dir.join("pod/puma.state")));
        assert_eq!(shared("releases/v1/log/puma.state"), None, "each release has its own");
        assert_eq!(shared("pod/none"), None);
    }
}
