//! Threads that write a tree onto a volume where each operation takes long: one thread reads an archive and
//! decides, these do what it decided.
//!
//! Each directory has a queue of its own and is worked on in order, by one thread at a time: the kernel takes a
//! directory's lock for each name that is made in it, and what comes twice must stay in order. A file's content is
//! written when its name is there, beside what follows. A new directory costs one operation, a new file two. Every
//! name is relative to an open directory and follows no link.
//!
//! The first error ends everything. Dropping the writers waits for all threads: nothing writes afterwards.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, fchmod, linkat, mkdirat, openat, renameat, symlinkat, unlinkat},
    io::Errno,
    process::{Resource, getrlimit},
};

use super::{
    unpack_error::UnpackError,
    write_queue::{Content, DirId, Job, Queues, Work},
};
use crate::{beneath, store::CallOff};

/// The tree itself.
pub(super) const ROOT: DirId = 0;
/// The directory that the tree is in: what has to leave the tree is moved there.
pub(super) const ASIDE: DirId = 1;

/// So many bytes may wait.
const WAITING_BYTES: usize = 16 << 20;
/// What a job takes besides its content.
const JOB_BYTES: usize = 256;
/// Threads do little, and their stacks count as memory.
const STACK_BYTES: usize = 256 << 10;
/// How often who waits asks whether the work was called off.
const LOOK: Duration = Duration::from_millis(50);
const PATH_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(super) struct Writers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    in_flight: usize,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to do.
    work: Condvar,
    done: Condvar,
    off: CallOff,
    /// The tree was there before, and is said to be known.
    spare: bool,
}

struct State {
    queues: Queues,
    unfinished: usize,
    waiting_bytes: usize,
    idle: usize,
    stopped: bool,
    failed: Option<UnpackError>,
    copied: Copied,
}

/// Bytes that were copied because the volume refused further names for a file.
#[derive(Default)]
struct Copied {
    bytes: u64,
    bytes_max: u64,
    limit: u64,
}

impl Writers {
    /// Writers for a tree in this directory, which is empty, or a spare tree.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn start(tree: &Path, in_flight: usize, spare: bool, off: &CallOff) -> io::Result<Self> {
        let open = |dir: &Path| openat(rustix::fs::CWD, dir, PATH_DIR, Mode::empty());
        let aside = tree.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let queues = Queues::new(open(tree)?, open(aside)?, directories_max());
        let state = State {
            queues,
            unfinished: 0,
            waiting_bytes: 0,
            idle: 0,
            stopped: false,
            failed: None,
            copied: Copied::default(),
        };
        let (work, done) = (Condvar::new(), Condvar::new());
        let shared = Shared { state: Mutex::new(state), work, done, off: off.clone(), spare };
        Ok(Self { shared: Arc::new(shared), threads: Mutex::default(), in_flight: in_flight.max(1) })
    }

    /// Makes a directory, and answers its number.
    pub(super) fn mkdir(&self, parent: DirId, name: &[u8], mode: u32) -> Result<DirId, UnpackError> {
        let dir = self.shared.lock().queues.add(parent, name, false);
        self.submit(parent, name, Work::Mkdir(dir, mode)).map(|()| dir)
    }

    /// The number of a directory that is there.
    pub(super) fn known(&self, parent: DirId, name: &[u8]) -> DirId {
        self.shared.lock().queues.add(parent, name, true)
    }

    /// Makes a new file.
    pub(super) fn file(
        &self,
        dir: DirId,
        name: &[u8],
        mode: u32,
        content: Vec<u8>,
    ) -> Result<(), UnpackError> {
        self.submit(dir, name, Work::File { mode, content: Content::Whole(content) })
    }

    /// Makes a new file, whose content follows.
    pub(super) fn large(&self, dir: DirId, name: &[u8], mode: u32) -> Result<Large, UnpackError> {
        let pieces = Arc::new(Pieces::default());
        self.submit(dir, name, Work::File { mode, content: Content::Pieces(pieces.clone()) })?;
        Ok(Large { pieces, shared: self.shared.clone() })
    }

    /// Does anything else with a name in a directory.
    pub(super) fn submit(&self, dir: DirId, name: &[u8], work: Work) -> Result<(), UnpackError> {
        let job = Job { name: OsStr::from_bytes(name).into(), work };
        let bytes = job.bytes() + JOB_BYTES;
        let mut state = self.shared.room(bytes, |state| state.waiting_bytes == 0)?;
        state.waiting_bytes += bytes;
        state.unfinished += 1;
        state.queues.push(dir, job);
        if state.queues.ready() > 0 { self.wake(&state) } else { Ok(()) }
    }

    /// A thread for one more directory with work.
    fn wake(&self, state: &State) -> Result<(), UnpackError> {
        let mut threads = lock(&self.threads);
        if state.idle >= state.queues.ready() || threads.len() >= self.in_flight {
            self.shared.work.notify_one();
            return Ok(());
        }
        let (shared, span) = (self.shared.clone(), tracing::Span::current());
        let thread = std::thread::Builder::new().name("fetch".into()).stack_size(STACK_BYTES);
        match thread.spawn(move || span.in_scope(|| shared.work())) {
            Ok(thread) => threads.push(thread),
            // Those that are there do it.
            Err(_) if !threads.is_empty() => {}
            Err(e) => return Err(UnpackError::Disk("a thread to write with".into(), e)),
        }
        Ok(())
    }

    /// How many bytes hard links may take that become copies, of so many in all.
    pub(super) fn allow_copies(&self, bytes_max: u64, limit: u64) {
        let copied = &mut self.shared.lock().copied;
        (copied.bytes_max, copied.limit) = (bytes_max, limit);
    }

    /// Waits until everything so far is done.
    pub(super) fn settle(&self) -> Result<(), UnpackError> {
        let mut state = self.shared.lock();
        while state.unfinished > 0 {
            self.shared.trouble(&mut state)?;
            state = self.shared.wait(&self.shared.done, state);
        }
        self.shared.trouble(&mut state)
    }

    /// Waits until everything is done; answers how many bytes were copied.
    pub(super) fn finish(self) -> Result<u64, UnpackError> {
        self.settle()?;
        let copied = self.shared.lock().copied.bytes;
        Ok(copied)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.work.notify_all();
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }
}

