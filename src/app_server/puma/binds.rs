//! What a Puma is going to bind, by its command line and its configuration file, before it runs. Where anything is
//! not plain, nothing is said.

use super::{command_line::Arguments, statements, title};
use crate::app_server::ruby::call;

/// What Puma binds when nobody says anything.
const DEFAULT: &str = "tcp://0.0.0.0:9292";
/// How many calls of `ENV` there may be in one text.
const DEEPEST: usize = 4;

/// What a process with this title listens on, in the words of its configuration; `None` when it is no Puma's master.
pub(crate) fn of_title(title: &str) -> Option<Vec<String>> {
    match title::Title::parse(title)? {
        title::Title::Master(master) => Some(master.binds),
        title::Title::Worker { .. } => None,
    }
}

/// The configuration file that this command line names, or the usual one; `None` of what is no plain start of Puma.
pub(crate) fn config_file(command: &str) -> Option<String> {
    let named = Arguments::of(&up_to_its_end(command))?.config;
    Some(named.unwrap_or_else(|| "config/puma.rb".into())).filter(|path| path != "-")
}

/// In Puma's own words, for a command line and the text of its configuration file.
pub(crate) fn expected(
    command: &str,
    config: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Option<Vec<String>> {
    let given = of_command(&up_to_its_end(command))?;
    if !given.is_empty() {
        return Some(given);
    }
    let mut binds = Vec::new();
    for statement in statements::of(config) {
        let names = |word: &str| {
            statement.bare.split(|c: char| !c.is_alphanumeric() && c != '_').any(|name| name == word)
        };
        let plain = statement.sure || statement.bare.matches('{').count() == 1;
        match call(&statement.text) {
            Some(("port", rest)) if plain => binds.push(port(rest, variable)?),
            Some(("bind", rest)) if plain => binds.push(text(rest, variable)?),
            _ if [
                "port",
                "bind",
                "clear_binds!",
                "ssl_bind",
                "bind_to_activated_sockets",
                "load",
                "eval",
            ]
            .into_iter()
            .any(names) =>
            {
                return None;
            }
            _ => {}
        }
    }
    Some(if binds.is_empty() { vec![DEFAULT.into()] } else { binds })
}

/// Without what a shell does when Puma has ended: `puma …; exit $?`.
fn up_to_its_end(command: &str) -> String {
    let at = command.find("puma").unwrap_or(0);
    let end = command[at..].find(';').map_or(command.len(), |end| at + end);
    command[..end].to_owned()
}

/// Those of the command line count instead of the file's.
fn of_command(command: &str) -> Option<Vec<String>> {
    let mut words =
        command.split_whitespace().skip_while(|word| !(*word == "puma" || word.ends_with("/puma")));
    words.next()?;
    let mut binds = Vec::new();
    while let Some(word) = words.next() {
        let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        match flag {
            "-p" | "--port" => binds.push(at_port(value.or_else(|| words.next())?)?),
            "-b" | "--bind" => {
                binds.push(value.or_else(|| words.next())?.trim_matches(['\'', '"']).to_owned())
            }
            _ if flag.starts_with("-p") || flag.starts_with("-b") => return None,
            _ => {}
        }
    }
    Some(binds)
}

fn at_port(port: &str) -> Option<String> {
    let port: u16 = port.trim_matches(['\'', '"', ';']).parse().ok()?;
    Some(format!("tcp://0.0.0.0:{port}"))
}

/// `3000`, `ENV.fetch("PORT") { 3000 }`; with a host behind it, it is not plain.
fn port(arguments: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    at_port(&value(arguments.trim().trim_end_matches(')'), variable)?)
}

/// `"tcp://0.0.0.0:#{ENV.fetch('PORT', 3000)}"`.
fn text(arguments: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let arguments = arguments.trim().trim_end_matches(')');
    let quote = arguments.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inside = arguments.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut inside = inside.to_owned();
    for _ in 0..DEEPEST {
        let Some((before, rest)) = inside.split_once("#{") else { break };
        let (call, after) = rest.split_at(closing(rest)?);
        inside = format!("{before}{}{}", value(call, variable)?, &after[1..]);
    }
    let plain = !inside.contains("#{") && !inside.contains(quote);
    plain.then_some(inside)
}

/// Where the brace is that closes what was opened before this text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| match c {
        '}' if depth == 0 => Some(at),
        '}' | '{' => {
            depth += if c == '{' { 1 } else { -1 };
            None
        }
        _ => None,
    })
}

