//! How a Puma was set up, as far as its environment and its release's `config/puma.rb` tell. Puma has
//! no way to be asked, and its command line is gone once it has a title; so this is evidence that a
//! plan weighs, and never proof.

use std::{fs, path::Path, time::Duration};

use crate::procs::{self, WorkingDirectory};

/// What the evidence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// Where a restart goes to.
    pub restart_dir: RestartDir,
    /// The app seems to be loaded before the workers are forked: no phased restart then.
    pub preloads: bool,
    /// The configuration says so in a line of its own.
    pub surely_preloads: bool,
    /// Paths of one release that Puma was given, in words.
    pub pinned: Vec<String>,
    /// Its `worker_shutdown_timeout`: `None` when there is no configuration to be read, or one that
    /// computes it; inside, `None` when it is left at Puma's default.
    pub shutdown_timeout: Option<Option<Duration>>,
}

/// Where a restart goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RestartDir {
    /// A path through a link: to whatever the link points to then.
    Follows,
    /// Probably always to the same directory, for this reason.
    Fixed(String),
}

impl Setting {
    /// Reads the evidence. Asks the volume, so it may hang as long as that does.
    pub fn read(pid: i32, major: Option<u32>) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/cwd/config/puma.rb"));
        let config = Config::scan(text.as_deref().unwrap_or_default());
        let web_concurrency = procs::environment(pid, "WEB_CONCURRENCY");
        let by_default = preloads_by_default(major, web_concurrency.as_deref(), config.prunes_bundler);
        Self {
            restart_dir: restart_dir(pid, config.directory),
            preloads: config.preload.unwrap_or(by_default),
            surely_preloads: config.preload == Some(true),
            pinned: pinned(pid, config.rackup),
            shutdown_timeout: text.is_ok().then_some(config.shutdown_timeout).and_then(|given| match given {
                None => Some(None),
                Some(seconds) => Some(Some(Duration::from_secs(seconds.parse().ok()?))),
            }),
        }
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

/// The few lines of a configuration that matter, where they stand alone and plain.
#[derive(Debug, Default, PartialEq, Eq)]
struct Config<'a> {
    directory: Option<Directory<'a>>,
    preload: Option<bool>,
    prunes_bundler: bool,
    rackup: Option<&'a str>,
    shutdown_timeout: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directory<'a> {
    Literal(&'a str),
    Computed,
}

impl<'a> Config<'a> {
    fn scan(text: &'a str) -> Self {
        let mut found = Self::default();
        for line in text.lines().map(str::trim) {
            if let Some(rest) = call(line, "directory") {
                found.directory = Some(literal(rest).map_or(Directory::Computed, Directory::Literal));
            } else if let Some(rest) = call(line, "preload_app!") {
                found.preload = Some(!rest.starts_with("false"));
            } else if call(line, "prune_bundler").is_some() {
                found.prunes_bundler = true;
            } else if let Some(rest) = call(line, "rackup") {
                found.rackup = literal(rest);
            } else if let Some(rest) = call(line, "worker_shutdown_timeout") {
                found.shutdown_timeout = rest.split([' ', ')', '#']).next();
            }
        }
        found
    }
}

/// The arguments, when the line calls this method.
fn call<'a>(line: &'a str, method: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(method)?;
    let ends_there = rest.is_empty() || rest.starts_with([' ', '(']);
    ends_there.then(|| rest.trim_start_matches([' ', '(']))
}

fn literal(arguments: &str) -> Option<&str> {
    let quote = arguments.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (inside, _) = arguments.get(1..)?.split_once(quote)?;
    (!inside.contains("#{")).then_some(inside)
}

/// The rackup file is read at each boot by the path that was given; Bundler keeps to its own.
fn pinned(pid: i32, rackup: Option<&str>) -> Vec<String> {
    let gemfile = procs::environment(pid, "BUNDLE_GEMFILE");
    let given = [("`rackup` is", rackup), ("BUNDLE_GEMFILE was", gemfile.as_deref())];
    let named = |(what, path): (&str, Option<&str>)| {
        let path = path.filter(|path| names_a_release(Path::new(path)))?;
        Some(format!("{what} {path}"))
    };
    given.into_iter().filter_map(named).collect()
}

/// `…/releases/v42/…`, in whichever container's words.
fn names_a_release(path: &Path) -> bool {
    let mut parts = path.components().map(|part| part.as_os_str());
    path.is_absolute() && parts.any(|part| part == "releases") && parts.next().is_some()
}

fn restart_dir(pid: i32, directory: Option<Directory<'_>>) -> RestartDir {
    match directory {
        Some(Directory::Literal(path)) if follows(pid, path) => RestartDir::Follows,
        Some(Directory::Literal(path)) => {
            RestartDir::Fixed(format!("`directory` is {path}, which is no link"))
        }
        Some(Directory::Computed) => {
            RestartDir::Fixed("`directory` is computed, and a computed path is mostly a resolved one".into())
        }
        None => match procs::environment(pid, "PWD") {
            Some(path) if follows(pid, &path) => RestartDir::Follows,
            Some(path) => {
                RestartDir::Fixed(format!("there is no `directory`, and PWD was {path}, which is no link"))
            }
            None => RestartDir::Fixed("there is no `directory`, and PWD was not set".into()),
        },
    }
}

/// A path goes through a link, and does not name the running release itself.
fn follows(pid: i32, path: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_lines_of_a_configuration_count() {
        let text = "# preload_app!\n  directory '/srv/app/current' # here\nprune_bundler\n";
        let found = Config::scan(text);
        assert_eq!(found.directory, Some(Directory::Literal("/srv/app/current")));
        assert_eq!((found.preload, found.prunes_bundler), (None, true));
    }

    #[test]
    fn preload_can_be_turned_off() {
        assert_eq!(Config::scan("preload_app!").preload, Some(true));
        assert_eq!(Config::scan("preload_app! if ENV['X']").preload, Some(true));
        assert_eq!(Config::scan("preload_app!(false)").preload, Some(false));
        assert_eq!(Config::scan("preload_app! false").preload, Some(false));
    }

    #[test]
    fn a_path_below_releases_names_one() {
        assert!(names_a_release(Path::new("/srv/app/releases/v1/Gemfile")));
        for path in ["/srv/app/current/Gemfile", "config.ru", "/srv/releases", "releases/v1/x"] {
            assert!(!names_a_release(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_rackup_file_and_a_shutdown_time_out_are_understood_where_they_are_plain() {
        let found = Config::scan("rackup '/srv/app/releases/v1/config.ru'\nworker_shutdown_timeout 25 # s\n");
        assert_eq!(found.rackup, Some("/srv/app/releases/v1/config.ru"));
        assert_eq!(found.shutdown_timeout, Some("25"));
        assert_eq!(Config::scan("rackup DefaultRackup if x\n").rackup, None);
    }

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

    #[test]
    fn a_computed_directory_is_no_literal() {
        for text in
            ["directory File.expand_path('..', __dir__)", "directory \"#{root}/current\"", "directory root"]
        {
            assert_eq!(Config::scan(text).directory, Some(Directory::Computed), "{text}");
        }
    }
}
