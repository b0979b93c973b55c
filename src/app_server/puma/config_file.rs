//! Puma's configuration file, as far as its plain statements tell. It is a program, and nobody but Puma can
//! run it; so this is evidence, and what is computed or depends on something is not known.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::statements::{self, Statement, without_strings};

/// The few settings that matter, where they are plain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PumaConfig {
    pub directory: Option<Directory>,
    pub preload: Option<bool>,
    pub prunes_bundler: bool,
    pub rackup: Option<String>,
    /// What a hot restart runs in place of Puma's own command line.
    pub restart_command: Option<String>,
    /// Puma restarts when `tmp/restart.txt` is touched.
    pub tmp_restart: bool,
    pub workers: Option<u32>,
    pub state_path: Option<String>,
    pub worker_shutdown_timeout: Seconds,
    pub worker_check_interval: Seconds,
    pub worker_timeout: Seconds,
    pub worker_boot_timeout: Seconds,
    pub persistent_timeout: Seconds,
    /// The last place of each setting.
    places: BTreeMap<&'static str, Said>,
    /// Where the file has something else read or run, which may set anything.
    reads_more: Option<Place>,
}

/// Whether a setting is to be seen in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Nowhere: Puma's default holds, or what its command line or its environment says.
    Nowhere,
    /// In plain text.
    Plainly(Place),
    /// Computed, or only under a condition.
    Unclearly(Place),
}

/// A statement in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    pub line: usize,
    text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, `{}`", self.line, self.text)
    }
}

/// The directory that a restart goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Directory {
    /// In plain text.
    Literal(String),
    /// By this expression.
    Computed(String),
}

/// A number of seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Seconds {
    /// Not set: Puma's default holds.
    #[default]
    Unset,
    /// A plain number.
    Is(Duration),
    /// Computed, or set only under a condition.
    Unknown,
}

impl Seconds {
    fn of(arguments: &str, sure: bool) -> Self {
        let number = number(arguments).filter(|_| sure);
        number.map_or(Self::Unknown, |seconds| Self::Is(Duration::from_secs(seconds)))
    }

    /// What holds, if that is known.
    pub fn or(self, default: Duration) -> Option<Duration> {
        match self {
            Self::Unset => Some(default),
            Self::Is(duration) => Some(duration),
            Self::Unknown => None,
        }
    }
}

/// What is looked for. `tmp_restart` is a plugin, the others are methods.
const SETTINGS: [&str; 14] = [
    "directory",
    "preload_app!",
    "prune_bundler",
    "rackup",
    "restart_command",
    "tmp_restart",
    "workers",
    "activate_control_app",
    "state_path",
    "worker_shutdown_timeout",
    "worker_check_interval",
    "worker_timeout",
    "worker_boot_timeout",
    "persistent_timeout",
];

/// Those among them that are numbers of seconds.
pub(super) const TIME_OUTS: [&str; 5] = [
    "worker_shutdown_timeout",
    "worker_check_interval",
    "worker_timeout",
    "worker_boot_timeout",
    "persistent_timeout",
];

/// Have other text read as configuration.
const READERS: [&str; 4] = ["load", "_load_from", "eval", "instance_eval"];

impl PumaConfig {
    pub fn scan(text: &str) -> Self {
        let mut found = Self::default();
        for statement in statements::of(text) {
            found.take(&statement);
            found.note(&statement);
        }
        found.forget_what_is_unclear();
        found
    }

    /// What the environment says, where the file says nothing.
    pub fn default_keepalive(&mut self, seconds: &str) {
        if self.persistent_timeout == Seconds::Unset {
            self.persistent_timeout = Seconds::of(seconds, true);
        }
    }

    /// How the file sets this: a method of Puma's, or `tmp_restart`.
    pub fn said(&self, setting: &str) -> Said {
        match (self.places.get(setting), &self.reads_more) {
            (Some(said), _) => said.clone(),
            (None, Some(place)) => Said::Unclearly(place.clone()),
            (None, None) => Said::Nowhere,
        }
    }

