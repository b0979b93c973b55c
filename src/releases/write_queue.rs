//! What is to be written, directory by directory, and which directories are open.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::PathBuf,
    sync::Arc,
};

use super::writers::{ASIDE, Pieces, ROOT};

/// The number of a directory.
pub(super) type DirId = usize;

/// Something to do with a name.
pub(super) struct Job {
    pub(super) name: Box<OsStr>,
    pub(super) work: Work,
}

pub(super) enum Work {
    /// A directory of this number, with these permissions.
    Mkdir(DirId, u32),
    File {
        mode: u32,
        content: Content,
    },
    Unlink,
    Rmdir,
    /// Moved out of the tree, under another name.
    MoveAside(String),
    /// Moved into the tree, from this name.
    TakeFrom(String),
    Symlink(Box<[u8]>),
    Chmod(u32),
    /// A further name of a file of so many bytes; `mode` is for a copy.
    HardLink {
        from: DirId,
        from_name: Box<OsStr>,
        mode: u32,
        bytes: u64,
    },
}

pub(super) enum Content {
    Whole(Vec<u8>),
    Pieces(Arc<Pieces>),
}

impl Job {
    /// What it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        match &self.work {
            Work::File { content: Content::Whole(bytes), .. } => bytes.len(),
            _ => 0,
        }
    }
}

struct Dir {
    parent: DirId,
    name: Box<OsStr>,
    /// It is on the volume.
    made: bool,
    /// A thread makes something in it.
    busy: bool,
    /// It stands in the list of those with work.
    listed: bool,
    jobs: VecDeque<Job>,
    fd: Option<Arc<OwnedFd>>,
}

/// A queue for each directory.
pub(super) struct Queues {
    dirs: Vec<Dir>,
    /// Those with most to do first: each is worked on name by name, and the longest takes until the end.
    ready: BinaryHeap<(usize, Reverse<DirId>)>,
    /// Those that are open, the longest first.
    open: VecDeque<DirId>,
    open_max: usize,
}

impl Queues {
    pub(super) fn new(root: OwnedFd, aside: OwnedFd, open_max: usize) -> Self {
        let mut queues = Self { dirs: Vec::new(), ready: BinaryHeap::new(), open: VecDeque::new(), open_max };
        for (dir, fd) in [(ROOT, root), (ASIDE, aside)] {
            queues.add(dir, b"", true);
            queues.dirs[dir].fd = Some(Arc::new(fd));
        }
        queues
    }

    pub(super) fn add(&mut self, parent: DirId, name: &[u8], made: bool) -> DirId {
        let name = OsStr::from_bytes(name).into();
        let (busy, listed, jobs, fd) = (false, false, VecDeque::new(), None);
        self.dirs.push(Dir { parent, name, made, busy, listed, jobs, fd });
        self.dirs.len() - 1
    }

    pub(super) fn push(&mut self, dir: DirId, job: Job) {
        self.dirs[dir].jobs.push_back(job);
        self.list(dir);
    }

    /// True when a thread may begin with a job of the directory.
    fn list(&mut self, dir: DirId) -> bool {
        let d = &mut self.dirs[dir];
        let ready = d.made && !d.busy && !d.listed && !d.jobs.is_empty();
        if ready {
            d.listed = true;
            self.ready.push((d.jobs.len(), Reverse(dir)));
        }
        ready
    }

    /// So many directories have a job that may begin.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The next job. Until [`Queues::release`], no other one of its directory begins.
    pub(super) fn next(&mut self) -> Option<(DirId, Job)> {
        let (_, Reverse(dir)) = self.ready.pop()?;
        let d = &mut self.dirs[dir];
        d.listed = false;
        d.busy = true;
        Some((dir, d.jobs.pop_front()?))
    }

    pub(super) fn release(&mut self, dir: DirId) -> bool {
        self.dirs[dir].busy = false;
        self.list(dir)
    }

    /// The directory is on the volume.
    pub(super) fn made(&mut self, dir: DirId) -> bool {
        self.dirs[dir].made = true;
        self.list(dir)
    }

    /// From the tree's root.
    pub(super) fn path(&self, mut dir: DirId) -> PathBuf {
        let mut names = Vec::new();
        while dir > ASIDE {
            names.push(&*self.dirs[dir].name);
            dir = self.dirs[dir].parent;
        }
        names.into_iter().rev().collect()
    }

    /// The directory; where it is closed, an open one above, and the path from there.
    pub(super) fn handle(&self, dir: DirId) -> Result<Arc<OwnedFd>, (Arc<OwnedFd>, PathBuf)> {
        let (mut at, mut names) = (dir, Vec::new());
        loop {
            match &self.dirs[at].fd {
                Some(fd) if names.is_empty() => return Ok(fd.clone()),
                Some(fd) => return Err((fd.clone(), names.into_iter().rev().collect())),
                None => names.push(&*self.dirs[at].name),
            }
            at = self.dirs[at].parent;
        }
    }

    /// Keeps a directory open. Others are closed for it: those that nobody uses.
    pub(super) fn keep(&mut self, dir: DirId, fd: OwnedFd) -> Arc<OwnedFd> {
        for _ in 0..self.open.len() {
            if self.open.len() < self.open_max {
                break;
            }
            let Some(oldest) = self.open.pop_front() else { break };
            let d = &mut self.dirs[oldest];
            if d.busy || d.fd.as_ref().is_some_and(|fd| Arc::strong_count(fd) > 1) {
                self.open.push_back(oldest);
            } else {
                d.fd = None;
            }
        }
        let fd = Arc::new(fd);
        if self.dirs[dir].fd.replace(fd.clone()).is_none() {
            self.open.push_back(dir);
        }
        fd
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_directory_with_most_left_to_do_comes_first_and_each_is_in_order() {
        let place = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(File::open(place.path()).unwrap());
        let mut queues = Queues::new(open(), open(), 8);
        let dirs = [("a", 2), ("b", 5), ("c", 3)].map(|(name, jobs)| {
            let dir = queues.add(ROOT, name.as_bytes(), true);
            for number in 0..jobs {
                queues.push(
                    dir,
                    Job { name: OsStr::new(&format!("{name}{number}")).into(), work: Work::Unlink },
                );
            }
            dir
        });
        let next = |queues: &mut Queues| {
            let (dir, job) = queues.next().unwrap();
            (dir, job.name.to_str().unwrap().to_owned())
        };
        let begun = dirs.map(|_| next(&mut queues).1);
        assert!(queues.next().is_none(), "one thread for each directory");
        assert_eq!(begun, ["a0", "b0", "c0"]);
        for dir in dirs {
            queues.release(dir);
        }
        let mut then = Vec::new();
        while queues.ready() > 0 {
            let (dir, name) = next(&mut queues);
            then.push(name);
            queues.release(dir);
        }
        assert_eq!(then, ["b1", "b2", "b3", "c1", "a1", "b4", "c2"]);
    }
}
