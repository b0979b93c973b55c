//! The store and the pointer in it: what the next deploy would ask for.

use std::{sync::Arc, time::Duration};

use crate::{
    config::Config,
    core::{Problem, Reason},
    finding::{Check, Code, Finding},
    fleet,
    pointer::{self, Source},
    revision::{Pointer, ReleaseId},
    store::{self, ArchiveKind, Body, Condition, Found, Store, StoreError, archive},
    trust::{Noted, Trust},
};

const ABOUT: &str = "store";

/// A store has limits of its own; nobody waits longer for a whole one of them.
const LIMIT: Duration = Duration::from_secs(30);

/// Reads the pointer, and asks for the release that it names.
pub(crate) async fn checks(config: &Config) -> Vec<Check> {
    let store = match config.source.as_deref().map(|source| store::open(Some(source), &config.s3)).transpose()
    {
        Ok(store) => store,
        Err(problem) => return vec![Check::found(ABOUT, named(&problem))],
    };
    let source = match (pointer::file_path(&config.pointer), &store) {
        (Some(path), _) => Source::File(path),
        (None, Some(store)) => Source::Store(store.clone(), config.pointer.clone()),
        (None, None) => return vec![Check::unknown(ABOUT, "`source` is not set")],
    };
    let noted = Noted::default();
    let trust = Arc::new(Trust::new(&config.trust, &config.pointer).noting(noted.clone()));
    let late =
        || Err(Problem::new(Reason::StoreUnreachable, format!("{source}: no answer within {LIMIT:?}")));
    let pointer =
        match tokio::time::timeout(LIMIT, pointer::read(&source, &trust)).await.unwrap_or_else(|_| late()) {
            Ok(pointer) => pointer,
            Err(problem) => return vec![Check::found(ABOUT, named(&problem))],
        };
    let read = Check::fine(ABOUT, format!("the pointer is readable and names {}", pointer.revision));
    let Some(store) = store else { return vec![read, Check::unknown(ABOUT, "`source` is not set")] };
    let mut checks = vec![read, release(store.as_ref(), &pointer).await];
    checks.extend(signature(store.as_ref(), &trust, &pointer.revision.release).await);
    let noted = std::mem::take(&mut *noted.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    checks.extend(noted.into_iter().map(|finding| Check::found(ABOUT, finding)));
    // Amazon's own has them.
    if config.s3.endpoint.is_some() {
        checks.extend(conditions(config, store.as_ref(), &pointer.revision.release).await);
    }
    checks
}

/// Writes once more what is there already, on the condition that nothing is: that must fail. Done with what nobody
/// else writes at the same time: this pod's own report, or a digest, which never changes.
async fn conditions(config: &Config, store: &dyn Store, id: &ReleaseId) -> Option<Check> {
    let report = format!("{}{}", fleet::prefix(&config.pointer), config.pod());
    let digests = ArchiveKind::ALL.map(|kind| kind.digest_key(id));
    for key in std::iter::once(report).chain(digests) {
        let Ok(Found::Object { bytes, .. }) = store.get(&key, None, fleet::LIMIT_BYTES).await else {
            continue;
        };
        let message = match store.put(&key, Body::Bytes(bytes), Condition::Absent).await {
            Ok(_) => {
                "the store ignores conditional writes (If-None-Match): two promotes at the same time both \
                      succeed, and a publish can overwrite a release"
            }
            Err(StoreError::Unfit(_)) => {
                "the store does not support conditional writes (If-None-Match, If-Match): `pitstop publish` \
                      and `pitstop promote` do not work with it"
            }
            Err(StoreError::Changed(_)) => {
                return Some(Check::fine(ABOUT, "the store supports conditional writes"));
            }
            // Not ours to write, perhaps.
            Err(_) => continue,
        };
        let remedy = "use a server that supports them; otherwise promote from one job at a time and upload \
                      with another tool (docs/s3.md, other servers)";
        return Some(Check::found(ABOUT, Finding::risky(Code::StoreWithoutConditions, message, remedy)));
    }
    None
}

/// What the pointer names, if it can be read now. That it cannot is said by [`checks`].
pub(crate) async fn desired(config: &Config) -> Option<ReleaseId> {
    let store = config.source.as_deref().and_then(|source| store::open(Some(source), &config.s3).ok());
    let source = match (pointer::file_path(&config.pointer), store) {
        (Some(path), _) => Source::File(path),
        (None, store) => Source::Store(store?, config.pointer.clone()),
    };
    let read = tokio::time::timeout(LIMIT, pointer::read(&source, &crate::cli::trust(config))).await;
    Some(read.ok()?.ok()?.revision.release)
}

async fn release(store: &dyn Store, pointer: &Pointer) -> Check {
    let id = &pointer.revision.release;
    match tokio::time::timeout(LIMIT, archive::require(store, id)).await {
        Ok(Ok(published)) if pointer.sha256.as_ref().is_some_and(|sha256| *sha256 != published.sha256) => {
            let message = format!("the digest of {id} in the store differs from the one in the pointer");
            Check::found(ABOUT, named(&Problem::new(Reason::ReleaseCorrupt, message)))
        }
        Ok(Ok(_)) => Check::fine(ABOUT, format!("the store has {id} and its digest")),
        Ok(Err(problem)) => Check::found(ABOUT, named(&problem)),
        Err(_) => Check::unknown(ABOUT, format!("{id}: no answer within {LIMIT:?}")),
    }
}

/// Whether the release is signed, where that counts. Where it is only a warning, the warning is noted elsewhere.
async fn signature(store: &dyn Store, trust: &Trust, id: &ReleaseId) -> Option<Check> {
    if !trust.checks_releases() {
        return None;
    }
    let signed = match tokio::time::timeout(LIMIT, archive::signed(store, id)).await {
        Ok(Ok(signed)) => signed,
        Ok(Err(error)) => return Some(Check::unknown(ABOUT, error.to_string())),
        Err(_) => return Some(Check::unknown(ABOUT, format!("{id}: no answer within {LIMIT:?}"))),
    };
    match trust.release(id, signed.as_deref(), None) {
        Ok(Some(_)) => Some(Check::fine(ABOUT, format!("{id} is signed"))),
        Ok(None) => None,
        Err(problem) => {
            Some(Check::found(ABOUT, Finding { code: Code::ReleaseNotSigned, ..named(&problem) }))
        }
    }
}

/// The same problem that the agent would have, called what the agent would call it.
pub(super) fn named(problem: &Problem) -> Finding {
    let (code, remedy) = match problem.reason {
        Reason::PointerInvalid => (
            Code::PointerInvalid,
            "run `pitstop promote ID`, or correct the file: it contains a release id as plain text",
        ),
        Reason::SignatureMissing | Reason::SignatureInvalid => (
            Code::PointerNotSigned,
            "find out who wrote it without the key; then `pitstop sign ID`, or `pitstop promote ID --sign` \
             (docs/security.md)",
        ),
        Reason::Replayed => (Code::PointerInvalid, "run `pitstop promote ID`: it writes a higher number"),
        Reason::PointerUnreadable => (
            Code::PointerUnreadable,
            "`pitstop promote ID --create` creates the pointer; for a file, check the mount, the key's name \
             and the permissions",
        ),
        Reason::StoreDenied => {
            (Code::StoreDenied, "give the agent's user (or role) read access to the store")
        }
        Reason::ReleaseUnknown => (
            Code::ReleaseUnknown,
            "finish the upload (the digest comes last), or promote another release (`pitstop releases` lists \
             them)",
        ),
        Reason::ReleaseCorrupt => (Code::ReleaseCorrupt, "publish it again under another id"),
        Reason::ConfigInvalid => {
            (Code::ConfigInvalid, "correct `source` and `pointer`; `pitstop config` shows them")
        }
        _ => (Code::StoreUnreachable, "check the network or the mount of the store that `source` names"),
    };
    Finding::broken(code, format!("no deploy can start: {}", problem.message), remedy)
}
