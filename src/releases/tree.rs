//! The tree that an archive becomes: what is refused and what replaces what is decided here, by what the archive
//! said so far, without a question to the volume. [`Writers`] then do it.
//!
//! What comes twice replaces what was there, as with every tar: `tar -r` appends files that are in the
//! archive already. Only a directory with something in it gives way to nothing. Links are made last, when nothing
//! else is written any more.
//!
//! A tree may be unpacked onto a *spare* one, of which the manifest says what is there: what is the same stays, what
//! differs is replaced, and what is left over in the end is taken away. No file is ever changed in place.

use std::{borrow::Borrow, os::unix::ffi::OsStrExt};

use sha2::{Digest, Sha256};

use super::{
    Limits,
    inside::{Inside, names, push},
    links::Links,
    manifest::{Entry, FileEntry},
    spare::Before,
    tree_node::{Node, NodeId, Place, Source, TOP},
    unpack_error::UnpackError,
    write_queue::Work,
    writers::{ROOT, Writers},
};

/// Of directories that no entry is for.
pub(super) const DIRECTORY_MODE: u32 = 0o755;

/// A tree under construction.
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    /// Where the release begins: what the archive has at its top, or the only directory there.
    pub(super) root: NodeId,
    pub(super) links: Links,
    /// Hard links that are not made yet.
    pub(super) hard: Vec<(NodeId, Place)>,
    made: u64,
    pub(super) umask: u32,
    /// `None`: nothing is written.
    pub(super) writers: Option<Writers>,
    /// What a spare tree has.
    pub(super) before: Option<Before>,
}

impl Tree {
    /// A tree that `writers` make. With `before`, a tree is there already.
    pub(super) fn new(writers: Option<Writers>, before: Option<Before>) -> Self {
        let top = Node::directory(ROOT, DIRECTORY_MODE, DIRECTORY_MODE);
        Self {
            nodes: vec![top],
            root: TOP,
            links: Links::default(),
            hard: Vec::new(),
            made: 0,
            // What is only checked has the permissions of the archive.
            umask: if writers.is_some() { umask() } else { 0 },
            writers,
            before,
        }
    }

