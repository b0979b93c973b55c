//! Files that two servers would fight over: a control socket, a state file, a pid file. While two servers are there,
//! each has its own under a further name, `NAME.pitstop-SLOT`; a server that ends may delete NAME, whoever's it is.
//!
//! ```text
//!   before the start    the live server's NAME becomes NAME.pitstop-a
//!   meanwhile           what the candidate makes as NAME gets a second link, NAME.pitstop-b
//!   one is left         its own becomes NAME again
//! ```
//!
//! The link is made as soon as the kernel says that the name is there (inotify): an earlier server that ends before that
//! takes away what the candidate has made. On a thread of its own, since the files may be on a volume that hangs.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{Event, questions::Asked};
use crate::{failpoint, slots::Slot};

/// Between two looks for what a candidate makes, where the kernel does not say it.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The same where it does: events may be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A run by its number, in its slot.
pub(crate) type InSlot = (u64, Slot);

/// Name and place of each file of a run that is not under its name alone.
pub(crate) type Places = Vec<(PathBuf, PathBuf)>;

enum Job {
    /// Before a start: what the live server has goes aside, then the request comes back.
    Before { asked: Asked, files: Vec<PathBuf>, live: InSlot },
    /// These have not ended, in the order in which they were started.
    Alive(Vec<InSlot>),
    /// What was prepared has been started, or is not; these have not ended.
    Started(Vec<InSlot>),
    /// Something has got this name.
    Named(OsString),
}

/// The thread that does it.
#[derive(Debug)]
pub(crate) struct Aside {
    jobs: Sender<Job>,
    alive: Vec<InSlot>,
}

impl Aside {
    pub(crate) fn new(events: Sender<Event>) -> Self {
        let (jobs, todo) = mpsc::channel();
        let names = Names { jobs: jobs.clone(), inotify: None, watched: Vec::new() };
        let started = thread::Builder::new().name("aside".into()).spawn(move || work(&todo, &events, names));
        if let Err(error) = started {
            tracing::error!(%error, "no thread can be started: check the limit of processes");
        }
        Self { jobs, alive: Vec::new() }
    }

    /// Moves the live server's files aside; [`Event::Prepared`] follows. The request comes back when it cannot.
    ///
    /// # Errors
    /// The request, when the thread is gone.
    pub(crate) fn before(&self, asked: Asked, files: Vec<PathBuf>, live: InSlot) -> Result<(), Asked> {
        self.jobs.send(Job::Before { asked, files, live }).map_err(|mpsc::SendError(job)| match job {
            Job::Before { asked, .. } => asked,
            Job::Alive(_) | Job::Started(_) | Job::Named(_) => unreachable!("it is what was sent"),
        })
    }

    /// Who has not ended, whenever that may have changed.
    pub(crate) fn alive(&mut self, mut alive: Vec<InSlot>) {
        alive.sort_unstable();
        if alive != self.alive {
            self.alive = alive;
            let _ = self.jobs.send(Job::Alive(self.alive.clone()));
        }
    }

    /// What was prepared has been started; or it is not, and what is aside comes back.
    pub(crate) fn started(&self) {
        let _ = self.jobs.send(Job::Started(self.alive.clone()));
    }
}

fn work(todo: &Receiver<Job>, events: &Sender<Event>, mut names: Names) {
    let mut files = Files::default();
    let mut told = Vec::new();
    loop {
        let wait = match (files.awaited(), names.are_told()) {
            (false, _) => Duration::MAX,
            (true, false) => LOOK_EVERY,
            (true, true) => LOOK_AGAIN,
        };
        let job = match todo.recv_timeout(wait) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut prepared = None;
        match job {
            Some(Job::Before { asked, files: wanted, live }) => {
                files.starts = true;
                names.watch(&wanted);
                wanted.iter().for_each(|name| files.move_aside(name, live));
                prepared = Some(asked);
            }
            Some(Job::Alive(alive)) => files.settle(alive),
            Some(Job::Started(alive)) => {
                files.starts = false;
                files.settle(alive);
            }
            Some(Job::Named(name)) if !files.have(&name) => continue,
            Some(Job::Named(_)) | None => {}
        }
        if files.files.is_empty() {
            names.forget();
        }
        files.link();
        let places = files.places();
        if places != told {
            told.clone_from(&places);
            let _ = events.send(Event::Aside(places));
        }
        if let Some(asked) = prepared {
            let _ = events.send(Event::Prepared(asked));
        }
    }
}

/// Who is told when something gets a name in the directories of such files.
struct Names {
    jobs: Sender<Job>,
    inotify: Option<Arc<OwnedFd>>,
    /// Directories with the kernel's number; none where one of them cannot be watched.
    watched: Vec<(PathBuf, i32)>,
}

impl Names {
    fn are_told(&self) -> bool {
        !self.watched.is_empty()
    }

    fn watch(&mut self, files: &[PathBuf]) {
        if let Err(error) = self.try_to_watch(files) {
            tracing::debug!(%error, "files of servers are looked at every few milliseconds");
            self.forget();
        }
    }

