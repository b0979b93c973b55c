//! Puma's configuration file, as far as single lines of it tell. It is a program, and nobody but Puma can
//! run it; so this is evidence, and what stands in no plain line of its own is not known.

use std::time::Duration;

/// The few lines that matter, where they stand alone and plain.
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
    pub worker_shutdown_timeout: Seconds,
    pub worker_check_interval: Seconds,
    pub worker_timeout: Seconds,
    pub worker_boot_timeout: Seconds,
    pub persistent_timeout: Seconds,
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
    fn of(arguments: &str) -> Self {
        let (number, rest) = arguments.split_at(arguments.find([' ', ')', '#']).unwrap_or(arguments.len()));
        let plain = !rest.contains(" if ") && !rest.contains(" unless ");
        let number = number.replace('_', "").parse().ok().filter(|_| plain);
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

impl PumaConfig {
    pub fn scan(text: &str) -> Self {
        let mut found = Self::default();
        text.lines().map(str::trim).for_each(|line| found.take(line));
        found
    }

    /// What the environment says, where the file says nothing.
    pub fn default_keepalive(&mut self, seconds: &str) {
        if self.persistent_timeout == Seconds::Unset {
            self.persistent_timeout = Seconds::of(seconds);
        }
    }

    fn take(&mut self, line: &str) {
        let Some((method, rest)) = call(line) else { return };
        match method {
            "directory" => {
                let computed = || Directory::Computed(rest.to_owned());
                self.directory = Some(literal(rest).map_or_else(computed, Directory::Literal));
            }
            "preload_app!" => self.preload = Some(!rest.starts_with("false")),
            "prune_bundler" => self.prunes_bundler = true,
            "rackup" => self.rackup = literal(rest),
            "restart_command" => {
                self.restart_command = Some(literal(rest).unwrap_or_else(|| rest.to_owned()));
            }
            "plugin" => {
                self.tmp_restart |= rest.trim_start_matches([':', '"', '\'']).starts_with("tmp_restart")
            }
            "worker_shutdown_timeout" => self.worker_shutdown_timeout = Seconds::of(rest),
            "worker_check_interval" => self.worker_check_interval = Seconds::of(rest),
            "worker_timeout" => self.worker_timeout = Seconds::of(rest),
            "worker_boot_timeout" => self.worker_boot_timeout = Seconds::of(rest),
            "persistent_timeout" => self.persistent_timeout = Seconds::of(rest),
            _ => {}
        }
    }
}

/// The method that a line calls, and its arguments.
pub(in crate::app_server) fn call(line: &str) -> Option<(&str, &str)> {
    let end = line.find([' ', '(']).unwrap_or(line.len());
    let (method, rest) = line.split_at(end);
    let plain =
        !method.is_empty() && method.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'!'));
    plain.then(|| (method, rest.trim_start_matches([' ', '('])))
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
    fn a_computed_directory_is_no_literal() {
        for text in ["File.expand_path('..', __dir__)", "\"#{root}/current\"", "root"] {
            let found = PumaConfig::scan(&format!("directory {text}")).directory;
            assert_eq!(found, Some(Directory::Computed(text.into())), "{text}");
        }
    }
}
