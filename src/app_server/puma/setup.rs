//! How a Puma is set up: what decides where a restart goes to and which kind is possible. The same model is filled from
//! a running process (its command line, its environment, its configuration file) and, in CI, from the app's files.
//! Puma cannot be asked; so this is evidence that a plan weighs, and rarely proof.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    command_line::CommandLine,
    config_file::{Directory, Settings, seconds},
    evidence::{Evidence, Place},
    loads::{Loads, ending_in},
    started_by,
};
use crate::{
    app_server::{
        files,
        ruby::{follows, located, names_a_release},
    },
    plain_file,
    procs::{self, WorkingDirectory},
    volume,
};

/// Of `rails server`, which had it everywhere before Rails 7.1, and has it in development since.
const USUAL_PID_FILE: &str = "tmp/pids/server.pid";

/// A pid, and a line's end, in bytes.
const LARGEST_NUMBER: u64 = 64;

/// How a Puma is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup {
    /// The first number of Puma's version.
    pub(crate) major: Option<u32>,
    pub(crate) settings: Settings,
    pub(crate) web_concurrency: Evidence<String>,
    /// Where a restart goes to; `None` where only a running Puma shows it.
    pub(crate) restart_dir: Option<RestartDir>,
    /// Where the `tmp` of the release is.
    pub(crate) tmp: Tmp,
    /// Of a running Puma, as the following.
    pub(crate) command_line: CommandLine,
    /// An extension of the app that is loaded in the master itself.
    pub(crate) app_in_master: Option<&'static str>,
    /// What its configuration loads, where that cannot be told.
    pub(crate) unclear: Option<String>,
    /// Files that have this process's number, as Puma names them.
    pub(crate) pid_files: Vec<String>,
}

/// Where a restart goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RestartDir {
    /// A path through a link: to whatever the link points to then.
    Follows,
    /// Probably always to the same directory, for this reason.
    Fixed(String),
    /// Always to the same directory, for this reason.
    Never(String),
}

/// Where the release's `tmp` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tmp {
    /// It is not there, or not on the releases' volume.
    Own,
    /// On the releases' volume.
    OnVolume,
    /// Every pod that mounts this file system sees it.
    OnNetwork,
}

