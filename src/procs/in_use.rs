//! Which directories processes are in, or have files of: by device and inode, as another container
//! may mount the same volume at another path. What may not be looked into is not seen.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
};

use procfs::process::{FDTarget, MMapPath, Process as ProcDir};

use super::{Inode, in_root_of};

/// A path deeper than this is not followed to its root.
const DEEPEST: usize = 64;

/// How a process uses a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Its working directory is in it.
    WorkingDirectory,
    /// A file in it is open.
    OpenFile,
    /// A file in it is mapped into memory, as libraries are.
    MappedFile,
    /// A variable of the environment that it was started with names it, as Bundler's do: whatever it starts in turn will
    /// look there.
    Environment,
}

/// A process that uses a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) pid: i32,
    pub(crate) how: How,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::WorkingDirectory => write!(f, "process {} works in it", self.pid),
            How::OpenFile => write!(f, "process {} has a file of it open", self.pid),
            How::MappedFile => write!(f, "process {} has a file of it mapped", self.pid),
            How::Environment => write!(f, "the environment of process {} names it", self.pid),
        }
    }
}

/// A process that uses the directory, if one is to be seen. Nobody uses one that is not there: another agent may have
/// moved it away. Asks the volume: may hang as long as that does.
///
/// # Errors
/// When the directory or /proc cannot be read.
pub(crate) fn user_of(dir: &Path) -> std::io::Result<Option<User>> {
    let dir = match Inode::of(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        inode => inode?,
    };
    let mut search = Search { dir, known: HashMap::new() };
    let all = procfs::process::all_processes().map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok(all.flatten().find_map(|process| search.user(&process)))
}

/// Where a process was started is no place that it looks in.
const PLACES: [&str; 2] = ["PWD", "OLDPWD"];

