//! Building a tree that nothing can lead out of: every step is relative to an open directory and
//! follows no link, and links are made last, when nothing is written any more.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, linkat, mkdirat, openat, symlinkat},
    io::Errno,
};

use super::unpack::UnpackError;

/// As many links may be followed one after another as the kernel follows.
const LINK_DEPTH_MAX: u32 = 40;

/// A path inside the tree: plain names only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inside(Vec<Box<OsStr>>);

impl Inside {
    /// Reads a path of an archive; `./` and trailing slashes mean nothing.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] for absolute paths, `..`, NUL and what is longer than `limit_bytes`.
    pub fn parse(path: &[u8], limit_bytes: usize) -> Result<Self, UnpackError> {
        let shown = || String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned();
        let refuse = |why: &str| Err(UnpackError::Refused(format!("{:?} {why}", shown())));
        if path.len() > limit_bytes {
            return refuse(&format!("is a path of more than {limit_bytes} bytes"));
        }
        if path.contains(&0) {
            return refuse("has a NUL in its path");
        }
        let mut names = Vec::new();
        for component in Path::new(OsStr::from_bytes(path)).components() {
            match component {
                Component::Normal(name) if name.len() > 255 => {
                    return refuse("has a name of more than 255 bytes");
                }
                Component::Normal(name) => names.push(name.into()),
                Component::CurDir => {}
                Component::ParentDir => return refuse("has a `..` in its path"),
                Component::RootDir | Component::Prefix(_) => return refuse("is an absolute path"),
            }
        }
        Ok(Self(names))
    }

    /// The path as text, for messages.
    pub fn show(&self) -> String {
        let path: PathBuf = self.0.iter().map(|name| &**name).collect();
        format!("{:?}", path.display().to_string())
    }

    /// Whether it is the tree itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of an entry at the top of the tree.
    pub fn is_top(&self, name: &str) -> bool {
        self.0.first().is_some_and(|first| **first == *OsStr::new(name))
    }

    fn split(&self) -> Option<(&[Box<OsStr>], &OsStr)> {
        self.0.split_last().map(|(name, parents)| (parents, &**name))
    }
}

/// A tree under construction.
pub struct Tree {
    root: OwnedFd,
    /// The directories that lead to the last entry: archives list a directory's entries together.
    open: Vec<(Box<OsStr>, OwnedFd)>,
    links: BTreeMap<Inside, Vec<u8>>,
}

