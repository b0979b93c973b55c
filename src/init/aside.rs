//! Files that two servers would fight over: a control socket, a state file, a pid file. While two servers are there,
//! each has its own under a further name, `NAME.pitstop-SLOT`; a server that ends may delete NAME, whoever's it is.
//!
//! ```text
//!   before the start    the live server's NAME becomes NAME.pitstop-a
//!   meanwhile           what the candidate makes as NAME gets a second link, NAME.pitstop-b
//!   one is left         its own becomes NAME again
//! ```
//!
//! On a thread of its own, since the files may be on a volume that hangs.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use super::{Event, questions::Asked};
use crate::slots::Slot;

/// Between two looks for what a candidate makes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A run by its number, in its slot.
pub(crate) type InSlot = (u64, Slot);

/// Name and place of each file of a run that is not under its name alone.
pub(crate) type Places = Vec<(PathBuf, PathBuf)>;

enum Job {
    /// Before a start: what the live server has goes aside, then the request comes back.
    Before { asked: Asked, files: Vec<PathBuf>, live: InSlot },
    /// These have not ended, in the order in which they were started.
    Alive(Vec<InSlot>),
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
        let started = thread::Builder::new().name("aside".into()).spawn(move || work(&todo, &events));
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
            Job::Alive(_) => unreachable!("it is what was sent"),
        })
    }

    /// Who has not ended, whenever that may have changed.
    pub(crate) fn alive(&mut self, mut alive: Vec<InSlot>) {
        alive.sort_unstable();
        if alive != self.alive {
            self.alive = alive;
            self.settle();
        }
    }

    /// What was prepared is not done: what is aside comes back.
    pub(crate) fn settle(&self) {
        let _ = self.jobs.send(Job::Alive(self.alive.clone()));
    }
}

fn work(todo: &Receiver<Job>, events: &Sender<Event>) {
    let mut files = Files::default();
    let mut told = Vec::new();
    loop {
        let wait = if files.awaited() { LOOK_EVERY } else { Duration::MAX };
        let job = match todo.recv_timeout(wait) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut prepared = None;
        match job {
            Some(Job::Before { asked, files: wanted, live }) => {
                wanted.iter().for_each(|name| files.move_aside(name, live));
                prepared = Some(asked);
            }
            Some(Job::Alive(alive)) => files.settle(alive),
            None => {}
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

#[derive(Debug, Default)]
struct Files {
    files: Vec<Shared>,
    alive: Vec<InSlot>,
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
            if let ([last], [holder]) = (alive.as_slice(), file.holders.as_slice())
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
mod tests {
    use super::*;

    const FIRST: InSlot = (1, Slot::A);
    const SECOND: InSlot = (2, Slot::B);
    const THIRD: InSlot = (3, Slot::C);

    struct Dir {
        dir: tempfile::TempDir,
        files: Files,
    }

    impl Dir {
        /// The first server has made its file, and a second one was started beside.
        fn beside() -> Self {
            let mut dir = Self { dir: tempfile::tempdir().unwrap(), files: Files::default() };
            dir.files.settle(vec![FIRST]);
            dir.write("first");
            dir.start(FIRST, vec![FIRST, SECOND]);
            dir
        }

        fn name(&self) -> PathBuf {
            self.dir.path().join("puma.state")
        }

        fn write(&self, text: &str) {
            fs::write(self.name(), text).unwrap();
        }

        fn start(&mut self, live: InSlot, alive: Vec<InSlot>) {
            let name = self.name();
            self.files.move_aside(&name, live);
            self.files.settle(alive);
            self.files.link();
        }

        fn make(&mut self, text: &str) {
            self.write(text);
            self.files.link();
        }

        fn left(&mut self, alive: &[InSlot]) {
            self.files.settle(alive.to_vec());
            self.files.link();
        }

        /// What each run's file says, as the agent is told.
        fn told(&self) -> Vec<(u64, String)> {
            let read = |(run, places): (u64, Places)| {
                let place = places.first().map_or_else(|| self.name(), |(_, place)| place.clone());
                (run, fs::read_to_string(place).unwrap_or_default())
            };
            self.files.places().into_iter().map(read).collect()
        }

        fn entries(&self) -> Vec<String> {
            let entries = fs::read_dir(self.dir.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    fn says(run: u64, text: &str) -> (u64, String) {
        (run, text.to_owned())
    }

    #[test]
    fn each_server_keeps_its_own_and_the_one_that_is_left_has_the_name() {
        let mut dir = Dir::beside();
        assert_eq!(dir.told(), [says(1, "first"), says(2, "")], "the second has made none yet");
        dir.make("second");
        assert_eq!(dir.told(), [says(1, "first"), says(2, "second")]);
        // As a Puma does at its end, whoever's it is.
        fs::remove_file(dir.name()).unwrap();
        dir.left(&[SECOND]);
        assert_eq!((dir.told(), dir.entries()), (vec![says(2, "second")], vec!["puma.state".to_owned()]));
    }

    #[test]
    fn after_an_abort_the_first_one_has_its_name_again() {
        for made in [false, true] {
            let mut dir = Dir::beside();
            if made {
                dir.make("second");
            }
            dir.left(&[FIRST]);
            assert_eq!((dir.told(), dir.entries()), (vec![says(1, "first")], vec!["puma.state".to_owned()]));
        }
    }

    #[test]
    fn of_three_servers_each_has_its_own() {
        let mut dir = Dir::beside();
        dir.make("second");
        dir.start(SECOND, vec![FIRST, SECOND, THIRD]);
        assert_eq!(dir.told(), [says(1, "first"), says(2, "second"), says(3, "")]);
        dir.make("third");
        assert_eq!(dir.told(), [says(1, "first"), says(2, "second"), says(3, "third")]);
        dir.left(&[SECOND, THIRD]);
        assert_eq!(dir.told(), [says(2, "second"), says(3, "third")]);
        dir.left(&[THIRD]);
        assert_eq!((dir.told(), dir.entries()), (vec![says(3, "third")], vec!["puma.state".to_owned()]));
    }

    #[test]
    fn what_a_server_makes_anew_is_followed() {
        let mut dir = Dir::beside();
        dir.make("second");
        fs::remove_file(dir.name()).unwrap();
        dir.make("second again");
        assert_eq!(dir.told(), [says(1, "first"), says(2, "second again")]);
    }

    #[test]
    fn a_slot_that_is_used_again_inherits_nothing() {
        let mut dir = Dir::beside();
        dir.make("second");
        dir.left(&[FIRST]);
        dir.start(FIRST, vec![FIRST, (3, Slot::B)]);
        assert_eq!(dir.told(), [says(1, "first"), says(3, "")]);
    }

    #[test]
    fn a_name_that_nobody_has_is_no_error() {
        let mut dir = Dir::beside();
        let other = dir.dir.path().join("none");
        dir.files.move_aside(&other, FIRST);
        assert_eq!(dir.told().len(), 2);
    }
}