    fn take(&mut self, statement: &Statement) {
        let Some((method, rest)) = call(&statement.text) else { return };
        let seconds = || Seconds::of(rest, statement.sure);
        match method {
            "directory" => {
                let computed = || Directory::Computed(rest.to_owned());
                self.directory = Some(literal(rest).map_or_else(computed, Directory::Literal));
            }
            "preload_app!" => self.preload = Some(!rest.starts_with("false")),
            "prune_bundler" => self.prunes_bundler = !rest.starts_with("false"),
            "rackup" => self.rackup = literal(rest),
            "restart_command" => {
                self.restart_command = Some(literal(rest).unwrap_or_else(|| rest.to_owned()));
            }
            "plugin" => self.tmp_restart |= names_plugin(rest),
            "workers" => self.workers = number(rest).and_then(|workers| workers.try_into().ok()),
            "state_path" => self.state_path = literal(rest),
            "worker_shutdown_timeout" => self.worker_shutdown_timeout = seconds(),
            "worker_check_interval" => self.worker_check_interval = seconds(),
            "worker_timeout" => self.worker_timeout = seconds(),
            "worker_boot_timeout" => self.worker_boot_timeout = seconds(),
            "persistent_timeout" => self.persistent_timeout = seconds(),
            _ => {}
        }
    }

    /// A number that something else may change is none.
    fn forget_what_is_unclear(&mut self) {
        let unclear = |setting| matches!(self.said(setting), Said::Unclearly(_));
        let unclear = TIME_OUTS.map(unclear);
        let numbers = [
            &mut self.worker_shutdown_timeout,
            &mut self.worker_check_interval,
            &mut self.worker_timeout,
            &mut self.worker_boot_timeout,
            &mut self.persistent_timeout,
        ];
        for (number, _) in numbers.into_iter().zip(unclear).filter(|(_, unclear)| *unclear) {
            *number = Seconds::Unknown;
        }
    }

    /// A statement that names a setting, and does not plainly set it, may do so when it is run.
    fn note(&mut self, statement: &Statement) {
        let bare = without_strings(&statement.text);
        let named = |word: &str| words(&bare).any(|one| one == word);
        let place = Place { line: statement.line, text: shortened(&statement.text) };
        if READERS.iter().any(|reader| named(reader)) {
            self.reads_more = Some(place.clone());
        }
        // A method by its name in quotes.
        let sent = named("send") || named("public_send");
        let called = call(&statement.text).filter(|_| statement.sure);
        for setting in SETTINGS {
            let plain = called.is_some_and(|(method, rest)| is_plain(setting, method, rest));
            let in_text = (sent || setting == "tmp_restart") && statement.text.contains(setting);
            if plain {
                self.places.insert(setting, Said::Plainly(place.clone()));
            } else if named(setting) || in_text {
                self.places.insert(setting, Said::Unclearly(place.clone()));
            }
        }
    }
}

/// Whether this call sets it, with a value that can be read.
fn is_plain(setting: &str, method: &str, rest: &str) -> bool {
    let rest = rest.trim_end_matches([')', ' ']);
    match setting {
        "tmp_restart" => method == "plugin" && names_plugin(rest),
        _ if method != setting => false,
        // How it is reached is in the state file.
        "activate_control_app" => true,
        "preload_app!" | "prune_bundler" => matches!(rest, "" | "true" | "false"),
        // What an expression comes to may be clear: it has the file's own place in it.
        "directory" => true,
        "rackup" | "restart_command" | "state_path" => literal(rest).is_some(),
        _ => number(rest).is_some(),
    }
}

fn names_plugin(rest: &str) -> bool {
    rest.trim_start_matches([':', '"', '\'']).starts_with("tmp_restart")
}

fn number(arguments: &str) -> Option<u64> {
    let number = &arguments[..arguments.find([' ', ')']).unwrap_or(arguments.len())];
    number.replace('_', "").parse().ok()
}

/// The names in a text, without what is given a value there.
fn words(bare: &str) -> impl Iterator<Item = &str> {
    let assigned = bare.split_once(" = ").filter(|(name, _)| is_name(name.trim()));
    let text = assigned.map_or(bare, |(_, value)| value);
    text.split(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '!'))
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The method that a line calls, and its arguments.
pub(in crate::app_server) fn call(line: &str) -> Option<(&str, &str)> {
    let end = line.find([' ', '(']).unwrap_or(line.len());
    let (method, rest) = line.split_at(end);
    let rest = rest.trim_start_matches([' ', '(']);
    let plain =
        !method.is_empty() && method.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'!'));
    let is_given_a_value = rest.starts_with("= ") || rest.starts_with("||=");
    (plain && !is_given_a_value).then_some((method, rest))
}