/// How the paths in a configuration are judged.
#[derive(Clone, Copy)]
enum Paths<'a> {
    /// In the file system of a running Puma. `sure`: which configuration it read.
    Process { pid: i32, pwd: Option<&'a str>, sure: bool },
    /// From the names alone, in CI. This is the link.
    Files { current: &'a Path },
}

impl Setup {
    /// Of a running Puma; `seen` is the command line that it had before its title. Asks the volume, so it may hang as
    /// long as that does.
    pub(crate) fn of_process(pid: i32, major: Option<u32>, seen: Option<&str>) -> Self {
        let command_line = CommandLine::of(pid, seen);
        let (files, sure) = command_line.config_files(&environment(pid));
        let read = |path: &PathBuf| {
            let text = files::text(&located(pid, path)).ok().flatten()?;
            Some((Settings::scan(path, &text), unclear(pid, path)))
        };
        let (settings, unclear) = files.iter().find_map(read).unwrap_or_else(|| (Settings::unread(), None));
        let mut settings = settings.started_with(command_line.arguments.clone().unwrap_or_default());
        if major >= Some(8) {
            settings.persistent_timeout = settings.persistent_timeout.or(persistent_timeout(pid));
        }
        let paths = Paths::Process { pid, pwd: command_line.pwd.as_deref(), sure };
        let web_concurrency = procs::environment(pid, "WEB_CONCURRENCY");
        Self {
            major,
            restart_dir: paths.restart_dir(&settings.directory),
            web_concurrency: Evidence::given(web_concurrency, Place::Environment("WEB_CONCURRENCY")),
            app_in_master: started_by::extension_of_an_app(pid),
            unclear,
            tmp: if settings.tmp_restart == Evidence::Default { Tmp::Own } else { tmp(pid) },
            pid_files: pid_files(pid, settings.pid_file.known().cloned()),
            settings,
            command_line,
        }
    }

    /// Of an app's files, for pods in which `current` is the link and releases have these directories for themselves.
    pub(crate) fn of_files(
        major: Option<u32>,
        settings: Settings,
        current: &Path,
        pod_dirs: &[PathBuf],
    ) -> Self {
        let own_tmp = pod_dirs.iter().any(|dir| dir == Path::new("tmp"));
        Self {
            major,
            restart_dir: Paths::Files { current }.restart_dir(&settings.directory),
            web_concurrency: Evidence::Unclear(None, Place::Environment("WEB_CONCURRENCY")),
            tmp: if own_tmp { Tmp::Own } else { Tmp::OnVolume },
            command_line: CommandLine::default(),
            app_in_master: None,
            unclear: None,
            pid_files: Vec::new(),
            settings,
        }
    }

    /// Files that a second Puma would take from this one, as it names them. Without a state file nobody else tells of
    /// the control socket.
    pub(super) fn shared_files(&self) -> Vec<String> {
        let control = self.settings.control_app.known().and_then(Option::as_deref);
        let socket = control.and_then(|url| url.strip_prefix("unix://"));
        self.pid_files.iter().cloned().chain(socket.map(str::to_owned)).collect()
    }

    /// Whether the app is loaded before the workers are forked: there is no phased restart then.
    pub(crate) fn preloads(&self) -> Evidence<bool> {
        self.settings.preload_app.clone().or(self.preloads_by_default())
    }

    /// From 7.0 on a cluster preloads unless it prunes Bundler. Before that Puma decides when it has read
    /// nothing but the environment: neither `workers` nor `prune_bundler` of its configuration matter then.
    fn preloads_by_default(&self) -> Evidence<bool> {
        let by_version = Place::Version(self.major);
        match (self.major, &self.settings.prune_bundler, &self.web_concurrency) {
            (Some(7..), Evidence::Unclear(_, place), _) => Evidence::Unclear(None, place.clone()),
            (Some(7..), prunes, _) => Evidence::Known(prunes.known() != Some(&true), by_version),
            (None, _, Evidence::Unclear(..)) => Evidence::Unclear(None, by_version),
            (_, _, Evidence::Unclear(_, place)) => Evidence::Unclear(None, place.clone()),
            (_, _, Evidence::Known(count, place)) => Evidence::Known(is_several(count), place.clone()),
            (_, _, Evidence::Default) => Evidence::Known(false, by_version),
        }
    }

    /// What it is, and a path in one release that every restart goes on with: the rackup file is read at each boot by
    /// the path that was given, Bundler keeps to its own, and a restart command is what it is.
    pub(crate) fn pinned(&self) -> Vec<(&'static str, &str)> {
        let command = self.settings.restart_command.known().map(String::as_str).unwrap_or_default();
        let given = [
            ("the rackup file", self.settings.rackup.known().map(String::as_str)),
            ("BUNDLE_GEMFILE", self.command_line.gemfile.as_deref()),
            ("`restart_command`", command.split_whitespace().find(|word| names_a_release(Path::new(word)))),
        ];
        let paths = given.into_iter().filter_map(|(what, path)| Some((what, path?)));
        paths.filter(|(_, path)| names_a_release(Path::new(path))).collect()
    }

    /// `-C` into a release.
    pub(crate) fn pinned_config(&self) -> Option<&str> {
        self.command_line.config().filter(|path| names_a_release(Path::new(path)))
    }

    /// A phased restart keeps the bundle that the master was started with.
    pub(crate) fn keeps_bundle(&self) -> bool {
        self.settings.prune_bundler.known() != Some(&true)
    }
}

impl Paths<'_> {
    /// Puma's rule: `directory`, else PWD where that is the working directory, else the working directory.
    fn restart_dir(self, directory: &Evidence<Directory>) -> Option<RestartDir> {
        let own_place = |text: &str| text.contains("__dir__") || text.contains("__FILE__");
        let is_sure = matches!(self, Self::Process { sure: true, .. });
        let (sure, evidence) = match (directory, self) {
            (Evidence::Known(Directory::Literal(path), _), _) if self.follows(path) => {
                return Some(RestartDir::Follows);
            }
            (Evidence::Known(Directory::Literal(path), place), _) if names_a_release(Path::new(path)) => {
                (is_sure || matches!(self, Self::Files { .. }), format!("{place} (it names one release)"))
            }
            (Evidence::Known(Directory::Literal(_), place), _) => {
                (is_sure, format!("{place} (it does not go through the link)"))
            }
            // From the file's own place Ruby gives the resolved one.
            (Evidence::Known(Directory::Computed(text), place), _) if own_place(text) => {
                (is_sure, format!("{place} (it is the release that the configuration was read from)"))
            }
            (Evidence::Known(Directory::Computed(text), place), _) if text.contains("realpath") => {
                (false, format!("{place} (it is resolved once: a phased restart goes to the old release)"))
            }
            (Evidence::Known(Directory::Computed(_), place), Self::Process { .. }) => {
                (false, format!("{place} (it is computed, and a computed path is mostly a resolved one)"))
            }
            (Evidence::Default, Self::Process { pwd: Some(path), .. }) if self.follows(path) => {
                return Some(RestartDir::Follows);
            }
            (Evidence::Default, Self::Process { pwd, .. }) => {
                let pwd =
                    pwd.map_or("not set".into(), |path| format!("{path} (it does not go through the link)"));
                (is_sure, format!("`directory` is not set, and PWD was {pwd}"))
            }
            _ => return None,
        };
        Some(if sure { RestartDir::Never(evidence) } else { RestartDir::Fixed(evidence) })
    }

    fn follows(self, path: &str) -> bool {
        match self {
            Self::Process { pid, .. } => follows(pid, path),
            Self::Files { current } => Path::new(path).starts_with(current),
        }
    }
}

