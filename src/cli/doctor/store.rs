//! The store and the pointer in it: what the next deploy would ask for.

use std::time::Duration;

use crate::{
    config::Config,
    core::{Reason, Trouble},
    finding::{Check, Code, Finding},
    pointer::{self, Source},
    revision::{Pointer, ReleaseId},
    store::{self, Store, archive},
};

const ABOUT: &str = "store";

/// A store has limits of its own; nobody waits longer for a whole one of them.
const LIMIT: Duration = Duration::from_secs(30);

/// Reads the pointer, and asks for the release that it names.
pub async fn checks(config: &Config) -> Vec<Check> {
    let store = match config.source.as_deref().map(|source| store::open(Some(source), &config.s3)).transpose()
    {
        Ok(store) => store,
        Err(trouble) => return vec![Check::found(ABOUT, named(&trouble))],
    };
    let source = match (pointer::file_path(&config.pointer), &store) {
        (Some(path), _) => Source::File(path),
        (None, Some(store)) => Source::Store(store.clone(), config.pointer.clone()),
        (None, None) => return vec![Check::unknown(ABOUT, "`source` is not set")],
    };
    let late =
        || Err(Trouble::new(Reason::StoreUnreachable, format!("{source:?}: no answer within {LIMIT:?}")));
    let pointer = match tokio::time::timeout(LIMIT, pointer::read(&source)).await.unwrap_or_else(|_| late()) {
        Ok(pointer) => pointer,
        Err(trouble) => return vec![Check::found(ABOUT, named(&trouble))],
    };
    let read = Check::fine(ABOUT, format!("the pointer is readable and names {}", pointer.revision));
    let release = match &store {
        Some(store) => release(store.as_ref(), &pointer).await,
        None => Check::unknown(ABOUT, "`source` is not set"),
    };
    vec![read, release]
}

/// What the pointer names, if it can be read now. That it cannot is said by [`checks`].
pub async fn desired(config: &Config) -> Option<ReleaseId> {
    let store = config.source.as_deref().and_then(|source| store::open(Some(source), &config.s3).ok());
    let source = match (pointer::file_path(&config.pointer), store) {
        (Some(path), _) => Source::File(path),
        (None, store) => Source::Store(store?, config.pointer.clone()),
    };
    let read = tokio::time::timeout(LIMIT, pointer::read(&source)).await;
    Some(read.ok()?.ok()?.revision.release)
}

async fn release(store: &dyn Store, pointer: &Pointer) -> Check {
    let id = &pointer.revision.release;
    match tokio::time::timeout(LIMIT, archive::require(store, id)).await {
        Ok(Ok(published)) if pointer.sha256.as_ref().is_some_and(|sha256| *sha256 != published.sha256) => {
            let message = format!("the digest of {id} in the store is not the one that the pointer names");
            Check::found(ABOUT, named(&Trouble::new(Reason::ReleaseCorrupt, message)))
        }
        Ok(Ok(_)) => Check::fine(ABOUT, format!("it has {id}, with its digest")),
        Ok(Err(trouble)) => Check::found(ABOUT, named(&trouble)),
        Err(_) => Check::unknown(ABOUT, format!("{id}: no answer within {LIMIT:?}")),
    }
}

/// The same trouble that the agent would have, called what the agent would call it.
pub(super) fn named(trouble: &Trouble) -> Finding {
    let (code, remedy) = match trouble.reason {
        Reason::PointerInvalid => {
            (Code::PointerInvalid, "`pitstop promote ID`, or put the file right; a release id is plain text")
        }
        Reason::PointerUnreadable => (
            Code::PointerUnreadable,
            "`pitstop promote ID` makes it; for a file: check the mount, the key's name and the permissions",
        ),
        Reason::StoreDenied => (Code::StoreDenied, "let the agent's user (or role) read the store"),
        Reason::ReleaseUnknown => (
            Code::ReleaseUnknown,
            "finish the upload (the digest comes last), or promote a release of `pitstop releases`",
        ),
        Reason::ReleaseCorrupt => (Code::ReleaseCorrupt, "publish it again under another id"),
        Reason::ConfigInvalid => {
            (Code::ConfigInvalid, "correct `source` and `pointer`; `pitstop config` shows them")
        }
        _ => (Code::StoreUnreachable, "see the store's mount or network; `source` names the place"),
    };
    Finding::broken(code, format!("no deploy can begin: {}", trouble.message), remedy)
}
