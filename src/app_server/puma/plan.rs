//! How this Puma can be moved to a release.

use std::{fs, io, path::Path, time::Duration};

use super::{
    Puma, Unseen, image,
    setting::{RestartDir, Setting},
    view::View,
};
use crate::{
    config::RestartMode,
    core::{Cwd, Mode, Plan, Reason, Sight, Trouble, requirement::Requirement},
    revision::ReleaseId,
};

/// What a phased restart does not load anew: the bundle, the Ruby, Puma's own configuration.
const NOT_LOADED_BY_PHASED: [&str; 3] = ["Gemfile.lock", ".ruby-version", "config/puma.rb"];

/// Files of a few kilobytes, on a volume that may be slow.
const LIMIT: Duration = Duration::from_secs(5);

/// A look may fall into a restart of somebody else's.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

impl Puma {
    pub(super) async fn plan_restart(
        &self,
        running: Option<&ReleaseId>,
        release: &ReleaseId,
    ) -> Result<Plan, Trouble> {
        let view = self.see_clearly().await?;
        self.refuse_a_stranger(&view)?;
        let mode = match self.mode {
            RestartMode::Hot => Mode::Hot,
            RestartMode::Phased if can_be_phased(&view) && !surely_preloads(&view) => Mode::Phased,
            // Puma would do it hot as well; asked for as what it is, it is also watched as that.
            RestartMode::Phased => Mode::Hot,
            RestartMode::Auto => self.choose_mode(&view, running, release).await?,
        };
        match mode {
            Mode::Hot if !view.family.takes_hot() => Err(deaf(view.master(), "SIGUSR2")),
            Mode::Phased if !view.family.catches_phased => Err(deaf(view.master(), "SIGUSR1")),
            mode => Ok(Plan { mode }),
        }
    }

    /// Reads binaries of the image: tens of megabytes at most.
    pub(super) async fn look_into_image(&self, requires: Vec<Requirement>) -> Result<Vec<String>, Trouble> {
        let Some(master) = self.memory.lock().await.followed else { return Ok(Vec::new()) };
        let looked = self
            .files
            .run(LIMIT, move || image::look(master.pid, &requires).map(|brought| brought.lacks(&requires)));
        let late = || {
            let message =
                format!("the image of Puma {} could not be looked into within {LIMIT:?}", master.pid);
            Trouble::new(Reason::VolumeUnavailable, message)
        };
        looked.await.ok_or_else(late)?.map_err(|error| match error.kind() {
            // Without this permission no restart could be proved either.
            io::ErrorKind::PermissionDenied => trouble_with(&Sight::NotPermitted),
            io::ErrorKind::NotFound => trouble_with(&Sight::Missing),
            _ => Trouble::new(Reason::Internal, format!("/proc/{}: {error}", master.pid)),
        })
    }

    /// A Puma that was never seen in a release of ours may be a sidecar's.
    fn refuse_a_stranger(&self, view: &View) -> Result<(), Trouble> {
        let known = view.memory.proven_ours || self.narrow.is_some();
        if known || view.cwd(view.master()) != Cwd::Elsewhere {
            return Ok(());
        }
        let (pid, releases) = (view.master(), self.releases.display());
        let message = format!(
            "the only Puma here, {pid}, runs in no release of {releases}: \
             start it in `current`, or name it in puma.match if it is meant"
        );
        Err(Trouble::new(Reason::WrongCwd, message))
    }

    async fn see_clearly(&self) -> Result<View, Trouble> {
        for _ in 0..TRIES {
            match self.see().await {
                Ok(view) if view.family.title.is_some() => return Ok(view),
                Ok(_) | Err(Unseen { sight: Sight::Unclear | Sight::Seen(_), .. }) => {
                    tokio::time::sleep(PAUSE).await
                }
                Err(Unseen { sight, .. }) => return Err(trouble_with(&sight)),
            }
        }
        Err(trouble_with(&Sight::Unclear))
    }

    /// Phased where everything that changed is loaded by it and nothing speaks against it. If Puma
    /// preloads after all, it falls back to a hot restart by itself.
    async fn choose_mode(
        &self,
        view: &View,
        running: Option<&ReleaseId>,
        release: &ReleaseId,
    ) -> Result<Mode, Trouble> {
        // Before anything was proved, where it works says what it was started from.
        let started_in = match view.cwd(view.master()) {
            Cwd::Release(release) => Some(release),
            Cwd::Elsewhere | Cwd::Unknown => None,
        };
        // What the image's code was booted with is not on the volume.
        let comparable = |running: &&ReleaseId| can_be_phased(view) && !running.is_fallback();
        let running = running.or(started_in.as_ref()).filter(comparable);
        let Some(running) = running else { return Ok(Mode::Hot) };
        let Some(setting) = &view.memory.setting else { return Ok(Mode::Hot) };
        if !setting.allows_phased() {
            return Ok(Mode::Hot);
        }
        let (old, new) = (self.releases.join(running.as_str()), self.releases.join(release.as_str()));
        match self.files.run(LIMIT, move || same_setup(&old, &new)).await {
            Some(Ok(true)) => Ok(Mode::Phased),
            Some(Ok(false)) => Ok(Mode::Hot),
            Some(Err(error)) => Err(Trouble::new(Reason::VolumeUnavailable, error.to_string())),
            None => Err(Trouble::new(
                Reason::VolumeUnavailable,
                format!("{} did not answer within {LIMIT:?}", self.releases.display()),
            )),
        }
    }
}

/// Phased stops one worker before it starts the next: with one worker that would be an outage.
pub(super) fn can_be_phased(view: &View) -> bool {
    view.cluster() == Some(true) && view.expected() >= 2
}

fn surely_preloads(view: &View) -> bool {
    view.memory.setting.as_ref().is_some_and(|setting| setting.surely_preloads)
}

impl Setting {
    /// Whether a phased restart would load a release, as far as the evidence goes.
    pub fn allows_phased(&self) -> bool {
        !self.preloads && self.restart_dir == RestartDir::Follows
    }
}

fn same_setup(old: &Path, new: &Path) -> io::Result<bool> {
    for file in NOT_LOADED_BY_PHASED {
        if content(&old.join(file))? != content(&new.join(file))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io::Error::new(e.kind(), format!("reading {}: {e}", path.display()))),
    }
}

fn deaf(pid: i32, signal: &str) -> Trouble {
    let message = format!(
        "Puma's master {pid} has no handler for {signal} and would die of it: start Puma without PUMA_SKIP_SIGUSR2"
    );
    Trouble::new(Reason::ConfigInvalid, message)
}

fn trouble_with(sight: &Sight) -> Trouble {
    let (reason, message) = match sight {
        Sight::Missing => {
            (Reason::AppServerMissing, "no Puma runs here; does the pod share its process namespace?")
        }
        Sight::Ambiguous => {
            (Reason::AppServerAmbiguous, "several Pumas run here; name one of them in puma.match")
        }
        Sight::NotPermitted => (
            Reason::NotPermitted,
            "Puma runs as another user; give the agent the same runAsUser and runAsGroup",
        ),
        Sight::Unclear | Sight::Seen(_) => {
            (Reason::AppServerMissing, "Puma is between two images and got no title for a while")
        }
    };
    Trouble::new(reason, message)
}
