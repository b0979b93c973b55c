//! How this Puma can be moved to a release.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Puma, fit,
    release_diff::ReleaseDiff,
    restart_modes::{allows_phased, can_be_phased, loses_its_arguments, surely_preloads},
    setup::RestartDir,
    snapshot::Snapshot,
};
use crate::{
    app_server::{
        Wanted,
        addresses::same_addresses,
        driver::Driver,
        fit::{Fit, decide},
        image,
        ruby::release_named,
        server::Server,
    },
    config::RestartMode,
    core::{Cwd, Mode, Plan, Problem, Reason},
    procs,
    revision::ReleaseId,
};

/// Files of a few kilobytes, on a volume that may be slow.
const LIMIT: Duration = Duration::from_secs(5);

/// The way to restart it onto a release, if there is one.
pub(super) async fn restart(
    driver: &Driver<Puma>,
    snapshot: &Snapshot,
    Wanted { running, release, beside }: Wanted<'_>,
) -> Result<Plan, Problem> {
    let change = change(driver, snapshot, running, release).await?;
    let change = change.as_ref();
    driver.remember(|memory| memory.next_puma = change.and_then(|change| change.puma.clone())).await;
    // What kept a second server from booting may have been changed with Puma's configuration or the bundle.
    let known = change.is_some_and(|change| change.not_by_phased.is_none());
    let known = known.then(|| fit::known_trouble(snapshot)).flatten();
    let may = || known.map_or_else(|| fit::of(snapshot, Some(release)), Err);
    let beside = decide(snapshot.mode, beside, may)?;
    refuse_what_no_start_loads(snapshot, change, release)?;
    refuse_another_ruby(driver, snapshot, change, release).await?;
    if let Some(Fit { make_room, .. }) = beside {
        return Ok(Plan { mode: Mode::Beside, make_room });
    }
    refuse_what_no_restart_loads(snapshot, release)?;
    let mode = match snapshot.mode {
        RestartMode::Hot => Mode::Hot,
        RestartMode::Phased if can_be_phased(snapshot) && !surely_preloads(snapshot) => Mode::Phased,
        // Puma would do it hot as well, or load nothing; asked for as what it is, it is also watched as that.
        RestartMode::Phased => Mode::Hot,
        RestartMode::Auto | RestartMode::Beside => choose_mode(snapshot, change),
    };
    may_be_told(snapshot, mode)?;
    Ok(Plan::new(mode))
}

/// What differs between what was started and what is to be; `None` where that cannot be compared.
async fn change(
    driver: &Driver<Puma>,
    snapshot: &Snapshot,
    running: Option<&ReleaseId>,
    release: &ReleaseId,
) -> Result<Option<ReleaseDiff>, Problem> {
    // Before anything was proved, where it works says what it was started from.
    let started_in = match snapshot.surroundings.cwd(snapshot.master()) {
        Cwd::Release(release) => Some(release),
        Cwd::Elsewhere | Cwd::Unknown => None,
    };
    // What the image's code was booted with is not on the volume.
    let running = running.or(started_in.as_ref()).filter(|running| !running.is_fallback());
    let (Some(running), Some(setup)) = (running, &snapshot.memory.setup) else { return Ok(None) };
    let (old, new) = (driver.releases.join(running.as_str()), driver.releases.join(release.as_str()));
    let keeps_bundle = setup.keeps_bundle();
    let given = setup.command_line.config();
    let pid = snapshot.master();
    let also = given.filter(|path| *path != "-").map(|path| PathBuf::from(path.to_owned()));
    let compare = move || {
        let named = |path: PathBuf| if path.is_absolute() { procs::in_root_of(pid, &path) } else { path };
        ReleaseDiff::between(&old, &new, keeps_bundle, also.map(named).as_deref())
    };
    driver.read_releases(LIMIT, compare).await.map(Some)
}

/// Bundler does not boot with another Ruby than the release wants, whichever way it is restarted.
async fn refuse_another_ruby(
    driver: &Driver<Puma>,
    snapshot: &Snapshot,
    change: Option<&ReleaseDiff>,
    release: &ReleaseId,
) -> Result<(), Problem> {
    let Some(wanted) = change.and_then(|change| change.ruby.clone()) else { return Ok(()) };
    let (files, pid) = (&driver.inspector.files, snapshot.master());
    let other = image::another_ruby(&Puma::KIND, files, pid, wanted.clone()).await?;
    let Some(found) = other else { return Ok(()) };
    let message = format!(
        "the Gemfile of {release} needs Ruby {wanted}, and this image has {found}: roll the pods onto an image with Ruby \
         {wanted}, and {release} is deployed"
    );
    Err(Problem::new(Reason::NeedsImage, message))
}

