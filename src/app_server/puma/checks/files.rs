//! What only an app's files and pitstop's own configuration say, where no Puma runs: in CI. What is computed, or decided
//! by the environment or the command line, is reported as unknown.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use humantime::format_duration as show;

use super::{
    CONTROL, PUMA, beside, control_absent,
    given::{self, unclear},
    time_outs,
};
use crate::{
    app_server::puma::{control::USUAL_STATE_FILES, evidence::Evidence, restart_modes, setup::Setup},
    config::{self, RestartMode},
    finding::{Check, Code, Finding, Severity},
};

/// What pitstop is told about the pod that the app will run in.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// Of the key `restart.mode`.
    pub(crate) mode: RestartMode,
    pub(crate) puma: &'a config::Puma,
    /// The link that Puma is to be restarted from.
    pub(crate) current: PathBuf,
    /// The directories of a release that each pod has for itself.
    pub(crate) pod_dirs: &'a [PathBuf],
    pub(crate) grace_period: Duration,
    /// What of it is kept for Puma's own stop.
    pub(crate) reserve: Duration,
}

pub(in crate::app_server::puma) struct Files<'a> {
    /// The configuration, as it is called from the app's directory.
    pub(crate) path: &'a Path,
    pub(crate) setup: Setup,
    pub(crate) told: &'a Told<'a>,
}

impl Files<'_> {
    /// Everything that they show.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let (setup, told) = (&self.setup, self.told);
        let settings = &setup.settings;
        let bundle = match settings.prune_bundler {
            Evidence::Known(true, _) => "",
            _ => ", and whether a phased restart takes a new bundle",
        };
        let start = format!(
            "how it is started (command line, PWD, BUNDLE_GEMFILE){bundle} is known only where Puma runs"
        );
        let mut checks = vec![
            Check::fine(PUMA, format!("its configuration is {}", self.path.display())),
            Check::unknown(PUMA, start),
            given::restart_dir(setup, false),
        ];
        checks.extend(given::paths(setup));
        checks.push(given::phased(restart_modes::phased(Some(setup), &settings.workers, None), told.mode));
        checks.extend(beside::of_files(setup, told.mode));
        checks.push(self.control());
        let single = settings.workers.known() == Some(&0);
        checks.extend(time_outs::of(setup, told.puma.worker_shutdown_timeout, !single, Duration::ZERO));
        checks.extend(self.stop_time().filter(|_| !single));
        checks.extend(settings.time_outs().into_iter().filter_map(|(name, found)| match found {
            Evidence::Unclear(_, place) if !single || !name.starts_with("worker_") => {
                Some(unclear("time-outs", name, place))
            }
            _ => None,
        }));
        checks
    }

    fn control(&self) -> Check {
        let puma = self.told.puma;
        let elsewhere = puma.control_url.is_some() || puma.state_file.is_some();
        match &self.setup.settings.control_app {
            Evidence::Known(..) if puma.control_url.is_some() => {
                Check::fine(CONTROL, "is activated, and the agent knows its address (puma.control_url)")
            }
            Evidence::Known(..) => self.state_file(),
            Evidence::Unclear(_, place) => unclear(CONTROL, "whether there is one", place),
            Evidence::Default if elsewhere => Check::unknown(
                CONTROL,
                "there is no activate_control_app, and the agent was told where one is: Puma's command line has to \
                 start it (--control-url)",
            ),
            Evidence::Default => {
                let what = format!("{} has no activate_control_app", self.path.display());
                control_absent(&what).about(CONTROL)
            }
        }
    }

    /// Its address and its token are there for the agent.
    fn state_file(&self) -> Check {
        let written = match &self.setup.settings.state_path {
            Evidence::Unclear(_, place) => return unclear(CONTROL, "the path of its state file", place),
            Evidence::Known(path, _) => Some(Path::new(path)),
            Evidence::Default => None,
        };
        match (written, self.told.puma.state_file.as_deref()) {
            (Some(path), Some(file)) if path == file => {
                Check::fine(CONTROL, format!("is activated, and found by {}", path.display()))
            }
            (Some(path), None) if is_found(path, &self.told.current) => {
                Check::fine(CONTROL, format!("is activated, and found by {} in the release", path.display()))
            }
            (Some(path), Some(file)) => Check::unknown(
                CONTROL,
                format!(
                    "state_path is {}, and puma.state_file is {}: one file only if both containers mount it so",
                    path.display(),
                    file.display()
                ),
            ),
            (None, Some(file)) => Check::unknown(
                CONTROL,
                format!("there is no state_path: Puma's command line has to name {} (-S)", file.display()),
            ),
            (_, None) => Check::found(
                CONTROL,
                control_absent(
                    "Puma has a control server, and the agent was not told where (puma.state_file)",
                ),
            ),
        }
    }

    /// The keys alone are compared with what the agent was told; this is what Puma does.
    fn stop_time(&self) -> Option<Check> {
        let puma = *self.setup.settings.worker_shutdown_timeout.known()?;
        let (grace, reserve) = (self.told.grace_period, self.told.reserve);
        if puma <= reserve {
            return None;
        }
        let message = format!(
            "Puma gives requests {} to finish when it stops, and drain.reserve leaves it {} of grace_period {}. If a \
             drain ends at its deadline, the kubelet cuts what is still in flight",
            show(puma),
            show(reserve),
            show(grace)
        );
        let fix = format!(
            "worker_shutdown_timeout {} in config/puma.rb, or drain.reserve {} and a grace_period with that much more",
            reserve.as_secs(),
            show(puma)
        );
        // Without any drain it would be cut as well.
        let severity = if puma >= grace { Severity::Risky } else { Severity::Note };
        Some(Finding::of(severity, Code::StopTimeShort, message, fix).about("drain budget"))
    }
}

/// In the release, where the agent looks for it by itself.
fn is_found(path: &Path, current: &Path) -> bool {
    let path = path.strip_prefix(current).unwrap_or(path);
    USUAL_STATE_FILES.iter().any(|usual| path == Path::new(usual))
}
