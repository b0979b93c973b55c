//! Deleting trees gently: a handful of names at a time, with a pause after each, and several directories at once where
//! the volume is slow. A network file system takes milliseconds for a name, and the kernel deletes the names of
//! one directory one after another.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    ops::ControlFlow,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread::{Builder, Scope, scope},
    time::{Duration, Instant},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, chmodat, fchmod, fstat, openat, renameat, seek,
        statat, unlinkat,
    },
    io::Errno,
    process::{Resource, getrlimit},
};

use crate::{beneath::Held, failpoint};

/// Called after each handful of deletions with the time that they took: it pauses as long as it likes,
/// or says that the rest is for another time. Several threads may call it at once.
pub(crate) type Pace<'a> = &'a (dyn Fn(Duration) -> ControlFlow<()> + Sync);

/// So many names go at once.
const HANDFUL: u32 = 32;
/// A handful that takes longer comes from a slow volume.
const SLOW: Duration = Duration::from_millis(20);
/// So many threads delete from a slow volume.
const WORKERS: u64 = 16;
/// Each of them may have so many directories open, see [`DEPTH_MAX`], and the rest of the process has some too.
const DESCRIPTORS: u64 = 64;
/// A directory may have to be listed so many times.
const TURNS_MAX: u32 = 16;
/// So many directories are open on the way to one; what is deeper is moved up first.
const DEPTH_MAX: usize = 24;

/// What the kernel tells of a directory at once.
const LISTING_BYTES: usize = 32 << 10;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Deletes a tree a handful at a time, however deep. Absent is fine: several may delete the same one.
pub(super) fn delete_gently(parent: &Held, name: &OsStr, pace: Pace<'_>) -> io::Result<ControlFlow<()>> {
    delete(parent, name, pace, SLOW)
}

fn delete(parent: &Held, name: &OsStr, pace: Pace<'_>, slow: Duration) -> io::Result<ControlFlow<()>> {
    let name = CString::new(name.as_encoded_bytes())?;
    let deletion = Deletion {
        pace,
        slow,
        parent: parent.as_fd(),
        work: Mutex::new(Work { waiting: vec![Job { folder: None, name }], ..Work::default() }),
        changed: Condvar::new(),
        has_helpers: AtomicBool::new(false),
    };
    scope(|threads| deletion.work(threads));
    let work = deletion.work.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    match work.ended {
        None => Ok(ControlFlow::Continue(())),
        Some(Ended::Paced) => Ok(ControlFlow::Break(())),
        Some(Ended::Failed(error)) => Err(error),
    }
}

/// A directory that is being emptied, open.
struct Folder {
    /// `None`: directly below what the caller gave.
    above: Option<Arc<Folder>>,
    name: CString,
    fd: OwnedFd,
    depth: usize,
    /// What is to go before it: its directories, and one for its listing.
    left: AtomicUsize,
    turns: AtomicU32,
}

/// A directory, or whatever the caller named, that is to be deleted.
struct Job {
    folder: Option<Arc<Folder>>,
    name: CString,
}

#[derive(Default)]
struct Work {
    /// The last one first: so there are never many directories open.
    waiting: Vec<Job>,
    busy: usize,
    ended: Option<Ended>,
}

/// Why it ended before all was gone.
enum Ended {
    Paced,
    Failed(io::Error),
}

impl From<Errno> for Ended {
    fn from(error: Errno) -> Self {
        Self::Failed(error.into())
    }
}

struct Deletion<'a> {
    pace: Pace<'a>,
    /// How long a handful takes where helpers are called.
    slow: Duration,
    parent: BorrowedFd<'a>,
    work: Mutex<Work>,
    changed: Condvar,
    has_helpers: AtomicBool,
}

/// One thread at work.
struct Worker<'scope, 'env> {
    deletion: &'env Deletion<'env>,
    threads: &'scope Scope<'scope, 'env>,
    count: u32,
    since: Instant,
}

