//! Puma's configuration file, as far as its plain statements tell. It is a program, and nobody but Puma can
//! run it; so this is evidence, and what is computed or depends on something is not known.

use std::{path::Path, time::Duration};

use super::{
    command_line::Arguments,
    evidence::{Evidence, Place},
    statements::{self, Statement},
};
use crate::app_server::ruby::{call, literal};

/// The settings that matter to pitstop. To know of another one, add its line here and in [`Settings::of`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(crate) directory: Evidence<Directory>,
    pub(crate) preload_app: Evidence<bool>,
    pub(crate) prune_bundler: Evidence<bool>,
    pub(crate) rackup: Evidence<String>,
    /// What a hot restart runs instead of Puma's own command line.
    pub(crate) restart_command: Evidence<String>,
    /// The plugin that restarts Puma when `tmp/restart.txt` is touched.
    pub(crate) tmp_restart: Evidence<()>,
    pub(crate) workers: Evidence<u64>,
    /// Its address, where that is plain text.
    pub(crate) control_app: Evidence<Option<String>>,
    pub(crate) state_path: Evidence<String>,
    pub(crate) pid_file: Evidence<String>,
    pub(crate) worker_shutdown_timeout: Evidence<Duration>,
    pub(crate) worker_check_interval: Evidence<Duration>,
    pub(crate) worker_timeout: Evidence<Duration>,
    pub(crate) worker_boot_timeout: Evidence<Duration>,
    pub(crate) persistent_timeout: Evidence<Duration>,
}

/// The directory that a restart goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Directory {
    Literal(String),
    Computed(String),
}

/// Have other text read as configuration.
const READERS: [&str; 4] = ["load", "_load_from", "eval", "instance_eval"];

impl Settings {
    /// What this file sets.
    pub(crate) fn scan(path: &Path, text: &str) -> Self {
        let statements = statements::of(text);
        let reads = |statement: &&Statement| READERS.iter().any(|reader| names(&statement.bare, reader));
        let reads_more = statements.iter().rfind(reads).map(|statement| place(path, statement));
        Self::of(&Source { path, statements, reads_more })
    }

    /// Of a file that cannot be read: it may set anything.
    pub(crate) fn unread() -> Self {
        Self::of(&Source { path: Path::new(""), statements: vec![], reads_more: Some(Place::Unread) })
    }

    fn of(source: &Source<'_>) -> Self {
        Self {
            directory: source.find("directory", directory),
            preload_app: source.find("preload_app!", flag),
            prune_bundler: source.find("prune_bundler", flag),
            rackup: source.find("rackup", text),
            restart_command: source.find("restart_command", |rest| literal(rest).ok_or(Some(rest.into()))),
            tmp_restart: source.find("tmp_restart", |_| Ok(())),
            workers: source.find("workers", |rest| number(rest).ok_or(None)),
            // Its address, as it comes to be, and its token are in the state file.
            control_app: source.find("activate_control_app", |rest| Ok(literal(rest))),
            state_path: source.find("state_path", text),
            pid_file: source.find("pidfile", text),
            worker_shutdown_timeout: source.find("worker_shutdown_timeout", seconds),
            worker_check_interval: source.find("worker_check_interval", seconds),
            worker_timeout: source.find("worker_timeout", seconds),
            worker_boot_timeout: source.find("worker_boot_timeout", seconds),
            persistent_timeout: source.find("persistent_timeout", seconds),
        }
    }

    /// Of a running Puma: its command line counts first. What decides on a restart counts as set where it can be read.
    pub(crate) fn started_with(self, arguments: Arguments) -> Self {
        Self {
            directory: arguments.directory.or(self.directory.weighed()),
            preload_app: arguments.preload_app.or(self.preload_app.weighed()),
            prune_bundler: self.prune_bundler.weighed(),
            rackup: arguments.rackup.or(self.rackup.weighed()),
            restart_command: self.restart_command.weighed(),
            tmp_restart: self.tmp_restart.weighed(),
            ..self
        }
    }