/// A number, or a variable with the number that counts without it.
fn value(expression: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let expression = expression.trim().trim_end_matches(".to_i").trim();
    if expression.bytes().all(|b| b.is_ascii_digit()) && !expression.is_empty() {
        return Some(expression.to_owned());
    }
    let rest = expression.strip_prefix("ENV")?;
    let rest = rest.strip_prefix(".fetch").unwrap_or(rest).trim_start_matches(['(', '[', ' ']);
    let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (name, rest) = rest.get(1..)?.split_once(quote)?;
    let fallback = rest.trim_matches(|c: char| !c.is_ascii_digit());
    let plain = rest.chars().all(|c| c.is_ascii_digit() || "()[]{}|,'\" ".contains(c));
    let fallback =
        Some(fallback.to_owned()).filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    if plain { variable(name).or(fallback) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(command: &str, config: &str, port: Option<&str>) -> Option<Vec<String>> {
        expected(command, config, &|name| port.filter(|_| name == "PORT").map(str::to_owned))
    }

    fn plain(config: &str) -> Option<Vec<String>> {
        with("puma -C config/puma.rb", config, None)
    }

    fn one(bind: &str) -> Option<Vec<String>> {
        Some(vec![bind.to_owned()])
    }

    #[test]
    fn what_the_file_says_plainly_is_known() {
        assert_eq!(plain("workers 2\nport 3000\n"), one("tcp://0.0.0.0:3000"));
        assert_eq!(plain("bind 'tcp://[::]:3000?backlog=64'"), one("tcp://[::]:3000?backlog=64"));
        assert_eq!(plain("threads 1, 3"), one(DEFAULT));
        let both = plain("bind 'tcp://127.0.0.1:1'\nbind 'unix:///run/p.sock'");
        assert_eq!(both, Some(vec!["tcp://127.0.0.1:1".into(), "unix:///run/p.sock".into()]));
    }

    #[test]
    fn the_port_that_rails_writes_is_the_variable_or_the_number_behind_it() {
        for config in [
            "port ENV.fetch(\"PORT\") { 3000 }",
            "port ENV.fetch(\"PORT\", 3000)",
            "port ENV.fetch('PORT', '3000').to_i",
            "bind \"tcp://0.0.0.0:#{ENV.fetch('PORT', 3000)}\"",
            "bind \"tcp://0.0.0.0:#{ENV.fetch(\"PORT\") { 3000 }}\"",
        ] {
            assert_eq!(plain(config), one("tcp://0.0.0.0:3000"), "{config}");
            assert_eq!(with("puma", config, Some("4000")), one("tcp://0.0.0.0:4000"), "{config}");
        }
        assert_eq!(plain("port ENV['PORT']"), None, "nothing says which");
    }

    #[test]
    fn the_command_line_counts_before_the_file() {
        let found = |command: &str| with(command, "port 1", None);
        assert_eq!(found("sh -c cd /app && exec bundle exec puma -p 3000"), one("tcp://0.0.0.0:3000"));
        assert_eq!(found("puma --bind=tcp://[::]:80 -C x"), one("tcp://[::]:80"));
        assert_eq!(found("puma -b tcp://0.0.0.0:80 -p 81").map(|binds| binds.len()), Some(2));
        assert_eq!(found("sh -c puma -p 3000; exit $?"), one("tcp://0.0.0.0:3000"));
        assert_eq!(found("puma -p $PORT"), None);
        assert_eq!(found("puma -p3000"), None, "not plain");
        assert_eq!(found("bin/rails server"), None, "no plain start of Puma");
    }

    #[test]
    fn what_depends_on_something_is_not_known() {
        for config in [
            "if ENV['X']\n  port 3000\nend",
            "port 3000 if ENV['X']",
            "port(ENV['PORT'] || 3000)",
            "port 3000, '::'",
            "bind address",
            "bind \"tcp://#{host}:3000\"",
            "ssl_bind '0.0.0.0', '9292', key: 'k'",
            "load 'other.rb'",
            "%w[1 2].each { |n| port n }",
        ] {
            assert_eq!(plain(config), None, "{config}");
        }
    }

    #[test]
    fn the_file_is_named_by_the_command_or_the_usual_one() {
        let file = |command: &str| config_file(command);
        assert_eq!(file("bundle exec puma -C config/shop.rb").as_deref(), Some("config/shop.rb"));
        assert_eq!(file("sh -c cd /x && puma -C a.rb; exit $?").as_deref(), Some("a.rb"));
        assert_eq!(file("puma").as_deref(), Some("config/puma.rb"));
        assert_eq!(file("puma -C -"), None);
        assert_eq!(file("sleep 1"), None);
    }
}
