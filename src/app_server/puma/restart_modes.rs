//! Which restarts this Puma can take, as far as the evidence goes: what a plan chooses from, and a check says.

use super::{
    setup::{RestartDir, Setup},
    snapshot::Snapshot,
};

/// Where `rackup` listens when it is given nothing.
const RACKUPS_PORT: u16 = 9292;

/// Phased stops one worker before it starts the next: with one worker that would be an outage.
pub(super) fn can_be_phased(snapshot: &Snapshot) -> bool {
    snapshot.cluster() == Some(true) && snapshot.expected() >= 2
}

/// The configuration, the command line or what is loaded says so.
pub(super) fn surely_preloads(snapshot: &Snapshot) -> bool {
    snapshot.app_in_master().is_some()
        || snapshot.memory.setup.as_ref().is_some_and(|setup| setup.surely_preloads)
}

/// Whether a phased restart would load a release, as far as the evidence goes.
pub(super) fn allows_phased(setup: &Setup) -> bool {
    !setup.preloads && setup.restart_dir == RestartDir::Follows
}

/// With arguments that it would lose.
pub(super) fn loses_its_arguments(snapshot: &Snapshot) -> bool {
    let by_rackup = snapshot.memory.setup.as_ref().is_some_and(|setup| setup.command_line.by_rackup);
    by_rackup && snapshot.processes.ports != [RACKUPS_PORT]
}
