//! Which bytes a release is: by the signed statement where keys are configured, else by the digest in the store.

use std::sync::Arc;

use super::{Marker, Releases};
use crate::{
    core::Problem,
    revision::ReleaseId,
    store::{Blocking, archive::Published},
    trust::Trust,
};

impl Releases {
    /// The same, where signatures count.
    #[must_use]
    pub fn trusting(self, trust: Arc<Trust>) -> Self {
        Self { trust, ..self }
    }

    /// What is to be fetched, and the statement that says so. Nothing of the archive is read before.
    ///
    /// # Errors
    /// [`Problem`] when the store does not have it, or no statement holds where one has to.
    pub(super) fn published(
        &self,
        store: &Blocking,
        id: &ReleaseId,
    ) -> Result<(Published, Option<String>), Problem> {
        if !self.trust.checks_releases() {
            return Ok((store.require(id)?, None));
        }
        let signed = store.signed(id)?;
        match self.trust.release(id, signed.as_deref(), None)? {
            Some(published) => {
                self.trusted(id);
                Ok((published, signed.and_then(|bytes| String::from_utf8(bytes).ok())))
            }
            None => Ok((store.require(id)?, None)),
        }
    }

    /// Whether a release that is on the volume may be used: by the statement that it was fetched with, or by the one
    /// in the store, if it was signed since.
    ///
    /// # Errors
    /// [`Problem`] when no statement holds, where one has to.
    pub(crate) fn check_signature(&self, store: Option<&Blocking>, marker: &Marker) -> Result<(), Problem> {
        if !self.trust.checks_releases() {
            return Ok(());
        }
        let (id, sha256) = (&marker.release, Some(marker.sha256.as_str()));
        let own = marker.signed.as_deref().map(str::as_bytes);
        let by_own = own.map(|own| self.trust.release(id, Some(own), sha256));
        if let Some(Ok(Some(_))) = by_own {
            self.trusted(id);
            return Ok(());
        }
        let signed = match store.map(|store| store.signed(id)) {
            Some(Err(problem)) if self.trust.is_required() => return Err(problem),
            signed => signed.and_then(Result::ok).flatten(),
        };
        let signed = signed.as_deref().or(own);
        if self.trust.release(id, signed, sha256)?.is_some() {
            self.trusted(id);
        }
        Ok(())
    }

    /// The same without asking a store: on the way back there may be none.
    ///
    /// # Errors
    /// As there.
    pub(super) fn check_before_use(&self, marker: &Marker) -> Result<(), Problem> {
        let known =
            self.verified.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).contains(&marker.release);
        if known || !self.trust.is_required() { Ok(()) } else { self.check_signature(None, marker) }
    }

    fn trusted(&self, id: &ReleaseId) {
        self.verified.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(id.clone());
    }
}
