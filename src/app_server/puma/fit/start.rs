//! How the parent starts a server: what is seen of that in /proc, once for each parent.

use std::{fs, path::PathBuf};

use crate::{
    app_server::ruby::{follows, release_named},
    procs::{self, WorkingDirectory},
};

/// Listened on by the kubelet, and by it alone, when both are: its API, and its own health.
const KUBELET_PORTS: [u16; 2] = [10250, 10248];

/// How the parent starts a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::app_server::puma) struct Start {
    pub(crate) parent: i32,
    /// The command, word by word.
    pub(crate) command: Vec<String>,
    /// Where it starts, where that is the same for every release.
    pub(crate) stays_in: Option<PathBuf>,
    /// It is in the network of a whole node.
    pub(crate) on_node: bool,
}

impl Start {
    /// `live` is the Puma that the parent has started. `None` where the parent may not be looked into.
    pub(crate) fn of(parent: i32, live: i32) -> Option<Self> {
        let raw = fs::read(format!("/proc/{parent}/cmdline")).ok()?;
        let words = raw.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        Some(Self {
            parent,
            command: command(words.filter(|word| !word.is_empty()).collect()),
            stays_in: stays_in(parent, live)?,
            on_node: is_on_node(&procs::ports_in_use(parent)),
        })
    }

    /// A path in one release, in a word of the command; Puma's own configuration may be of another one.
    pub(super) fn names_release(&self) -> Option<&str> {
        let words = || self.command.iter().flat_map(|word| word.split([' ', '\'', '"', '=', ';', '\t', '\n']));
        let words: Vec<&str> = words().filter(|word| !word.is_empty()).collect();
        let is_config = |at: usize| {
            let before = at.checked_sub(1).and_then(|at| words.get(at));
            before.is_some_and(|flag| matches!(*flag, "-C" | "--config"))
        };
        let named = |at: &usize| words.get(*at).is_some_and(|word| release_named(word.as_ref()).is_some());
        let found = (0..words.len()).filter(|at| !is_config(*at)).find(named)?;
        words.get(found).copied()
    }

    /// A shell of the command's own goes elsewhere first, or Puma is told to.
    pub(super) fn changes_directory(&self) -> bool {
        let words = || self.command.iter().flat_map(|word| word.split([' ', ';', '&', '=', '\n']));
        words().any(|word| matches!(word, "cd" | "pushd" | "--dir" | "--chdir" | "-C/"))
    }
}

/// What follows `pitstop exec`, its own flags left out.
fn command(words: Vec<String>) -> Vec<String> {
    match words.iter().position(|word| word == "--") {
        Some(at) => words.into_iter().skip(at + 1).collect(),
        None => words.into_iter().skip_while(|word| word != "exec").skip(1).collect(),
    }
}

/// The parent starts a server in `X/current` where it stands in `X/releases/ID` itself, else where it stands. Whoever
/// has left that place was led on by something.
fn stays_in(parent: i32, live: i32) -> Option<Option<PathBuf>> {
    let (stands, runs) = (WorkingDirectory::of(parent).ok()?, WorkingDirectory::of(live).ok()?);
    let logical = logical(parent, &stands.name);
    Some((logical.is_none() && stands == runs).then_some(stands.name))
}

fn logical(parent: i32, stands: &std::path::Path) -> Option<PathBuf> {
    let release = release_named(stands)?;
    let place = stands.ancestors().find(|place| place.file_name().is_some_and(|name| name == release))?;
    let current = place.parent()?.parent()?.join("current");
    follows(parent, current.to_str()?).then_some(current)
}

fn is_on_node(ports: &[u16]) -> bool {
    KUBELET_PORTS.iter().all(|port| ports.contains(port))
}
