//! What is seen of a server's sockets, in /proc.

use super::{children::own_pid, reach::Tree};
use crate::{
    app_server::{puma::binds, unicorn},
    procs,
};

/// Whether the server that was started as this process listens on the sockets that it was given: each an inode, and
/// how many descriptors of it. `None`: not known yet.
///
/// A wrapper holds all of them, and so does a server that has not come to it. A Puma closes those that it has no use
/// for, and keeps one of each.
pub(crate) fn inherited(root: i32, given: &[(u64, usize)]) -> Option<bool> {
    let tree = Tree::now().ok()?;
    let processes = std::iter::once(root).chain(tree.below(root));
    let seen: Vec<Held> = processes.map(|pid| Held::of(pid, given)).collect();
    if seen.contains(&Held::OneOfEach) {
        return Some(true);
    }
    seen.contains(&Held::NoneOfSome).then_some(false)
}

/// The same of a Unicorn: it gives itself a title when it has taken or closed what it was given.
pub(crate) fn inherited_by_unicorn(root: i32, given: &[(u64, usize)]) -> Option<bool> {
    let tree = Tree::now().ok()?;
    let is_master = |pid: &i32| procs::Entry::read(*pid).is_ok_and(|entry| unicorn::is_master(&entry.title));
    let master = std::iter::once(root).chain(tree.below(root)).find(is_master)?;
    let held = procs::sockets_of(master);
    Some(given.iter().all(|(inode, _)| held.contains(inode)))
}

/// Processes that hold one of these sockets, and are of no server that runs: an earlier one has left them behind.
pub(crate) fn left_behind(sockets: &[u64], servers: &[i32]) -> Vec<i32> {
    let Ok(tree) = Tree::now() else { return Vec::new() };
    let running: Vec<i32> =
        servers.iter().flat_map(|server| std::iter::once(*server).chain(tree.below(*server))).collect();
    let holds = |pid: &i32| procs::sockets_of(*pid).iter().any(|socket| sockets.contains(socket));
    tree.below(own_pid()).into_iter().filter(|pid| !running.contains(pid) && holds(pid)).collect()
}

/// What a Puma below this process binds, in its own words, once it listens; `None` for any other server.
pub(crate) fn binds_of(root: i32) -> Option<Vec<String>> {
    let tree = Tree::now().ok()?;
    let mut processes = std::iter::once(root).chain(tree.below(root));
    let listens = |pid: &i32| !procs::listening_ports(*pid).is_empty();
    processes.find_map(|pid| binds::of_title(&procs::Entry::read(pid).ok()?.title).filter(|_| listens(&pid)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    OneOfEach,
    /// A Puma that listens elsewhere.
    NoneOfSome,
    Other,
}

impl Held {
    fn of(pid: i32, given: &[(u64, usize)]) -> Self {
        let sockets = procs::sockets_of(pid);
        let held = |inode: u64| sockets.iter().filter(|socket| **socket == inode).count();
        if given.iter().all(|(inode, copies)| (1..*copies).contains(&held(*inode))) {
            return Self::OneOfEach;
        }
        let lacks = given.iter().any(|(inode, _)| held(*inode) == 0);
        let is_puma = || procs::Entry::read(pid).is_ok_and(|entry| binds::of_title(&entry.title).is_some());
        if lacks && is_puma() && !procs::listening_ports(pid).is_empty() {
            Self::NoneOfSome
        } else {
            Self::Other
        }
    }
}