/// Descriptors are for the rest of the process too.
fn directories_max() -> usize {
    let soft = getrlimit(Resource::Nofile).current.unwrap_or(4096);
    usize::try_from(soft / 4).unwrap_or(usize::MAX).clamp(8, 1024)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The content of a file, piece by piece.
#[derive(Default)]
pub(super) struct Pieces {
    state: Mutex<PiecesState>,
    changed: Condvar,
}

#[derive(Default)]
struct PiecesState {
    pieces: std::collections::VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    ended: bool,
    abandoned: bool,
}

impl Pieces {
    fn end(&self, ended: bool) {
        let mut state = lock(&self.state);
        if !state.ended {
            (state.ended, state.abandoned) = (ended, !ended);
            self.changed.notify_all();
        }
    }

    /// The next one; `None` at the end, or when nobody needs the rest.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        loop {
            if state.abandoned {
                return None;
            }
            if let Some(piece) = state.pieces.pop_front() {
                return Some(piece);
            }
            if state.ended {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A large file on its way. Dropped before [`Large::end`], it stays as it is.
pub(super) struct Large {
    pieces: Arc<Pieces>,
    shared: Arc<Shared>,
}

impl Large {
    /// Adds a piece. One may always wait, so that this file and others never wait for each other.
    pub(super) fn push(&self, piece: Vec<u8>) -> Result<(), UnpackError> {
        let bytes = piece.len();
        let mut state = self.shared.room(bytes, |_| lock(&self.pieces.state).waiting_bytes == 0)?;
        state.waiting_bytes += bytes;
        drop(state);
        let mut pieces = lock(&self.pieces.state);
        pieces.waiting_bytes += bytes;
        pieces.pieces.push_back(piece);
        self.pieces.changed.notify_all();
        Ok(())
    }

    /// All pieces are there.
    pub(super) fn end(self) {
        self.pieces.end(true);
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.pieces.end(false);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait<'a>(&self, on: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        on.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until so many bytes more may wait.
    fn room(
        &self,
        bytes: usize,
        anyway: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'_, State>, UnpackError> {
        let mut state = self.lock();
        loop {
            self.trouble(&mut state)?;
            if state.waiting_bytes + bytes <= WAITING_BYTES || anyway(&state) {
                return Ok(state);
            }
            state = self.wait(&self.done, state);
        }
    }

    /// What ended the work.
    fn trouble(&self, state: &mut State) -> Result<(), UnpackError> {
        if let Some(error) = state.failed.take() {
            // Whoever asks again is told as well.
            state.failed = Some(UnpackError::Archive(io::Error::other("it was given up")));
            return Err(error);
        }
        // Waiting is no progress.
        if self.off.is_called() { self.off.check().map_err(UnpackError::Archive) } else { Ok(()) }
    }

    /// What each thread does.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.stopped || state.failed.is_some() || self.off.is_called() {
                return;
            }
            let Some((dir, job)) = state.queues.next() else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            drop(state);
            let bytes = job.bytes() + JOB_BYTES;
            let defect = |_| Err(UnpackError::Disk("a writer".into(), io::Error::other("ended by a defect")));
            let done = catch_unwind(AssertUnwindSafe(|| self.perform(dir, job))).unwrap_or_else(defect);
            self.off.step();
            state = self.lock();
            state.unfinished -= 1;
            state.waiting_bytes -= bytes;
            if let Err(error) = done {
                state.failed.get_or_insert(error);
                self.work.notify_all();
            }
            self.done.notify_all();
        }
    }

    /// The next job of this directory may begin.
    fn release(&self, dir: DirId) {
        if self.lock().queues.release(dir) {
            self.work.notify_one();
        }
    }

    fn perform(&self, dir: DirId, Job { name, work }: Job) -> Result<(), UnpackError> {
        let failed = |e| self.error(dir, &name, e);
        let made = self.handle(dir).and_then(|at| self.make(&at, &name, &work));
        if let (Ok(_), Work::Mkdir(child, _)) = (&made, &work)
            && self.lock().queues.made(*child)
        {
            self.work.notify_one();
        }
        self.release(dir);
        let file = made.map_err(failed)?;
        match (file, work) {
            (Some(file), Work::File { content, .. }) => self
                .write(file, content)
                .map_err(|e| UnpackError::Disk(shown(&self.lock().queues.path(dir).join(&*name)), e)),
            (Some(copy), Work::HardLink { from, from_name, bytes, .. }) => {
                self.copy(copy, from, &from_name, bytes)
            }
            _ => Ok(()),
        }
    }

    /// The one operation that a directory's queue waits for.
    fn make(&self, at: &OwnedFd, name: &OsStr, work: &Work) -> Result<Option<File>, Errno> {
        match work {
            Work::Mkdir(_, mode) => mkdirat(at, name, Mode::from_raw_mode(*mode))?,
            Work::File { mode, .. } => {
                return openat(at, name, NEW_FILE, Mode::from_raw_mode(*mode)).map(|fd| Some(fd.into()));
            }
            Work::Unlink => unlinkat(at, name, AtFlags::empty())?,
            Work::Rmdir => unlinkat(at, name, AtFlags::REMOVEDIR)?,
            Work::MoveAside(to) => renameat(at, name, self.handle(ASIDE)?, to)?,
            Work::TakeFrom(aside) => renameat(self.handle(ASIDE)?, aside, at, name)?,
            Work::Symlink(target) => symlinkat(OsStr::from_bytes(target), at, name)?,
            Work::Chmod(mode) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                fchmod(openat(at, name, flags, Mode::empty())?, Mode::from_raw_mode(*mode))?;
            }
            Work::HardLink { from, from_name, mode, .. } => {
                match linkat(self.handle(*from)?, &**from_name, at, name, AtFlags::empty()) {
                    // As volumes say that a file has no more names (EFS: 177), or but one.
                    Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV) => {
                        return openat(at, name, NEW_FILE, Mode::from_raw_mode(*mode))
                            .map(|fd| Some(fd.into()));
                    }
                    done => done?,
                }
            }
        }
        Ok(None)
    }

    fn write(&self, mut file: File, content: Content) -> io::Result<()> {
        match content {
            Content::Whole(bytes) => file.write_all(&bytes)?,
            Content::Pieces(pieces) => {
                while let Some(piece) = pieces.next() {
                    file.write_all(&piece)?;
                    lock(&pieces.state).waiting_bytes -= piece.len();
                    self.lock().waiting_bytes -= piece.len();
                    self.done.notify_all();
                }
            }
        }
        close(file)
    }

    /// Another file with the same content, in place of another name.
    fn copy(&self, mut copy: File, from: DirId, name: &OsStr, bytes: u64) -> Result<(), UnpackError> {
        let mut state = self.lock();
        state.copied.bytes = state.copied.bytes.saturating_add(bytes);
        if state.copied.bytes > state.copied.bytes_max {
            let limit = state.copied.limit;
            return Err(UnpackError::Refused(format!("it unpacks to more than {limit} bytes")));
        }
        drop(state);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.handle(from).and_then(|at| openat(at, name, flags, Mode::empty()));
        let mut file = self.off.reader(File::from(file.map_err(|e| self.error(from, name, e))?));
        let failed = |e| UnpackError::Disk(shown(&self.lock().queues.path(from).join(name)), e);
        io::copy(&mut file, &mut copy).and_then(|_| close(copy)).map_err(failed)
    }

    /// The directory, opened anew if it was closed meanwhile.
    fn handle(&self, dir: DirId) -> Result<Arc<OwnedFd>, Errno> {
        let (top, below) = match self.lock().queues.handle(dir) {
            Ok(open) => return Ok(open),
            Err(closed) => closed,
        };
        let opened = beneath::open(&top, &below, PATH_DIR, Mode::empty());
        let opened = opened.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        Ok(self.lock().queues.keep(dir, opened))
    }

    fn error(&self, dir: DirId, name: &OsStr, error: Errno) -> UnpackError {
        let path = shown(&self.lock().queues.path(dir).join(name));
        match error {
            Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NOTEMPTY
                if self.spare =>
            {
                UnpackError::Spare(format!("{path}: {}", io::Error::from(error)))
            }
            Errno::EXIST => UnpackError::Refused(format!(
                "{path} is there already: the volume takes two names of the archive for one (upper and lower case?), \
                 or another process wrote it"
            )),
            error => UnpackError::Disk(path, error.into()),
        }
    }
}

/// Network file systems report a full disk here.
fn close(file: File) -> io::Result<()> {
    nix::unistd::close(file).map_err(Into::into)
}

fn shown(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
