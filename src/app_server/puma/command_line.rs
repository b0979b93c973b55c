//! How a Puma was started: its arguments, what stands in front of it, and whose bundle it has.
//!
//! With its title Puma overwrites its own command line. It is known where it was seen before that, and where
//! something that stays in front of Puma still shows it.

use std::{fs, path::PathBuf};

use super::{
    config_file::Directory,
    evidence::{Evidence, Place},
    title,
};
use crate::procs::{self, Entry};

/// Shells, which die of a signal and hand none on.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "zsh", "ksh"];

/// Arguments of Puma's that count here and are followed by a value.
const WITH_VALUE: [&str; 5] = ["-C", "--config", "--dir", "-e", "--environment"];

/// What Bundler keeps of the environment that it has changed, when there was nothing.
const BUNDLER_FOUND_NOTHING: &str = "BUNDLER_ENVIRONMENT_PRESERVER_INTENTIONALLY_NIL";

/// How a Puma was started, as far as that is still to be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CommandLine {
    /// `None` when nobody shows them any more.
    pub(crate) arguments: Option<Arguments>,
    /// It was started by `rackup`, whose arguments a hot restart leaves out.
    pub(crate) by_rackup: bool,
    /// It was started by `bundle exec`.
    pub(crate) by_bundler: bool,
    /// The process in front of it.
    pub(crate) in_front: Option<InFront>,
    pub(crate) gemfile: Option<String>,
    pub(crate) pwd: Option<String>,
}

/// A process that started Puma and waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InFront {
    pub(crate) pid: i32,
    pub(crate) title: String,
    pub(crate) is_shell: bool,
}

/// What Puma was given on its command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(crate) config: Option<String>,
    pub(crate) environment: Option<String>,
    pub(crate) directory: Evidence<Directory>,
    pub(crate) rackup: Evidence<String>,
    pub(crate) preload_app: Evidence<bool>,
}

impl CommandLine {
    /// `seen` is the command line that it had before its title.
    pub(crate) fn of(pid: i32, seen: Option<&str>) -> Self {
        let in_front = in_front(pid);
        let shown = in_front.as_ref().map(|front| front.title.as_str());
        let command = seen.or(shown.filter(|title| starts_puma(title)));
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let by = |program: &str| comm.trim() == program || command.is_some_and(|text| names(text, program));
        Self {
            arguments: command.and_then(Arguments::of),
            by_rackup: by("rackup"),
            by_bundler: by("bundle"),
            gemfile: gemfile(pid),
            pwd: procs::environment(pid, "PWD"),
            in_front,
        }
    }

    pub(crate) fn config(&self) -> Option<&str> {
        self.arguments.as_ref()?.config.as_deref()
    }

    /// The configuration that Puma reads, as its processes name it, best first; and whether that is sure.
    pub(crate) fn config_files(&self, environment: &str) -> (Vec<PathBuf>, bool) {
        match self.arguments.as_ref().map(|arguments| arguments.config.as_deref()) {
            Some(Some("-")) => (Vec::new(), true),
            Some(Some(path)) => (vec![path.into()], true),
            known => {
                let given = self.arguments.as_ref().and_then(|arguments| arguments.environment.as_deref());
                let environment = given.unwrap_or(environment);
                let usual = [format!("config/puma/{environment}.rb"), "config/puma.rb".into()];
                (usual.map(PathBuf::from).into(), known.is_some())
            }
        }
    }
}

impl Arguments {
    /// `None` where the shell has yet to fill something in, and of what is not called `puma`.
    pub(crate) fn of(command: &str) -> Option<Self> {
        let mut words = command.split_whitespace().skip_while(|word| !is_puma(word));
        words.next()?;
        let mut found = Self::default();
        while let Some(word) = words.next() {
            let word = word.trim_end_matches(';');
            if word.contains('$') {
                return None;
            }
            let (flag, value) = match word.split_once('=').filter(|(flag, _)| flag.starts_with("--")) {
                Some((flag, value)) => (flag, Some(value)),
                None if WITH_VALUE.contains(&word) => (word, words.next()),
                None if word.starts_with("-C") && word.len() > 2 => ("-C", word.get(2..)),
                None => (word, None),
            };
            let value = value.map(|value| value.trim_matches(['"', '\'', ';']).to_owned());
            if value.as_ref().is_some_and(|value| value.contains('$')) {
                return None;
            }
            match flag {
                "-C" | "--config" => found.config = value,
                "-e" | "--environment" => found.environment = value,
                "--dir" => {
                    let place = Place::CommandLine(format!("--dir {}", value.as_deref().unwrap_or_default()));
                    found.directory = Evidence::given(value.map(Directory::Literal), place);
                }
                "--preload" => found.preload_app = Evidence::Known(true, Place::CommandLine(flag.into())),
                "--" | "&&" | "||" | "|" | "&" => break,
                path if path.ends_with(".ru") => {
                    found.rackup = Evidence::Known(path.to_owned(), Place::CommandLine(path.to_owned()));
                }
                _ => {}
            }
        }
        Some(found)
    }
}

