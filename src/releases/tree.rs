//! Building a tree that nothing can lead out of: every step is relative to an open directory and
//! follows no link, and links are made last, when nothing else is written any more.
//!
//! What comes twice replaces what was there, as with every tar: `tar -r` appends files that are in the
//! archive already. Only a directory with something in it gives way to nothing.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fchmod, linkat, mkdirat, openat, statat, symlinkat, unlinkat},
    io::Errno,
};

use super::{
    Limits,
    inside::{Inside, names},
    layout::{self, Layout, Link},
    links::Links,
    unpack_error::UnpackError,
};
use crate::store::CallOff;

/// A tree under construction.
pub struct Tree {
    dir: PathBuf,
    root: OwnedFd,
    /// The directories that lead to the last entry: archives list a directory's entries together.
    open: Vec<(Box<OsStr>, OwnedFd)>,
    links: Links,
    made: u64,
}

impl Tree {
    /// A tree in this empty directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn at(dir: &Path) -> io::Result<Self> {
        let root = File::open(dir)?.into();
        Ok(Self { dir: dir.into(), root, open: Vec::new(), links: Links::default(), made: 0 })
    }

    /// So many directories were made that no entry is for, but that lead to one.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Makes a directory, and those that lead to it. It may be there already: archives may list a
    /// directory after what is in it. `within`: and nothing else may be.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub fn directory(&mut self, path: &Inside, mode: u32, within: bool) -> Result<(), UnpackError> {
        let Some((parents, name)) = path.split() else { return Ok(()) };
        if within {
            self.enter(path.borrow(), path)?;
        }
        self.links.remove(path);
        let parent = self.enter(parents, path)?;
        let make = || mkdirat(parent, name, mode_of(mode | 0o700));
        match make() {
            Err(Errno::EXIST) => {}
            done => return done.map_err(|e| disk(path, e)),
        }
        match open_dir(parent, name, OFlags::RDONLY) {
            Ok(fd) => fchmod(fd, mode_of((mode | 0o700) & !umask())).map_err(|e| disk(path, e)),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                make_way(parent, name, path)?;
                make().map_err(|e| disk(path, e))
            }
            Err(e) => Err(disk(path, e)),
        }
    }

    /// A new file, open for writing.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub fn file(&mut self, path: &Inside, mode: u32) -> Result<File, UnpackError> {
        let Some((parents, name)) = path.split() else { return Err(no_name()) };
        self.links.remove(path);
        let parent = self.enter(parents, path)?;
        create(parent, name, path, mode)
    }

    /// A further name for a file or link that is there. Where the volume does not let a file have one: the file,
    /// and a new one for its content.
    ///
    /// # Errors
    /// [`UnpackError`], also when `to` was not made before.
    pub fn hard_link(
        &mut self,
        path: &Inside,
        to: &Inside,
        limits: &Limits,
    ) -> Result<Option<(File, File)>, UnpackError> {
        let refuse = || {
            let (path, to) = (path.show(), to.show());
            Err(UnpackError::Refused(format!("{path} is a link to {to}, which is no file before it")))
        };
        let (Some((parents, name)), Some((to_parents, to_name))) = (path.split(), to.split()) else {
            return refuse();
        };
        if let Some(target) = self.links.get(to.borrow()).map(<[u8]>::to_vec) {
            return self.link(path.clone(), &target, limits).map(|()| None);
        }
        let source = match self.find(to_parents) {
            Ok(source) => source.try_clone_to_owned().map_err(|e| UnpackError::Disk(to.show(), e))?,
            Err(Errno::NOENT) => return refuse(),
            Err(e) => return Err(in_the_way(to, e)),
        };
        // Of a directory, link says what it says of volumes that have no links.
        let mode = match statat(&source, to_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => stat.st_mode,
            Ok(_) | Err(Errno::NOENT) => return refuse(),
            Err(e) => return Err(disk(to, e)),
        };
        if path == to {
            return Ok(None);
        }
        self.links.remove(path);
        let parent = self.enter(parents, path)?;
        let link = || linkat(&source, to_name, parent, name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => {
                make_way(parent, name, path)?;
                link()
            }
            linked => linked,
        };
        match linked {
            // As volumes say that a file has no more names (EFS: 177), or but one.
            Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV) => {
                let copy = create(parent, name, path, mode)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&source, to_name, flags, Mode::empty()).map_err(|e| disk(to, e))?;
                Ok(Some((File::from(file), copy)))
            }
            done => done.map(|()| None).map_err(|e| disk(path, e)),
        }
    }

    /// Remembers a link for [`Tree::finish`].
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when it leads through another, or there are too many.
    pub fn link(&mut self, path: Inside, target: &[u8], limits: &Limits) -> Result<(), UnpackError> {
        let Some((parents, _)) = path.split() else { return Err(no_name()) };
        self.enter(parents, &path)?;
        self.links.insert(path, target, limits)
    }

    /// The one name at the top, if there is but one.
    fn only_name(&self) -> Result<Option<OsString>, UnpackError> {
        let failed = |e| UnpackError::Disk(self.dir.display().to_string(), e);
        let mut only: Option<OsString> = None;
        let mut differs = |name: &OsStr| *only.get_or_insert_with(|| name.into()) != *name;
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            if differs(&entry.map_err(failed)?.file_name()) {
                return Ok(None);
            }
        }
        let tops = self.links.iter().filter_map(|(path, _)| path.path().iter().next());
        let differ = tops.into_iter().any(differs);
        Ok(only.filter(|_| !differ))
    }

    /// Whether anything of this name is at the top.
    pub fn has(&self, name: &str) -> bool {
        statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() || self.links.have(name)
    }

    /// Where there is but one directory at the top: goes on in it, if that is wanted.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when it is not wanted and the app is in there: `current` would lead
    /// to a directory that no app server boots from.
    pub fn strip_prefix(&mut self, wanted: bool) -> Result<Option<OsString>, UnpackError> {
        let Some(name) = self.only_name()?.filter(|name| self.links.get(name.as_bytes()).is_none()) else {
            return Ok(None);
        };
        let Ok(root) = open_dir(&self.root, &name, OFlags::RDONLY) else { return Ok(None) };
        if !wanted {
            let is_app = |known: &str| {
                statat(&root, known, AtFlags::SYMLINK_NOFOLLOW).is_ok()
                    || self.links.get(&[name.as_bytes(), b"/", known.as_bytes()].concat()).is_some()
            };
            return if layout::APP_FILES.into_iter().any(is_app) { Err(prefixed(&name)) } else { Ok(None) };
        }
        let links = std::mem::take(&mut self.links).below(&name);
        let inside = Self { dir: self.dir.join(&name), root, open: Vec::new(), links, made: self.made };
        let failed = |e| UnpackError::Disk(inside.dir.display().to_string(), io::Error::from(e));
        // A temporary directory that CI packed is closed to others; a release's root is not.
        fchmod(&inside.root, mode_of(0o755)).map_err(failed)?;
        *self = inside;
        Ok(Some(name))
    }

    /// Checks where all links lead, through each other as well, then makes them; the ones that the
    /// layout asks for too, which it answers.
    ///
    /// # Errors
    /// [`UnpackError`], also when one leads out of the tree, or in place of a directory with something in it.
    pub fn finish(mut self, layout: &Layout, off: &CallOff) -> Result<Vec<Link>, UnpackError> {
        let mut given = layout.links();
        let mut ends = BTreeSet::new();
        for link in &mut given {
            layout::make_room(&self.dir, link)?;
            let path = Inside::of(&link.path);
            if let Some((other, _)) = self.links.iter().find(|(other, _)| path.is_on_the_way(other)) {
                return Err(layout::in_the_way(link, other.path()));
            }
            ends.insert(path);
        }
        self.links.check(&ends, off)?;
        let links = std::mem::take(&mut self.links);
        for (path, target) in links.iter() {
            off.check().map_err(UnpackError::Archive)?;
            self.symlink(path, OsStr::from_bytes(target))?;
        }
        for link in &given {
            self.symlink(&Inside::of(&link.path), link.target.as_os_str())?;
        }
        Ok(given)
    }

    fn symlink(&mut self, path: &Inside, target: &OsStr) -> Result<(), UnpackError> {
        let Some((parents, name)) = path.split() else { return Err(no_name()) };
        let parent = self.enter(parents, path)?;
        let link = || symlinkat(target, parent, name);
        match link() {
            Err(Errno::EXIST) => {
                make_way(parent, name, path)?;
                link().map_err(|e| disk(path, e))
            }
            done => done.map_err(|e| disk(path, e)),
        }
    }

    /// Opens the directory of an entry, made if need be.
    fn enter(&mut self, parents: &[u8], path: &Inside) -> Result<BorrowedFd<'_>, UnpackError> {
        self.go_to(parents, true).map_err(|e| in_the_way(path, e))
    }

    /// Opens a directory, if it is there.
    fn find(&mut self, parents: &[u8]) -> Result<BorrowedFd<'_>, Errno> {
        self.go_to(parents, false)
    }

    fn go_to(&mut self, parents: &[u8], make: bool) -> Result<BorrowedFd<'_>, Errno> {
        if self.links.are_in(parents) {
            return Err(if make { Errno::LOOP } else { Errno::NOENT });
        }
        let shared =
            self.open.iter().zip(names(parents)).take_while(|((open, _), name)| open.as_bytes() == *name);
        let shared = shared.count();
        self.open.truncate(shared);
        for name in names(parents).skip(shared) {
            let name = OsStr::from_bytes(name);
            let at = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let fd = match open_dir(at, name, OFlags::PATH) {
                Err(Errno::NOENT) if make => {
                    mkdirat(at, name, mode_of(0o755))?;
                    self.made += 1;
                    open_dir(at, name, OFlags::PATH)?
                }
                opened => opened?,
            };
            self.open.push((name.into(), fd));
        }
        Ok(self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }
}

