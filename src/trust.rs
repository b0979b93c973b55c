//! Who may say what this pod runs: signed statements on releases and on pointers, and the keys that count.
//!
//! Two statements, two roles. A release's statement says which bytes an id is (`releases/<id>.signed`, by CI's key); a
//! pointer's statement says what its pods run (`signed` in the pointer's own object, by the key of who promotes). Each
//! is canonical JSON inside of an [`Envelope`], with detached minisign signatures beside it. No key has both roles.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use crate::{
    config,
    core::{Problem, Reason},
    finding::{Code, Finding},
    revision::ReleaseId,
    store::archive::Published,
};

mod envelope;
pub(crate) mod floor;
mod keys;
pub(crate) mod pointer;
mod release;
#[cfg(test)]
mod tests;

pub(crate) use envelope::{Envelope, canonical};
pub(crate) use floor::Floor;
pub(crate) use keys::{Role, id_of_key, is_key, signed_by};
pub(crate) use pointer::{PointerStatement, REVOKED, Revocations, SIGNED, said};
pub(crate) use release::ReleaseStatement;

/// Findings that `/status` shows beside its own.
pub(crate) type Noted = Arc<Mutex<Vec<Finding>>>;

/// Which keys count, and what was seen of them so far. Shared by all who check signatures in a process.
#[derive(Debug, Default)]
pub struct Trust {
    keys: config::Trust,
    /// The pointer's name in the store.
    pointer: String,
    /// Where the newest statement is remembered, beyond this process.
    memory: Option<PathBuf>,
    seen: Mutex<Seen>,
    /// When the pointer's signature expires, in seconds since 1970; 0: none was seen that holds. Not behind the lock, which
    /// is held while a file is written.
    expires: AtomicU64,
    noted: Noted,
}

/// What only grows.
#[derive(Debug, Default)]
struct Seen {
    /// Read from the file once, when it is first needed.
    floor: Option<Floor>,
    /// Whether the file has it.
    kept: bool,
    revocations: Revocations,
}

impl Trust {
    /// Checks by these keys. `pointer` is the name that pointer statements must have.
    pub(crate) fn new(keys: &config::Trust, pointer: &str) -> Self {
        Self { keys: keys.clone(), pointer: pointer.into(), ..Self::default() }
    }

    /// The same, which remembers the newest statement in this file.
    #[must_use]
    pub(crate) fn remembering(self, memory: PathBuf) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// The same, with a place for what operators should know.
    #[must_use]
    pub(crate) fn noting(self, noted: Noted) -> Self {
        Self { noted, ..self }
    }

    /// Whether what is not signed must not run.
    pub(crate) fn is_required(&self) -> bool {
        self.keys.required
    }

    /// Whether releases are looked at for signatures at all.
    pub(crate) fn checks_releases(&self) -> bool {
        !self.keys.release_keys.is_empty()
    }

    /// Whether pointers are.
    pub(crate) fn checks_pointers(&self) -> bool {
        !self.keys.pointer_keys.is_empty()
    }

    /// What a release's statement says of the archive, if it is signed by a key that counts and that was not revoked.
    /// `made_of` is the digest of the archive that a release on the volume was made from.
    /// Nothing where signatures are not required and this one does not hold.
    ///
    /// # Errors
    /// [`Reason::SignatureMissing`] without a statement, [`Reason::SignatureInvalid`] for one that does not hold.
    pub(crate) fn release(
        &self,
        id: &ReleaseId,
        signed: Option<&[u8]>,
        made_of: Option<&str>,
    ) -> Result<Option<Published>, Problem> {
        let verified = ReleaseStatement::verified(&self.keys, id, signed).and_then(|statement| {
            self.seen().revocations.refuse(id, &statement)?;
            match made_of.filter(|made_of| *made_of != statement.sha256) {
                Some(_) => Err(invalid(format!(
                    "release {id} on the volume was not made from the archive that is signed"
                ))),
                None => Ok(statement),
            }
        });
        match verified {
            Ok(statement) => {
                self.forget(Code::ReleaseNotSigned);
                Ok(Some(statement.published()))
            }
            Err(problem) => self.judge(Code::ReleaseNotSigned, problem).map(|()| None),
        }
    }

    /// What a problem with a signature means here: none may run where signatures are required, and elsewhere people
    /// hear of it.
    ///
    /// # Errors
    /// The problem itself.
    fn judge(&self, code: Code, problem: Problem) -> Result<(), Problem> {
        if self.is_required() {
            return Err(problem);
        }
        let finding = Finding::risky(
            code,
            format!("{}; it is used all the same, as trust.required is not set", problem.message),
            "sign releases (`pitstop publish --sign`) and pointers (`pitstop promote --sign`), then set trust.required",
        );
        self.note(finding);
        Ok(())
    }

    /// Shows a finding in the place of the earlier one of its kind.
    fn note(&self, finding: Finding) {
        let mut noted = self.noted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if noted.contains(&finding) {
            return;
        }
        let Finding { code, message, fix, .. } = &finding;
        tracing::warn!(code = code.code(), fix, "{message}");
        noted.retain(|other| other.code != *code);
        noted.push(finding);
    }

    fn forget(&self, code: Code) {
        let mut noted = self.noted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        noted.retain(|other| other.code != code);
    }

    /// When the signature of the pointer expires, in seconds since 1970; `None` where none was seen that holds.
    pub(crate) fn pointer_expires(&self) -> Option<u64> {
        Some(self.expires.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Plain data, changed in one step.
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn missing(message: impl Into<String>) -> Problem {
    Problem::new(Reason::SignatureMissing, message)
}

fn invalid(message: impl Into<String>) -> Problem {
    Problem::new(Reason::SignatureInvalid, message)
}

/// The wall clock, in whole seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