impl<'env> Deletion<'env> {
    fn work<'scope>(&'env self, threads: &'scope Scope<'scope, 'env>) {
        let mut worker = Worker { deletion: self, threads, count: 0, since: Instant::now() };
        while let Some(job) = self.next() {
            let done = worker.delete(job);
            let mut work = self.locked();
            work.busy -= 1;
            if let Err(ended) = done {
                work.ended.get_or_insert(ended);
            }
            drop(work);
            self.changed.notify_all();
        }
    }

    fn locked(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for work; `None` when there will be none.
    fn next(&self) -> Option<Job> {
        let mut work = self.locked();
        loop {
            if work.ended.is_some() {
                return None;
            }
            if let Some(job) = work.waiting.pop() {
                work.busy += 1;
                return Some(job);
            }
            if work.busy == 0 {
                return None;
            }
            work = self.changed.wait(work).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn add(&self, folder: &Arc<Folder>, names: Vec<CString>) {
        if names.is_empty() {
            return;
        }
        folder.left.fetch_add(names.len(), Ordering::SeqCst);
        let jobs = names.into_iter().map(|name| Job { folder: Some(folder.clone()), name });
        self.locked().waiting.extend(jobs);
        self.changed.notify_all();
    }

    fn above<'a>(&'a self, folder: Option<&'a Arc<Folder>>) -> BorrowedFd<'a> {
        folder.map_or(self.parent, |folder| folder.fd.as_fd())
    }
}

impl<'env> Worker<'_, 'env> {
    fn delete(&mut self, job: Job) -> Result<(), Ended> {
        let Job { folder, name } = job;
        let deletion = self.deletion;
        let above = deletion.above(folder.as_ref());
        let depth = folder.as_ref().map_or(0, |folder| folder.depth + 1);
        if depth > DEPTH_MAX && self.move_up(above, &name, folder.as_ref())? {
            return self.gone(folder);
        }
        let fd = match open(above, &name) {
            Err(Errno::NOENT) => return self.gone(folder),
            // What the caller named, or what has taken a directory's place.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                self.unlink(above, &name, AtFlags::empty())?;
                return self.gone(folder);
            }
            fd => fd?,
        };
        let (left, turns) = (AtomicUsize::new(1), AtomicU32::new(TURNS_MAX));
        let folder = Arc::new(Folder { above: folder, name, fd, depth, left, turns });
        self.empty(&folder)?;
        self.gone(Some(folder))
    }

    /// Moves a directory to the top, so that descriptors do not run out.
    fn move_up(
        &mut self,
        above: BorrowedFd<'_>,
        name: &CStr,
        folder: Option<&Arc<Folder>>,
    ) -> Result<bool, Ended> {
        let Some(top) = std::iter::successors(folder, |folder| folder.above.as_ref()).last() else {
            return Ok(false);
        };
        let new = CString::new(format!("+{:x}", fastrand::u64(..))).unwrap_or_default();
        let move_up = || renameat(above, name, &top.fd, &new);
        match move_up() {
            Err(Errno::ACCESS) => {
                chmodat(above, name, Mode::RWXU, AtFlags::empty())?;
                move_up()?;
            }
            Err(Errno::NOENT) => return Ok(true),
            moved => moved?,
        }
        self.deletion.add(top, vec![new]);
        self.breathe()?;
        Ok(true)
    }

    /// Deletes what is in a directory but its directories, which are left for whoever comes first.
    fn empty(&mut self, folder: &Arc<Folder>) -> Result<(), Ended> {
        if fstat(&folder.fd)?.st_mode & 0o700 != 0o700 {
            // Not ours to change, perhaps: then deleting says so.
            let _ = fchmod(&folder.fd, Mode::RWXU);
        }
        let mut folders = Vec::new();
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        seek(&folder.fd, SeekFrom::Start(0))?;
        let mut entries = RawDir::new(&folder.fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = match entry {
                // Somebody else has deleted it.
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    stat => FileType::from_raw_mode(stat?.st_mode),
                },
                kind => kind,
            };
            if kind.is_dir() {
                folders.push(name.to_owned());
            } else {
                self.unlink(folder.fd.as_fd(), name, AtFlags::empty())?;
            }
        }
        self.deletion.add(folder, folders);
        Ok(())
    }

    /// Something in the directory is gone: it goes too when it was the last, and so on upwards.
    fn gone(&mut self, folder: Option<Arc<Folder>>) -> Result<(), Ended> {
        let mut here = folder;
        while let Some(folder) = here {
            if folder.left.fetch_sub(1, Ordering::SeqCst) > 1 {
                break;
            }
            let above = self.deletion.above(folder.above.as_ref());
            match self.unlink(above, &folder.name, AtFlags::REMOVEDIR) {
                // A directory that changes while it is listed may not show all that is in it at once.
                Err(Ended::Failed(e))
                    if is_not_empty(&e) && folder.turns.fetch_sub(1, Ordering::SeqCst) > 1 =>
                {
                    folder.left.fetch_add(1, Ordering::SeqCst);
                    self.empty(&folder)?;
                    here = Some(folder);
                    continue;
                }
                done => done?,
            }
            here = folder.above.clone();
        }
        Ok(())
    }

    fn unlink(&mut self, above: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Ended> {
        match unlinkat(above, name, flags) {
            Ok(()) | Err(Errno::NOENT) => self.breathe(),
            Err(e) => Err(e.into()),
        }
    }

    fn breathe(&mut self) -> Result<(), Ended> {
        failpoint::hit("prune.mid_delete");
        self.count += 1;
        if self.count < HANDFUL {
            return Ok(());
        }
        let took = self.since.elapsed();
        if took > self.deletion.slow && !self.deletion.has_helpers.swap(true, Ordering::SeqCst) {
            self.call_helpers();
        }
        let go_on = (self.deletion.pace)(took);
        (self.count, self.since) = (0, Instant::now());
        let ended = self.deletion.locked().ended.is_some();
        if go_on.is_break() || ended { Err(Ended::Paced) } else { Ok(()) }
    }

    /// Where the system has no thread left, the work is done with those that there are.
    fn call_helpers(&self) {
        let (deletion, threads) = (self.deletion, self.threads);
        let help = move || deletion.work(threads);
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / DESCRIPTORS;
        for _ in 1..WORKERS.min(allowed) {
            let _ = Builder::new().name("delete".into()).spawn_scoped(threads, help);
        }
    }
}