    /// Those that are numbers of seconds, by their names.
    pub(crate) fn time_outs(&self) -> [(&'static str, &Evidence<Duration>); 5] {
        [
            ("worker_shutdown_timeout", &self.worker_shutdown_timeout),
            ("worker_check_interval", &self.worker_check_interval),
            ("worker_timeout", &self.worker_timeout),
            ("worker_boot_timeout", &self.worker_boot_timeout),
            ("persistent_timeout", &self.persistent_timeout),
        ]
    }
}

struct Source<'a> {
    path: &'a Path,
    statements: Vec<Statement>,
    /// Here other text is read as configuration, which may set anything.
    reads_more: Option<Place>,
}

impl Source<'_> {
    /// The last statement counts. `read` gives a plain value, or else what it probably comes to.
    fn find<T>(&self, setting: &str, read: impl Fn(&str) -> Result<T, Option<T>>) -> Evidence<T> {
        let more = self.reads_more.clone();
        let unset = more.map_or(Evidence::Default, |place| Evidence::Unclear(None, place));
        self.statements.iter().fold(unset, |earlier, statement| {
            let place = || place(self.path, statement);
            match given(setting, &statement.text).map(&read) {
                Some(Ok(value)) if statement.sure => Evidence::Known(value, place()),
                Some(value) => Evidence::Unclear(value.map_or_else(|guess| guess, Some), place()),
                None if mentions(setting, statement) => Evidence::Unclear(earlier.likely(), place()),
                None => earlier,
            }
        })
    }
}

fn place(path: &Path, statement: &Statement) -> Place {
    let text = statement.text.chars().take(80).collect();
    Place::Line { file: path.to_owned(), line: statement.line, statement: text }
}

/// What this call gives the setting: a method of Puma, or the plugin `tmp_restart`.
fn given<'a>(setting: &str, text: &'a str) -> Option<&'a str> {
    let (method, rest) = call(text)?;
    let sets = match setting {
        "tmp_restart" => method == "plugin" && rest.trim_start_matches([':', '"', '\'']).starts_with(setting),
        _ => method == setting,
    };
    sets.then_some(rest)
}

/// A statement that names a setting may set it when it runs; so may one that sends a method by its name in quotes.
fn mentions(setting: &str, statement: &Statement) -> bool {
    let sends =
        setting == "tmp_restart" || ["send", "public_send"].iter().any(|send| names(&statement.bare, send));
    names(&statement.bare, setting) || (sends && statement.text.contains(setting))
}

/// Whether a text has this name, and does not assign to it.
fn names(bare: &str, word: &str) -> bool {
    let assigned = bare.split_once(" = ").filter(|(name, _)| is_name(name.trim()));
    let text = assigned.map_or(bare, |(_, value)| value);
    text.split(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '!')).any(|one| one == word)
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// What an expression comes to may be clear too: it has the file's own place in it.
fn directory(rest: &str) -> Result<Directory, Option<Directory>> {
    Ok(literal(rest).map_or_else(|| Directory::Computed(rest.to_owned()), Directory::Literal))
}

fn flag(rest: &str) -> Result<bool, Option<bool>> {
    match rest.trim_end_matches([')', ' ']) {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        other => Err(Some(!other.starts_with("false"))),
    }
}

fn text(rest: &str) -> Result<String, Option<String>> {
    literal(rest).ok_or(None)
}

/// A number of seconds.
pub(super) fn seconds(rest: &str) -> Result<Duration, Option<Duration>> {
    number(rest).map(Duration::from_secs).ok_or(None)
}

