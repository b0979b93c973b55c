//! What Puma's configuration tells by itself, where no Puma runs. What is computed there, or decided by the
//! environment or the command line, is said to be unknown.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use humantime::format_duration as show;

use super::{CONTROL, PUMA, RESTARTS, control_absent, live, phased_unavailable, time_outs};
use crate::{
    app_server::puma::{
        command_line::release_named,
        config_file::{Directory, Place, PumaConfig, Said, Seconds, TIME_OUTS},
        setup::{Pinned, Tmp},
    },
    config::{self, RestartMode},
    finding::{Check, Code, Finding},
};

/// State files that the agent finds by itself, below the release.
const FOUND_STATE_FILES: [&str; 2] = ["tmp/pids/puma.state", "tmp/puma.state"];

const ONLY_THERE: &str = "known only where Puma runs";

/// What pitstop is told about the pod that the app will run in.
#[derive(Debug)]
pub struct Told<'a> {
    /// Of the key `restart.mode`.
    pub mode: RestartMode,
    /// Puma's section.
    pub puma: &'a config::Puma,
    /// The link that Puma is to be restarted from.
    pub current: PathBuf,
    /// The directories of a release that each pod has for itself.
    pub pod_dirs: &'a [PathBuf],
    /// The pod's terminationGracePeriodSeconds.
    pub grace_period: Duration,
    /// What of it is kept for Puma's own stop.
    pub reserve: Duration,
}

/// What was read.
pub(in crate::app_server::puma) struct Files {
    /// The configuration, and how it is called from the app's directory.
    pub config: Option<(PathBuf, PumaConfig)>,
    /// Puma's version in the bundle.
    pub version: Option<String>,
}

impl Files {
    /// The first number of the version.
    pub fn major(&self) -> Option<u32> {
        self.version.as_deref()?.split('.').next()?.parse().ok()
    }
}

/// Everything that they tell.
pub(in crate::app_server::puma) fn of(files: &Files, told: &Told<'_>) -> Vec<Check> {
    let mut checks = vec![version(files)];
    let Some((path, config)) = &files.config else {
        let why = "there is neither config/puma/production.rb nor config/puma.rb: name what -C names in Puma's \
                   command line (--puma-config)";
        return vec![checks.remove(0), Check::unknown(PUMA, why)];
    };
    let written = Written { path, config, files, told };
    checks.push(Check::fine(PUMA, format!("its configuration is read from {}", path.display())));
    checks.push(Check::unknown(
        PUMA,
        format!("how it is started (command line, PWD, BUNDLE_GEMFILE): {ONLY_THERE}"),
    ));
    checks.push(written.directory());
    checks.extend(written.rackup());
    checks.extend(written.restart_command());
    checks.push(written.phased());
    checks.extend(written.tmp_restart());
    checks.push(written.control());
    checks.extend(written.time_outs());
    checks
}

fn version(files: &Files) -> Check {
    match &files.version {
        Some(version) => Check::fine(PUMA, format!("{version} is in the bundle (Gemfile.lock)")),
        None => Check::unknown(PUMA, "its version, and with it its defaults: no Gemfile.lock has it"),
    }
}

struct Written<'a> {
    path: &'a Path,
    config: &'a PumaConfig,
    files: &'a Files,
    told: &'a Told<'a>,
}

/// Whether the app is loaded before the workers are forked.
enum Preloads {
    Yes(String),
    No,
    Unknown(String),
}