fn is_not_empty(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTEMPTY | Errno::EXIST))
}

fn open(above: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    match openat(above, name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmodat(above, name, Mode::RWXU, AtFlags::empty())?;
            openat(above, name, FOLDER, Mode::empty())
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, path::Path, thread};

    use super::*;

    /// A hundred directories of different depths, each with twenty files.
    fn grow(tree: &Path) {
        for n in 0..100 {
            let dir = tree.join(format!("{}/{}{n}", n % 7, "d/".repeat(n / 2)));
            fs::create_dir_all(&dir).unwrap();
            (0..20).for_each(|n| fs::write(dir.join(n.to_string()), "").unwrap());
        }
    }

    fn on_a_slow_volume(home: &Path, pace: Pace<'_>) -> ControlFlow<()> {
        let held = Held::open(home, Path::new("")).unwrap();
        delete(&held, OsStr::new("tree"), pace, Duration::ZERO).unwrap()
    }

    #[test]
    fn on_a_slow_volume_several_threads_delete_all_of_a_tree() {
        let home = tempfile::tempdir().unwrap();
        grow(&home.path().join("tree"));
        let seen = Mutex::new(HashSet::new());
        let pace = |_| {
            seen.lock().unwrap().insert(thread::current().id());
            thread::sleep(Duration::from_millis(1));
            ControlFlow::Continue(())
        };
        assert!(on_a_slow_volume(home.path(), &pace).is_continue());
        assert!(!home.path().join("tree").exists());
        assert!(seen.into_inner().unwrap().len() > 1);
    }

    #[test]
    fn several_that_delete_the_same_tree_are_in_nobodys_way() {
        let home = tempfile::tempdir().unwrap();
        grow(&home.path().join("tree"));
        let pace = |_| ControlFlow::Continue(());
        thread::scope(|threads| {
            (0..3).for_each(|_| drop(threads.spawn(|| on_a_slow_volume(home.path(), &pace))));
        });
        assert!(!home.path().join("tree").exists());
    }

    #[test]
    fn the_word_of_one_thread_stops_them_all_and_the_rest_is_for_another_time() {
        let home = tempfile::tempdir().unwrap();
        grow(&home.path().join("tree"));
        assert!(on_a_slow_volume(home.path(), &|_| ControlFlow::Break(())).is_break());
        assert!(home.path().join("tree").exists());
        assert!(on_a_slow_volume(home.path(), &|_| ControlFlow::Continue(())).is_continue());
        assert!(!home.path().join("tree").exists());
    }
}
