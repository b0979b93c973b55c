//! Answers the kernel, after the delay.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    io,
    num::NonZeroU64,
    path::Path,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use super::{
    Operation, Shared,
    nodes::{Change, New, Nodes, WRITE_BYTES_MAX},
    steps,
};

/// As NFS's acregmin and acdirmin.
const FILE_TTL: Duration = Duration::from_secs(3);
const DIRECTORY_TTL: Duration = Duration::from_secs(30);

type Listing = Arc<Vec<(OsString, FileAttr)>>;

/// One client's view of the volume.
pub(super) struct Server {
    pub(super) shared: Arc<Shared>,
    pub(super) listings: std::sync::Mutex<HashMap<u64, Listing>>,
}

fn ttl(attr: &FileAttr) -> Duration {
    if attr.kind == FileType::Directory { DIRECTORY_TTL } else { FILE_TTL }
}

fn owner(request: &Request) -> (u32, u32) {
    (request.uid(), request.gid())
}

fn entry(made: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match made {
        Ok(attr) => reply.entry_with_ttls(&ttl(&attr), &DIRECTORY_TTL, &attr, Generation(0)),
        Err(e) => reply.error(e),
    }
}

fn done(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl Server {
    /// The operation's way over the network.
    fn pay(&self, operation: Operation) {
        self.shared.counts[operation as usize].fetch_add(1, Relaxed);
        let delay = Duration::from_micros(self.shared.delay_us.load(Relaxed));
        if operation.costs() && !delay.is_zero() {
            // Without this a sleep of a millisecond takes 50 us more.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            std::thread::sleep(delay);
        }
    }

    /// One operation on the files, after its way.
    fn ask<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&mut Nodes) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.shared.steps.meet(operation)?;
        self.pay(operation);
        let mut nodes = self.nodes();
        let done = work(&mut nodes);
        if done.is_ok() && operation.changes() {
            self.shared.steps.record(&nodes);
        }
        done
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.shared.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listings(&self) -> MutexGuard<'_, HashMap<u64, Listing>> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listing from its beginning, or as it was when it began.
    fn listing(&self, number: u64, handle: FileHandle, offset: u64) -> Result<Listing, Errno> {
        if offset > 0 {
            self.pay(Operation::readdir_more);
            return self.listings().get(&handle.0).cloned().ok_or(Errno::EBADF);
        }
        let listing = Arc::new(self.ask(Operation::readdir, |nodes| nodes.list(number))?);
        self.listings().insert(handle.0, listing.clone());
        Ok(listing)
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_WRITEBACK_CACHE,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_MAX_PAGES,
        ] {
            config.add_capabilities(flag).map_err(|f| io::Error::other(format!("the kernel lacks {f:?}")))?;
        }
        let failed = |nearest| io::Error::other(format!("the kernel takes {nearest}"));
        config.set_max_write(WRITE_BYTES_MAX).map_err(failed)?;
        config.set_max_background(256).map(drop).map_err(|nearest| failed(nearest.into()))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(point) = steps::passed(name) {
            if self.shared.steps.pass(point) {
                self.nodes().sync_all();
            }
            return reply.error(Errno::ENOENT);
        }
        if let Err(e) = self.shared.steps.meet(Operation::lookup) {
            return reply.error(e);
        }
        let found = self.nodes().look_up(parent.0, name);
        // One that finds nothing precedes each create here; NFS asks only once.
        self.pay(if found.is_ok() { Operation::lookup } else { Operation::lookup_absent });
        entry(found, reply);
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        self.nodes().forget(number.0, times);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.ask(Operation::getattr, |nodes| nodes.attr(number.0)) {
            Ok(attr) => reply.attr(&ttl(&attr), &attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        perm: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        changed: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // The write-back cache sends times after its data; NFS's server knows them.
        let by_cache =
            changed.is_some() && accessed.is_none() && (perm, uid, gid, size) == (None, None, None, None);
        let change = Change { perm, owner: (uid, gid), size, accessed, modified };
        let operation = if by_cache { Operation::cached_times } else { Operation::setattr };
        match self.ask(operation, |nodes| nodes.change(number.0, &change)) {
            Ok(attr) => reply.attr(&ttl(&attr), &attr),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.ask(Operation::readlink, |nodes| nodes.target(number.0).map(<[u8]>::to_vec)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        }
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let make = |nodes: &mut Nodes| nodes.make(parent.0, name, New::Directory, mode, owner(request));
        entry(self.ask(Operation::mkdir, make), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let new = New::Symlink(target);
        let make = |nodes: &mut Nodes| nodes.make(parent.0, name, new, 0o777, owner(request));
        entry(self.ask(Operation::symlink, make), reply);
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.ask(Operation::link, |nodes| nodes.link(number.0, parent.0, name)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.ask(Operation::unlink, |nodes| nodes.remove(parent.0, name, false)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.ask(Operation::rmdir, |nodes| nodes.remove(parent.0, name, true)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // NFS has no rename with flags.
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let rename = |nodes: &mut Nodes| nodes.rename((parent.0, name), (to_parent.0, to_name));
        done(self.ask(Operation::rename, rename), reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let make = |nodes: &mut Nodes| nodes.make(parent.0, name, New::File, mode, owner(request));
        match self.ask(Operation::create, make) {
            Ok(attr) => reply.created(&FILE_TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncated = Change { size: Some(0), ..Change::default() };
        let truncates = flags.0 & rustix::fs::OFlags::TRUNC.bits() as i32 != 0;
        let opened = if truncates {
            self.ask(Operation::open_truncating, |nodes| nodes.change(number.0, &truncated))
        } else {
            self.ask(Operation::open, |nodes| nodes.attr(number.0))
        };
        match opened {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = |nodes: &mut Nodes| nodes.read(number.0, offset, size).map(<[u8]>::to_vec);
        match self.ask(Operation::read, read) {
            Ok(data) => {
                self.shared.bytes_read.fetch_add(data.len() as u64, Relaxed);
                reply.data(&data);
            }
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.ask(Operation::write, |nodes| nodes.write(number.0, offset, data)) {
            Ok(()) => {
                self.shared.bytes_written.fetch_add(data.len() as u64, Relaxed);
                reply.written(data.len() as u32);
            }
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        done(self.ask(Operation::flush, |_| Ok(())), reply);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.ask(Operation::fsync, |nodes| nodes.sync(number.0)), reply);
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.ask(Operation::opendir, |nodes| nodes.attr(number.0)) {
            Ok(_) => reply.opened(FileHandle(self.shared.handles.fetch_add(1, Relaxed)), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = match self.listing(number.0, handle, offset) {
            Ok(listing) => listing,
            Err(e) => return reply.error(e),
        };
        for (at, (name, attr)) in listing.iter().enumerate().skip(offset as usize) {
            if reply.add(attr.ino, at as u64 + 1, attr.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listing = match self.listing(number.0, handle, offset) {
            Ok(listing) => listing,
            Err(e) => return reply.error(e),
        };
        let mut nodes = self.nodes();
        for (at, (name, listed)) in listing.iter().enumerate().skip(offset as usize) {
            // What is gone by now is not listed any more.
            let Ok(attr) = nodes.attr(listed.ino.0) else { continue };
            if reply.add(attr.ino, at as u64 + 1, name, &ttl(&attr), &attr, Generation(0)) {
                break;
            }
            if name != "." && name != ".." {
                nodes.listed(attr.ino.0);
            }
        }
        drop(nodes);
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings().remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.ask(Operation::fsyncdir, |nodes| nodes.sync(number.0)), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        if let Err(e) = self.shared.steps.meet(Operation::statfs) {
            return reply.error(e);
        }
        self.pay(Operation::statfs);
        // As EFS: eight exabytes.
        let blocks = 1 << 43;
        reply.statfs(blocks, blocks, blocks, 0, 0, WRITE_BYTES_MAX, 255, WRITE_BYTES_MAX);
    }
}