fn create(parent: BorrowedFd<'_>, name: &OsStr, path: &Inside, mode: u32) -> Result<File, UnpackError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || openat(parent, name, flags, mode_of(mode | 0o400));
    let created = match create() {
        Err(Errno::EXIST) => {
            make_way(parent, name, path)?;
            create()
        }
        created => created,
    };
    created.map(File::from).map_err(|e| disk(path, e))
}

/// Takes away what an entry replaces.
fn make_way(parent: BorrowedFd<'_>, name: &OsStr, path: &Inside) -> Result<(), UnpackError> {
    let done = match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => unlinkat(parent, name, AtFlags::REMOVEDIR),
        done => done,
    };
    match done {
        Err(Errno::NOTEMPTY | Errno::EXIST) => Err(UnpackError::Refused(format!(
            "{} is a file or link where the archive has a directory with something in it",
            path.show()
        ))),
        done => done.map_err(|e| disk(path, e)),
    }
}

fn open_dir(at: impl AsFd, name: &OsStr, how: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(at, name, how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Setuid, setgid and sticky bits are dropped; the process's umask applies as to any new file.
fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

/// What new files are made without; to ask for it is to set it, so the kernel's word is read.
fn umask() -> u32 {
    let status = procfs::process::Process::myself().and_then(|myself| myself.status());
    status.ok().and_then(|status| status.umask).unwrap_or(0o022)
}

fn prefixed(name: &OsStr) -> UnpackError {
    let name = name.display().to_string();
    UnpackError::Refused(format!(
        "everything in it, the app too, is in the directory {name:?}: set `strip_prefix: true` to take that \
         directory's content, or pack it without the directory"
    ))
}

fn no_name() -> UnpackError {
    UnpackError::Refused("it has a file or link without a name".into())
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