    fn try_to_watch(&mut self, files: &[PathBuf]) -> io::Result<()> {
        let inotify = match &self.inotify {
            Some(inotify) => inotify.clone(),
            None => {
                let (inotify, jobs) = (Arc::new(inotify::init(CreateFlags::CLOEXEC)?), self.jobs.clone());
                let reads = inotify.clone();
                thread::Builder::new().name("names".into()).spawn(move || tell(&reads, &jobs))?;
                self.inotify.insert(inotify).clone()
            }
        };
        for dir in files.iter().filter_map(|file| file.parent()) {
            if self.watched.iter().all(|(known, _)| known != dir) {
                let added = inotify::add_watch(&inotify, dir, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
                self.watched.push((dir.to_owned(), added));
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        for (_, watch) in self.watched.drain(..) {
            let _ = self.inotify.as_ref().map(|inotify| inotify::remove_watch(inotify, watch));
        }
    }
}

fn tell(inotify: &OwnedFd, jobs: &Sender<Job>) {
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify, &mut room);
    while let Ok(event) = events.next() {
        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
        if name.is_some_and(|name| jobs.send(Job::Named(name)).is_err()) {
            return;
        }
    }
}

#[derive(Debug, Default)]
struct Files {
    files: Vec<Shared>,
    alive: Vec<InSlot>,
    /// A server is about to start that will make files of these names: an earlier one that ends now gives the live one
    /// no name back.
    starts: bool,
}

#[derive(Debug)]
struct Shared {
    name: PathBuf,
    /// Who has it under another name.
    holders: Vec<InSlot>,
}

impl Files {
    fn awaited(&self) -> bool {
        !self.files.is_empty() && self.alive.len() > 1
    }

    fn have(&self, name: &OsStr) -> bool {
        self.files.iter().any(|file| file.name.file_name() == Some(name))
    }

    fn move_aside(&mut self, name: &Path, live: InSlot) {
        let at = self.files.iter().position(|file| file.name == name);
        let at = at.unwrap_or_else(|| {
            self.files.push(Shared { name: name.to_owned(), holders: Vec::new() });
            self.files.len() - 1
        });
        let file = &mut self.files[at];
        // Another run may have had this name before.
        file.holders.retain(|holder| holder.1 != live.1 || *holder == live);
        match file.move_aside(live.1) {
            Ok(()) if !file.holders.contains(&live) => file.holders.push(live),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %name.display(), %error, "not moved aside: two servers may fight over it")
            }
        }
    }

    /// What the youngest has made gets its second name.
    fn link(&mut self) {
        let Some(youngest) = self.alive.last().copied().filter(|_| self.alive.len() > 1) else { return };
        for file in &mut self.files {
            match file.link(youngest.1) {
                Ok(()) if !file.holders.contains(&youngest) => file.holders.push(youngest),
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::debug!(path = %file.name.display(), %error, "no second link"),
            }
        }
    }

    /// Only these are left.
    fn settle(&mut self, alive: Vec<InSlot>) {
        for file in &mut self.files {
            let (holders, gone): (Vec<InSlot>, Vec<InSlot>) =
                file.holders.iter().partition(|holder| alive.contains(holder));
            gone.iter().for_each(|(_, slot)| file.forget(*slot));
            file.holders = holders;
            if let ([last], [holder], false) = (alive.as_slice(), file.holders.as_slice(), self.starts)
                && last == holder
            {
                file.bring_back(holder.1);
                file.holders.clear();
            }
        }
        self.alive = alive;
        if self.alive.len() < 2 {
            self.files.retain(|file| !file.holders.is_empty());
        }
    }

    fn places(&self) -> Vec<(u64, Places)> {
        let mut places: Vec<(u64, Places)> = self.alive.iter().map(|(run, _)| (*run, Vec::new())).collect();
        for file in &self.files {
            for (run, slot) in &file.holders {
                let place = (file.name.clone(), file.place(*slot));
                match places.iter_mut().find(|(of, _)| of == run) {
                    Some((_, known)) => known.push(place),
                    None => places.push((*run, vec![place])),
                }
            }
        }
        places
    }
}

impl Shared {
    fn place(&self, slot: Slot) -> PathBuf {
        let mut name = self.name.clone().into_os_string();
        name.push(format!(".pitstop-{}", slot.name()));
        name.into()
    }

    fn move_aside(&self, slot: Slot) -> io::Result<()> {
        failpoint::hit("parent.moves_aside");
        fs::rename(&self.name, self.place(slot))?;
        // Two links of one file are left alone by a rename.
        if same(&self.name, &self.place(slot)) { fs::remove_file(&self.name) } else { Ok(()) }
    }

    fn link(&self, slot: Slot) -> io::Result<()> {
        let place = self.place(slot);
        if same(&self.name, &place) {
            return Ok(());
        }
        fs::symlink_metadata(&self.name)?;
        failpoint::hit("parent.links");
        // Of an earlier run in this slot, or from before the server made it anew.
        let _ = fs::remove_file(&place);
        fs::hard_link(&self.name, &place)
    }

    /// Its server has ended: what it left under the name goes too.
    fn forget(&self, slot: Slot) {
        let place = self.place(slot);
        if same(&self.name, &place) {
            let _ = fs::remove_file(&self.name);
        }
        let _ = fs::remove_file(place);
    }

    fn bring_back(&self, slot: Slot) {
        failpoint::hit("parent.brings_back");
        let place = self.place(slot);
        if let Err(error) = fs::rename(&place, &self.name) {
            tracing::warn!(path = %self.name.display(), %error, "not brought back from where it was moved aside");
        }
        // Two links of one file are left alone by a rename.
        let _ = fs::remove_file(place);
    }
}

fn same(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    inode(one).is_some_and(|known| inode(other) == Some(known))
}

#[cfg(test)]
mod tests;
