//! How a Puma was set up, as far as its environment, its command line and its configuration tell. Puma has
//! no way to be asked; so this is evidence that a plan weighs, and rarely proof.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    command_line::{CommandLine, release_named},
    config_file::{Directory, PumaConfig},
    loads::{Loads, ending_in},
    started_by,
};
use crate::{
    app_server::files,
    plain_file,
    procs::{self, WorkingDirectory},
    volume,
};

/// Of `rails server`, which had it everywhere before Rails 7.1, and has it in development since.
const USUAL_PID_FILE: &str = "tmp/pids/server.pid";

/// A pid, and a line's end, in bytes.
const LARGEST_NUMBER: u64 = 64;

/// What the evidence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup {
    /// Where a restart goes to.
    pub restart_dir: RestartDir,
    /// The app seems to be loaded before the workers are forked: no phased restart then.
    pub preloads: bool,
    /// The configuration, or the command line, says so.
    pub surely_preloads: bool,
    /// An extension of the app's that is loaded in the master itself.
    pub app_in_master: Option<&'static str>,
    /// What its configuration loads, where that cannot be told.
    pub unclear: Option<String>,
    /// Puma's configuration, where there is one that can be read.
    pub config: Option<PumaConfig>,
    /// How it was started.
    pub command_line: CommandLine,
    /// Where the `tmp` of the release lies.
    pub tmp: Tmp,
    /// A file below the release that has this process's number.
    pub pid_file: Option<String>,
}

/// Where a restart goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::app_server) enum RestartDir {
    /// A path through a link: to whatever the link points to then.
    Follows,
    /// Probably always to the same directory, for this reason.
    Fixed(String),
    /// Always to the same directory, for this reason.
    Never(String),
}

/// Where the release's `tmp` lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tmp {
    /// It is not there, or not on the releases' volume.
    Own,
    /// On the releases' volume.
    OnVolume,
    /// Every pod that mounts this file system sees it.
    OnNetwork,
}

/// A path of one release that Puma was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pinned {
    /// What it is, for a sentence.
    pub what: &'static str,
    pub path: String,
}

impl Setup {
    /// Reads the evidence; `seen` is the command line that Puma had before its title. Asks the volume, so it
    /// may hang as long as that does.
    pub fn read(pid: i32, major: Option<u32>, seen: Option<&str>) -> Self {
        let command_line = CommandLine::of(pid, seen);
        let (files, sure) = command_line.config_files(&environment(pid));
        let mut config = files.iter().find_map(|path| read(pid, path)).map(|text| PumaConfig::scan(&text));
        // Puma 8 takes it from there as well; what is written in the configuration goes first.
        let by_variable = procs::environment(pid, "PUMA_PERSISTENT_TIMEOUT").filter(|text| !text.is_empty());
        if let (Some(config), Some(text)) = (&mut config, by_variable.filter(|_| major >= Some(8))) {
            config.default_keepalive(&text);
        }
        let told = config.clone().unwrap_or_default();
        let web_concurrency = procs::environment(pid, "WEB_CONCURRENCY");
        let by_default = preloads_by_default(major, web_concurrency.as_deref(), told.prunes_bundler);
        let by_argument = command_line.arguments.as_ref().is_some_and(|arguments| arguments.preload);
        let preload = told.preload.or(by_argument.then_some(true));
        Self {
            restart_dir: restart_dir(pid, &command_line, &told, sure),
            preloads: preload.unwrap_or(by_default),
            surely_preloads: preload == Some(true),
            app_in_master: started_by::extension_of_an_app(pid),
            unclear: unclear(pid, &files),
            tmp: if told.tmp_restart { tmp(pid) } else { Tmp::Own },
            pid_file: pid_file(pid),
            config,
            command_line,
        }
    }

    /// Paths of one release that every restart goes on with: the rackup file is read at each boot by the path
    /// that was given, Bundler keeps to its own, and a restart command is what it is.
    pub fn pinned(&self) -> Vec<Pinned> {
        let arguments = self.command_line.arguments.as_ref();
        let config = self.config.as_ref();
        let rackup = arguments.and_then(|given| given.rackup.as_deref());
        let command = config.and_then(|config| config.restart_command.as_deref());
        let named = command
            .and_then(|text| text.split_whitespace().find(|word| release_named(Path::new(word)).is_some()));
        let given = [
            ("the rackup file is", rackup.or(config.and_then(|config| config.rackup.as_deref()))),
            ("BUNDLE_GEMFILE was", self.command_line.gemfile.as_deref()),
            ("`restart_command` names", named),
        ];
        given.into_iter().filter_map(|(what, path)| pinned(what, path)).collect()
    }

    /// `-C` into a release.
    pub fn pinned_config(&self) -> Option<Pinned> {
        let arguments = self.command_line.arguments.as_ref();
        pinned("`-C` is", arguments.and_then(|given| given.config.as_deref()))
    }

    /// A phased restart keeps the bundle that the master was started with.
    pub fn keeps_bundle(&self) -> bool {
        !self.config.as_ref().is_some_and(|config| config.prunes_bundler)
    }
}

