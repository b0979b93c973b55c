//! The files of a volume, in memory.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};

/// As on EFS.
const LINKS_MAX: u32 = 177;
/// As NFS's wsize on EFS.
pub(super) const WRITE_BYTES_MAX: u32 = 1 << 20;
pub(super) const ROOT: u64 = 1;

#[derive(Clone)]
pub(super) enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<OsString, u64>),
    Symlink(PathBuf),
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) content: Content,
    /// What was synced last: it survives a loss of power.
    pub(super) synced: Option<Content>,
    pub(super) perm: u16,
    owner: (u32, u32),
    links: u32,
    /// How often a client has been told of it: the node stays until all clients have forgotten it.
    known: u64,
    times: [SystemTime; 3],
}

/// What is made anew under a name.
pub(super) enum New<'a> {
    File,
    Directory,
    Symlink(&'a Path),
}

/// What `setattr` changes.
#[derive(Default)]
pub(super) struct Change {
    pub(super) perm: Option<u32>,
    pub(super) owner: (Option<u32>, Option<u32>),
    pub(super) size: Option<u64>,
    pub(super) accessed: Option<TimeOrNow>,
    pub(super) modified: Option<TimeOrNow>,
}

/// All nodes by their number; numbers are never used twice.
#[derive(Clone)]
pub(super) struct Nodes {
    by_number: HashMap<u64, Node>,
    next: u64,
}

type Result<T> = std::result::Result<T, Errno>;

impl Default for Nodes {
    fn default() -> Self {
        let root = Node::new(Content::Directory(BTreeMap::new()), 0o755, (0, 0));
        Self { by_number: HashMap::from([(ROOT, Node { links: 2, known: 1, ..root })]), next: ROOT + 1 }
    }
}

impl Node {
    fn new(content: Content, perm: u16, owner: (u32, u32)) -> Self {
        let links = if matches!(content, Content::Directory(_)) { 2 } else { 1 };
        Self { content, synced: None, perm, owner, links, known: 0, times: [SystemTime::now(); 3] }
    }

    fn kind(&self) -> FileType {
        match self.content {
            Content::File(_) => FileType::RegularFile,
            Content::Directory(_) => FileType::Directory,
            Content::Symlink(_) => FileType::Symlink,
        }
    }

    fn attr(&self, number: u64) -> FileAttr {
        let size = match &self.content {
            Content::File(bytes) => bytes.len() as u64,
            Content::Directory(_) => 4096,
            Content::Symlink(target) => target.as_os_str().len() as u64,
        };
        let [atime, mtime, ctime] = self.times;
        FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime,
            mtime,
            ctime,
            crtime: ctime,
            kind: self.kind(),
            perm: self.perm,
            nlink: self.links,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: WRITE_BYTES_MAX,
            flags: 0,
        }
    }

    fn touch(&mut self) {
        let now = SystemTime::now();
        self.times[1..].fill(now);
    }
}

impl Nodes {
    pub(super) fn node(&self, number: u64) -> Result<&Node> {
        self.by_number.get(&number).ok_or(Errno::ESTALE)
    }

    fn node_mut(&mut self, number: u64) -> Result<&mut Node> {
        self.by_number.get_mut(&number).ok_or(Errno::ESTALE)
    }

