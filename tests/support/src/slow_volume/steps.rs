//! Trouble that begins at one step of what a volume is asked: an error, or no answer.

use std::{
    ffi::OsStr,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use fuser::Errno;

use super::{Operation, Snapshot, nodes::Nodes};

/// A look-up of such a name tells that a process has passed a fail point (`PITSTOP_FAILPOINT_PASSED`).
const PASSED: &str = "passed+";
/// Those right after a `syncfs`, which the kernel's FUSE does not pass on.
const SYNCED: [&str; 2] = ["fetch.synced", "spare.sealed"];

/// Which steps are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Each operation that the kernel asks for.
    All,
    /// Those that change something, or make it durable.
    Changes,
}

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It fails with this number of an error; the next one does not.
    Fails(i32),
    /// It fails with this number of an error, and so do all after it.
    FailsOn(i32),
    /// Neither it nor what comes after it is answered.
    Stops,
}

#[derive(Default)]
struct State {
    all: u64,
    changes: u64,
    armed: Option<(Among, u64, Trouble)>,
    /// How many steps have met the trouble.
    met: u64,
    gone: Option<Gone>,
    passed: Vec<String>,
    recorded: Option<Vec<Snapshot>>,
}

/// What becomes of what a client had in its cache when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Its kernel still writes it: only the process was killed.
    Written,
    /// It is lost: the node was.
    Lost,
}

/// The steps of a volume, counted from when it was mounted.
#[derive(Default)]
pub struct Steps {
    state: Mutex<State>,
    changed: Condvar,
}

impl Operation {
    /// Whether something on the volume is another after it, or durable.
    pub(super) fn changes(self) -> bool {
        use Operation as O;
        match self {
            O::setattr | O::create | O::open_truncating | O::mkdir | O::symlink | O::link | O::unlink => true,
            O::rmdir | O::rename | O::write | O::fsync | O::fsyncdir => true,
            O::lookup | O::getattr | O::readlink | O::open | O::opendir | O::readdir | O::read => false,
            O::statfs | O::lookup_absent | O::cached_times | O::flush | O::readdir_more => false,
        }
    }
}

/// The fail point of which this name tells.
pub(super) fn passed(name: &OsStr) -> Option<&str> {
    name.to_str()?.strip_prefix(PASSED)
}

impl Steps {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the `at`-th step on (1 is the next one), counted anew.
    pub fn arm(&self, among: Among, at: u64, trouble: Trouble) {
        let armed = Some((among, at, trouble));
        *self.locked() = State { armed, ..State::default() };
    }

    /// Whether the trouble was met.
    pub fn is_met(&self) -> bool {
        self.met() > 0
    }

    /// How many steps have met it.
    pub fn met(&self) -> u64 {
        self.locked().met
    }

    /// No trouble any more: what was held up is done now.
    pub fn heal(&self) {
        let mut state = self.locked();
        (state.armed, state.gone) = (None, None);
        drop(state);
        self.changed.notify_all();
    }

    /// Its client is being killed: what it has asked and was not done never is. Until [`Steps::heal`].
    pub fn client_is_gone(&self, gone: Gone) {
        let mut state = self.locked();
        (state.armed, state.gone) = (None, Some(gone));
        drop(state);
        self.changed.notify_all();
    }

    /// How many steps there were since the volume was mounted or armed.
    pub fn count(&self, among: Among) -> u64 {
        let state = self.locked();
        if among == Among::All { state.all } else { state.changes }
    }

    /// The fail points that were passed, in order.
    pub fn fail_points(&self) -> Vec<String> {
        self.locked().passed.clone()
    }

    /// From now on the volume is recorded after each change.
    pub fn start_recording(&self) {
        self.locked().recorded = Some(Vec::new());
    }

    /// How it was after each change.
    pub fn recorded(&self) -> Vec<Snapshot> {
        self.locked().recorded.take().unwrap_or_default()
    }

    pub(super) fn record(&self, nodes: &Nodes) {
        if let Some(recorded) = &mut self.locked().recorded {
            recorded.push(Snapshot::of(nodes));
        }
    }

    /// A fail point was passed. Answers whether all is synced there.
    pub(super) fn pass(&self, point: &str) -> bool {
        self.locked().passed.push(point.to_owned());
        SYNCED.contains(&point)
    }

    /// One step: it may be held up, or fail.
    pub(super) fn meet(&self, operation: Operation) -> Result<(), Errno> {
        let mut state = self.locked();
        state.all += 1;
        state.changes += u64::from(operation.changes());
        let due = |state: &State| match state.armed? {
            (Among::All, at, trouble) => (state.all >= at).then_some((trouble, state.all == at)),
            (Among::Changes, at, trouble) if operation.changes() => {
                (state.changes >= at).then_some((trouble, state.changes == at))
            }
            _ => None,
        };
        match due(&state) {
            Some((Trouble::Fails(errno), true)) | Some((Trouble::FailsOn(errno), _)) => {
                state.met += 1;
                return Err(Errno::from_i32(errno));
            }
            Some((Trouble::Stops, _)) => {
                state.met += 1;
                while state.armed.is_some() {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
            _ => {}
        }
        match state.gone {
            Some(Gone::Written) if matches!(operation, Operation::write) => Ok(()),
            Some(_) if operation.changes() => Err(Errno::EIO),
            _ => Ok(()),
        }
    }
}
