//! A pointer that is read, and written only if nobody else has changed it in between.

use std::{sync::Arc, time::Duration};

use super::{
    Failure,
    publish::{failure, usage},
    signing::{self, Key, Signer},
    who::Said,
};
use crate::{
    config::{self, Config},
    pointer::{self, document::Document},
    revision::ReleaseId,
    store::{self, Body, Condition, Found, Store, StoreError},
    trust::{Envelope, Role, SIGNED},
};

/// A move that began at the same time is written by then.
const OTHERS_WRITE: Duration = Duration::from_secs(1);
/// So many other pointers are named where one is missing.
const NAMES_SHOWN: usize = 8;

/// A pointer as it was read.
pub(super) struct Swap {
    /// Where it is.
    pub(super) store: Arc<dyn Store>,
    /// How it is called.
    pub(super) name: String,
    /// What it says.
    pub(super) document: Document,
    /// Who signs what is written, where somebody does.
    pub(super) signer: Option<Arc<Signer>>,
    condition: Condition,
    /// The store may be one that takes no notice of conditions.
    doubtful: bool,
}

impl Swap {
    /// Reads the pointer of this name, or the configured one. `id` is for the advice only, when the pointer is a file.
    pub(super) async fn open(
        config: &Config,
        name: Option<&str>,
        id: Option<&ReleaseId>,
    ) -> Result<Self, Failure> {
        let name = name.unwrap_or(&config.pointer);
        if let Some(path) = pointer::file_path(name) {
            return Err(file_advice(&path.display().to_string(), id));
        }
        let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
        let key = store::pointer_key(name);
        let (condition, bytes) = match store.get(&key, None, pointer::LIMIT_BYTES).await.map_err(failure)? {
            Found::Object { version, bytes } => (Condition::Matches(version), bytes),
            Found::Absent | Found::NotModified => (Condition::Absent, Vec::new()),
        };
        let (document, doubtful) = (Document::of(&bytes), config.s3.endpoint.is_some());
        let signer = Key::default().signer(Role::Pointer, config)?.map(Arc::new);
        Ok(Self { store, name: name.into(), document, signer, condition, doubtful })
    }

    /// Whether nobody has ever moved it.
    pub(super) fn is_new(&self) -> bool {
        self.condition == Condition::Absent
    }

    /// Writes it. `stands` is whether what is there afterwards still has what was written, also when somebody went
    /// on from it.
    ///
    /// # Errors
    /// Exit code 4 when somebody else was faster.
    pub(super) async fn write(
        &self,
        document: &Document,
        stands: impl Fn(&Document) -> bool,
    ) -> Result<(), Failure> {
        let document = signing::renewed(document, &self.document, &self.name, self.signer.as_deref())?;
        let (text, key) = (document.text(), store::pointer_key(&self.name));
        match self.store.put(&key, Body::Bytes(text.clone().into_bytes()), self.condition.clone()).await {
            Ok(_) => self.read_back(&key, &text, stands).await,
            Err(StoreError::Changed(_)) => Err(self.refused(&key).await),
            Err(error) => self.after_all(&key, &text, error).await,
        }
    }

    /// By the key that somebody gives, rather than the environment's.
    pub(super) fn sign_by(&mut self, said: &Said, config: &Config) -> Result<(), Failure> {
        if let Some(signer) = said.key.signer(Role::Pointer, config)? {
            self.signer = Some(Arc::new(signer.holding(said.expires)));
        }
        Ok(())
    }

    /// What will be moved later has to be signed then.
    ///
    /// # Errors
    /// [`Failure`] where the pointer is signed, and there is no key.
    pub(super) fn can_be_signed(&self) -> Result<(), Failure> {
        let signed: Option<Envelope> = self.document.get(SIGNED);
        match signed.is_some() && self.signer.is_none() {
            true => Err(signing::no_key(&self.name)),
            false => Ok(()),
        }
    }