impl Tree {
    /// A tree in this empty directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn at(dir: &Path) -> io::Result<Self> {
        Ok(Self { root: File::open(dir)?.into(), open: Vec::new(), links: BTreeMap::new() })
    }

    /// Makes a directory, and those that lead to it. It may be there already.
    ///
    /// # Errors
    /// [`UnpackError`], also when something else of that name is there.
    pub fn directory(&mut self, path: &Inside, mode: u32) -> Result<(), UnpackError> {
        let Some((parents, name)) = path.split() else { return Ok(()) };
        let parent = self.enter(parents, path)?;
        match mkdirat(parent, name, mode_of(mode | 0o700)) {
            Err(Errno::EXIST) => open_dir(parent, name).map(drop).map_err(|e| in_the_way(path, e)),
            done => done.map_err(|e| disk(path, e)),
        }
    }

    /// A new file, open for writing.
    ///
    /// # Errors
    /// [`UnpackError`], also when anything of that name is there.
    pub fn file(&mut self, path: &Inside, mode: u32) -> Result<File, UnpackError> {
        let Some((parents, name)) = path.split() else { return Err(twice(path)) };
        let parent = self.enter(parents, path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(parent, name, flags, mode_of(mode | 0o400)) {
            Ok(fd) => Ok(fd.into()),
            Err(Errno::EXIST) => Err(twice(path)),
            Err(e) => Err(disk(path, e)),
        }
    }

    /// A further name for a file that is there.
    ///
    /// # Errors
    /// [`UnpackError`], also when `to` is no file made before.
    pub fn hard_link(&mut self, path: &Inside, to: &Inside) -> Result<(), UnpackError> {
        let refuse = || {
            UnpackError::Refused(format!(
                "{} is a link to {}, which is no file before it",
                path.show(),
                to.show()
            ))
        };
        let (Some((parents, name)), Some((to_parents, to_name))) = (path.split(), to.split()) else {
            return Err(refuse());
        };
        let source =
            self.enter(to_parents, to)?.try_clone_to_owned().map_err(|e| UnpackError::Disk(to.show(), e))?;
        let parent = self.enter(parents, path)?;
        match linkat(&source, to_name, parent, name, AtFlags::empty()) {
            Err(Errno::EXIST) => Err(twice(path)),
            // A directory, or not there.
            Err(Errno::NOENT | Errno::PERM | Errno::ISDIR) => Err(refuse()),
            done => done.map_err(|e| disk(path, e)),
        }
    }

    /// Remembers a link for [`Tree::finish`].
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when the archive has it twice.
    pub fn link(&mut self, path: Inside, target: &[u8]) -> Result<(), UnpackError> {
        match self.links.insert(path.clone(), target.into()) {
            None if !path.is_root() => Ok(()),
            _ => Err(twice(&path)),
        }
    }

    /// Checks where all links lead, through each other as well, then makes them.
    ///
    /// # Errors
    /// [`UnpackError`], also when one leads out of the tree or something of its name is there.
    pub fn finish(mut self) -> Result<(), UnpackError> {
        check_links(&self.links)?;
        for (path, target) in std::mem::take(&mut self.links) {
            let Some((parents, name)) = path.split() else { return Err(twice(&path)) };
            let parent = self.enter(parents, &path)?;
            match symlinkat(OsStr::from_bytes(&target), parent, name) {
                Err(Errno::EXIST) => return Err(twice(&path)),
                done => done.map_err(|e| disk(&path, e))?,
            }
        }
        Ok(())
    }

    /// Opens the directory of an entry, made if need be.
    fn enter(&mut self, parents: &[Box<OsStr>], path: &Inside) -> Result<BorrowedFd<'_>, UnpackError> {
        let shared = self.open.iter().zip(parents).take_while(|((open, _), name)| open == *name).count();
        self.open.truncate(shared);
        for name in &parents[shared..] {
            let at = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            match mkdirat(at, &**name, mode_of(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(disk(path, e)),
            }
            let fd = open_dir(at, name).map_err(|e| in_the_way(path, e))?;
            self.open.push((name.clone(), fd));
        }
        Ok(self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }
}

/// Refuses links that lead out of the tree, be it through other links.
///
/// # Errors
/// [`UnpackError::Refused`] naming the first of them.
pub fn check_links(links: &BTreeMap<Inside, Vec<u8>>) -> Result<(), UnpackError> {
    for (path, target) in links {
        let refuse = |why: &str| {
            let target = String::from_utf8_lossy(target);
            Err(UnpackError::Refused(format!("{} is a link to {target:?}, which {why}", path.show())))
        };
        match follow(links, path) {
            Leads::Inside => {}
            Leads::Out => return refuse("leads out of the release"),
            Leads::Round => return refuse("leads through too many links"),
        }
    }
    Ok(())
}

enum Leads {
    Inside,
    Out,
    Round,
}

/// Walks a link as the kernel would, name by name.
fn follow(links: &BTreeMap<Inside, Vec<u8>>, start: &Inside) -> Leads {
    let mut at: Vec<Box<OsStr>> = Vec::new();
    let mut todo: Vec<Box<OsStr>> = start.0.iter().rev().cloned().collect();
    let mut followed = 0;
    while let Some(name) = todo.pop() {
        if &*name == OsStr::new("..") {
            if at.pop().is_none() {
                return Leads::Out;
            }
            continue;
        }
        at.push(name);
        let here = Inside(at);
        let target = links.get(&here);
        at = here.0;
        let Some(target) = target else { continue };
        followed += 1;
        if followed > LINK_DEPTH_MAX {
            return Leads::Round;
        }
        at.pop();
        let target = Path::new(OsStr::from_bytes(target));
        if target.is_absolute() {
            return Leads::Out;
        }
        todo.extend(target.components().rev().filter_map(|c| match c {
            Component::Normal(name) => Some(name.into()),
            Component::ParentDir => Some(OsStr::new("..").into()),
            _ => None,
        }));
    }
    Leads::Inside
}

fn open_dir(at: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Setuid, setgid and sticky bits are dropped; the process's umask applies as to any new file.
fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

fn twice(path: &Inside) -> UnpackError {
    UnpackError::Refused(format!("{} is in the archive twice", path.show()))
}

fn in_the_way(path: &Inside, error: Errno) -> UnpackError {
    match error {
        Errno::NOTDIR | Errno::LOOP => UnpackError::Refused(format!(
            "{} needs a directory where the archive has a file or link",
            path.show()
        )),
        error => disk(path, error),
    }
}

fn disk(path: &Inside, error: Errno) -> UnpackError {
    UnpackError::Disk(path.show(), error.into())
}