/// The absolute paths in the values of a process's variables: `BUNDLE_GEMFILE=/x/Gemfile`, `RUBYOPT=-r/x/setup`,
/// `GEM_PATH=/x:/y`.
fn paths_in_environment(pid: i32) -> Vec<PathBuf> {
    let raw = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let text = String::from_utf8_lossy(&raw);
    let variables = text.split('\0').filter_map(|variable| variable.split_once('='));
    let values = variables.filter(|(name, _)| !PLACES.contains(name)).map(|(_, value)| value);
    let words = values.flat_map(|value| value.split([':', ' ', ';', ',', '=']));
    let paths = words.filter_map(|word| {
        let path = word.strip_prefix("-r").or(word.strip_prefix("-I")).unwrap_or(word);
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    paths.collect()
}

struct Search {
    dir: Inode,
    /// Directories as a root directory names them, and whether they are in it.
    known: HashMap<(Inode, PathBuf), bool>,
}

impl Search {
    fn user(&mut self, process: &ProcDir) -> Option<User> {
        let pid = process.pid();
        let uses = |how| Some(User { pid, how });
        if self.is_below(&PathBuf::from(format!("/proc/{pid}/cwd"))) {
            return uses(How::WorkingDirectory);
        }
        // Without a look at its root no path of the process means anything.
        let root = Inode::of(&PathBuf::from(format!("/proc/{pid}/root"))).ok()?;
        let open = process.fd().into_iter().flatten().flatten().filter_map(|fd| match fd.target {
            FDTarget::Path(path) => Some(path),
            _ => None,
        });
        if open.into_iter().any(|path| self.has(pid, root, &path)) {
            return uses(How::OpenFile);
        }
        let maps = process.maps().ok().into_iter().flat_map(|maps| maps.0);
        let mut mapped = maps.filter_map(|map| match map.pathname {
            MMapPath::Path(path) => Some(path),
            _ => None,
        });
        if mapped.any(|path| self.has(pid, root, &path)) {
            return uses(How::MappedFile);
        }
        let named = paths_in_environment(pid).into_iter().any(|path| self.has(pid, root, &path));
        if named { uses(How::Environment) } else { None }
    }

    /// Walks up from a directory as the kernel sees it.
    fn is_below(&self, start: &Path) -> bool {
        let mut here = start.to_owned();
        let mut last = None;
        for _ in 0..DEEPEST {
            match Inode::of(&here) {
                Ok(inode) if inode == self.dir => return true,
                Ok(inode) if last != Some(inode) => last = Some(inode),
                // The root is its own parent; a deleted directory has none.
                _ => return false,
            }
            here.push("..");
        }
        false
    }

    /// Whether a file, as the process names it, lies in the directory. A deleted one still counts
    /// by the directory that it was in.
    fn has(&mut self, pid: i32, root: Inode, path: &Path) -> bool {
        if !path.is_absolute() {
            return false;
        }
        let folder = path.parent().unwrap_or(path);
        let key = (root, folder.to_owned());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let found = Inode::of(&in_root_of(pid, path)).is_ok_and(|inode| inode == self.dir)
            || folder.ancestors().any(|above| self.is(pid, above));
        self.known.insert(key, found);
        found
    }

    fn is(&self, pid: i32, path: &Path) -> bool {
        Inode::of(&in_root_of(pid, path)).is_ok_and(|inode| inode == self.dir)
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

    impl Ended {
        fn start(command: &mut Command) -> Self {
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn wait_for(dir: &Path, how: How, child: &Ended) {
        let pid = i32::try_from(child.0.id()).unwrap();
        for _ in 0..3000 {
            if user_of(dir).unwrap() == Some(User { pid, how }) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("waited in vain for {pid} to use {}: {:?}", dir.display(), user_of(dir));
    }

    #[test]
    fn a_process_in_a_directory_is_found_by_each_way_of_using_it() {
        let home = tempfile::tempdir().unwrap();
        let release = home.path().join("v1");
        fs::create_dir_all(release.join("app/models")).unwrap();
        fs::write(release.join("app/file"), "text").unwrap();
        assert_eq!(user_of(&release).unwrap(), None);
        assert_eq!(user_of(&home.path().join("another agent took it away")).unwrap(), None);
        let child = Ended::start(Command::new("sleep").arg("60").current_dir(release.join("app/models")));
        wait_for(&release, How::WorkingDirectory, &child);
        drop(child);
        let file = release.join("app/file");
        let child = Ended::start(Command::new("sleep").arg("60").stdin(fs::File::open(&file).unwrap()));
        wait_for(&release, How::OpenFile, &child);
        fs::remove_file(&file).unwrap();
        assert!(user_of(&release).unwrap().is_some(), "deleted, and still open");
        drop(child);
        assert_eq!(user_of(&release).unwrap(), None);
    }

    #[test]
    fn a_directory_that_a_process_was_told_to_look_in_is_in_use() {
        let home = tempfile::tempdir().unwrap();
        let release = home.path().join("releases/v1");
        fs::create_dir_all(release.join("lib")).unwrap();
        let path = |file: &str| release.join(file).display().to_string();
        for (name, value) in [
            ("BUNDLE_GEMFILE", path("Gemfile")),
            ("RUBYOPT", format!("-W0 -r{}", path("lib/setup"))),
            ("GEM_PATH", format!("/usr/lib/gems:{}", path("lib"))),
        ] {
            let child = Ended::start(
                Command::new("sleep").arg("60").env_clear().env(name, value).env("PATH", "/bin:/usr/bin"),
            );
            wait_for(&release, How::Environment, &child);
        }
        let child = Ended::start(
            Command::new("sleep").arg("60").env("PWD", release.join("lib")).env("X", "/nowhere/v1"),
        );
        let pid = i32::try_from(child.0.id()).unwrap();
        let told = |pid: i32| crate::procs::environment(pid, "X").is_some();
        assert!((0..3000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            told(pid)
        }));
        assert_eq!(user_of(&release).unwrap(), None, "where it was started is no such place");
    }

    #[test]
    fn a_program_that_runs_from_a_directory_maps_it() {
        let home = tempfile::tempdir().unwrap();
        let release = home.path().join("v1");
        fs::create_dir_all(release.join("bin")).unwrap();
        let program = release.join("bin/sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        let child = Ended::start(Command::new(&program).arg("60"));
        wait_for(&release, How::MappedFile, &child);
        // Under another name it is the same directory.
        let moved = home.path().join("moved");
        fs::rename(&release, &moved).unwrap();
        wait_for(&moved, How::MappedFile, &child);
    }
}
