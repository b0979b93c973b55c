//! Moving a pointer: read, decided on, and written only if nobody else has moved it in between; then written down.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    Console, Exit, Failure,
    converge::{self, Progress, Wait},
    swap::{Swap, among},
    who::{self, Said},
};
use crate::{
    config::Config,
    fleet::{
        Report, Reports,
        moves::{self, End, Ended, Move, Moves, Tally},
    },
    pointer::document::{ABORTED, CANARY, Document, FROZEN, PAUSED},
    revision::{Aborted, Canary, Note, Pointer, ReleaseId, Revision},
    store::{StoreError, archive},
};

/// So many releases that somebody rolled back from are remembered.
const ROLLED_BACK_MAX: usize = 20;
/// What is written down of the move before holds up no move longer than this.
const LOOK_BACK: Duration = Duration::from_secs(20);

/// A pointer that is about to move.
pub(super) struct Moving {
    pub(super) swap: Swap,
    /// The command.
    how: &'static str,
    sequence: u64,
    rolled_back: Vec<ReleaseId>,
    note: Note,
}

/// Where the pointer went.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Moved {
    pointer: String,
    release: ReleaseId,
    sequence: u64,
    previous: Option<ReleaseId>,
    rolled_back: Vec<ReleaseId>,
    moved_by: Option<String>,
    why: Option<String>,
    /// The pods start no deploy for now.
    paused: Option<Note>,
    /// The pointer is new.
    created: bool,
    /// How far the fleet has come, where that was waited for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    fleet: Option<Progress>,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} now points to {} (move {})", self.pointer, self.release, self.sequence)?;
        match &self.previous {
            _ if self.created => f.write_str(", a new pointer")?,
            Some(previous) => write!(f, ", was {previous}")?,
            None => {}
        }
        match &self.paused {
            Some(note) => {
                write!(f, "; its pods are paused ({note}): `pitstop resume --fleet` lets them deploy")
            }
            None => Ok(()),
        }
    }
}

impl Moving {
    /// Reads it. `id` is for the advice only, when the pointer is not ours to move.
    pub(super) async fn begin(
        config: &Config,
        id: Option<&ReleaseId>,
        how: &'static str,
        said: &Said,
    ) -> Result<Self, Failure> {
        let mut swap = Swap::open(config, None, id).await?;
        swap.sign_by(said, config)?;
        let document = &swap.document;
        if let Some(frozen) = document.note(FROZEN) {
            let name = &swap.name;
            return Err(Failure::lost(format!(
                "{name} is frozen ({frozen}) and was not moved; `pitstop unfreeze {name}` lets it move again"
            )));
        }
        let rolled_back = document.get("rolled_back").unwrap_or_default();
        let (moves, next) = (Moves::of(&swap.store, &swap.name), document.next_sequence());
        let sequence = tokio::time::timeout(LOOK_BACK, moves.unused(next)).await.unwrap_or(next);
        Ok(Self { how, sequence, rolled_back, note: said.note(), swap })
    }

    /// What it says; `None` when it is absent or garbage.
    pub(super) fn now(&self) -> Option<&Pointer> {
        self.swap.document.pointer.as_ref()
    }

    /// The number of the move.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What nobody rolled back from, or promoted since.
    pub(super) fn rolled_back(&self) -> &[ReleaseId] {
        &self.rolled_back
    }