fn number(arguments: &str) -> Option<u64> {
    let number = &arguments[..arguments.find([' ', ')']).unwrap_or(arguments.len())];
    number.replace('_', "").parse().ok()
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A configuration in Ruby is evidence at most.
    pub(crate) fn ruby(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let settings = Settings::scan(Path::new("config/puma.rb"), &text);
        let _ = settings.time_outs();
        let _ = super::super::binds::config_file(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Settings {
        Settings::scan(Path::new("config/puma.rb"), text)
    }

    fn line(line: usize, statement: &str) -> Place {
        Place::Line { file: "config/puma.rb".into(), line, statement: statement.into() }
    }

    #[test]
    fn only_plain_lines_of_a_configuration_count() {
        let found = scan("# preload_app!\n  directory '/srv/app/current' # here\nprune_bundler\n");
        assert_eq!(found.directory.known(), Some(&Directory::Literal("/srv/app/current".into())));
        assert_eq!((found.preload_app, found.prune_bundler.known()), (Evidence::Default, Some(&true)));
    }

    #[test]
    fn preload_can_be_turned_off() {
        for (text, known, likely) in [
            ("preload_app!", Some(true), true),
            ("preload_app! if ENV['X']", None, true),
            ("preload_app!(false)", Some(false), false),
            ("preload_app! false", Some(false), false),
        ] {
            let found = scan(text).preload_app;
            assert_eq!((found.known().copied(), found.likely()), (known, Some(likely)), "{text}");
        }
    }

    #[test]
    fn paths_and_commands_are_understood_where_they_are_plain() {
        let found = scan("rackup '/srv/app/releases/v1/config.ru'\nrestart_command 'bin/puma'\n");
        assert_eq!(found.rackup.known().unwrap(), "/srv/app/releases/v1/config.ru");
        assert_eq!(found.restart_command.known().unwrap(), "bin/puma");
        assert_eq!(scan("rackup DefaultRackup if x\n").rackup.likely(), None);
        assert_eq!(scan("restart_command ENV['X']").restart_command.likely().unwrap(), "ENV['X']");
        for text in ["plugin :tmp_restart", "plugin 'tmp_restart'", "plugin(:tmp_restart)"] {
            assert_eq!(scan(text).tmp_restart, Evidence::Known((), line(1, text)), "{text}");
        }
        assert_eq!(scan("plugin :solid_queue\n# plugin :tmp_restart").tmp_restart, Evidence::Default);
    }

    #[test]
    fn a_time_out_is_known_where_it_is_a_number_without_a_condition() {
        let timeout = |line: &str| scan(line).worker_timeout.or_default(Duration::ZERO).map(|d| d.as_secs());
        assert_eq!(timeout("worker_timeout 25 # s"), Some(25));
        assert_eq!(timeout("worker_timeout(3_600)"), Some(3_600));
        assert_eq!(
            timeout("worker_timeout 3600 if ENV.fetch('RAILS_ENV', 'development') == 'development'"),
            None
        );
        assert_eq!(timeout("worker_timeout Integer(ENV['T'])"), None);
        assert_eq!(timeout(""), Some(0), "the default");
    }

    #[test]
    fn what_another_file_may_set_or_a_condition_changes_is_not_known() {
        for text in [
            "load 'shared.rb'",
            "worker_timeout 90\nworker_timeout(30) if ENV['X']",
            "if x\n  worker_timeout 90\nend",
        ] {
            assert!(matches!(scan(text).worker_timeout, Evidence::Unclear(..)), "{text}");
        }
        let later = scan("workers ENV['X']\nworkers 3\nworker_timeout 90");
        assert_eq!(later.workers, Evidence::Known(3, line(2, "workers 3")));
        assert_eq!(later.worker_timeout.known(), Some(&Duration::from_secs(90)));
        assert_eq!(scan("workers = 3\nthreads 1, 2").workers, Evidence::Default);
        assert_eq!(Settings::unread().rackup, Evidence::Unclear(None, Place::Unread));
    }

    #[test]
    fn a_computed_directory_is_no_literal() {
        for text in ["File.expand_path('..', __dir__)", "\"#{root}/current\"", "root"] {
            let found = scan(&format!("directory {text}")).directory;
            assert_eq!(found.known(), Some(&Directory::Computed(text.into())), "{text}");
        }
    }

    #[test]
    fn the_command_line_counts_before_the_file() {
        let arguments = Arguments::of("puma --dir /srv/app/current --preload app.ru").unwrap();
        let file = scan("directory '/app'\npreload_app! false\nrackup 'config.ru'\nprune_bundler if x");
        let found = file.started_with(arguments);
        let place = |argument: &str| Place::CommandLine(argument.into());
        assert_eq!(
            found.directory,
            Evidence::Known(Directory::Literal("/srv/app/current".into()), place("--dir /srv/app/current"))
        );
        assert_eq!(found.preload_app, Evidence::Known(true, place("--preload")));
        assert_eq!(found.rackup, Evidence::Known("app.ru".into(), place("app.ru")));
        assert_eq!(found.prune_bundler.known(), Some(&true), "it probably is");
    }
}