    /// So many directories were made that no entry is for, but that lead to one.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// Makes a directory, and those that lead to it. It may be there already: archives may list a
    /// directory after what is in it. `within`: and nothing else may be.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub(super) fn directory(&mut self, path: &Inside, mode: u32, within: bool) -> Result<(), UnpackError> {
        if path.is_root() {
            return Ok(());
        }
        if within {
            self.enter(path.borrow(), path)?;
        }
        self.links.remove(path);
        let place = self.place(path)?;
        let id = match self.child(&place) {
            Some(id) if self.nodes[id].is_directory() => id,
            _ => self.make_directory(&place, path.borrow())?,
        };
        if let Node::Directory { mode: wanted, .. } = &mut self.nodes[id] {
            *wanted = (mode | 0o700) & !self.umask;
        }
        Ok(())
    }

    /// A new file.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub(super) fn file(&mut self, path: &Inside, mode: u32, content: Vec<u8>) -> Result<(), UnpackError> {
        self.links.remove(path);
        let place = self.place(path)?;
        let (mode, bytes) = ((mode | 0o400) & !self.umask, content.len() as u64);
        let sha256 = Sha256::digest(&content).into();
        let entry = FileEntry { mode, bytes, sha256, identity: None };
        if !self.clear(&place, path.borrow(), |was| is_same(was, &entry))?
            && let Some(writers) = &self.writers
        {
            writers.file(place.dir, &place.name, mode, content)?;
        }
        self.insert(place, Node::File { entry, linked: false });
        Ok(())
    }

    /// A further name for a file or link that is there, made when all files are.
    ///
    /// # Errors
    /// [`UnpackError`], also when `to` was not made before.
    pub(super) fn hard_link(
        &mut self,
        path: &Inside,
        to: &Inside,
        limits: &Limits,
    ) -> Result<(), UnpackError> {
        let refuse = || {
            let (path, to) = (path.show(), to.show());
            Err(UnpackError::Refused(format!("{path} is a link to {to}, which is no file before it")))
        };
        let (Some(_), Some((to_parents, to_name))) = (path.split(), to.split()) else { return refuse() };
        if let Some(target) = self.links.get(to.borrow()).map(<[u8]>::to_vec) {
            return self.link(path.clone(), &target, limits);
        }
        if self.links.are_in(to_parents) {
            return refuse();
        }
        let Some(parent) = self.find(to_parents).map_err(|()| needs_directory(to))? else { return refuse() };
        let to_place = self.at(parent, to_name.as_bytes());
        let Some(source) = self.child(&to_place) else { return refuse() };
        let (file, from) = match &mut self.nodes[source] {
            Node::File { entry, linked } => {
                *linked = true;
                (entry.clone(), Source { dir: to_place.dir, name: to_place.name.clone() })
            }
            Node::HardLink { entry, from, made: false, .. } => (entry.clone(), from.clone()),
            Node::HardLink { entry, linked, .. } => {
                *linked = true;
                (entry.clone(), Source { dir: to_place.dir, name: to_place.name.clone() })
            }
            Node::Directory { .. } | Node::Gone => return refuse(),
        };
        if path == to {
            return Ok(());
        }
        self.links.remove(path);
        let place = self.place(path)?;
        if self.clear(&place, path.borrow(), |was| is_same(was, &file))? {
            self.insert(place, Node::File { entry: file, linked: false });
            return Ok(());
        }
        let id = self.insert(place.clone(), Node::HardLink { entry: file, from, made: false, linked: false });
        self.hard.push((id, place));
        Ok(())
    }

    /// Remembers a link for [`Tree::finish`].
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when it leads through another, or there are too many.
    pub(super) fn link(&mut self, path: Inside, target: &[u8], limits: &Limits) -> Result<(), UnpackError> {
        let place = self.place(&path)?;
        self.allow_at(&place)?;
        self.links.insert(path, target, limits)
    }

    /// Where an entry comes, the directories that lead to it made if need be.
    pub(super) fn place(&mut self, path: &Inside) -> Result<Place, UnpackError> {
        self.place_from(TOP, path)
    }

    pub(super) fn place_from(&mut self, top: NodeId, path: &Inside) -> Result<Place, UnpackError> {
        let Some((parents, name)) = path.split() else { return Err(no_name()) };
        if self.links.are_in(parents) {
            return Err(needs_directory(path));
        }
        let parent = self.enter_from(top, parents, path)?;
        Ok(self.at(parent, name.as_bytes()))
    }

    fn enter(&mut self, dir: &[u8], path: &Inside) -> Result<NodeId, UnpackError> {
        if self.links.are_in(dir) {
            return Err(needs_directory(path));
        }
        self.enter_from(TOP, dir, path)
    }

    fn enter_from(&mut self, top: NodeId, dir: &[u8], path: &Inside) -> Result<NodeId, UnpackError> {
        let (mut at, mut here) = (top, Vec::new());
        for name in names(dir) {
            push(&mut here, name);
            at = match self.nodes[at].child(name) {
                Some(child) if self.nodes[child].is_directory() => child,
                Some(_) => return Err(needs_directory(path)),
                None => {
                    self.made += 1;
                    let place = self.at(at, name);
                    self.make_directory(&place, &here)?
                }
            };
        }
        Ok(at)
    }

    /// A directory, if it is there. `Err`: something else is on the way.
    fn find(&self, dir: &[u8]) -> Result<Option<NodeId>, ()> {
        let mut at = TOP;
        for name in names(dir) {
            at = match self.nodes[at].child(name) {
                Some(child) if self.nodes[child].is_directory() => child,
                Some(_) => return Err(()),
                None => return Ok(None),
            };
        }
        Ok(Some(at))
    }

    fn make_directory(&mut self, place: &Place, path: &[u8]) -> Result<NodeId, UnpackError> {
        let mode = DIRECTORY_MODE & !self.umask;
        if place.parent == TOP
            && let Some(before) = &mut self.before
            && before.goes_below(&place.name)?
        {
            return Ok(self.insert(place.clone(), Node::directory(ROOT, mode, mode)));
        }
        let mut there = None;
        let kept = self.clear(place, path, |was| {
            there = if let Entry::Directory { mode } = was { Some(*mode) } else { None };
            there.is_some()
        })?;
        let dir = match &self.writers {
            Some(writers) if kept => writers.known(place.dir, &place.name),
            Some(writers) => writers.mkdir(place.dir, &place.name, mode)?,
            None => ROOT,
        };
        Ok(self.insert(place.clone(), Node::directory(dir, mode, there.unwrap_or(mode))))
    }

    pub(super) fn at(&self, parent: NodeId, name: &[u8]) -> Place {
        let dir = self.nodes[parent].dir().unwrap_or(ROOT);
        Place { parent, dir, name: name.into() }
    }

    pub(super) fn child(&self, place: &Place) -> Option<NodeId> {
        self.nodes[place.parent].child(&place.name)
    }

    pub(super) fn insert(&mut self, place: Place, node: Node) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.nodes[place.parent].insert(place.name, id);
        id
    }

    /// Takes away what is at a place, on the volume too, unless that is `same`: then it stays, true is the answer.
    pub(super) fn clear(
        &mut self,
        place: &Place,
        path: &[u8],
        same: impl FnOnce(&Entry) -> bool,
    ) -> Result<bool, UnpackError> {
        if let Some(id) = self.child(place) {
            return self.replace(place, id, path).map(|()| false);
        }
        self.allow_at(place)?;
        let Some(before) = &mut self.before else { return Ok(false) };
        match before.claim(path) {
            None => Ok(false),
            Some(was) if same(&was) => Ok(true),
            Some(Entry::Directory { .. }) => {
                before.forget_below(path);
                self.move_aside(place).map(|()| false)
            }
            Some(_) => self.submit(place, Work::Unlink).map(|()| false),
        }
    }

    fn allow_at(&self, place: &Place) -> Result<(), UnpackError> {
        match &self.before {
            Some(before) if place.parent == TOP => before.allow_at_top(),
            _ => Ok(()),
        }
    }

    fn replace(&mut self, place: &Place, id: NodeId, path: &[u8]) -> Result<(), UnpackError> {
        match &self.nodes[id] {
            Node::Directory { children, .. } if !children.is_empty() => {
                return Err(UnpackError::Refused(format!(
                    "{} is a file or link where the archive has a directory with something in it",
                    Inside::shown(path)
                )));
            }
            // Of a spare tree it may have something in it.
            Node::Directory { .. } if self.before.is_some() => {
                if let Some(before) = &mut self.before {
                    before.forget_below(path);
                }
                self.move_aside(place)?;
            }
            Node::Directory { .. } => self.submit(place, Work::Rmdir)?,
            // It was not made yet.
            Node::HardLink { made: false, .. } | Node::Gone => {}
            Node::File { linked, .. } | Node::HardLink { linked, .. } => {
                if *linked {
                    self.make_hard_links()?;
                    self.settle()?;
                }
                self.submit(place, Work::Unlink)?;
            }
        }
        self.nodes[id] = Node::Gone;
        self.nodes[place.parent].remove(&place.name);
        Ok(())
    }

    pub(super) fn move_aside(&self, place: &Place) -> Result<(), UnpackError> {
        let name = self.name_aside();
        self.submit(place, Work::MoveAside(name))
    }

    pub(super) fn name_aside(&self) -> String {
        format!("aside-{:x}", fastrand::u64(..))
    }

    /// Waits until everything so far is on the volume.
    pub(super) fn settle(&self) -> Result<(), UnpackError> {
        self.writers.as_ref().map_or(Ok(()), Writers::settle)
    }

    pub(super) fn submit(&self, place: &Place, work: Work) -> Result<(), UnpackError> {
        self.writers.as_ref().map_or(Ok(()), |writers| writers.submit(place.dir, &place.name, work))
    }
}

pub(super) fn is_same(was: &Entry, is: &FileEntry) -> bool {
    matches!(was, Entry::File(was) if was.sha256 == is.sha256 && was.mode == is.mode && was.bytes == is.bytes)
}

/// What new files are made without; to ask for it is to set it, so the kernel's word is read.
fn umask() -> u32 {
    let status = procfs::process::Process::myself().and_then(|myself| myself.status());
    status.ok().and_then(|status| status.umask).unwrap_or(0o022)
}

fn no_name() -> UnpackError {
    UnpackError::Refused("it has a file or link without a name".into())
}

fn needs_directory(path: &Inside) -> UnpackError {
    UnpackError::Refused(format!("{} needs a directory where the archive has a file or link", path.show()))
}
