//! Who comes from whom. Anybody may give a process any title; who its parent is, the kernel tells.

use std::collections::HashMap;

use super::{Credentials, Entry, ProcessId, sockets_of};

/// Nobody descends over so many generations.
const DEEPEST: usize = 64;

/// The parents of processes, as they were seen together.
#[derive(Debug)]
pub(crate) struct Descent(HashMap<i32, i32>);

impl Descent {
    /// Of all processes that are there.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        Self(entries.iter().map(|entry| (entry.id.pid, entry.parent)).collect())
    }

    /// Its parent, that one's parent and so on.
    pub(crate) fn above(&self, pid: i32) -> impl Iterator<Item = i32> {
        std::iter::successors(self.0.get(&pid), |parent| self.0.get(parent)).copied().take(DEEPEST)
    }

    /// Whether it comes from this one.
    pub(crate) fn descends(&self, pid: i32, from: i32) -> bool {
        self.above(pid).any(|above| above == from)
    }
}

/// Whether two processes hold a socket in common, as one does that was forked from the other.
pub(crate) fn share_a_socket(one: i32, other: i32) -> bool {
    let held = sockets_of(one);
    sockets_of(other).iter().any(|socket| held.contains(socket))
}

/// Whether two processes act as the same user.
pub(crate) fn same_user(one: i32, other: i32) -> bool {
    let user = |pid| Credentials::of(pid).ok().map(|known| known.uid);
    user(one).is_some_and(|uid| user(other) == Some(uid))
}

/// For how long a process has been there, in milliseconds.
pub(crate) fn age_ms(process: ProcessId) -> Option<u64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now_ms = now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000;
    let start_ms = process.start.checked_mul(1000)? / procfs::ticks_per_second();
    Some(now_ms.saturating_sub(start_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: i32, parent: i32) -> Entry {
        Entry { id: ProcessId { pid, start: 1 }, parent, title: String::new() }
    }

    #[test]
    fn whoever_is_below_a_process_descends_from_it_and_a_circle_has_an_end() {
        let descent =
            Descent::of(&[entry(2, 1), entry(3, 2), entry(4, 3), entry(9, 1), entry(7, 8), entry(8, 7)]);
        assert!(descent.descends(4, 2) && descent.descends(3, 2));
        assert!(!descent.descends(2, 2) && !descent.descends(9, 2) && !descent.descends(5, 2));
        assert!(!descent.descends(7, 2));
    }

    #[test]
    fn our_own_age_is_that_of_a_process_of_just_now() {
        let ours = ProcessId::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(age_ms(ours).is_some_and(|age| age < 3_600_000));
        assert!(same_user(ours.pid, ours.pid) && !same_user(ours.pid, i32::MAX));
    }
}
