//! A directory that others may write into, such as a shared volume: what is opened or made below it stays below it,
//! whatever links they put into the way.
//!
//! The kernel sees to that (`openat2`, Linux 5.6). Where a sandbox has no such call, each component is opened by
//! itself, without following links: the same answer, more slowly.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2},
    io::Errno,
};

use crate::plain_file;

const DESCRIPTORS: &str = "/proc/self/fd";
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory below a root, open. What is done by its [`Held::path`] happens in this very directory, wherever its
/// name leads meanwhile.
#[derive(Debug)]
pub(crate) struct Held {
    fd: OwnedFd,
    name: PathBuf,
}

impl Held {
    /// The directory `dir` below `root`; `dir` may be empty.
    ///
    /// # Errors
    /// What the system says; a link on the way is `ELOOP`.
    pub(crate) fn open(root: &Path, dir: &Path) -> io::Result<Self> {
        let top = openat(CWD, root, FOLDER, Mode::empty())?;
        let name = root.join(dir);
        if dir.as_os_str().is_empty() {
            return Ok(Self { fd: top, name });
        }
        Ok(Self { fd: open(&top, dir, FOLDER, Mode::empty())?, name })
    }

    /// The same, made where it is missing, and the root as well.
    ///
    /// # Errors
    /// As [`Held::open`].
    pub(crate) fn make(root: &Path, dir: &Path) -> io::Result<Self> {
        match Self::open(root, dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        fs::create_dir_all(root)?;
        let mut here = Self::open(root, Path::new(""))?;
        for name in plain(dir)? {
            match mkdirat(&here.fd, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            here = Self {
                fd: open(&here.fd, Path::new(name), FOLDER, Mode::empty())?,
                name: here.name.join(name),
            };
        }
        Ok(here)
    }

    /// For calls that take a path. Good for as long as this value lives.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(DESCRIPTORS).join(self.fd.as_raw_fd().to_string())
    }

    /// The same for something in it. A link at the end is followed by calls that follow links.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// What people call it.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// What is in it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn list(&self) -> io::Result<Vec<OsString>> {
        fs::read_dir(self.path())?.map(|entry| Ok(entry?.file_name())).collect()
    }

    /// A regular file in it, opened without waiting for anybody; no link.
    ///
    /// # Errors
    /// As [`plain_file::open`]; a link is `ELOOP`.
    pub(crate) fn file(&self, name: &OsStr, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | plain_file::FLAGS;
        let opened = openat(&self.fd, name, flags, Mode::from_raw_mode(0o666));
        plain_file::only(opened.map(File::from).map_err(io::Error::from))
    }

    /// Makes what it lists durable. Some file systems cannot, and say so: then there is no more to do.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match rustix::fs::fsync(&self.fd) {
            Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            done => Ok(done?),
        }
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens a regular file below a root for reading.
///
/// # Errors
/// As [`Held::open`] and [`plain_file::open`].
pub(crate) fn file(root: &Path, file: &Path) -> io::Result<File> {
    let top = openat(CWD, root, FOLDER, Mode::empty())?;
    let opened = open(&top, file, OFlags::RDONLY | plain_file::FLAGS, Mode::empty());
    plain_file::only(opened.map(File::from))
}

/// Reads all of such a file, up to `limit_bytes`.
///
/// # Errors
/// As [`file()`] and [`plain_file::read`].
pub(crate) fn read(root: &Path, path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    plain_file::read_all(file(root, path)?, limit_bytes)
}

/// Opens what is below an open directory.
///
/// # Errors
/// What the system says; a link on the way is `ELOOP`.
pub(crate) fn open(top: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(top, path, flags, mode, beneath) {
        Err(Errno::NOSYS) => step_by_step(top, path, flags, mode),
        // Something was renamed meanwhile, somewhere.
        Err(Errno::AGAIN) => Ok(openat2(top, path, flags, mode, beneath)?),
        done => Ok(done?),
    }
}

fn step_by_step(top: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let names = plain(path)?;
    let (last, folders) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
    let mut here = top.try_clone()?;
    for name in folders {
        here = openat(&here, *name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(as_loop)?;
    }
    Ok(openat(&here, *last, flags | OFlags::NOFOLLOW, mode).map_err(as_loop)?)
}

/// With `O_DIRECTORY`, a link that is not followed is no directory.
fn as_loop(error: Errno) -> Errno {
    if error == Errno::NOTDIR { Errno::LOOP } else { error }
}

/// The names of a path that leads nowhere but down.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for any other.
pub(crate) fn plain(path: &Path) -> io::Result<Vec<&OsStr>> {
    let name = |part| match part {
        Component::Normal(name) => Ok(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "leads out of its directory")),
    };
    path.components().map(name).collect()
}

/// An error without the name of a temporary file, which says nothing to anybody.
pub(crate) fn plain_error(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at path \"/proc/self/fd/") {
        Some((plain, _)) => plain.to_owned(),
        None => text,
    }
}

/// The path that people know for one that was made by [`Held::path`].
pub(crate) fn shown(path: &Path) -> PathBuf {
    if !path.starts_with(DESCRIPTORS) {
        return path.to_owned();
    }
    let mut parts = path.components();
    let held: PathBuf = parts.by_ref().take(5).collect();
    match fs::read_link(&held) {
        Ok(real) => real.join(parts.as_path()),
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Opens = fn(&OwnedFd, &Path, OFlags, Mode) -> io::Result<OwnedFd>;

    #[test]
    fn links_on_any_part_of_the_way_are_refused_with_openat2_and_without() {
        let place = tempfile::tempdir().unwrap();
        let (root, outside) = (place.path().join("root"), place.path().join("outside"));
        for dir in [root.join("a/b"), outside.join("b")] {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("file"), "text").unwrap();
        }
        symlink(&outside, root.join("out")).unwrap();
        symlink("a", root.join("within")).unwrap();
        symlink("file", root.join("a/b/link")).unwrap();
        let top = openat(CWD, &root, FOLDER, Mode::empty()).unwrap();
        for open in [open as Opens, step_by_step as Opens] {
            let open = |path: &str, flags| open(&top, Path::new(path), flags, Mode::empty());
            assert!(open("a/b/file", OFlags::RDONLY).is_ok());
            assert!(open("a/b", FOLDER).is_ok());
            for (path, flags) in [
                ("out/b/file", OFlags::RDONLY),
                ("within/b/file", OFlags::RDONLY),
                ("a/b/link", OFlags::RDONLY),
                ("out", FOLDER),
                ("a/../../outside", FOLDER),
            ] {
                assert!(open(path, flags).is_err(), "{path}");
            }
        }
        assert!(Held::make(&root, Path::new("out/made")).is_err());
        assert!(Held::make(&root, Path::new("../outside/made")).is_err());
        assert!(!outside.join("made").exists());
        let made = Held::make(&root, Path::new("c/d")).unwrap();
        fs::rename(root.join("c"), root.join("moved")).unwrap();
        symlink(&outside, root.join("c")).unwrap();
        fs::write(made.join("file"), "stays in its directory").unwrap();
        assert!(root.join("moved/d/file").exists());
        assert_eq!(shown(&made.join("x/y")), root.join("moved/d/x/y"));
        assert_eq!(shown(Path::new("/srv/app")), Path::new("/srv/app"));
    }
}
