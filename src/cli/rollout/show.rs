//! What a rollout shows: lines of JSON, lines of text for a CI job's log, or a table that lives on a terminal.

use std::{
    collections::BTreeMap,
    fmt,
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    journal::{Journal, Outcome},
    seen::{Place, Pod, Seen},
};
use crate::cli::{Console, console::one_line, who};

/// A terminal shows so many pods: those that have most to do with it.
const ROWS: usize = 20;
const SPIN: Duration = Duration::from_millis(120);

/// Tells what changes.
pub(super) struct Show {
    console: Console,
    about: Value,
    name: String,
    place: Option<String>,
    /// What each pod did when it was told.
    pods: BTreeMap<String, Place>,
    gap: Option<String>,
    table: Option<Table>,
}

/// One change.
#[derive(Serialize)]
struct News {
    at: String,
    event: &'static str,
    #[serde(flatten)]
    about: Value,
    #[serde(flatten)]
    more: Value,
    message: String,
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.message))
    }
}

impl Show {
    pub(super) fn new(console: Console, pointer: &str, journal: &Journal) -> Self {
        let table = (!console.json && stderr().is_terminal()).then(Table::new);
        Self {
            console,
            about: json!({
                "pointer": pointer, "rollout": journal.id, "release": journal.release, "sequence": journal.sequence,
            }),
            name: format!("rollout of {} to {pointer}", journal.revision()),
            place: None,
            pods: BTreeMap::new(),
            gap: None,
            table,
        }
    }

    fn tell(&self, event: &'static str, more: Value, message: String) {
        let news = News { at: who::now(), event, about: self.about.clone(), more, message };
        match (&self.table, self.console.json) {
            (Some(table), _) => table.line(&news.to_string()),
            // For programs each change is part of the answer.
            (None, true) => self.console.print(&news),
            (None, false) => self.console.tell(&news),
        }
    }

    /// What is no change of the rollout itself.
    pub(super) fn note(&self, message: impl Into<String>) {
        self.tell("note", json!({}), message.into());
    }

    /// What was seen, as far as it is new.
    pub(super) fn look(&mut self, journal: &Journal, seen: &Seen) {
        if self.gap.take().is_some() {
            self.note("the store answers again");
        }
        let place = journal.place();
        if self.place.as_ref() != Some(&place) {
            let more = json!({
                "state": journal.state.word(), "step": journal.step, "steps": journal.options.steps.len(),
            });
            let message = match (&journal.why, journal.state.is_final()) {
                (_, true) => None,
                (Some(why), false) => Some(format!("{}: {place}: {why}", self.name)),
                (None, false) => Some(format!("{}: {place}", self.name)),
            };
            message.into_iter().for_each(|message| self.tell("state", more.clone(), message));
            self.place = Some(place);
        }
        for pod in &seen.pods {
            let before = self.pods.get(&pod.name).unwrap_or(&Place::Elsewhere);
            if *before != pod.place {
                if self.table.is_none() {
                    let more = json!({ "pod": pod.name, "state": word(&pod.place), "runs": pod.runs });
                    self.tell("pod", more, format!("  {}: {}", pod.name, doing(pod)));
                }
                self.pods.insert(pod.name.clone(), pod.place.clone());
            }
        }
        if let Some(table) = &mut self.table {
            table.draw(&format!("{}: {}", self.name, journal.place()), &rows(&seen.pods));
        }
    }

    /// The store does not answer.
    pub(super) fn gap(&mut self, why: &str) {
        if self.gap.is_none() {
            self.note(format!("the store does not answer; retrying, and no time-out runs: {why}"));
            self.gap = Some(why.to_owned());
        }
    }

    /// A command of the user's is about to write to the same terminal.
    pub(super) fn hide(&mut self) {
        self.table.iter_mut().for_each(Table::hide);
    }

    /// How it ended.
    pub(super) fn end(mut self, outcome: Outcome, exit: u8, message: &str) {
        self.hide();
        self.table = None;
        let news = News {
            at: who::now(),
            event: "end",
            about: self.about.clone(),
            more: json!({ "result": outcome.word(), "exit_code": exit }),
            message: message.to_owned(),
        };
        self.console.print(&news);
    }
}

fn word(place: &Place) -> &'static str {
    match place {
        Place::Elsewhere => "elsewhere",
        Place::Coming(_) => "coming",
        Place::Arrived => "arrived",
        Place::Failed(_) => "failed",
    }
}

fn doing(pod: &Pod) -> String {
    let runs = || pod.runs.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
    match &pod.place {
        Place::Elsewhere => format!("on {}", runs()),
        Place::Coming(what) => what.clone(),
        Place::Arrived => "runs it".into(),
        Place::Failed(why) => format!("rejected it ({why}), on {}", runs()),
    }
}

/// Those that have to do with the release first.
fn rows(pods: &[Pod]) -> Vec<String> {
    let rank = |pod: &&Pod| match pod.place {
        Place::Failed(_) => 0,
        Place::Coming(_) => 1,
        Place::Arrived => 2,
        Place::Elsewhere => 3,
    };
    let mut sorted: Vec<_> = pods.iter().collect();
    sorted.sort_by_key(rank);
    let width = pods.iter().map(|pod| pod.name.chars().count()).max().unwrap_or(0).min(60);
    let shown = sorted.iter().take(ROWS).map(|pod| format!("{:<width$}  {}", pod.name, doing(pod)));
    let more = pods.len().saturating_sub(ROWS);
    shown.chain((more > 0).then(|| format!("and {more} more"))).collect()
}

/// Lines on a terminal that are drawn again and again.
struct Table {
    all: MultiProgress,
    heading: Option<ProgressBar>,
    rows: Vec<ProgressBar>,
}

impl Table {
    fn new() -> Self {
        Self { all: MultiProgress::new(), heading: None, rows: Vec::new() }
    }

    /// A line that stays, above the table.
    fn line(&self, text: &str) {
        let _ = self.all.println(text);
    }

    fn draw(&mut self, heading: &str, rows: &[String]) {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        let spinner = if colour { "{spinner:.green} {wide_msg}" } else { "{spinner} {wide_msg}" };
        let bar = |all: &MultiProgress, template: &str| {
            let style = ProgressStyle::with_template(template).expect("a valid template");
            all.add(ProgressBar::new_spinner().with_style(style))
        };
        let head = self.heading.get_or_insert_with(|| {
            let head = bar(&self.all, spinner);
            head.enable_steady_tick(SPIN);
            head
        });
        head.set_message(one_line(heading).into_owned());
        while self.rows.len() > rows.len() {
            self.rows.pop().into_iter().for_each(|row| self.all.remove(&row));
        }
        while self.rows.len() < rows.len() {
            self.rows.push(bar(&self.all, "  {wide_msg}"));
        }
        for (bar, text) in self.rows.iter().zip(rows) {
            bar.set_message(one_line(text).into_owned());
            bar.tick();
        }
    }

    fn hide(&mut self) {
        self.rows.drain(..).chain(self.heading.take()).for_each(|bar| bar.finish_and_clear());
        let _ = self.all.clear();
    }
}
