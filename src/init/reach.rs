//! Whom a signal is for.
//!
//! A shell in front of the app server (`sh -c "bundle exec puma; …"`) handles no SIGTERM: it would die
//! of it and leave the app server behind. So a signal goes to the topmost processes that handle it, seen
//! from the command downwards: a wrapper that does not is looked through. That goes for tini and dumb-init
//! as well, which take signals from a queue instead; being blocked is no sign, since a shell blocks everything
//! for a moment around each fork.

use std::{collections::HashSet, io};

use rustix::process::Signal;

use crate::procs::{self, ProcessId};

/// The processes of this PID namespace at one moment.
#[derive(Debug)]
pub(crate) struct Tree(Vec<Node>);

#[derive(Debug, Clone, Copy)]
struct Node {
    id: ProcessId,
    parent: i32,
    /// Bit `n - 1`: it has a handler for signal `n`.
    handles: u64,
}

/// Whether a signal that nobody handles is still meant for the command itself.
pub(crate) fn ends_by_default(signal: Signal) -> bool {
    matches!(signal, Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP | Signal::ALARM)
}

impl Tree {
    /// Looks.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub(crate) fn now() -> io::Result<Self> {
        let entries = procs::list(|_| true)?;
        let node = |entry: procs::Entry| Node {
            id: entry.id,
            parent: entry.parent,
            handles: procs::caught_signals(entry.id.pid).unwrap_or(0),
        };
        Ok(Self(entries.into_iter().map(node).collect()))
    }

    /// Sends a signal to those below and including `root` whom it is for. Returns how many there were.
    pub(crate) fn send(&self, root: i32, signal: Signal) -> usize {
        let meant = self.meant(root, signal);
        for process in &meant {
            if let Err(error) = process.signal(signal) {
                tracing::debug!(pid = process.pid, %error, "not sent");
            }
        }
        meant.len()
    }

    /// The topmost processes that handle the signal.
    fn meant(&self, root: i32, signal: Signal) -> Vec<ProcessId> {
        let Some(node) = self.0.iter().find(|node| node.id.pid == root) else { return Vec::new() };
        if node.takes(signal) {
            return vec![node.id];
        }
        self.children(root).into_iter().flat_map(|child| self.meant(child, signal)).collect()
    }

    pub(crate) fn children(&self, parent: i32) -> Vec<i32> {
        self.0.iter().filter(|node| node.parent == parent).map(|node| node.id.pid).collect()
    }

    pub(crate) fn below(&self, root: i32) -> Vec<i32> {
        let mut found = Vec::new();
        let mut seen = HashSet::from([root]);
        let mut open = vec![root];
        while let Some(next) = open.pop() {
            let fresh: Vec<i32> =
                self.children(next).into_iter().filter(|child| seen.insert(*child)).collect();
            found.extend(&fresh);
            open.extend(fresh);
        }
        found
    }
}

impl Node {
    /// A shell handles SIGINT while it waits for its child, but does not pass it on; whoever
    /// handles it for the sake of a clean end handles SIGTERM too.
    fn takes(&self, signal: Signal) -> bool {
        let handles = |signal: Signal| self.handles >> (signal.as_raw() - 1) & 1 == 1;
        handles(signal) && (signal != Signal::INT || handles(Signal::TERM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(signals: &[Signal]) -> u64 {
        signals.iter().map(|signal| 1 << (signal.as_raw() - 1)).sum()
    }

    fn tree(nodes: &[(i32, i32, u64)]) -> Tree {
        let node = |&(pid, parent, handles)| Node { id: ProcessId { pid, start: 0 }, parent, handles };
        Tree(nodes.iter().map(node).collect())
    }

    fn meant(tree: &Tree, signal: Signal) -> Vec<i32> {
        tree.meant(2, signal).iter().map(|process| process.pid).collect()
    }

    #[test]
    fn a_shell_is_looked_through_and_workers_are_left_to_their_master() {
        let (sh, puma) = (bits(&[Signal::CHILD]), bits(&[Signal::TERM, Signal::INT, Signal::USR2]));
        let tree = tree(&[(2, 1, sh), (3, 2, puma), (4, 3, puma), (5, 3, puma), (6, 1, puma)]);
        assert_eq!(meant(&tree, Signal::TERM), [3]);
        assert_eq!(meant(&tree, Signal::USR2), [3]);
        assert!(meant(&tree, Signal::HUP).is_empty());
    }

    #[test]
    fn a_waiting_bash_catches_an_int_that_is_not_for_it() {
        let (bash, puma) = (bits(&[Signal::CHILD, Signal::INT]), bits(&[Signal::TERM, Signal::INT]));
        assert_eq!(meant(&tree(&[(2, 1, bash), (3, 2, puma)]), Signal::INT), [3]);
    }

    #[test]
    fn a_wrapper_that_handles_the_signal_gets_it() {
        let both = bits(&[Signal::TERM, Signal::INT]);
        assert_eq!(meant(&tree(&[(2, 1, both), (3, 2, both)]), Signal::TERM), [2]);
    }

    #[test]
    fn of_a_pipeline_only_the_server_is_meant() {
        let puma = bits(&[Signal::TERM]);
        assert_eq!(meant(&tree(&[(2, 1, 0), (3, 2, puma), (4, 2, 0)]), Signal::TERM), [3]);
    }

    #[test]
    fn descendants_are_all_of_them_once() {
        let mut below = tree(&[(2, 1, 0), (3, 2, 0), (4, 3, 0), (9, 8, 0)]).below(2);
        below.sort_unstable();
        assert_eq!(below, [3, 4]);
    }
}
