//! How a Unicorn was set up, as far as its environment and a release's configuration tell: evidence, and
//! never proof.

use std::path::{Path, PathBuf};

use crate::{
    app_server::{
        files,
        ruby::{call, follows, literal, names_a_release},
    },
    procs,
};

/// What the evidence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup {
    /// Why the next master may not follow the link; `None` when it does.
    pub(crate) may_not_follow: Option<String>,
    /// Paths of one release that it was given, in words.
    pub(crate) pinned: Vec<String>,
    /// The bundle that every master after this one gets, where that is a release's.
    pub(crate) bundle: Option<String>,
    /// What its configuration says.
    pub(crate) config: Lines,
}

/// The lines of a configuration that matter, where they stand alone and plain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// `working_directory`; inside, `None` when it is computed.
    pub(crate) directory: Option<Option<String>>,
    /// A hook ends the old master as soon as the new one forks its workers.
    pub(crate) ends_old_master: bool,
    /// A hook chooses the bundle of the next master.
    pub(crate) sets_bundle: bool,
    /// The pid file, where its name is a literal.
    pub(crate) pid_file: Option<String>,
}

impl Setup {
    /// Reads the evidence of a master. Asks the volume, so it may hang as long as that does.
    pub(crate) fn read(pid: i32, config_file: Option<&str>) -> Self {
        let cwd = PathBuf::from(format!("/proc/{pid}/cwd"));
        let config = config_file.map(|file| Lines::read(&located(pid, &cwd, file))).unwrap_or_default();
        let bundle = procs::environment(pid, "BUNDLE_GEMFILE")
            .filter(|path| names_a_release(Path::new(path)) && !config.sets_bundle);
        let told = config_file.filter(|file| names_a_release(Path::new(file)));
        let pinned = [
            told.map(|file| format!("`-c` is {file}")),
            bundle.as_ref().map(|file| format!("BUNDLE_GEMFILE was {file}")),
        ];
        Self {
            may_not_follow: may_not_follow(pid, &config),
            pinned: pinned.into_iter().flatten().collect(),
            bundle,
            config,
        }
    }
}

impl Lines {
    /// The configuration that a master would read in this release.
    pub(crate) fn of_release(pid: i32, release: &Path, config_file: Option<&str>) -> Self {
        config_file.map(|file| Self::read(&located(pid, release, file))).unwrap_or_default()
    }

    fn read(path: &Path) -> Self {
        files::text(path).ok().flatten().map(|text| Self::scan(&text)).unwrap_or_default()
    }

    fn scan(text: &str) -> Self {
        let mut found = Self::default();
        let code: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
        for line in &code {
            if let Some(("working_directory", arguments)) = call(line) {
                found.directory = Some(literal(arguments));
            }
            if let Some(("pid", arguments)) = call(line) {
                found.pid_file = literal(arguments);
            }
        }
        let has = |what: &str| code.iter().any(|line| line.contains(what));
        found.ends_old_master = has(".oldbin") && has("Process.kill");
        found.sets_bundle = has("before_exec") && has("BUNDLE_GEMFILE");
        found
    }
}

/// Relative to the directory; else as the process names it.
fn located(pid: i32, directory: &Path, file: &str) -> PathBuf {
    let file = Path::new(file);
    if file.is_absolute() { procs::in_root_of(pid, file) } else { directory.join(file) }
}

fn may_not_follow(pid: i32, config: &Lines) -> Option<String> {
    match &config.directory {
        Some(Some(path)) => {
            (!follows(pid, path)).then(|| format!("`working_directory` is {path}, which is not a link"))
        }
        Some(None) => {
            Some("`working_directory` is computed, and a computed path is usually a resolved one".into())
        }
        None => match procs::environment(pid, "PWD") {
            Some(path) => (!follows(pid, &path))
                .then(|| format!("there is no `working_directory`, and PWD was {path}, which is not a link")),
            None => Some("there is no `working_directory`, and PWD was not set".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_ends_the_old_master_is_seen_and_a_comment_is_none() {
        let recipe = "preload_app true\nbefore_fork do |server, worker|\n  old = \"#{server.config[:pid]}.oldbin\"\n  \
                      Process.kill(:QUIT, File.read(old).to_i) if File.exist?(old)\nend\n";
        assert!(Lines::scan(recipe).ends_old_master);
        let comments = recipe.replace("  ", "  # ");
        assert!(!Lines::scan(&comments).ends_old_master);
    }

    #[test]
    fn a_working_directory_is_a_literal_or_computed() {
        let directory = |text| Lines::scan(text).directory;
        assert_eq!(directory("working_directory '/srv/app/current'"), Some(Some("/srv/app/current".into())));
        assert_eq!(directory("working_directory(File.dirname(__dir__))"), Some(None));
        assert_eq!(directory("# working_directory '/x'"), None);
    }

    #[test]
    fn a_hook_that_chooses_the_bundle_is_seen() {
        let text = "before_exec do |_|\n  ENV['BUNDLE_GEMFILE'] = '/srv/app/current/Gemfile'\nend";
        assert!(Lines::scan(text).sets_bundle && !Lines::scan("before_exec { }").sets_bundle);
    }
}