/// Of the environment's number of workers.
fn is_several(count: &str) -> bool {
    let count = count.trim();
    count == "auto" || count.parse::<u32>().is_ok_and(|workers| workers > 1)
}

/// Puma 8 takes it from there as well.
fn persistent_timeout(pid: i32) -> Evidence<Duration> {
    const NAME: &str = "PUMA_PERSISTENT_TIMEOUT";
    let given = procs::environment(pid, NAME).filter(|text| !text.is_empty());
    match given.as_deref().map(seconds) {
        Some(Ok(number)) => Evidence::Known(number, Place::Environment(NAME)),
        Some(Err(_)) => Evidence::Unclear(None, Place::Environment(NAME)),
        None => Evidence::Default,
    }
}

/// As Puma looks for it.
fn environment(pid: i32) -> String {
    let names = ["APP_ENV", "RACK_ENV", "RAILS_ENV"];
    names.iter().find_map(|name| procs::environment(pid, name)).unwrap_or_else(|| "development".into())
}

/// What this configuration loads besides, where that cannot be told.
fn unclear(pid: i32, file: &Path) -> Option<String> {
    let release = located(pid, Path::new(""));
    let named = ending_in(&release, file).unwrap_or_else(|| located(pid, file));
    Loads::of(&release, &[named]).ok()?.unclear
}

/// Where `rails server` keeps its number, and Puma.
fn pid_files(pid: i32, of_puma: Option<String>) -> Vec<String> {
    let Ok(cwd) = WorkingDirectory::of(pid) else { return Vec::new() };
    let given = procs::environment(pid, "PIDFILE").filter(|path| !path.is_empty());
    let mut names = vec![given.unwrap_or_else(|| USUAL_PID_FILE.into())];
    names.extend(of_puma.filter(|name| !names.contains(name)));
    let number = |name: &String| {
        let file = procs::in_root_of(pid, &cwd.name.join(name));
        plain_file::read_to_string(&file, LARGEST_NUMBER).ok()?.trim().parse().ok()
    };
    names.retain(|name| number(name).is_some_and(|number: i32| Some(number) == own_number(pid)));
    names
}

/// A process's number as it knows it itself, in the innermost of its namespaces.
fn own_number(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last()?.parse().ok()
}

fn tmp(pid: i32) -> Tmp {
    let cwd = PathBuf::from(format!("/proc/{pid}/cwd"));
    let found = cwd.join("tmp");
    match (device(&found), device(&cwd)) {
        _ if volume::is_networked(&found) => Tmp::OnNetwork,
        (Ok(tmp), Ok(release)) if tmp == release => Tmp::OnVolume,
        _ => Tmp::Own,
    }
}

fn device(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|found| found.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preload_by_default_depends_on_the_version_and_how_the_workers_are_told() {
        // Version, WEB_CONCURRENCY, prune_bundler, and what Puma's boot log says then.
        for (major, web_concurrency, prunes, preloads) in [
            (5, None, false, false),
            (5, Some("2"), false, true),
            (6, Some("1"), false, false),
            (6, Some("2"), true, true),
            (6, Some("auto"), false, true),
            (8, None, false, true),
            (8, Some("1"), false, true),
            (8, None, true, false),
            (8, Some("2"), true, false),
        ] {
            let text = if prunes { "prune_bundler" } else { "" };
            let settings = Settings::scan(Path::new("config/puma.rb"), text);
            let files = Setup::of_files(Some(major), settings, Path::new("/srv/app/current"), &[]);
            let told = web_concurrency.map(str::to_owned);
            let web_concurrency = Evidence::given(told, Place::Environment("WEB_CONCURRENCY"));
            let found = Setup { web_concurrency: web_concurrency.clone(), ..files }.preloads();
            assert_eq!(found.known(), Some(&preloads), "{major} {web_concurrency:?} {prunes}");
        }
    }
}
