//! Where a command's answer goes. Much of it was said by pods, archives and processes, which are not to be trusted
//! with a terminal: control characters are spelled out at this edge, once for all commands.

use std::{
    borrow::Cow,
    fmt,
    io::{IsTerminal, Write},
    time::Duration,
};

use serde::Serialize;

/// A terminal shows so often what goes on.
pub(crate) const BETWEEN_LINES: Duration = Duration::from_millis(200);

/// Standard output for the answer, standard error for what happens until then; as text or as lines of JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Console {
    /// `--json` was given.
    pub(crate) json: bool,
}

impl Console {
    /// Prints an answer: its `Display`, or its JSON.
    pub(crate) fn print<T: Serialize + fmt::Display>(self, answer: &T) {
        // Whoever closes the pipe early (`| head`) wants no more of it.
        let _ = writeln!(std::io::stdout(), "{}", self.text(answer));
    }

    /// Says on standard error what happens on the way.
    pub(crate) fn tell<T: Serialize + fmt::Display>(self, news: &T) {
        let _ = writeln!(std::io::stderr(), "{}", self.text(news));
    }

    /// Shows, on a terminal only, a line that the next one replaces. With `NO_COLOR` without an escape sequence.
    pub(crate) fn pulse(self, line: &str) {
        let mut terminal = std::io::stderr();
        if !self.json && terminal.is_terminal() {
            let line = one_line(line);
            let _ = match std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty()) {
                true => write!(terminal, "\r{line:<78}\r"),
                false => write!(terminal, "\r{line}\u{1b}[K\r"),
            };
            let _ = terminal.flush();
        }
    }

    fn text<T: Serialize + fmt::Display>(self, answer: &T) -> String {
        match self.json {
            true => serde_json::to_string(answer).expect("answers are plain data"),
            false => printable(&answer.to_string()),
        }
    }
}

/// Text of several lines, fit for a terminal.
pub fn printable(text: &str) -> String {
    text.split('\n').map(one_line).collect::<Vec<_>>().join("\n")
}

/// Text from elsewhere within a line of ours: whatever would move a cursor, or begin a line, is spelled out.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let spelled = |c: char| if steers(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(spelled).collect())
}

/// Control characters, and those that turn the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_spelled_out() {
        assert_eq!(one_line("web-0 übrig"), "web-0 übrig");
        assert_eq!(one_line("\u{1b}[2Jall 9 pods\r\n\u{9b}"), "\\u{1b}[2Jall 9 pods\\r\\n\\u{9b}");
        let console = Console { json: false };
        assert_eq!(console.text(&"two\nlines \u{7}"), "two\nlines \\u{7}");
        assert_eq!(Console { json: true }.text(&"\u{1b}"), "\"\\u001b\"");
    }
}
