//! How this Puma can be moved to a release.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    KIND, Puma, Unseen,
    command_line::release_named,
    release_diff::ReleaseDiff,
    restart_modes::{allows_phased, can_be_phased, loses_its_arguments, surely_preloads},
    setup::RestartDir,
    view::View,
};
use crate::{
    app_server::{addresses::same_addresses, eyes::Patience, image, unseen},
    config::RestartMode,
    core::{Cwd, Mode, Plan, Reason, Sight, Trouble},
    procs,
    revision::ReleaseId,
};

/// Files of a few kilobytes, on a volume that may be slow.
const LIMIT: Duration = Duration::from_secs(5);

impl Puma {
    pub(super) async fn plan_restart(
        &self,
        running: Option<&ReleaseId>,
        release: &ReleaseId,
    ) -> Result<Plan, Trouble> {
        let view = self.see_clearly().await?;
        self.refuse_a_stranger(&view)?;
        let change = self.change(&view, running, release).await?;
        self.memory.lock().await.next_puma = change.as_ref().and_then(|change| change.puma.clone());
        refuse_what_no_restart_loads(&view, change.as_ref(), release)?;
        self.refuse_another_ruby(&view, change.as_ref(), release).await?;
        let mode = match self.mode {
            RestartMode::Hot => Mode::Hot,
            RestartMode::Phased if can_be_phased(&view) && !surely_preloads(&view) => Mode::Phased,
            // Puma would do it hot as well, or load nothing; asked for as what it is, it is also watched as that.
            RestartMode::Phased => Mode::Hot,
            RestartMode::Auto => choose_mode(&view, change.as_ref()),
        };
        may_be_told(&view, mode)?;
        self.acts.try_signal(KIND.name, view.family.image).await?;
        Ok(Plan { mode })
    }

    /// A Puma that was never seen in a release of ours may be a sidecar's.
    fn refuse_a_stranger(&self, view: &View) -> Result<(), Trouble> {
        let known = view.memory.proven_ours || self.narrow.is_some();
        if known || view.cwd(view.master()) != Cwd::Elsewhere {
            return Ok(());
        }
        Err(unseen::stranger(&KIND, view.master(), &self.releases))
    }

    async fn see_clearly(&self) -> Result<View, Trouble> {
        let mut patience = Patience::for_a_restart();
        while patience.lasts().await {
            match self.see().await {
                Ok(view) if view.family.title.is_some() => return Ok(view),
                Ok(_) | Err(Unseen { sight: Sight::Unclear | Sight::Seen(_), .. }) => {}
                Err(Unseen { sight, .. }) => return Err(unseen::trouble(&KIND, &sight)),
            }
        }
        Err(unseen::trouble(&KIND, &Sight::Unclear))
    }

    /// What differs between what was started and what is to be; `None` where that cannot be compared.
    async fn change(
        &self,
        view: &View,
        running: Option<&ReleaseId>,
        release: &ReleaseId,
    ) -> Result<Option<ReleaseDiff>, Trouble> {
        // Before anything was proved, where it works says what it was started from.
        let started_in = match view.cwd(view.master()) {
            Cwd::Release(release) => Some(release),
            Cwd::Elsewhere | Cwd::Unknown => None,
        };
        // What the image's code was booted with is not on the volume.
        let running = running.or(started_in.as_ref()).filter(|running| !running.is_fallback());
        let (Some(running), Some(setup)) = (running, &view.memory.setup) else { return Ok(None) };
        let (old, new) = (self.releases.join(running.as_str()), self.releases.join(release.as_str()));
        let keeps_bundle = setup.keeps_bundle();
        let given = setup.command_line.config();
        let pid = view.master();
        let also = given.filter(|path| *path != "-").map(|path| PathBuf::from(path.to_owned()));
        let compare = move || {
            let named = |path: PathBuf| if path.is_absolute() { procs::in_root_of(pid, &path) } else { path };
            ReleaseDiff::between(&old, &new, keeps_bundle, also.map(named).as_deref())
        };
        let trouble = |message: String| Trouble::new(Reason::VolumeUnavailable, message);
        match self.files.run(LIMIT, compare).await {
            Some(compared) => compared.map(Some).map_err(|error| trouble(error.to_string())),
            None => {
                let releases = self.releases.display();
                Err(trouble(format!("{releases} did not answer within {LIMIT:?}")))
            }
        }
    }