    fn names(&self, parent: u64) -> Result<&BTreeMap<OsString, u64>> {
        match &self.node(parent)?.content {
            Content::Directory(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn names_mut(&mut self, parent: u64) -> Result<&mut BTreeMap<OsString, u64>> {
        let node = self.node_mut(parent)?;
        node.touch();
        match &mut node.content {
            Content::Directory(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn attr(&self, number: u64) -> Result<FileAttr> {
        Ok(self.node(number)?.attr(number))
    }

    /// The same, for a client that will remember the node.
    fn tell(&mut self, number: u64) -> Result<FileAttr> {
        let node = self.node_mut(number)?;
        node.known += 1;
        Ok(node.attr(number))
    }

    pub(super) fn look_up(&mut self, parent: u64, name: &OsStr) -> Result<FileAttr> {
        let number = *self.names(parent)?.get(name).ok_or(Errno::ENOENT)?;
        self.tell(number)
    }

    pub(super) fn forget(&mut self, number: u64, times: u64) {
        if let Ok(node) = self.node_mut(number) {
            node.known = node.known.saturating_sub(times);
        }
        self.drop_unused(number);
    }

    fn drop_unused(&mut self, number: u64) {
        if self.by_number.get(&number).is_some_and(|node| node.links == 0 && node.known == 0) {
            self.by_number.remove(&number);
        }
    }

    pub(super) fn make(
        &mut self,
        parent: u64,
        name: &OsStr,
        new: New<'_>,
        perm: u32,
        owner: (u32, u32),
    ) -> Result<FileAttr> {
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let content = match new {
            New::File => Content::File(Vec::new()),
            New::Directory => Content::Directory(BTreeMap::new()),
            New::Symlink(target) => Content::Symlink(target.to_owned()),
        };
        let (number, directory) = (self.next, matches!(content, Content::Directory(_)));
        self.next += 1;
        self.by_number.insert(number, Node::new(content, (perm & 0o7777) as u16, owner));
        self.names_mut(parent)?.insert(name.to_owned(), number);
        self.node_mut(parent)?.links += u32::from(directory);
        self.tell(number)
    }

    pub(super) fn link(&mut self, number: u64, parent: u64, name: &OsStr) -> Result<FileAttr> {
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let node = self.node_mut(number)?;
        if node.links >= LINKS_MAX {
            return Err(Errno::EMLINK);
        }
        node.links += 1;
        self.names_mut(parent)?.insert(name.to_owned(), number);
        self.tell(number)
    }

    pub(super) fn remove(&mut self, parent: u64, name: &OsStr, directory: bool) -> Result<()> {
        let number = *self.names(parent)?.get(name).ok_or(Errno::ENOENT)?;
        match (&self.node(number)?.content, directory) {
            (Content::Directory(names), true) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
            (Content::Directory(_), false) => return Err(Errno::EISDIR),
            (Content::File(_) | Content::Symlink(_), true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.names_mut(parent)?.remove(name);
        self.node_mut(parent)?.links -= u32::from(directory);
        let node = self.node_mut(number)?;
        node.links = if directory { 0 } else { node.links - 1 };
        self.drop_unused(number);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<()> {
        let number = *self.names(from.0)?.get(from.1).ok_or(Errno::ENOENT)?;
        let directory = self.node(number)?.kind() == FileType::Directory;
        if let Some(old) = self.names(to.0)?.get(to.1).copied() {
            if old == number {
                return Ok(());
            }
            // A file over a directory, and the other way round, are refused by this.
            self.remove(to.0, to.1, directory)?;
        }
        self.names_mut(from.0)?.remove(from.1);
        self.names_mut(to.0)?.insert(to.1.to_owned(), number);
        self.node_mut(from.0)?.links -= u32::from(directory);
        self.node_mut(to.0)?.links += u32::from(directory);
        Ok(())
    }

    pub(super) fn target(&self, number: u64) -> Result<&[u8]> {
        match &self.node(number)?.content {
            Content::Symlink(target) => Ok(target.as_os_str().as_bytes()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn bytes_mut(&mut self, number: u64) -> Result<&mut Vec<u8>> {
        match &mut self.node_mut(number)?.content {
            Content::File(bytes) => Ok(bytes),
            _ => Err(Errno::EISDIR),
        }
    }

    pub(super) fn read(&self, number: u64, offset: u64, size: u32) -> Result<&[u8]> {
        let Content::File(bytes) = &self.node(number)?.content else { return Err(Errno::EISDIR) };
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        Ok(&rest[..rest.len().min(size as usize)])
    }

    pub(super) fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<()> {
        let (bytes, offset) = (self.bytes_mut(number)?, offset as usize);
        if bytes.len() < offset + data.len() {
            bytes.resize(offset + data.len(), 0);
        }
        bytes[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    pub(super) fn change(&mut self, number: u64, change: &Change) -> Result<FileAttr> {
        if let Some(size) = change.size {
            self.bytes_mut(number)?.resize(size as usize, 0);
        }
        let node = self.node_mut(number)?;
        node.perm = change.perm.map_or(node.perm, |perm| (perm & 0o7777) as u16);
        node.owner = (change.owner.0.unwrap_or(node.owner.0), change.owner.1.unwrap_or(node.owner.1));
        let now = SystemTime::now();
        for (at, time) in [(0, change.accessed), (1, change.modified)] {
            match time {
                Some(TimeOrNow::SpecificTime(time)) => node.times[at] = time,
                Some(TimeOrNow::Now) => node.times[at] = now,
                None => {}
            }
        }
        node.times[2] = now;
        Ok(node.attr(number))
    }

    /// What this node is now survives.
    pub(super) fn sync(&mut self, number: u64) -> Result<()> {
        let node = self.node_mut(number)?;
        node.synced = Some(node.content.clone());
        Ok(())
    }

    /// All that there is now survives.
    pub(super) fn sync_all(&mut self) {
        self.by_number.values_mut().for_each(|node| node.synced = Some(node.content.clone()));
    }

    /// The same files, synced, for clients that have been told of none.
    pub(super) fn afresh(&self) -> Self {
        let mut nodes = self.clone();
        nodes.by_number.iter_mut().for_each(|(number, node)| node.known = u64::from(*number == ROOT));
        nodes.by_number.retain(|_, node| node.links > 0);
        nodes.sync_all();
        nodes
    }

    /// What a directory lists, with a client remembering none of it.
    pub(super) fn list(&self, number: u64) -> Result<Vec<(OsString, FileAttr)>> {
        let own = [(OsString::from("."), number), (OsString::from(".."), number)];
        let names = self.names(number)?.iter().map(|(name, number)| (name.clone(), *number));
        let all = own.into_iter().chain(names);
        all.map(|(name, number)| Ok((name, self.attr(number)?))).collect()
    }

    /// A client has been told of a listed node.
    pub(super) fn listed(&mut self, number: u64) {
        let _ = self.tell(number);
    }
}
