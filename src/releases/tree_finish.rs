//! What is done with a tree when its archive was read: links, permissions, and what a spare tree has beyond it.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{
    inside::{Inside, names, push},
    layout::{self, Layout, Link, LinkKey},
    manifest::{Entry, Manifest},
    tree::{DIRECTORY_MODE, Tree},
    tree_node::{Node, NodeId, Place, TOP},
    unpack_error::UnpackError,
    write_queue::Work,
    writers::Writers,
};
use crate::store::CallOff;

/// What keeps an empty directory in a repository, and nothing else.
const PLACEHOLDERS: [&[u8]; 2] = [b".keep", b".gitkeep"];
/// So many directories and files are not there to keep a place.
const EMPTY_MAX: usize = 1000;

/// What a tree became.
pub(super) struct Finished {
    pub(super) links: Vec<Link>,
    pub(super) manifest: Manifest,
    pub(super) copied_bytes: u64,
}

impl Tree {
    /// The one name at the top, if there is but one.
    fn only_name(&self) -> Option<OsString> {
        let disk = self.nodes[TOP].names().map(OsStr::from_bytes);
        let mut all = disk.chain(self.links.iter().filter_map(|(path, _)| path.path().iter().next()));
        let first = all.next()?;
        all.all(|name| name == first).then(|| first.into())
    }

    /// Whether anything of this name is at the top.
    pub(super) fn has(&self, name: &str) -> bool {
        self.nodes[self.root].child(name.as_bytes()).is_some() || self.links.have(name)
    }

    /// Where there is but one directory at the top: goes on in it, if that is wanted.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when it is not wanted and the app is in there: `current` would lead
    /// to a directory that no app server boots from.
    pub(super) fn strip_prefix(&mut self, wanted: bool) -> Result<Option<OsString>, UnpackError> {
        let only = self.only_name().filter(|name| self.links.get(name.as_bytes()).is_none());
        let only = only.and_then(|name| Some((self.nodes[TOP].child(name.as_bytes())?, name)));
        let only = only.filter(|(id, _)| self.nodes[*id].is_directory());
        let is_there = match &mut self.before {
            Some(before) => before.strip(only.is_some())?,
            None => false,
        };
        let Some((id, name)) = only else { return Ok(None) };
        if !wanted {
            let is_app = |known: &str| {
                self.nodes[id].child(known.as_bytes()).is_some()
                    || self.links.get(&[name.as_bytes(), b"/", known.as_bytes()].concat()).is_some()
            };
            return if layout::APP_FILES.into_iter().any(is_app) { Err(prefixed(&name)) } else { Ok(None) };
        }
        self.links = std::mem::take(&mut self.links).below(&name);
        self.root = id;
        // A temporary directory that CI packed is closed to others; a release's root is not.
        if let Node::Directory { mode, .. } = &mut self.nodes[id] {
            *mode = DIRECTORY_MODE & !self.umask;
        }
        Ok((!is_there).then_some(name))
    }

    /// Checks where all links lead, through each other as well, then makes them, and the ones that the
    /// layout asks for.
    ///
    /// # Errors
    /// [`UnpackError`], also when one leads out of the tree, or in place of a directory with something in it.
    pub(super) fn finish(mut self, layout: &Layout, off: &CallOff) -> Result<Finished, UnpackError> {
        let mut given = layout.links();
        let mut ends = BTreeSet::new();
        let mut out = Vec::new();
        for link in &mut given {
            out.extend(self.make_room(link)?);
            let path = Inside::of(&link.path);
            if let Some((other, _)) = self.links.iter().find(|(other, _)| path.is_on_the_way(other)) {
                return Err(layout::in_the_way(link, other.path()));
            }
            ends.insert(path);
        }
        self.links.check(&ends, off)?;
        self.make_hard_links()?;
        self.settle()?;
        for place in &out {
            self.move_aside(place)?;
        }
        let links = std::mem::take(&mut self.links);
        let asked = given.iter().map(|link| (Inside::of(&link.path), link.target.as_os_str().as_bytes()));
        let all: BTreeMap<Inside, Box<[u8]>> = links
            .iter()
            .map(|(path, target)| (path.clone(), target))
            .chain(asked)
            .map(|(path, target)| (path, target.into()))
            .collect();
        for (path, target) in &all {
            off.check().map_err(UnpackError::Archive)?;
            self.symlink(path, target)?;
        }
        self.take_away_the_rest()?;
        self.set_modes()?;
        let copied_bytes = self.writers.take().map_or(Ok(0), Writers::finish)?;
        let mut manifest = Manifest::default();
        self.note(self.root, &mut Vec::new(), &mut manifest);
        manifest.extend(all.into_iter().map(|(path, target)| (path, Entry::Link { target })));
        Ok(Finished { links: given, manifest, copied_bytes })
    }

    /// How many bytes hard links may take that become copies, of so many in all.
    pub(super) fn allow_copies(&self, bytes_max: u64, limit: u64) {
        if let Some(writers) = &self.writers {
            writers.allow_copies(bytes_max, limit);
        }
    }