/// Plain text in quotes.
pub(in crate::app_server) fn literal(arguments: &str) -> Option<String> {
    let quote = arguments.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (inside, _) = arguments.get(1..)?.split_once(quote)?;
    (!inside.contains("#{")).then(|| inside.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_lines_of_a_configuration_count() {
        let text = "# preload_app!\n  directory '/srv/app/current' # here\nprune_bundler\n";
        let found = PumaConfig::scan(text);
        assert_eq!(found.directory, Some(Directory::Literal("/srv/app/current".into())));
        assert_eq!((found.preload, found.prunes_bundler), (None, true));
    }

    #[test]
    fn preload_can_be_turned_off() {
        for (text, preload) in [
            ("preload_app!", true),
            ("preload_app! if ENV['X']", true),
            ("preload_app!(false)", false),
            ("preload_app! false", false),
        ] {
            assert_eq!(PumaConfig::scan(text).preload, Some(preload), "{text}");
        }
    }

    #[test]
    fn paths_and_commands_are_understood_where_they_are_plain() {
        let found = PumaConfig::scan("rackup '/srv/app/releases/v1/config.ru'\nrestart_command 'bin/puma'\n");
        assert_eq!(found.rackup.as_deref(), Some("/srv/app/releases/v1/config.ru"));
        assert_eq!(found.restart_command.as_deref(), Some("bin/puma"));
        assert_eq!(PumaConfig::scan("rackup DefaultRackup if x\n").rackup, None);
        for text in ["plugin :tmp_restart", "plugin 'tmp_restart'", "plugin(:tmp_restart)"] {
            assert!(PumaConfig::scan(text).tmp_restart, "{text}");
        }
        assert!(!PumaConfig::scan("plugin :solid_queue\n# plugin :tmp_restart").tmp_restart);
    }

    #[test]
    fn a_time_out_is_known_where_it_is_a_number_without_a_condition() {
        let scan = |line: &str| PumaConfig::scan(line).worker_timeout;
        let seconds = |n| Seconds::Is(Duration::from_secs(n));
        assert_eq!(scan("worker_timeout 25 # s"), seconds(25));
        assert_eq!(scan("worker_timeout(3_600)"), seconds(3_600));
        assert_eq!(
            scan("worker_timeout 3600 if ENV.fetch('RAILS_ENV', 'development') == 'development'"),
            Seconds::Unknown
        );
        assert_eq!(scan("worker_timeout Integer(ENV['T'])"), Seconds::Unknown);
        assert_eq!(scan(""), Seconds::Unset);
        assert_eq!(seconds(5).or(Duration::ZERO), Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_another_file_may_set_or_a_condition_changes_is_not_known() {
        for text in [
            "load 'shared.rb'",
            "worker_timeout 90\nworker_timeout(30) if ENV['X']",
            "if x\n  worker_timeout 90\nend",
        ] {
            assert_eq!(PumaConfig::scan(text).worker_timeout, Seconds::Unknown, "{text}");
        }
        let later = PumaConfig::scan("workers ENV['X']\nworkers 3\nworker_timeout 90");
        assert_eq!((later.workers, later.worker_timeout), (Some(3), Seconds::Is(Duration::from_secs(90))));
        assert!(matches!(later.said("workers"), Said::Plainly(Place { line: 2, .. })));
        let assigned = PumaConfig::scan("workers = 3\nthreads 1, 2");
        assert_eq!((assigned.workers, assigned.said("workers")), (None, Said::Nowhere));
    }

    #[test]
    fn a_computed_directory_is_no_literal() {
        for text in ["File.expand_path('..', __dir__)", "\"#{root}/current\"", "root"] {
            let found = PumaConfig::scan(&format!("directory {text}")).directory;
            assert_eq!(found, Some(Directory::Computed(text.into())), "{text}");
        }
    }
}
