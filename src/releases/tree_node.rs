//! What a tree under construction has at each name, as far as it is decided.

use std::collections::BTreeMap;

use super::{manifest::FileEntry, write_queue::DirId};

/// The number of a node.
pub(super) type NodeId = usize;

/// What the archive has at its top.
pub(super) const TOP: NodeId = 0;

pub(super) enum Node {
    Directory {
        dir: DirId,
        /// The permissions that it gets.
        mode: u32,
        /// Those that it has.
        on_disk: u32,
        children: BTreeMap<Box<[u8]>, NodeId>,
    },
    File {
        entry: FileEntry,
        /// Another name is for the same file.
        linked: bool,
    },
    /// A further name of a file.
    HardLink { entry: FileEntry, from: Source, made: bool, linked: bool },
    /// Something else took its place.
    Gone,
}

/// Where a file is that gets another name.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) dir: DirId,
    pub(super) name: Box<[u8]>,
}

/// A name in a directory.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) parent: NodeId,
    pub(super) dir: DirId,
    pub(super) name: Box<[u8]>,
}

impl Node {
    pub(super) fn directory(dir: DirId, mode: u32, on_disk: u32) -> Self {
        Self::Directory { dir, mode, on_disk, children: BTreeMap::new() }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    pub(super) fn dir(&self) -> Option<DirId> {
        if let Self::Directory { dir, .. } = self { Some(*dir) } else { None }
    }

    pub(super) fn child(&self, name: &[u8]) -> Option<NodeId> {
        if let Self::Directory { children, .. } = self { children.get(name).copied() } else { None }
    }

    pub(super) fn insert(&mut self, name: Box<[u8]>, node: NodeId) {
        if let Self::Directory { children, .. } = self {
            children.insert(name, node);
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Self::Directory { children, .. } = self {
            children.remove(name);
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        let children = if let Self::Directory { children, .. } = self { Some(children) } else { None };
        children.into_iter().flat_map(|children| children.keys().map(|name| &**name))
    }
}