    /// A store may answer that it did what it was asked, and have dropped the condition: then two moves can have the
    /// same number, and only one of them is there in the end.
    async fn read_back(
        &self,
        key: &str,
        written: &str,
        stands: impl Fn(&Document) -> bool,
    ) -> Result<(), Failure> {
        if self.doubtful {
            tokio::time::sleep(OTHERS_WRITE).await;
        }
        // What cannot be read back was written all the same.
        let Ok(Found::Object { bytes, .. }) = self.store.get(key, None, pointer::LIMIT_BYTES).await else {
            return Ok(());
        };
        let there = Document::of(&bytes);
        if bytes == written.as_bytes() || stands(&there) {
            return Ok(());
        }
        let there = there.pointer.map(|there| there.revision);
        let there = there.map_or_else(|| "is no pointer now".into(), |there| format!("names {there} now"));
        let name = &self.name;
        Err(Failure::lost(format!(
            "somebody else changed {name} at the same time, and {name} {there}. The store ignores conditional \
             writes (If-Match), so only one person or job may promote at a time. Check {name} and decide again"
        )))
    }

    /// An answer that is lost may have been a yes: who is told that nothing was changed must be able to rely on it.
    async fn after_all(&self, key: &str, written: &str, error: StoreError) -> Result<(), Failure> {
        match self.store.get(key, None, pointer::LIMIT_BYTES).await {
            Ok(Found::Object { bytes, .. }) if bytes == written.as_bytes() => Ok(()),
            Ok(_) => Err(failure(error)),
            Err(_) => {
                let failure = failure(error);
                let message = format!(
                    "{}; it is unknown whether {} was changed, so check it",
                    failure.message, self.name
                );
                Err(Failure { message, ..failure })
            }
        }
    }

    /// Somebody else was faster; or the store does not know the version again that it gave itself.
    async fn refused(&self, key: &str) -> Failure {
        let there = self.store.get(key, None, pointer::LIMIT_BYTES).await;
        match (&self.condition, there) {
            (Condition::Matches(known), Ok(Found::Object { version, .. })) if version == *known => {
                Failure::failed(format!(
                    "the store refuses to change {0}, though nobody else has changed it: its ETags do not hold for \
                     If-Match. Let no proxy in between change them (compression does), or write {0} by hand (docs/s3.md)",
                    self.name
                ))
            }
            _ => self.lost(),
        }
    }

    pub(super) fn lost(&self) -> Failure {
        Failure::lost(format!(
            "somebody else moved {} at the same time, so nothing was changed; check it and decide again",
            self.name
        ))
    }

    /// That it is not there, beside which others.
    pub(super) async fn missing(&self) -> Failure {
        let others = self.others().await.ok().flatten().unwrap_or_default();
        Failure::failed(format!("there is no pointer {}{}", self.name, among(&self.name, &others)))
    }

    /// The names of the pointers that there are; `None` where the store does not let us look.
    pub(super) async fn others(&self) -> Result<Option<Vec<String>>, Failure> {
        match names(self.store.as_ref()).await {
            Ok(names) => Ok(Some(names)),
            Err(StoreError::Denied(_)) => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }
}

/// The names of all pointers of a store.
pub(super) async fn names(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let folder = store::pointer_key("");
    let keys = store.list(&folder).await?;
    Ok(keys.iter().filter_map(|key| key.strip_prefix(&folder)).map(Into::into).collect())
}

/// `: did you mean staging? There are production, staging`.
pub(super) fn among(name: &str, others: &[String]) -> String {
    if others.is_empty() {
        return "; the store has none".into();
    }
    let near = config::nearest(name, others.iter().map(String::as_str));
    let near = near.map_or_else(String::new, |near| format!(": did you mean {near}?"));
    let more = others.len().saturating_sub(NAMES_SHOWN);
    let shown = others.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{near} (the store has {shown}{more})")
}

fn file_advice(path: &str, id: Option<&ReleaseId>) -> Failure {
    let id = id.map_or("<ID>", ReleaseId::as_str);
    Failure::usage(format!(
        "the pointer is the file {path}, which pitstop does not write. Change the release to {id} at the \
         file's origin: in git, commit and push; with a ConfigMap, `kubectl patch configmap <NAME> --type \
         merge -p '{{\"data\":{{\"<KEY>\":\"{id}\"}}}}'`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_pointer_is_told_beside_those_that_there_are() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let said = among("stagging", &names(&["production", "staging"]));
        assert_eq!(said, ": did you mean staging? (the store has production, staging)");
        assert_eq!(among("x", &names(&["production"])), " (the store has production)");
        assert_eq!(among("x", &[]), "; the store has none");
        let many: Vec<_> = (0..10).map(|n| format!("app-{n}")).collect();
        assert!(among("x", &many).ends_with("app-7 and 2 more)"));
    }
}
