//! `pitstop pointers`: the pointers of the store, and what each names.

use std::fmt;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{
    Console, Exit, Failure,
    publish::{failure, usage},
    swap,
    table::{or_dash, table},
};
use crate::{
    config::Config,
    pointer::{
        self,
        document::{Document, FROZEN, PAUSED},
    },
    revision::{Canary, Note, PodCount, ReleaseId},
    store::{self, Found, Store, StoreError},
};

/// So many are read at the same time.
const AT_ONCE: usize = 8;

/// All of them.
#[derive(Debug, Serialize)]
struct Answer {
    pointers: Vec<Listed>,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Listed {
    pub(super) pointer: String,
    /// `null`: it is no valid pointer.
    pub(super) release: Option<ReleaseId>,
    pub(super) sequence: Option<u64>,
    pub(super) previous: Option<ReleaseId>,
    pub(super) moved_at: Option<String>,
    pub(super) moved_by: Option<String>,
    pub(super) why: Option<String>,
    pub(super) frozen: Option<Note>,
    pub(super) paused: Option<Note>,
    /// What some pods run already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) canary: Option<Canary>,
    /// Why it is none, or cannot be read.
    pub(super) error: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointers.is_empty() {
            return f.write_str("the store has no pointer: `pitstop promote ID` makes the first");
        }
        let row = |one: &Listed| {
            [
                one.pointer.clone(),
                or_dash(one.release.as_ref()),
                or_dash(one.sequence),
                or_dash(one.moved_at.as_ref()),
                or_dash(one.moved_by.as_ref()),
                one.notes().join("; "),
            ]
        };
        let rows: Vec<_> = self.pointers.iter().map(row).collect();
        f.write_str(&table(["POINTER", "RELEASE", "MOVE", "SINCE", "BY", "NOTES"], &rows))
    }
}

impl Listed {
    /// Of a pointer's bytes.
    pub(super) fn of(name: &str, bytes: &[u8]) -> Self {
        let document = Document::of(bytes);
        let pointer = document.pointer.as_ref();
        Self {
            pointer: name.into(),
            release: pointer.map(|pointer| pointer.revision.release.clone()),
            sequence: document.get("sequence"),
            previous: pointer.and_then(|pointer| pointer.previous.clone()),
            moved_at: document.get("moved_at"),
            moved_by: document.get("moved_by"),
            why: document.get("why"),
            frozen: document.note(FROZEN),
            paused: document.note(PAUSED),
            canary: pointer.and_then(|pointer| pointer.canary.as_deref().cloned()),
            error: pointer::parse(bytes).err().map(|problem| problem.message),
        }
    }

    fn unread(name: &str, error: &StoreError) -> Self {
        Self { error: Some(error.to_string()), ..Self::of(name, b"") }
    }

    /// What there is to say besides the release.
    pub(super) fn notes(&self) -> Vec<String> {
        let frozen = self.frozen.as_ref().map(|note| format!("frozen {note}"));
        let paused = self.paused.as_ref().map(|note| format!("pods paused {note}"));
        let canary = self.canary.as_ref().map(|canary| {
            let pods = match canary.share {
                PodCount::Pods(1) => "1 pod".to_owned(),
                PodCount::Pods(pods) => format!("{pods} pods"),
                PodCount::Percent(percent) => format!("{percent} % of the pods"),
            };
            format!("canary {} in {pods}", canary.revision(self.sequence))
        });
        self.error
            .clone()
            .into_iter()
            .chain(canary)
            .chain(frozen)
            .chain(paused)
            .chain(self.why.clone())
            .collect()
    }
}

/// Lists them.
///
/// # Errors
/// [`Failure`] when the store does not let us look.
pub(crate) async fn run(config: &Config, console: Console) -> Result<Exit, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    let names = swap::names(store.as_ref()).await.map_err(failure)?;
    let pointers = read(store.as_ref(), names).await.map_err(failure)?;
    console.print(&Answer { pointers });
    Ok(Exit::Done)
}

/// Those of these names that are there.
pub(super) async fn read(store: &dyn Store, names: Vec<String>) -> Result<Vec<Listed>, StoreError> {
    let read = stream::iter(names).map(|name| async move {
        match store.get(&store::pointer_key(&name), None, pointer::LIMIT_BYTES).await {
            Ok(Found::Object { bytes, .. }) => Ok(Some(Listed::of(&name, &bytes))),
            Ok(Found::Absent | Found::NotModified) => Ok(None),
            // A role may read one pointer and not another.
            Err(error @ (StoreError::Denied(_) | StoreError::TooLarge { .. })) => {
                Ok(Some(Listed::unread(&name, &error)))
            }
            Err(error) => Err(error),
        }
    });
    let listed: Vec<_> = read.buffered(AT_ONCE).try_collect().await?;
    Ok(listed.into_iter().flatten().collect())
}