impl Written<'_> {
    fn at(&self, place: &Place) -> String {
        format!("{}, {place}", self.path.display())
    }

    fn unclear(&self, about: &'static str, what: &str, place: &Place) -> Check {
        Check::unknown(about, format!("{what}: {}, is {ONLY_THERE}", self.at(place)))
    }

    fn directory(&self) -> Check {
        let current = self.told.current.display();
        let place = match self.config.said("directory") {
            Said::Plainly(place) => place,
            Said::Unclearly(place) => return self.unclear(RESTARTS, "where they go to", &place),
            Said::Nowhere => {
                let why = format!(
                    "where they go to: without `directory` that is PWD, if Puma is started with it as {current}; \
                     directory '{current}', as a literal, settles it"
                );
                return Check::unknown(RESTARTS, why);
            }
        };
        match &self.config.directory {
            Some(Directory::Literal(path)) if Path::new(path).starts_with(&self.told.current) => {
                Check::fine(RESTARTS, format!("go to where {current} leads then (`directory`)"))
            }
            Some(Directory::Literal(path)) if release_named(Path::new(path)).is_some() => {
                live::never_follows(&format!("{}, names one release", self.at(&place)))
            }
            Some(Directory::Literal(_)) => {
                live::may_not_follow(&format!("{}, does not lead through {current}", self.at(&place)))
            }
            Some(Directory::Computed(text)) if text.contains("__dir__") || text.contains("__FILE__") => {
                let evidence = "is the release that the configuration was read from";
                live::may_not_follow(&format!("{}, {evidence}", self.at(&place)))
            }
            Some(Directory::Computed(text)) if text.contains("realpath") => {
                let evidence = "is resolved once: a phased restart goes to the old release";
                live::may_not_follow(&format!("{}, {evidence}", self.at(&place)))
            }
            _ => self.unclear(RESTARTS, "where they go to", &place),
        }
    }

    fn rackup(&self) -> Option<Check> {
        match self.config.said("rackup") {
            Said::Plainly(_) => {
                let path = self.config.rackup.clone()?;
                let names_one = release_named(Path::new(&path)).is_some();
                names_one.then(|| live::pinned(&Pinned { what: "the rackup file is", path }))
            }
            Said::Unclearly(place) => Some(self.unclear(RESTARTS, "which rackup file they load", &place)),
            Said::Nowhere => None,
        }
    }

    fn restart_command(&self) -> Option<Check> {
        match self.config.said("restart_command") {
            Said::Plainly(_) => live::restart_command(self.config),
            Said::Unclearly(place) => Some(self.unclear(RESTARTS, "what a hot one runs", &place)),
            Said::Nowhere => None,
        }
    }

    /// A plain number of workers.
    fn workers(&self) -> Option<u32> {
        matches!(self.config.said("workers"), Said::Plainly(_)).then_some(self.config.workers).flatten()
    }

    fn phased(&self) -> Check {
        let mode = self.told.mode;
        let said = self.config.said("workers");
        if let (Some(count @ (0 | 1)), Said::Plainly(place)) = (self.workers(), &said) {
            let what = if count == 0 { "Puma runs in single mode" } else { "Puma has one worker" };
            return phased_unavailable(&format!("{what} ({})", self.at(place)), mode);
        }
        match (self.preloads(), said) {
            (Preloads::Yes(why), _) => phased_unavailable(&why, mode),
            (Preloads::Unknown(why), _) => Check::unknown(RESTARTS, format!("phased: {why}")),
            (Preloads::No, Said::Plainly(_)) => {
                let bundle = match self.config.said("prune_bundler") {
                    Said::Plainly(_) if self.config.prunes_bundler => "and they take the new bundle",
                    _ => "whether they take a new bundle depends on how Puma is started",
                };
                Check::fine(
                    RESTARTS,
                    format!("phased: possible, as far as the configuration tells; {bundle}"),
                )
            }
            (Preloads::No, Said::Unclearly(place)) => {
                self.unclear(RESTARTS, "phased, which needs two workers or more", &place)
            }
            (Preloads::No, Said::Nowhere) => {
                let why = "phased: that needs two workers or more, and how many there are is not in the file \
                           (WEB_CONCURRENCY, -w)";
                Check::unknown(RESTARTS, why)
            }
        }
    }

    fn preloads(&self) -> Preloads {
        let unclear = |place: &Place| {
            Preloads::Unknown(format!("whether the app is preloaded ({}) is {ONLY_THERE}", self.at(place)))
        };
        match self.config.said("preload_app!") {
            Said::Plainly(place) if self.config.preload == Some(true) => {
                let pruned = match self.config.said("prune_bundler") {
                    Said::Plainly(_) => "; prune_bundler does nothing then",
                    _ => "",
                };
                Preloads::Yes(format!("Puma preloads its app ({}{pruned})", self.at(&place)))
            }
            Said::Plainly(_) => Preloads::No,
            Said::Unclearly(place) => unclear(&place),
            Said::Nowhere => self.preloads_by_default(unclear),
        }
    }

    /// Before 7.0 the environment decides, and nothing that is written in the file.
    fn preloads_by_default(&self, unclear: impl Fn(&Place) -> Preloads) -> Preloads {
        match (self.files.major(), self.config.said("prune_bundler")) {
            (Some(7..), Said::Unclearly(place)) => unclear(&place),
            (Some(7..), Said::Plainly(_)) if self.config.prunes_bundler => Preloads::No,
            (Some(major @ 7..), _) => {
                Preloads::Yes(format!("Puma {major} preloads its app by itself above one worker"))
            }
            (Some(major), _) => Preloads::Unknown(format!(
                "Puma {major} preloads its app where WEB_CONCURRENCY is above 1, unless `preload_app! false`"
            )),
            (None, _) => Preloads::Unknown(
                "whether the app is preloaded when nothing is said depends on Puma's version".into(),
            ),
        }
    }

    fn tmp_restart(&self) -> Option<Check> {
        let own = self.told.pod_dirs.iter().any(|dir| dir == Path::new("tmp"));
        match self.config.said("tmp_restart") {
            Said::Nowhere => None,
            _ if own => Some(live::tmp_restart(Tmp::Own)),
            Said::Plainly(_) => Some(live::tmp_restart(Tmp::OnVolume)),
            Said::Unclearly(place) => Some(self.unclear(RESTARTS, "the plugin tmp_restart", &place)),
        }
    }

    fn control(&self) -> Check {
        let told = self.told.puma;
        let elsewhere = told.control_url.is_some() || told.state_file.is_some();
        match self.config.said("activate_control_app") {
            Said::Plainly(_) if told.control_url.is_some() => {
                Check::fine(CONTROL, "is activated, and the agent is told its address (puma.control_url)")
            }
            Said::Plainly(_) => self.state_file(),
            Said::Unclearly(place) => self.unclear(CONTROL, "whether there is one", &place),
            Said::Nowhere if elsewhere => Check::unknown(
                CONTROL,
                "there is no activate_control_app, and the agent is told where one is: so Puma's command line has to \
                 bring it (--control-url)",
            ),
            Said::Nowhere => {
                let what = format!("{} has no activate_control_app", self.path.display());
                Check::found(CONTROL, control_absent(&what))
            }
        }
    }

    /// Its address and its token are there for the agent.
    fn state_file(&self) -> Check {
        let written = match self.config.said("state_path") {
            Said::Unclearly(place) => return self.unclear(CONTROL, "where its state file is", &place),
            Said::Plainly(_) => self.config.state_path.as_deref().map(Path::new),
            Said::Nowhere => None,
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
                    "state_path is {}, and puma.state_file {}: one file only if the two containers mount it so",
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
                    "Puma has a control server, and the agent is not told where (puma.state_file)",
                ),
            ),
        }
    }

    fn time_outs(&self) -> Vec<Check> {
        let single = self.workers() == Some(0);
        let mut checks = Vec::new();
        if !single {
            checks.extend(time_outs::shutdown_timeout(self.told.puma.worker_shutdown_timeout, self.config));
            checks.extend(self.stop_time());
            checks.extend(time_outs::check_interval(self.config));
            checks.extend(time_outs::worker_timeout(Duration::ZERO, self.config));
        }
        checks.extend(time_outs::keepalive(self.files.major(), self.config));
        let settings = TIME_OUTS.into_iter().filter(|setting| !single || !setting.starts_with("worker_"));
        checks.extend(settings.filter_map(|setting| match self.config.said(setting) {
            Said::Unclearly(place) => Some(self.unclear("time-outs", setting, &place)),
            Said::Plainly(_) | Said::Nowhere => None,
        }));
        checks
    }

    /// What the keys alone were compared with is what the agent was told; this is what Puma does.
    fn stop_time(&self) -> Option<Check> {
        let Seconds::Is(puma) = self.config.worker_shutdown_timeout else { return None };
        let (grace, reserve) = (self.told.grace_period, self.told.reserve);
        if puma <= reserve {
            return None;
        }
        let message = format!(
            "Puma gives requests {} to end when it is stopped, and of grace_period {} drain.reserve leaves it {}: what is \
             still in flight at the deadline of a drain is cut by the kubelet",
            show(puma),
            show(grace),
            show(reserve)
        );
        let remedy = format!(
            "worker_shutdown_timeout {} in config/puma.rb, or drain.reserve {} and a grace_period with that much more",
            reserve.as_secs(),
            show(puma)
        );
        // Without any drain it would be cut as well.
        let make = if puma >= grace { Finding::risky } else { Finding::note };
        Some(Check::found("drain budget", make(Code::StopTimeShort, message.as_str(), remedy.as_str())))
    }
}

/// In the release, where the agent looks for it by itself.
fn is_found(path: &Path, current: &Path) -> bool {
    let path = path.strip_prefix(current).unwrap_or(path);
    FOUND_STATE_FILES.iter().any(|usual| path == Path::new(usual))
}
