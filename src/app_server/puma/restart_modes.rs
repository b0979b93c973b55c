//! Which restarts this Puma can take, as far as the evidence goes: what a plan chooses from, and a check says.

use super::{
    setup::{RestartDir, Setup},
    view::View,
};

/// Where `rackup` listens when it is given nothing.
const RACKUPS_PORT: u16 = 9292;

/// Phased stops one worker before it starts the next: with one worker that would be an outage.
pub(super) fn can_be_phased(view: &View) -> bool {
    view.cluster() == Some(true) && view.expected() >= 2
}

/// The configuration, the command line or what is loaded says so.
pub(super) fn surely_preloads(view: &View) -> bool {
    view.app_in_master().is_some() || view.memory.setup.as_ref().is_some_and(|setup| setup.surely_preloads)
}

/// Whether a phased restart would load a release, as far as the evidence goes.
pub(super) fn allows_phased(setup: &Setup) -> bool {
    !setup.preloads && setup.restart_dir == RestartDir::Follows
}

/// With arguments that it would lose.
pub(super) fn loses_its_arguments(view: &View) -> bool {
    let by_rackup = view.memory.setup.as_ref().is_some_and(|setup| setup.command_line.by_rackup);
    by_rackup && view.family.ports != [RACKUPS_PORT]
}
