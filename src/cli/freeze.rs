//! `pitstop freeze` and `unfreeze`, `pause --fleet` and `resume --fleet`: a note in the pointer that holds something up
//! for everybody, by compare-and-swap.

use std::fmt;

use serde::Serialize;

use super::{Console, Exit, Failure, swap::Swap};
use crate::{
    config::Config,
    pointer::document::{FROZEN, PAUSED},
    revision::Note,
};

/// Somebody else's change of the pointer is no reason to give up: the note goes beside whatever it says.
const ATTEMPTS: u32 = 10;

/// What is held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Moves of the pointer.
    Moves,
    /// Deploys of all pods that follow it.
    Deploys,
}

/// What became of it.
#[derive(Debug, Serialize)]
struct Answer {
    pointer: String,
    #[serde(skip)]
    what: What,
    /// The note that is in the pointer now.
    #[serde(flatten)]
    now: Now,
    /// It was like that before.
    changed: bool,
    /// The note that was taken away.
    ended: Option<Note>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Now {
    Frozen(Option<Note>),
    Paused(Option<Note>),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.pointer;
        match (self.now.note(), &self.ended, self.what, self.changed) {
            (Some(note), _, What::Moves, changed) => {
                let already = if changed { "" } else { "already " };
                write!(
                    f,
                    "{name} is {already}frozen ({note}): it does not move until `pitstop unfreeze {name}`"
                )
            }
            (Some(note), _, What::Deploys, changed) => {
                let already = if changed { "" } else { "already " };
                write!(
                    f,
                    "the pods of {name} are {already}paused ({note}): none starts a deploy until `pitstop resume --fleet`"
                )
            }
            (None, Some(note), What::Moves, _) => write!(f, "{name} moves again; it was frozen {note}"),
            (None, Some(note), What::Deploys, _) => {
                write!(f, "the pods of {name} deploy again; they were paused {note}")
            }
            (None, None, What::Moves, _) => write!(f, "{name} was not frozen"),
            (None, None, What::Deploys, _) => write!(f, "the pods of {name} were not paused"),
        }
    }
}

impl Now {
    fn note(&self) -> Option<&Note> {
        match self {
            Self::Frozen(note) | Self::Paused(note) => note.as_ref(),
        }
    }
}

impl What {
    fn field(self) -> &'static str {
        match self {
            Self::Moves => FROZEN,
            Self::Deploys => PAUSED,
        }
    }

    fn now(self, note: Option<Note>) -> Now {
        match self {
            Self::Moves => Now::Frozen(note),
            Self::Deploys => Now::Paused(note),
        }
    }
}

/// Puts the note into the pointer, or takes it away with `None`. A note that is there already stays: whoever wrote it
/// counts on it.
///
/// # Errors
/// [`Failure`] with the message for the user: nothing was changed.
pub(crate) async fn run(
    config: &Config,
    name: Option<&str>,
    what: What,
    note: Option<Note>,
    console: Console,
) -> Result<Exit, Failure> {
    let mut attempts = 0;
    let answer = loop {
        attempts += 1;
        match change(config, name, what, note.as_ref()).await {
            Err(failure) if failure.exit_code == 4 && attempts < ATTEMPTS => {}
            done => break done?,
        }
    };
    console.print(&answer);
    Ok(Exit::Done)
}

async fn change(
    config: &Config,
    name: Option<&str>,
    what: What,
    note: Option<&Note>,
) -> Result<Answer, Failure> {
    let swap = Swap::open(config, name, None).await?;
    if swap.is_new() {
        return Err(swap.missing().await);
    }
    if swap.document.pointer.is_none() {
        return Err(Failure::failed(format!(
            "{0} is not a valid pointer, so nothing was changed; `pitstop promote ID` writes it anew",
            swap.name
        )));
    }
    let before = swap.document.note(what.field());
    let answer = |now: Option<Note>, changed, ended| Answer {
        pointer: swap.name.clone(),
        what,
        now: what.now(now),
        changed,
        ended,
    };
    if before.is_some() == note.is_some() {
        return Ok(answer(before, false, None));
    }
    let mut document = swap.document.clone();
    document.set(what.field(), note);
    swap.write(&document, |there| there.note(what.field()).as_ref() == note).await?;
    Ok(answer(note.cloned(), true, before))
}
