//! The processes that the user has named: by a text of their command lines, or by a pid file.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use crate::{
    app_server::{
        server::{Discovery, Search},
        sides::{self, Neighbour, Processes},
        trees::{Tree, Trees},
    },
    plain_file,
    procs::{self, Entry, Image, ProcessId, ProcsError},
};

/// A pid, and a line's end, in bytes.
const LARGEST: u64 = 64;

/// Which processes are meant.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// A text of their command lines.
    pub(crate) text: Option<String>,
    /// A file with the pid of one.
    pub(crate) pid_file: Option<PathBuf>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.text, &self.pid_file) {
            (Some(text), _) => write!(f, "whose command line contains \"{text}\" (command.match)"),
            (None, Some(file)) => write!(f, "of {} (command.pid_file)", file.display()),
            (None, None) => f.write_str("that command.match names"),
        }
    }
}

/// The processes that are meant; at least one.
#[derive(Debug, Clone)]
pub(super) struct ServerProcesses {
    /// The oldest one that none of the others has started.
    pub(crate) root: Image,
    /// Those that have started none of the others: they serve.
    pub(crate) serving: Vec<Image>,
    /// What all of them listen on.
    pub(crate) ports: Vec<u16>,
}

/// The server that is meant, and what its parent has besides.
pub(super) type Found = sides::Found<ServerProcesses>;

impl Processes for ServerProcesses {
    fn main(&self) -> i32 {
        self.root.process.pid
    }

    fn pids(&self) -> Vec<i32> {
        self.serving.iter().chain([&self.root]).map(|image| image.process.pid).collect()
    }
}

/// Looks for them; where a parent has started the server, among what descends from it.
pub(super) fn discover(named: &Named, search: &Search) -> Discovery<Box<Found>> {
    let trees = Trees::read(search.parent.as_ref());
    let entries = match &trees.live {
        Some(tree) => Ok(named.among(tree)),
        None => named.entries(),
    };
    let Ok(entries) = entries else { return Discovery::Torn };
    let live = match processes(&entries) {
        Ok(Some(processes)) => processes,
        Ok(None) => return Discovery::Nothing,
        Err(ProcsError::NotPermitted(_)) => return Discovery::NotPermitted(Vec::new()),
        Err(_) => return Discovery::Torn,
    };
    let beside = |tree: Tree| {
        let processes = processes(&named.among(&tree)).ok().flatten();
        Neighbour { tree, processes }
    };
    let beside = trees.others.into_iter().map(beside).collect();
    Discovery::One(Box::new(Found { live, beside, parent: search.parent.clone() }))
}

/// All processes that are meant, of any user.
pub(super) fn all(named: &Named) -> Vec<Entry> {
    named.entries().unwrap_or_default()
}

impl Named {
    /// Those of a server that a parent has started; all of them where there is no text. A pid file names one server, and
    /// not always this one.
    fn among(&self, tree: &Tree) -> Vec<Entry> {
        let entries = tree.pids.iter().filter_map(|pid| Entry::read(*pid).ok());
        entries.filter(|entry| self.text.as_ref().is_none_or(|text| entry.title.contains(text))).collect()
    }

    fn entries(&self) -> Result<Vec<Entry>, ()> {
        let mut entries = match &self.text {
            Some(text) => without_ours(procs::list(|_| true).map_err(drop)?, text),
            None => Vec::new(),
        };
        let pid = self.pid_file.as_ref().and_then(|file| plain_file::read_to_string(file, LARGEST).ok());
        let pid = pid.and_then(|text| text.trim().parse().ok());
        let known = |entry: &Entry| entries.iter().any(|other| other.id == entry.id);
        if let Some(entry) = pid.and_then(|pid| Entry::read(pid).ok()).filter(|entry| !known(entry)) {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// The agent's own command line, and those of the user's commands, have the text as well.
fn without_ours(entries: Vec<Entry>, text: &str) -> Vec<Entry> {
    let agent = rustix::process::getpid().as_raw_nonzero().get();
    let mut ours = BTreeSet::from([agent]);
    // A child is listed after its parent, but for the rare one with a lower number.
    for _ in 0..2 {
        ours.extend(
            entries
                .iter()
                .filter(|entry| ours.contains(&entry.parent))
                .map(|entry| entry.id.pid)
                .collect::<Vec<_>>(),
        );
    }
    entries.into_iter().filter(|entry| entry.title.contains(text) && !ours.contains(&entry.id.pid)).collect()
}

fn processes(entries: &[Entry]) -> Result<Option<ServerProcesses>, ProcsError> {
    let is_child = |entry: &&Entry| entries.iter().any(|other| other.id.pid == entry.parent);
    let has_child = |entry: &&Entry| entries.iter().any(|other| other.parent == entry.id.pid);
    let root = entries.iter().filter(|entry| !is_child(entry)).min_by_key(|entry| entry.id.start);
    let Some(root) = root.and_then(|root| image(root).transpose()).transpose()? else { return Ok(None) };
    let mut serving = Vec::new();
    for entry in entries.iter().filter(|entry| !has_child(entry)) {
        serving.extend(image(entry)?);
    }
    let mut ports: Vec<u16> = entries.iter().flat_map(|entry| procs::listening_ports(entry.id.pid)).collect();
    ports.sort_unstable();
    ports.dedup();
    Ok(Some(ServerProcesses { root, serving, ports }))
}

/// `None` when it has ended since the list was read.
fn image(entry: &Entry) -> Result<Option<Image>, ProcsError> {
    match Image::of(entry.id.pid) {
        Ok(image) => Ok(Some(image).filter(|image| same(image.process, entry))),
        Err(ProcsError::Gone(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn same(process: ProcessId, entry: &Entry) -> bool {
    process == entry.id
}