    /// Makes sure that nothing is where the link comes: an empty directory gives way, also one with
    /// nothing but the `.keep` of a repository; what it held of further such directories is noted.
    /// Answers what has to leave the tree for it.
    fn make_room(&mut self, link: &mut Link) -> Result<Option<Place>, UnpackError> {
        let (mut at, mut path, mut place) = (self.root, PathBuf::new(), None);
        for name in &link.path {
            path.push(name);
            place = Some(self.at(at, name.as_bytes()));
            match self.nodes[at].child(name.as_bytes()) {
                None => return Ok(None),
                Some(child) if self.nodes[child].is_directory() => at = child,
                Some(_) => return Err(layout::in_the_way(link, &path)),
            }
        }
        if link.key == LinkKey::LinkedFiles {
            return Err(layout::in_the_way(link, &link.path));
        }
        let mut dirs = Vec::new();
        if let Some(content) = self.only_placeholders(at, Path::new(""), &mut dirs) {
            return Err(layout::in_the_way(link, &path.join(content)));
        }
        link.dirs = dirs;
        if let Some(Place { parent, name, .. }) = &place {
            self.nodes[*parent].remove(name);
        }
        Ok(place)
    }

    /// The directories below `dir`, whose path is `here`; or the first thing that is content.
    fn only_placeholders(&self, dir: NodeId, here: &Path, dirs: &mut Vec<PathBuf>) -> Option<PathBuf> {
        let Node::Directory { children, .. } = &self.nodes[dir] else { return Some(here.into()) };
        if children.len() >= EMPTY_MAX || dirs.len() >= EMPTY_MAX {
            return Some(here.into());
        }
        for (name, child) in children {
            let path = here.join(OsStr::from_bytes(name));
            if self.nodes[*child].is_directory() && str::from_utf8(name).is_ok() {
                // The marker is JSON, which has no other names.
                dirs.push(path.clone());
                let content = self.only_placeholders(*child, &path, dirs);
                if content.is_some() {
                    return content;
                }
            } else if !PLACEHOLDERS.contains(&&**name) {
                return Some(path);
            }
        }
        None
    }

    fn symlink(&mut self, path: &Inside, target: &[u8]) -> Result<(), UnpackError> {
        let place = self.place_from(self.root, path)?;
        let same = |was: &Entry| matches!(was, Entry::Link { target: is } if **is == *target);
        if self.clear(&place, path.borrow(), same)? {
            return Ok(());
        }
        self.submit(&place, Work::Symlink(target.into()))
    }

    pub(super) fn make_hard_links(&mut self) -> Result<(), UnpackError> {
        let pending = std::mem::take(&mut self.hard);
        if pending.is_empty() {
            return Ok(());
        }
        self.settle()?;
        for (id, place) in pending {
            let Node::HardLink { entry, from, made, .. } = &mut self.nodes[id] else { continue };
            *made = true;
            let (from, from_name) = (from.dir, OsStr::from_bytes(&from.name).into());
            let work = Work::HardLink { from, from_name, mode: entry.mode, bytes: entry.bytes };
            self.submit(&place, work)?;
        }
        Ok(())
    }

    /// Directories whose permissions were said when they were there already.
    fn set_modes(&self) -> Result<(), UnpackError> {
        let mut open: Vec<NodeId> = vec![TOP];
        while let Some(parent) = open.pop() {
            let Node::Directory { children, .. } = &self.nodes[parent] else { continue };
            for (name, child) in children {
                let Node::Directory { mode, on_disk, .. } = &self.nodes[*child] else { continue };
                if mode != on_disk {
                    self.submit(&self.at(parent, name), Work::Chmod(*mode))?;
                }
                open.push(*child);
            }
        }
        Ok(())
    }

    /// What the spare tree had, and the archive has not.
    fn take_away_the_rest(&mut self) -> Result<(), UnpackError> {
        let Some(before) = &mut self.before else { return Ok(()) };
        for (path, entry) in before.take_rest() {
            let Some((parents, name)) = path.split() else { continue };
            let mut at = self.root;
            for name in names(parents) {
                match self.nodes[at].child(name) {
                    Some(child) => at = child,
                    // A directory goes with all that is in it.
                    None => break,
                }
            }
            let place = self.at(at, name.as_bytes());
            match entry {
                Entry::Directory { .. } => self.move_aside(&place)?,
                _ => self.submit(&place, Work::Unlink)?,
            }
        }
        Ok(())
    }

    fn note(&self, dir: NodeId, path: &mut Vec<u8>, manifest: &mut Manifest) {
        let Node::Directory { children, .. } = &self.nodes[dir] else { return };
        for (name, child) in children {
            let before = path.len();
            push(path, name);
            let entry = match &self.nodes[*child] {
                Node::Directory { mode, .. } => Entry::Directory { mode: *mode },
                Node::File { entry, .. } | Node::HardLink { entry, .. } => Entry::File(entry.clone()),
                Node::Gone => continue,
            };
            manifest.insert(Inside::of(Path::new(OsStr::from_bytes(path))), entry);
            self.note(*child, path, manifest);
            path.truncate(before);
        }
    }
}

fn prefixed(name: &OsStr) -> UnpackError {
    let name = name.display().to_string();
    UnpackError::Refused(format!(
        "everything in it, the app too, is in the directory {name:?}: set `strip_prefix: true` to take that \
         directory's content, or pack it without the directory"
    ))
}