fn pinned(what: &'static str, path: Option<&str>) -> Option<Pinned> {
    let path = path.filter(|path| release_named(Path::new(path)).is_some())?;
    Some(Pinned { what, path: path.to_owned() })
}

/// As Puma looks for it.
fn environment(pid: i32) -> String {
    let names = ["APP_ENV", "RACK_ENV", "RAILS_ENV"];
    names.iter().find_map(|name| procs::environment(pid, name)).unwrap_or_else(|| "development".into())
}

/// By a path as the process names it.
fn read(pid: i32, path: &Path) -> Option<String> {
    files::text(&place(pid, path)).ok().flatten()
}

/// What the configuration that is read has loaded besides, where that cannot be told.
fn unclear(pid: i32, files: &[PathBuf]) -> Option<String> {
    let release = place(pid, Path::new(""));
    let file = files.iter().find(|file| place(pid, file).is_file())?;
    let named = ending_in(&release, file).unwrap_or_else(|| place(pid, file));
    Loads::of(&release, &[named]).ok()?.unclear
}

fn place(pid: i32, path: &Path) -> PathBuf {
    if path.is_absolute() {
        procs::in_root_of(pid, path)
    } else {
        PathBuf::from(format!("/proc/{pid}/cwd")).join(path)
    }
}

/// From 7.0 on a cluster preloads unless it prunes Bundler. Before that Puma decides when it has read
/// nothing but the environment: neither `workers` nor `prune_bundler` of its configuration matter then.
fn preloads_by_default(major: Option<u32>, web_concurrency: Option<&str>, prunes_bundler: bool) -> bool {
    if major.is_some_and(|major| major >= 7) {
        return !prunes_bundler;
    }
    let several = |text: &str| text == "auto" || text.parse::<u32>().is_ok_and(|workers| workers > 1);
    web_concurrency.map(str::trim).is_some_and(several)
}

/// The rules of Puma: `directory`, else PWD where that is the working directory, else the working directory.
fn restart_dir(pid: i32, command_line: &CommandLine, config: &PumaConfig, sure: bool) -> RestartDir {
    let fixed =
        |evidence: String| if sure { RestartDir::Never(evidence) } else { RestartDir::Fixed(evidence) };
    let by_argument = command_line.arguments.as_ref().and_then(|arguments| arguments.dir.clone());
    match by_argument.map(Directory::Literal).as_ref().or(config.directory.as_ref()) {
        Some(Directory::Literal(path)) if follows(pid, path) => RestartDir::Follows,
        Some(Directory::Literal(path)) => fixed(format!("`directory` is {path}, which is no link")),
        // From the file's own place Ruby gives the resolved one.
        Some(Directory::Computed(text)) if text.contains("__dir__") || text.contains("__FILE__") => {
            fixed(format!("`directory` is {text}, which is the release that the configuration was read from"))
        }
        Some(Directory::Computed(text)) if text.contains("realpath") => RestartDir::Fixed(format!(
            "`directory` is {text}, which is resolved once: a phased restart goes to the old release"
        )),
        Some(Directory::Computed(_)) => {
            RestartDir::Fixed("`directory` is computed, and a computed path is mostly a resolved one".into())
        }
        None => match &command_line.pwd {
            Some(path) if follows(pid, path) => RestartDir::Follows,
            Some(path) => fixed(format!("there is no `directory`, and PWD was {path}, which is no link")),
            None => fixed("there is no `directory`, and PWD was not set".into()),
        },
    }
}

/// A path goes through a link, and does not name the running release itself.
pub(in crate::app_server) fn follows(pid: i32, path: &str) -> bool {
    let path = Path::new(path);
    let running = WorkingDirectory::of(pid).ok();
    let running = running.as_ref().and_then(|cwd| cwd.name.file_name());
    let names_the_release = path.components().any(|part| Some(part.as_os_str()) == running);
    let is_link = |path: &Path| {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { return false };
        fs::symlink_metadata(procs::in_root_of(pid, parent).join(name)).is_ok_and(|m| m.is_symlink())
    };
    path.is_absolute() && !names_the_release && path.ancestors().any(is_link)
}

/// Where `rails server` keeps its number, unless an absolute path takes that elsewhere.
fn pid_file(pid: i32) -> Option<String> {
    let given = procs::environment(pid, "PIDFILE").filter(|path| !path.is_empty());
    let name = given.unwrap_or_else(|| USUAL_PID_FILE.into());
    let cwd = WorkingDirectory::of(pid).ok().filter(|_| Path::new(&name).is_relative())?;
    let number =
        plain_file::read_to_string(&procs::in_root_of(pid, &cwd.name.join(&name)), LARGEST_NUMBER).ok()?;
    (number.trim().parse().ok() == own_number(pid)).then_some(name)
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
            let found = preloads_by_default(Some(major), web_concurrency, prunes);
            assert_eq!(found, preloads, "{major} {web_concurrency:?} {prunes}");
        }
    }
}