/// Phased where everything that changed is loaded by it and nothing speaks against it. If Puma
/// preloads after all, it falls back to a hot restart by itself.
fn choose_mode(snapshot: &Snapshot, change: Option<&ReleaseDiff>) -> Mode {
    let allows =
        snapshot.memory.setup.as_ref().is_some_and(allows_phased) && snapshot.app_in_master().is_none();
    let Some(change) = change.filter(|_| can_be_phased(snapshot) && allows) else { return Mode::Hot };
    if let Some(child) = snapshot.processes.long_lived_child() {
        let (pid, title) = (child.id.pid, &child.title);
        tracing::info!(
            pid,
            title,
            "restarting hot: a phased restart would not replace this child process of Puma's master"
        );
        return Mode::Hot;
    }
    match &change.not_by_phased {
        None => Mode::Phased,
        Some(what) => {
            tracing::info!(what, "restarting hot: a phased restart would not load everything that changed");
            Mode::Hot
        }
    }
}

/// Neither kind of restart would bring the release: nothing is to be moved.
fn refuse_what_no_restart_loads(snapshot: &Snapshot, release: &ReleaseId) -> Result<(), Problem> {
    let setup = snapshot.memory.setup.as_ref().filter(|_| !release.is_fallback() && !snapshot.memory.moved);
    let Some(Some(RestartDir::Never(evidence))) = setup.map(|setup| &setup.restart_dir) else {
        return Ok(());
    };
    let why = format!(
        "every restart of this Puma goes to the release in which it was started: {evidence}. In Puma's configuration, \
         set `directory` to the link's path as a literal, and restart the container once"
    );
    Err(Problem::new(Reason::RestartDirPinned, why))
}

/// No Puma that is started like this one would bring the release: nothing is to be moved.
fn refuse_what_no_start_loads(
    snapshot: &Snapshot,
    change: Option<&ReleaseDiff>,
    release: &ReleaseId,
) -> Result<(), Problem> {
    let Some(setup) = snapshot.memory.setup.as_ref().filter(|_| !release.is_fallback()) else {
        return Ok(());
    };
    let another = |path: &&str| release_named(Path::new(path)).is_some_and(|named| named != release.as_str());
    // What the configuration names is read anew, from the new release.
    let given = setup.command_line.arguments.as_ref().and_then(|given| given.rackup.known());
    let rackup = given.map(String::as_str).filter(another);
    let rackup = rackup.or(change.and_then(|change| change.rackup.as_deref()));
    let changed = change.is_some_and(|change| change.bundle);
    let gemfile = setup.command_line.gemfile.as_deref().filter(another).filter(|_| changed);
    let why = match (rackup, gemfile) {
        (Some(path), _) => format!(
            "every restart of this Puma loads {path}, in every release: give Puma the rackup file by a path through the \
             link, or by a relative path"
        ),
        (None, Some(path)) => format!(
            "every restart of this Puma takes its bundle from {path}, and {release} has another bundle: set \
             BUNDLE_GEMFILE to the Gemfile behind the link, and restart the container once"
        ),
        _ => return Ok(()),
    };
    Err(Problem::new(Reason::RestartDirPinned, why))
}

/// Puma would end by the signal, or come back as something else.
fn may_be_told(snapshot: &Snapshot, mode: Mode) -> Result<(), Problem> {
    let refused = |message: String| Err(Problem::new(Reason::ConfigInvalid, message));
    let pid = snapshot.master();
    match mode {
        Mode::Hot if !snapshot.processes.takes_hot() => Err(deaf(pid, "SIGUSR2")),
        Mode::Phased if !snapshot.processes.catches_phased => Err(deaf(pid, "SIGUSR1")),
        Mode::Hot if loses_its_arguments(snapshot) => refused(format!(
            "Puma {pid} was started by rackup, and a hot restart drops its arguments, so Puma would listen on another port: \
             start it with `puma` and a configuration file"
        )),
        Mode::Hot if same_addresses() => refused(
            "the kernel loads every program at the same addresses (kernel.randomize_va_space is 0), so pitstop could not see \
             a hot restart: set it to 2 on the node"
                .into(),
        ),
        Mode::Hot | Mode::Phased | Mode::Beside => Ok(()),
    }
}

fn deaf(pid: i32, signal: &str) -> Problem {
    let message = format!(
        "Puma's master {pid} has no handler for {signal}, which would kill it: start Puma without PUMA_SKIP_SIGUSR2"
    );
    Problem::new(Reason::ConfigInvalid, message)
}
