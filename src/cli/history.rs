//! `pitstop history`: the last moves of a pointer: who, when, why, and how each ended.

use std::{fmt, time::SystemTime};

use serde::Serialize;

use super::{
    Console, Exit, Failure,
    moving::made_before,
    publish::failure,
    swap::Swap,
    table::{or_dash, table},
};
use crate::{
    config::Config,
    fleet::{
        Reports,
        moves::{Ended, Entry, Moves, Tally},
    },
};

/// The last moves, the newest first.
#[derive(Debug, Serialize)]
struct Answer {
    pointer: String,
    moves: Vec<Listed>,
}

/// One move.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    made: crate::fleet::moves::Move,
    /// `verified`, `rejected`, `superseded`; `unknown` where nobody has found out, `current` for what the pointer names.
    result: &'static str,
    /// The same for people.
    message: String,
    /// Who found out.
    ended_by: Option<String>,
    /// When.
    ended_at: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.moves.is_empty() {
            return write!(f, "no move of {} is written down", self.pointer);
        }
        let row = |one: &Listed| {
            let ended = match one.message.is_empty() {
                true => one.result.to_owned(),
                false => format!("{}: {}", one.result, one.message),
            };
            [
                one.made.sequence.to_string(),
                one.made.release.to_string(),
                or_dash(one.made.moved_at.as_ref()),
                or_dash(one.made.how.as_ref()),
                or_dash(one.made.moved_by.as_ref()),
                ended,
                one.made.why.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = self.moves.iter().map(row).collect();
        f.write_str(&table(["MOVE", "RELEASE", "AT", "HOW", "BY", "ENDED", "WHY"], &rows))
    }
}

impl Listed {
    fn of(Entry { made, end }: Entry) -> Self {
        match end {
            Some(end) => Self {
                made,
                result: end.result.word(),
                message: end.message,
                ended_by: end.by,
                ended_at: end.at,
            },
            None => Self {
                made,
                result: Ended::Unknown.word(),
                message: String::new(),
                ended_by: None,
                ended_at: None,
            },
        }
    }
}

/// Lists the moves of the last `limit` numbers of the pointer `name`, or of the configured one.
///
/// # Errors
/// [`Failure`] when the store does not tell.
pub(crate) async fn run(
    config: &Config,
    name: Option<&str>,
    limit: u64,
    console: Console,
) -> Result<Exit, Failure> {
    let swap = Swap::open(config, name, None).await?;
    if swap.is_new() {
        return Err(swap.missing().await);
    }
    let now = made_before(&swap.document);
    let last = swap.document.get::<u64>("sequence").unwrap_or(0);
    let history = Moves::of(&swap.store, &swap.name);
    let mut entries = history.back_from(last, limit).await.map_err(failure)?;
    // Who made it may have ended before it was written down.
    if let Some(made) =
        now.clone().filter(|now| entries.first().is_none_or(|one| one.made.sequence < now.sequence))
    {
        entries.insert(0, Entry { made, end: None });
    }
    let mut moves: Vec<_> = entries.into_iter().map(Listed::of).collect();
    if let Some(first) =
        moves.first_mut().filter(|first| now.is_some_and(|now| now.sequence == first.made.sequence))
        && first.result == Ended::Unknown.word()
    {
        (first.result, first.message) = ("current", under_way(&swap, first).await);
    }
    console.print(&Answer { pointer: swap.name, moves });
    Ok(Exit::Done)
}

/// How far the pods have come with the move that the pointer names.
async fn under_way(swap: &Swap, current: &Listed) -> String {
    let mut reports = Reports::of(&swap.store, &swap.name);
    if let Err(error) = reports.look().await {
        return format!("the pods' reports cannot be read: {error}");
    }
    let tally = Tally::of(reports.all(), &current.made.revision(), SystemTime::now());
    match tally.rejected.is_empty() {
        true => format!("{} of {} pods run it", tally.arrived, tally.pods),
        false => format!(
            "{} of {} pods run it, rejected by {}",
            tally.arrived,
            tally.pods,
            tally.rejected.join(", ")
        ),
    }
}
