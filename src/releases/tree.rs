//! Building a tree that nothing can lead out of: every step is relative to an open directory and
//! follows no link, and links are made last, when nothing else is written any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, fchmod, linkat, mkdirat, openat, symlinkat},
    io::Errno,
};

use super::{
    layout::{self, Layout, Link},
    unpack_error::UnpackError,
};

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
        format!("{:?}", self.path().display().to_string())
    }

    fn path(&self) -> PathBuf {
        self.0.iter().map(|name| &**name).collect()
    }

    /// Whether it is the tree itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether macOS would name a file of a file's attributes so.
    pub fn is_apple_double(&self) -> bool {
        self.0.last().is_some_and(|name| name.as_bytes().starts_with(b"._"))
    }

    /// Whether one of the two leads to the other.
    fn is_on_the_way(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a == b)
    }

    fn split(&self) -> Option<(&[Box<OsStr>], &OsStr)> {
        self.0.split_last().map(|(name, parents)| (parents, &**name))
    }
}

/// A tree under construction.
pub struct Tree {
    dir: PathBuf,
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
        Ok(Self { dir: dir.into(), root: File::open(dir)?.into(), open: Vec::new(), links: BTreeMap::new() })
    }

    /// Makes a directory, and those that lead to it. It may be there already: archives may list a
    /// directory after what is in it.
    ///
    /// # Errors
    /// [`UnpackError`], also when something else of that name is there.
    pub fn directory(&mut self, path: &Inside, mode: u32) -> Result<(), UnpackError> {
        let Some((parents, name)) = path.split() else { return Ok(()) };
        let parent = self.enter(parents, path)?;
        match mkdirat(parent, name, mode_of(mode | 0o700)) {
            Err(Errno::EXIST) => {
                let fd = open_dir(parent, name).map_err(|e| in_the_way(path, e))?;
                fchmod(fd, mode_of(mode | 0o700)).map_err(|e| disk(path, e))
            }
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

    /// A further name for a file or link that is there.
    ///
    /// # Errors
    /// [`UnpackError`], also when `to` was not made before.
    pub fn hard_link(&mut self, path: Inside, to: &Inside) -> Result<(), UnpackError> {
        if let Some(target) = self.links.get(to).cloned() {
            return self.link(path, &target);
        }
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
        let parent = self.enter(parents, &path)?;
        match linkat(&source, to_name, parent, name, AtFlags::empty()) {
            Err(Errno::EXIST) => Err(twice(&path)),
            // A directory, or not there.
            Err(Errno::NOENT | Errno::PERM | Errno::ISDIR) => Err(refuse()),
            done => done.map_err(|e| disk(&path, e)),
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

    /// The names at the top.
    fn top(&self) -> Result<BTreeSet<OsString>, UnpackError> {
        let failed = |e| UnpackError::Disk(self.dir.display().to_string(), e);
        let links = self.links.keys().filter_map(|path| path.0.first());
        let mut names: BTreeSet<_> = links.map(|name| name.to_os_string()).collect();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            names.insert(entry.map_err(failed)?.file_name());
        }
        Ok(names)
    }

    /// Whether anything of this name is at the top.
    pub fn has(&self, name: &str) -> bool {
        self.top().is_ok_and(|names| names.contains(OsStr::new(name)))
    }

    /// Where there is but one directory at the top: goes on in it, if that is wanted.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when it is not wanted and the app is in there: `current` would lead
    /// to a directory that no app server boots from.
    pub fn strip_prefix(&mut self, wanted: bool) -> Result<Option<OsString>, UnpackError> {
        let names = self.top()?;
        let Some(name) = names.first().filter(|_| names.len() == 1) else { return Ok(None) };
        let Ok(fd) = open_dir(&self.root, name) else { return Ok(None) };
        let mut inside =
            Self { dir: self.dir.join(name), root: fd, open: Vec::new(), links: BTreeMap::new() };
        inside.links = self.links.iter().map(|(path, to)| (Inside(path.0[1..].into()), to.clone())).collect();
        if !wanted {
            return if layout::is_app(inside.top()?) { Err(prefixed(name)) } else { Ok(None) };
        }
        let failed = |e| UnpackError::Disk(inside.dir.display().to_string(), io::Error::from(e));
        // A temporary directory that CI packed is closed to others; a release's root is not.
        fchmod(&inside.root, mode_of(0o755)).map_err(failed)?;
        *self = inside;
        Ok(Some(name.clone()))
    }

    /// Checks where all links lead, through each other as well, then makes them; the ones that the
    /// layout asks for too, which it answers.
    ///
    /// # Errors
    /// [`UnpackError`], also when one leads out of the tree or something of its name is there.
    pub fn finish(mut self, layout: &Layout) -> Result<Vec<Link>, UnpackError> {
        let mut given = layout.links();
        let mut ends = BTreeSet::new();
        for link in &mut given {
            layout::make_room(&self.dir, link)?;
            let path = Inside(link.path.iter().map(Into::into).collect());
            if let Some(other) = self.links.keys().find(|other| path.is_on_the_way(other)) {
                return Err(layout::in_the_way(link, &other.path()));
            }
            ends.insert(path);
        }
        check_links(&self.links, &ends)?;
        for (path, target) in std::mem::take(&mut self.links) {
            self.symlink(&path, OsStr::from_bytes(&target))?;
        }
        for link in &given {
            let path = Inside(link.path.iter().map(Into::into).collect());
            self.symlink(&path, link.target.as_os_str())?;
        }
        Ok(given)
    }

    fn symlink(&mut self, path: &Inside, target: &OsStr) -> Result<(), UnpackError> {
        let Some((parents, name)) = path.split() else { return Err(twice(path)) };
        let parent = self.enter(parents, path)?;
        match symlinkat(target, parent, name) {
            Err(Errno::EXIST) => Err(twice(path)),
            done => done.map_err(|e| disk(path, e)),
        }
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

/// Refuses links that lead out of the tree, be it through other links. `ends` are the paths that lead
/// out on purpose: nothing may climb from there.
///
/// # Errors
/// [`UnpackError::Refused`] naming the first of them.
pub fn check_links(links: &BTreeMap<Inside, Vec<u8>>, ends: &BTreeSet<Inside>) -> Result<(), UnpackError> {
    for (path, target) in links {
        let refuse = |why: &str| {
            let target = String::from_utf8_lossy(target);
            Err(UnpackError::Refused(format!("{} is a link to {target:?}, which {why}", path.show())))
        };
        match follow(links, ends, path) {
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
fn follow(links: &BTreeMap<Inside, Vec<u8>>, ends: &BTreeSet<Inside>, start: &Inside) -> Leads {
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
        if ends.contains(&here) {
            let climbs = todo.iter().any(|name| &**name == OsStr::new(".."));
            return if climbs { Leads::Out } else { Leads::Inside };
        }
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

fn prefixed(name: &OsStr) -> UnpackError {
    let name = name.display().to_string();
    UnpackError::Refused(format!(
        "everything in it, the app too, is in the directory {name:?}: set `strip_prefix: true` to take that \
         directory's content, or pack it without the directory"
    ))
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