    /// What the pods say. A store that does not tell must not be what keeps a team from going back at night.
    pub(super) async fn reports(&self) -> Vec<Report> {
        let mut reports = Reports::of(&self.swap.store, &self.swap.name);
        let looked = tokio::time::timeout(LOOK_BACK, reports.look()).await;
        match looked {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                eprintln!("pitstop: the pods' reports cannot be read, so rejections are unknown: {error}")
            }
            Err(_) => eprintln!(
                "pitstop: the pods' reports were not read within {} s, so rejections are unknown",
                LOOK_BACK.as_secs()
            ),
        }
        reports.all().cloned().collect()
    }

    /// What it names is rolled back from, if that is another release.
    pub(super) fn leave(&mut self, to: &ReleaseId) {
        let left = self.now().map(|now| now.revision.release.clone()).filter(|left| left != to);
        if let Some(left) = left {
            self.rolled_back.retain(|release| *release != left);
            self.rolled_back.insert(0, left);
            self.rolled_back.truncate(ROLLED_BACK_MAX);
        }
    }

    /// Moves it, if the store has the release and nobody else was faster. Then waits for the fleet, if asked.
    pub(super) async fn to(
        mut self,
        id: ReleaseId,
        create: bool,
        wait: Option<Wait>,
        console: Console,
    ) -> Result<Exit, Failure> {
        let sha256 = archive::require(self.swap.store.as_ref(), &id).await?.sha256;
        if self.swap.is_new() && !create {
            self.refuse_a_mistake(&id).await?;
        }
        // Whoever names it wants it again.
        self.rolled_back.retain(|release| *release != id);
        let revision = Revision { release: id, sequence: Some(self.sequence) };
        let document = self.document(&revision.release, &sha256);
        let made = self.made(&revision.release, sha256);
        let before = self.before().await;
        let stands = |there: &Document| {
            // Others may have gone on from it, or have frozen it.
            let there = there.pointer.as_ref().map(|there| &there.revision);
            there.is_some_and(|there| *there == revision || there.sequence > revision.sequence)
        };
        self.swap.write(&document, stands).await?;
        let moves = Moves::of(&self.swap.store, &self.swap.name);
        told(&self.swap.name, self.write_down(&moves, before, &made).await);
        let mut moved = self.moved(&made, &document);
        let Some(wait) = wait else {
            console.print(&moved);
            return Ok(Exit::Done);
        };
        // Before the wait: whoever is interrupted in it has to know that the pointer has moved.
        if console.json {
            console.tell(&moved)
        } else {
            console.print(&moved)
        }
        let (exit, fleet) = converge::wait(&self.swap.store, &self.swap.name, &revision, wait, console).await;
        if let Some(end) = fleet.end(exit) {
            told(&self.swap.name, moves.write_end(self.sequence, &self.end(end)).await);
        }
        if console.json {
            moved.fleet = Some(fleet);
            console.print(&moved);
        } else {
            console.print(&fleet.result(&revision.release));
        }
        Ok(exit)
    }

    fn document(&self, id: &ReleaseId, sha256: &str) -> Document {
        let mut document = self.swap.document.clone();
        document.set("release", Some(id));
        document.set("sequence", Some(self.sequence));
        document.set("sha256", Some(sha256));
        document.set("previous", self.previous(id));
        document.set("rolled_back", Some(&self.rolled_back).filter(|all| !all.is_empty()));
        document.set("moved_by", self.note.by.as_ref());
        document.set("moved_at", self.note.at.as_ref());
        document.set("why", self.note.why.as_ref());
        // Whoever moves the pointer for all pods ends whatever some of them were to try.
        document.set(CANARY, None::<Canary>);
        document.set(ABORTED, None::<Aborted>);
        document
    }

    pub(super) fn made(&self, id: &ReleaseId, sha256: String) -> Move {
        Move {
            v: 1,
            release: id.clone(),
            sequence: self.sequence,
            previous: self.now().map(|now| now.revision.release.clone()),
            sha256: Some(sha256),
            how: Some(self.how.into()),
            moved_by: self.note.by.clone(),
            moved_at: self.note.at.clone(),
            why: self.note.why.clone(),
        }
    }

    fn moved(&self, made: &Move, document: &Document) -> Moved {
        Moved {
            pointer: self.swap.name.clone(),
            release: made.release.clone(),
            sequence: self.sequence,
            previous: document.get("previous"),
            rolled_back: self.rolled_back.clone(),
            moved_by: self.note.by.clone(),
            why: self.note.why.clone(),
            paused: document.note(PAUSED),
            created: self.swap.is_new(),
            fleet: None,
        }
    }

    /// Where it was before: the same release again keeps the way back that there was.
    fn previous(&self, id: &ReleaseId) -> Option<ReleaseId> {
        let now = self.now()?;
        if now.revision.release == *id { now.previous.clone() } else { Some(now.revision.release.clone()) }
    }

    /// How the move ends that is about to be replaced, unless that is known: afterwards the pods speak of the next one.
    pub(super) async fn before(&self) -> Option<(Ended, String)> {
        let revision = &self.now()?.revision;
        let moves = Moves::of(&self.swap.store, &self.swap.name);
        let known = tokio::time::timeout(LOOK_BACK, moves.end(revision.sequence?)).await;
        match known {
            Ok(Ok(None)) => Tally::of(self.reports().await.iter(), revision, SystemTime::now()).end(),
            Ok(Ok(Some(_)) | Err(_)) | Err(_) => None,
        }
    }

    pub(super) async fn write_down(
        &self,
        moves: &Moves,
        before: Option<(Ended, String)>,
        made: &Move,
    ) -> Result<(), StoreError> {
        moves.write(made).await?;
        let Some(earlier) = made_before(&self.swap.document) else { return Ok(()) };
        // Who made it may have ended between the move and this.
        moves.write(&earlier).await?;
        match before {
            Some(end) => moves.write_end(earlier.sequence, &self.end(end)).await,
            None => Ok(()),
        }
    }

    fn end(&self, (result, message): (Ended, String)) -> End {
        End { v: 1, result, message, by: self.note.by.clone(), at: Some(who::now()) }
    }

    /// A name that no pointer has, beside others that there are, is a slip more often than a wish.
    async fn refuse_a_mistake(&self, id: &ReleaseId) -> Result<(), Failure> {
        let name = &self.swap.name;
        match self.swap.others().await? {
            Some(others) if others.is_empty() => Ok(()),
            Some(others) if others.contains(name) => Err(self.swap.lost()),
            others => Err(Failure::failed(format!(
                "there is no pointer {name}, so nothing was moved{}; `pitstop promote {id} --create` creates it",
                others.map(|others| among(name, &others)).unwrap_or_default()
            ))),
        }
    }
}

/// The move that a pointer shows, as the history has it; `None` where its moves are not counted.
pub(super) fn made_before(document: &Document) -> Option<Move> {
    let Pointer { revision, previous, sha256, .. } = document.pointer.clone()?;
    Some(Move {
        v: 1,
        release: revision.release,
        sequence: revision.sequence?,
        previous,
        sha256,
        how: None,
        moved_by: document.get("moved_by"),
        moved_at: document.get("moved_at"),
        why: document.get("why"),
    })
}

/// A history with a gap stops nobody.
pub(super) fn told(pointer: &str, written: Result<(), StoreError>) {
    let Err(error) = written else { return };
    let right = match error {
        StoreError::Denied(_) => {
            format!(": give this role the right to write {}* (docs/s3.md)", moves::prefix(pointer))
        }
        _ => String::new(),
    };
    eprintln!("pitstop: {pointer} was moved, but the history was not written{right}: {error}");
}
