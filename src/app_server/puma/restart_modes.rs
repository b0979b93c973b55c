//! Which restarts this Puma can take, as far as the evidence goes: what a plan chooses from, and a check says.

use super::{
    evidence::{Evidence, Place},
    setup::{RestartDir, Setup},
    snapshot::Snapshot,
};

/// Where `rackup` listens when it is given nothing.
const RACKUPS_PORT: u16 = 9292;

/// Whether phased restarts are to be had.
pub(super) enum Phased {
    Possible,
    /// Every restart is a hot one, for this reason.
    Unavailable(String),
    /// Only the running Puma shows it.
    Unknown(String),
}

/// `app_in_master`: why the master has the app already, where it is seen.
pub(super) fn phased(
    setup: Option<&Setup>,
    workers: &Evidence<u64>,
    app_in_master: Option<String>,
) -> Phased {
    match (workers, app_in_master) {
        (Evidence::Known(0, place), _) => {
            return Phased::Unavailable(format!("Puma runs in single mode{}", shown(place)));
        }
        (Evidence::Known(1, place), _) => {
            return Phased::Unavailable(format!("Puma has one worker{}", shown(place)));
        }
        (_, Some(why)) => return Phased::Unavailable(why),
        (_, None) => {}
    }
    let Some(setup) = setup else { return Phased::Unknown("Puma's configuration could not be read".into()) };
    let only_there = |what: &str, place: &Place| {
        Phased::Unknown(format!("{what} is known only where Puma runs ({place})"))
    };
    match (setup.preloads(), workers) {
        (Evidence::Known(true, place), _) => {
            let pruned = !matches!(place, Place::Version(_)) && setup.settings.prune_bundler.known().is_some();
            let pruned = if pruned { "; prune_bundler has no effect then" } else { "" };
            Phased::Unavailable(format!("Puma preloads the app ({place}{pruned})"))
        }
        (Evidence::Unclear(_, Place::Environment(name)), _) => Phased::Unknown(format!(
            "{} preloads the app where {name} is above 1, unless `preload_app! false`",
            setup.major.map_or("Puma".into(), |major| format!("Puma {major}")),
        )),
        (Evidence::Unclear(_, place), _) => only_there("whether Puma preloads the app", &place),
        (Evidence::Known(false, _) | Evidence::Default, Evidence::Known(..)) => Phased::Possible,
        (_, Evidence::Unclear(_, place)) => only_there("it needs two workers or more, and their number", place),
        (_, Evidence::Default) => Phased::Unknown(
            "it needs two workers or more, and the file does not say how many there are (WEB_CONCURRENCY, -w)".into(),
        ),
    }
}

/// What is seen in a process needs no place.
fn shown(place: &Place) -> String {
    if *place == Place::Process { String::new() } else { format!(" ({place})") }
}

/// Phased stops one worker before it starts the next: with one worker that would be an outage.
pub(super) fn can_be_phased(snapshot: &Snapshot) -> bool {
    snapshot.cluster() == Some(true) && snapshot.expected() >= 2
}

/// The configuration, the command line or what is loaded says so.
pub(super) fn surely_preloads(snapshot: &Snapshot) -> bool {
    let told = |setup: &Setup| setup.settings.preload_app.known() == Some(&true);
    snapshot.app_in_master().is_some() || snapshot.memory.setup.as_ref().is_some_and(told)
}

/// Whether a phased restart would load a release, as far as the evidence goes.
pub(super) fn allows_phased(setup: &Setup) -> bool {
    setup.preloads().known() != Some(&true) && setup.restart_dir == Some(RestartDir::Follows)
}

/// With arguments that it would lose.
pub(super) fn loses_its_arguments(snapshot: &Snapshot) -> bool {
    let by_rackup = snapshot.memory.setup.as_ref().is_some_and(|setup| setup.command_line.by_rackup);
    by_rackup && snapshot.processes.ports != [RACKUPS_PORT]
}
