//! What somebody sees on a terminal: a table that is drawn over and over, and what stays of it.

use std::process::{Command, Stdio};

use super::{Story, ended};

const COLUMNS: usize = 100;

/// As much of a terminal as the table needs.
#[derive(Default)]
struct Screen {
    lines: Vec<String>,
    at: (usize, usize),
    /// The whole screen, each time that the cursor went up.
    before: Vec<String>,
    has_colours: bool,
}

impl Screen {
    fn of(output: &str) -> Self {
        let mut screen = Self::default();
        let mut rest = output.chars();
        while let Some(c) = rest.next() {
            match c {
                '\u{1b}' => {
                    assert_eq!(rest.next(), Some('['), "{output:?}");
                    let mut count = String::new();
                    let command = rest.by_ref().find(|c| {
                        c.is_ascii_alphabetic() || {
                            count.push(*c);
                            false
                        }
                    });
                    screen.obeys(command.expect("a command"), count.parse().unwrap_or(1));
                }
                '\r' => screen.at.1 = 0,
                '\n' => screen.at = (screen.at.0 + 1, 0),
                c => screen.put(c),
            }
        }
        screen
    }

    fn line(&mut self) -> &mut String {
        while self.lines.len() <= self.at.0 {
            self.lines.push(String::new());
        }
        &mut self.lines[self.at.0]
    }

    fn put(&mut self, c: char) {
        if self.at.1 == COLUMNS {
            self.at = (self.at.0 + 1, 0);
        }
        let column = self.at.1;
        let mut line: Vec<_> = self.line().chars().collect();
        line.resize(line.len().max(column + 1), ' ');
        line[column] = c;
        *self.line() = line.into_iter().collect();
        self.at.1 += 1;
    }

    fn obeys(&mut self, command: char, count: usize) {
        match command {
            'A' => {
                self.before.push(self.shown());
                self.at.0 = self.at.0.saturating_sub(count);
            }
            'B' => self.at.0 += count,
            // The part of the line before the cursor is empty whenever the rest is cleared.
            'K' => self.line().clear(),
            'm' => self.has_colours = true,
            'h' | 'l' => {}
            other => panic!("a command that is not known here: {other:?}"),
        }
    }

    fn shown(&self) -> String {
        let lines = self.lines.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Story {
    /// A rollout on a terminal, by util-linux' `script`.
    fn on_a_terminal(&self, args: &[&str], no_color: Option<&str>) -> Screen {
        let rollout = self.command(args);
        let words =
            [rollout.get_program()].into_iter().chain(rollout.get_args()).map(|word| word.to_str().unwrap());
        let line = format!("stty cols {COLUMNS} rows 40; exec {}", words.collect::<Vec<_>>().join(" "));
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
        terminal.envs(rollout.get_envs().filter_map(|(name, value)| Some((name, value?))));
        terminal.envs([("SHELL", "/bin/sh"), ("TERM", "xterm-256color")]);
        terminal.env_remove("NO_COLOR").envs(no_color.map(|no_color| ("NO_COLOR", no_color)));
        let said = ended(terminal.output().unwrap(), 0);
        Screen::of(&said)
    }
}

#[test]
fn on_a_terminal_a_table_shows_each_pod_and_goes_away_at_the_end() {
    let story = Story::new();
    story.fleet.rejects(&["web-3"], "v2");
    let screen = story.on_a_terminal(&["v2", "--bake", "1s", "--step", "1"], None);
    let seen =
        |lines: &[&str]| screen.before.iter().any(|shown| lines.iter().all(|line| shown.contains(line)));
    assert!(
        seen(&["v2#2 to production: step 1 of 2 (1 pod)", "web-0  runs it\n", "web-3  on v1"]),
        "{:#?}",
        screen.before
    );
    assert!(seen(&[
        "step 2 of 2 (all pods): watched for 1s",
        "  web-3  rejected it (boot_loop), on v1\n  web-0  runs it"
    ]));
    let shown = screen.shown();
    let last: Vec<_> = shown.lines().collect();
    assert_eq!(last.last(), Some(&"production now points to v2 (move 2): 3 of 4 pods ran it"), "{shown}");
    assert!(
        last.iter()
            .all(|line| line.starts_with("rollout of v2#2 to production: ") || line == last.last().unwrap()),
        "{shown}"
    );
    assert!(screen.has_colours);
    // Somebody who wants no colours sees the same.
    let screen = story.on_a_terminal(&["v3", "--step", "1"], Some("1"));
    assert!(screen.before.iter().any(|shown| shown.contains("web-0  runs it")), "{:#?}", screen.before);
    assert!(!screen.has_colours);
}
