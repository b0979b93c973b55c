//! Whether the app came up after a restart. Passenger puts the old processes aside first, tries to boot once,
//! and then once more for the requests that wait: all of them get its error page when that fails. So the
//! first failure is known as one, and nothing is waited for.

use std::collections::HashSet;

use super::pool::Group;
use crate::procs::ProcessId;

/// In between two tries there may be a moment without one.
const IDLE_LOOKS: u32 = 3;

/// The core's children at one look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Children {
    pub(crate) all: HashSet<ProcessId>,
    /// Those that show by their title that they load the app, or have loaded it.
    pub(crate) loading: HashSet<ProcessId>,
}

/// What earlier looks at the same app have shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Boots {
    uuid: String,
    /// The core's children at the last look.
    children: HashSet<ProcessId>,
    /// Those that were there before this restart: the old app and its preloader.
    earlier: HashSet<ProcessId>,
    /// The attempts to boot since. Once it was seen to be one, a process stays one, whatever its title.
    attempts: HashSet<ProcessId>,
    idle_looks: u32,
    failed: bool,
}

impl Boots {
    /// Takes one look in: the core's children, and after them the app.
    pub(crate) fn look(&mut self, children: &Children, group: &Group) {
        let before = std::mem::replace(&mut self.children, children.all.clone());
        if self.uuid != group.uuid {
            // Of the first look of all it is not known what is old.
            let earlier = if self.uuid.is_empty() { children.all.clone() } else { before };
            let (uuid, children) = (group.uuid.clone(), children.all.clone());
            *self = Self { uuid, children, earlier, ..Self::default() };
        }
        self.attempts.extend(children.loading.difference(&self.earlier));
        if group.serving().next().is_some() {
            (self.idle_looks, self.failed) = (0, false);
            return;
        }
        let ended = self.attempts.iter().any(|tried| !children.all.contains(tried));
        self.idle_looks = if group.is_booting() { 0 } else { self.idle_looks + 1 };
        self.failed |= ended || (group.least() > 0 && self.idle_looks >= IDLE_LOOKS);
    }

    /// What is being tried just now.
    pub(crate) fn under_way(&self) -> HashSet<ProcessId> {
        self.attempts.intersection(&self.children).copied().collect()
    }

    /// Passenger could not boot what `current` led to, and nothing serves.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::pool::{
            Pool,
            tests::{document, process},
        },
        *,
    };

    const SPAWNING: &str = "<processes_being_spawned>1</processes_being_spawned>";
    const IDLE: &str = "<processes_being_spawned>0</processes_being_spawned>";

    fn group(uuid: &str, state: &str, processes: &str) -> Group {
        let xml = document(state, processes).replace("TcBxmj9L28Fr0KJIUhFU", uuid);
        Pool::parse(xml.as_bytes()).unwrap().groups().next().unwrap().clone()
    }

    fn ids(pids: &[i32]) -> HashSet<ProcessId> {
        pids.iter().map(|pid| ProcessId { pid: *pid, start: 1 }).collect()
    }

    fn children(pids: &[i32]) -> Children {
        Children { all: ids(pids), loading: ids(pids) }
    }

    fn serving() -> Boots {
        let mut boots = Boots::default();
        boots.look(&children(&[41]), &group("one", IDLE, &process(81, 0, "ENABLED")));
        boots
    }

    #[test]
    fn an_attempt_that_has_ended_without_a_process_is_a_failure() {
        let mut boots = serving();
        let (booting, detached) = (group("two", SPAWNING, ""), process(81, 1, "DETACHED"));
        boots.look(&children(&[41, 208]), &group("two", SPAWNING, &detached));
        assert_eq!(boots.under_way(), ids(&[208]));
        boots.look(&children(&[208]), &booting);
        assert!(!boots.failed(), "the old preloader's end says nothing");
        boots.look(&children(&[253]), &booting);
        assert!(boots.failed(), "208 is gone, and the next one is tried already");
        boots.look(&children(&[253]), &group("three", SPAWNING, ""));
        assert!(!boots.failed(), "another restart is another chance");
    }

    #[test]
    fn an_app_that_nobody_tries_to_boot_any_more_has_failed() {
        let mut boots = serving();
        for _ in 0..IDLE_LOOKS {
            assert!(!boots.failed());
            boots.look(&children(&[]), &group("two", IDLE, ""));
        }
        assert!(boots.failed());
        boots.look(&children(&[300]), &group("two", IDLE, &process(301, 0, "ENABLED")));
        assert!(!boots.failed(), "it came up after all");
    }

    #[test]
    fn what_the_core_starts_for_a_moment_is_no_attempt() {
        let mut boots = serving();
        let look = |all: &[i32], loading: &[i32]| Children { all: ids(all), loading: ids(loading) };
        boots.look(&look(&[41, 208], &[41, 208]), &group("two", SPAWNING, ""));
        // `rm` comes and goes; then the title of 208 is read while it changes.
        boots.look(&look(&[208, 223], &[208]), &group("two", SPAWNING, ""));
        boots.look(&look(&[208], &[]), &group("two", SPAWNING, ""));
        assert!(!boots.failed());
        assert_eq!(boots.under_way(), ids(&[208]));
    }

    #[test]
    fn a_slow_boot_is_none() {
        let mut boots = serving();
        for _ in 0..50 {
            boots.look(&children(&[208]), &group("two", SPAWNING, ""));
        }
        assert!(!boots.failed());
    }

    #[test]
    fn nothing_is_said_of_what_was_there_before_the_first_look() {
        let mut boots = Boots::default();
        boots.look(&children(&[41, 208]), &group("two", SPAWNING, ""));
        boots.look(&children(&[208]), &group("two", SPAWNING, ""));
        boots.look(&children(&[]), &group("two", SPAWNING, ""));
        assert!(!boots.failed());
    }
}