/// A word that is the program itself, in whichever directory.
fn is_puma(word: &str) -> bool {
    matches!(word.rsplit('/').next(), Some("puma" | "puma-wild"))
}

/// Whether a word of a command line is this program, in whichever directory.
pub(super) fn names(command: &str, program: &str) -> bool {
    command.split_whitespace().any(|word| word.rsplit('/').next() == Some(program))
}

fn starts_puma(title: &str) -> bool {
    title::is_starting(title) || title.split_whitespace().any(is_puma)
}

/// Only what is there for Puma's sake: whoever has started the container's first process is not.
fn in_front(pid: i32) -> Option<InFront> {
    let parent = Entry::read(pid).ok()?.parent;
    let Entry { title, .. } = Entry::read(parent).ok().filter(|_| parent > 0)?;
    let program = title.split(' ').next()?.rsplit('/').next()?;
    let is_shell = SHELLS.contains(&program.trim_start_matches('-'));
    let is_init =
        matches!(program, "tini" | "dumb-init" | "catatonit" | "docker-init" | "s6-supervise" | "runsv");
    let for_puma = is_init || (is_shell && (starts_puma(&title) || names(&title, "rackup")));
    for_puma.then(|| InFront { pid: parent, is_shell, title: title.chars().take(120).collect() })
}

/// Bundler changes the variable for what it starts, and keeps what it found. Puma's own restarts put that back.
fn gemfile(pid: i32) -> Option<String> {
    let kept = procs::environment(pid, "BUNDLER_ORIG_BUNDLE_GEMFILE");
    let found = kept.or_else(|| procs::environment(pid, "BUNDLE_GEMFILE"));
    found.filter(|path| !path.is_empty() && path != BUNDLER_FOUND_NOTHING)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// The command line of a Puma, or of what started it.
    pub(crate) fn command_line(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let _ = (Arguments::of(&text), starts_puma(&text), names(&text, "puma"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_those_behind_puma() {
        let given = |text: &str| Arguments::of(text).unwrap();
        let all = given(
            "ruby /usr/bin/puma -w 2 --preload -C /x/releases/v1/config/puma.rb --dir=/x/current app.ru",
        );
        assert_eq!(all.config.as_deref(), Some("/x/releases/v1/config/puma.rb"));
        assert_eq!(all.directory.known(), Some(&Directory::Literal("/x/current".into())));
        assert_eq!((all.rackup.known().unwrap(), all.preload_app.known()), (&"app.ru".into(), Some(&true)));
        assert_eq!(given("sh -c cd /x; puma -Cconfig/p.rb; exit").config.as_deref(), Some("config/p.rb"));
        assert_eq!(given("sh -c puma --config 'a.rb' && -C b.rb").config.as_deref(), Some("a.rb"));
        assert_eq!(given("bundle exec puma -e staging").environment.as_deref(), Some("staging"));
        assert_eq!(Arguments::of("ruby bin/rails server -e production"), None);
        assert_eq!(Arguments::of("sh -c puma -C \"$CONFIG\"; exit $?"), None, "the shell fills that in");
    }

    #[test]
    fn which_configuration_is_read_is_sure_only_with_the_command_line() {
        let with = |arguments| CommandLine { arguments, ..CommandLine::default() }.config_files("production");
        let usual: Vec<PathBuf> = vec!["config/puma/production.rb".into(), "config/puma.rb".into()];
        assert_eq!(with(None), (usual.clone(), false));
        assert_eq!(with(Some(Arguments::default())), (usual, true));
        let config = Some("-".to_owned());
        assert_eq!(with(Some(Arguments { config, ..Arguments::default() })), (vec![], true));
    }
}
