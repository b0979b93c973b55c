//! What Unicorn calls its processes.

/// A process that called itself a Unicorn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Title {
    /// `unicorn master -c config/unicorn.rb`.
    Master(Master),
    /// `unicorn worker[0] -c config/unicorn.rb`.
    Worker,
}

/// What a master's title says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Master {
    /// It was told to start another master beside it.
    pub(crate) old: bool,
    /// The arguments that it was started with.
    pub(crate) arguments: Vec<String>,
}

/// A process of this title is a master.
pub(crate) fn is_master(title: &str) -> bool {
    matches!(Title::parse(title), Some(Title::Master(_)))
}

impl Title {
    /// Understands a title; `None` for any other process, one between exec and title included.
    pub(crate) fn parse(title: &str) -> Option<Self> {
        let (program, rest) = title.split_once(' ')?;
        if !matches!(program, "unicorn" | "unicorn_rails") {
            return None;
        }
        let mut words = rest.split(' ').filter(|word| !word.is_empty());
        let role = words.next()?;
        if role.strip_prefix("worker[").and_then(|number| number.strip_suffix(']')).is_some() {
            return Some(Self::Worker);
        }
        let mut arguments: Vec<String> = words.map(str::to_owned).collect();
        let old = arguments.first().is_some_and(|word| word == "(old)");
        if old {
            arguments.remove(0);
        }
        (role == "master").then_some(Self::Master(Master { old, arguments }))
    }
}

impl Master {
    /// It has left its terminal and its parent: nobody waits for its end.
    pub(crate) fn daemonized(&self) -> bool {
        self.arguments.iter().any(|argument| matches!(argument.as_str(), "-D" | "--daemonize"))
    }

    /// The configuration that it was told to read.
    pub(crate) fn config_file(&self) -> Option<&str> {
        let mut arguments = self.arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            match argument {
                "-c" | "--config-file" => return arguments.next(),
                _ => {
                    let joined = argument.strip_prefix("--config-file=").or(argument.strip_prefix("-c"));
                    if joined.is_some() {
                        return joined;
                    }
                }
            }
        }
        None
    }
}

/// Whether a command line starts a Unicorn that has not given itself a title yet.
pub(super) fn is_starting(command_line: &str) -> bool {
    let mut words = command_line.split(' ').map(|word| word.rsplit('/').next().unwrap_or(word));
    words.next().is_some_and(|program| program.starts_with("ruby"))
        && words.any(|word| matches!(word, "unicorn" | "unicorn_rails"))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A title is a process of Unicorn's, or none.
    pub(crate) fn title(bytes: &[u8]) {
        if let Some(Title::Master(master)) = Title::parse(&String::from_utf8_lossy(bytes)) {
            let _ = (master.config_file(), master.daemonized());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_and_workers_are_told_apart_and_their_arguments_understood() {
        let master = |old, arguments: &[&str]| {
            let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            Some(Title::Master(Master { old, arguments }))
        };
        assert_eq!(Title::parse("unicorn master -c x.rb -D"), master(false, &["-c", "x.rb", "-D"]));
        assert_eq!(Title::parse("unicorn_rails master (old) -E prod"), master(true, &["-E", "prod"]));
        assert_eq!(Title::parse("unicorn master"), master(false, &[]));
        assert_eq!(Title::parse("unicorn worker[11] -c x.rb"), Some(Title::Worker));
        for other in
            ["", "unicorn", "vi unicorn master", "/usr/bin/ruby /usr/bin/unicorn -c x", "unicorn -c master"]
        {
            assert_eq!(Title::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_configuration_is_named_in_any_of_the_ways_of_getopt() {
        for title in
            ["unicorn master -c a.rb", "unicorn master -D -ca.rb", "unicorn master --config-file=a.rb -D"]
        {
            let Some(Title::Master(master)) = Title::parse(title) else { panic!("{title}") };
            assert_eq!(master.config_file(), Some("a.rb"), "{title}");
            assert_eq!(master.daemonized(), title.contains("-D"), "{title}");
        }
    }

    #[test]
    fn a_starting_unicorn_is_a_ruby_that_was_given_one() {
        for line in ["/usr/bin/ruby /usr/bin/unicorn -c x", "ruby3.1 bin/unicorn_rails -E production"] {
            assert!(is_starting(line), "{line}");
        }
        for line in ["ruby /usr/bin/puma", "sh -c unicorn", "/usr/bin/unicorn", ""] {
            assert!(!is_starting(line), "{line}");
        }
    }
}