    /// Bundler does not boot with another Ruby than the release wants, whichever way it is restarted.
    async fn refuse_another_ruby(
        &self,
        view: &View,
        change: Option<&ReleaseDiff>,
        release: &ReleaseId,
    ) -> Result<(), Trouble> {
        let Some(wanted) = change.and_then(|change| change.ruby.clone()) else { return Ok(()) };
        let other = image::another_ruby(&KIND, &self.files, view.master(), wanted.clone()).await?;
        let Some(found) = other else { return Ok(()) };
        let message = format!(
            "the Gemfile of {release} wants Ruby {wanted}, and this image brings {found}; roll the pods onto an image that \
             has it, and it is deployed"
        );
        Err(Trouble::new(Reason::NeedsImage, message))
    }
}

/// Phased where everything that changed is loaded by it and nothing speaks against it. If Puma
/// preloads after all, it falls back to a hot restart by itself.
fn choose_mode(view: &View, change: Option<&ReleaseDiff>) -> Mode {
    let allows = view.memory.setup.as_ref().is_some_and(allows_phased) && view.app_in_master().is_none();
    let Some(change) = change.filter(|_| can_be_phased(view) && allows) else { return Mode::Hot };
    if let Some(child) = view.family.long_lived_child() {
        let (pid, title) = (child.id.pid, &child.title);
        tracing::info!(pid, title, "hot: a phased restart would not renew this child of Puma's master");
        return Mode::Hot;
    }
    match &change.not_by_phased {
        None => Mode::Phased,
        Some(what) => {
            tracing::info!(what, "hot: a phased restart would not load everything");
            Mode::Hot
        }
    }
}

/// Neither kind of restart would bring the release: nothing is to be moved.
fn refuse_what_no_restart_loads(
    view: &View,
    change: Option<&ReleaseDiff>,
    release: &ReleaseId,
) -> Result<(), Trouble> {
    let Some(setup) = view.memory.setup.as_ref().filter(|_| !release.is_fallback()) else {
        return Ok(());
    };
    let another = |path: &&str| release_named(Path::new(path)).is_some_and(|named| named != release.as_str());
    let rackup = setup.command_line.rackup().filter(another);
    let rackup = rackup.or(change.and_then(|change| change.rackup.as_deref()));
    let changed = change.is_some_and(|change| change.bundle);
    let gemfile = setup.command_line.gemfile.as_deref().filter(another).filter(|_| changed);
    let why = match (&setup.restart_dir, rackup, gemfile) {
        (Some(RestartDir::Never(evidence)), ..) if !view.memory.moved => format!(
            "every restart of this Puma goes to the release that it was started in: {evidence}; set `directory` to the \
             link in Puma's configuration, as a literal, and restart the container once"
        ),
        (_, Some(path), _) => format!(
            "every restart of this Puma loads {path}, whichever release it works in: give it the rackup file \
             through the link, or by a relative path"
        ),
        (_, _, Some(path)) => format!(
            "every restart of this Puma takes its bundle from {path}, and the bundle of {release} is another: set \
             BUNDLE_GEMFILE to the Gemfile behind the link, and restart the container once"
        ),
        _ => return Ok(()),
    };
    Err(Trouble::new(Reason::RestartDirPinned, why))
}

/// Puma would end by the signal, or come back as something else.
fn may_be_told(view: &View, mode: Mode) -> Result<(), Trouble> {
    let refused = |message: String| Err(Trouble::new(Reason::ConfigInvalid, message));
    let pid = view.master();
    match mode {
        Mode::Hot if !view.family.takes_hot() => Err(deaf(pid, "SIGUSR2")),
        Mode::Phased if !view.family.catches_phased => Err(deaf(pid, "SIGUSR1")),
        Mode::Hot if loses_its_arguments(view) => refused(format!(
            "Puma {pid} was started by rackup with arguments that a hot restart leaves out: it would listen elsewhere; \
             start it with `puma` and a configuration"
        )),
        Mode::Hot if same_addresses() => refused(
            "the kernel places every image at the same addresses (kernel.randomize_va_space is 0), so that a hot \
             restart could not be seen; set it to 2 on the node"
                .into(),
        ),
        Mode::Hot | Mode::Phased => Ok(()),
    }
}

fn deaf(pid: i32, signal: &str) -> Trouble {
    let message = format!(
        "Puma's master {pid} has no handler for {signal} and would die of it: start Puma without PUMA_SKIP_SIGUSR2"
    );
    Trouble::new(Reason::ConfigInvalid, message)
}
