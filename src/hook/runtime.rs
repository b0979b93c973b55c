//! What a command needs to be run here, as far as its first word tells.

use std::{
    env, fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{plain_file, user_command::SHELL};

/// The kernel itself looks at 256 bytes.
const LONGEST_LINE: u64 = 4096;

/// What the shell itself does.
const BUILT_IN: [&str; 24] = [
    "!", "(", ".", ":", "[", "case", "cd", "command", "eval", "exit", "export", "false", "for", "if", "read",
    "set", "test", "trap", "true", "ulimit", "umask", "unset", "until", "while",
];

/// What is not there, in words. In doubt it is there: running it will tell.
pub(super) fn missing(command: &str, dir: Option<&Path>) -> Option<String> {
    if !is_program(Path::new(SHELL)) {
        return Some(format!("there is no {SHELL} in the agent's container"));
    }
    let program = program(command)?;
    if !program.contains('/') {
        return unless_in_path(program);
    }
    let path = match (Path::new(program).is_absolute(), dir) {
        (true, _) => PathBuf::from(program),
        (false, Some(dir)) => dir.join(program),
        (false, None) => return None,
    };
    if !path.exists() {
        return Some(format!("there is no {}", path.display()));
    }
    interpreter(&path).and_then(|interpreter| {
        unless_in_path(&interpreter).map(|what| format!("{}, which {} needs", what, path.display()))
    })
}

/// The first word that is no assignment, where it is a plain one.
fn program(command: &str) -> Option<&str> {
    let plain = |word: &str| !word.contains(['$', '`', '\'', '"', '\\', '{', '(', ';', '<', '>', '|', '&']);
    let assigns = |word: &str| word.split_once('=').is_some_and(|(name, _)| !name.contains('/'));
    let mut words =
        command.split_whitespace().skip_while(|word| *word == "exec" || (assigns(word) && plain(word)));
    words.next().filter(|word| plain(word) && !BUILT_IN.contains(word))
}

/// What a script names in its first line: the program itself, or the one that `env` looks up.
fn interpreter(script: &Path) -> Option<String> {
    // Its first line is all that matters; a program itself may be of any size.
    let mut text = Vec::new();
    plain_file::open(script).ok()?.take(LONGEST_LINE).read_to_end(&mut text).ok()?;
    let line = text.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = String::from_utf8_lossy(line).into_owned();
    let mut words = line.split_whitespace();
    let first = words.next()?;
    let named = if first.ends_with("/env") { words.find(|word| !word.starts_with('-'))? } else { first };
    Some(named.to_owned())
}

fn unless_in_path(program: &str) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let there = if program.contains('/') {
        is_program(Path::new(program))
    } else {
        env::split_paths(&path).any(|dir| is_program(&dir.join(program)))
    };
    (!there).then(|| format!("there is no `{program}` in the agent's container"))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_first_plain_word_that_is_no_assignment() {
        for (command, found) in [
            ("bundle exec puma", Some("bundle")),
            ("RAILS_ENV=production exec bin/rails runner 1", Some("bin/rails")),
            ("cd config && ruby -c puma.rb", None),
            ("\"$RUBY\" -c config.ru", None),
            ("( true )", None),
            ("", None),
        ] {
            assert_eq!(program(command), found, "{command}");
        }
    }

    #[test]
    fn a_script_of_the_release_needs_its_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let script = |first: &str| {
            fs::write(dir.path().join("check"), format!("{first}\necho\n")).unwrap();
            missing("./check now", Some(dir.path()))
        };
        assert_eq!(script("#!/bin/sh -e"), None);
        assert_eq!(script("#!/usr/bin/env sh"), None);
        assert!(script("#!/usr/bin/env no-such-ruby").unwrap().contains("no `no-such-ruby`"));
        assert!(script("#!/opt/no-such-ruby").unwrap().contains("/opt/no-such-ruby"));
        assert!(missing("bin/absent", Some(dir.path())).unwrap().contains("bin/absent"));
        assert_eq!(missing("bin/absent", None), None, "which release is not known");
    }
}
