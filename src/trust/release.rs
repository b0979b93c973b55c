//! What a release's statement says: which bytes an id is.

use serde::{Deserialize, Serialize};

use super::{Envelope, invalid, missing};
use crate::{
    config,
    core::{Problem, requirement::Requirement},
    revision::ReleaseId,
    store::{
        ArchiveKind,
        archive::{self, Published},
    },
};

const TYPE: &str = "release";
const VERSION: u32 = 1;

/// An id and its archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseStatement {
    t: String,
    v: u32,
    pub(crate) app: String,
    pub(crate) id: ReleaseId,
    pub(crate) kind: ArchiveKind,
    /// Bytes of the archive.
    pub(crate) size: u64,
    /// Of the archive, in lower-case hexadecimal.
    pub(crate) sha256: String,
    /// What it needs of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) requires: Vec<String>,
    /// Which key it was signed by; not part of the statement.
    #[serde(skip)]
    pub(super) signers: Vec<String>,
}

impl ReleaseStatement {
    /// For this archive.
    pub(crate) fn new(app: &str, id: &ReleaseId, published: &Published, size: u64) -> Self {
        Self {
            t: TYPE.into(),
            v: VERSION,
            app: app.into(),
            id: id.clone(),
            kind: published.kind,
            size,
            sha256: published.sha256.clone(),
            requires: published.requires.iter().map(ToString::to_string).collect(),
            signers: Vec::new(),
        }
    }

    /// The statement on this release, if it holds.
    pub(super) fn verified(
        keys: &config::Trust,
        id: &ReleaseId,
        signed: Option<&[u8]>,
    ) -> Result<Self, Problem> {
        let key = archive::signed_key(id);
        let signed = signed.ok_or_else(|| {
            missing(format!(
                "release {id} is not signed: {key} is not in the store; `pitstop sign {id}` writes it"
            ))
        })?;
        let what = format!("the signature of release {id} ({key})");
        let bad = |why: String| invalid(format!("{what} {why}"));
        let envelope: Envelope =
            serde_json::from_slice(signed).map_err(|_| bad("is not what `pitstop sign` writes".into()))?;
        let (mut statement, signers): (Self, _) = envelope.open(&what, &keys.release_keys, 1)?;
        statement.signers = signers;
        if statement.t != TYPE || statement.v != VERSION {
            return Err(bad("is not on a release".into()));
        }
        if Some(&statement.app) != keys.app.as_ref() {
            return Err(bad(format!("is for the app {}", shown(&statement.app))));
        }
        if statement.id != *id {
            return Err(bad(format!("is for release {}", statement.id)));
        }
        if !archive::is_sha256(&statement.sha256) {
            return Err(bad("has no SHA-256 digest".into()));
        }
        Ok(statement)
    }

    pub(super) fn published(self) -> Published {
        let requires = Requirement::parse_list(&self.requires.join(" "));
        Published { kind: self.kind, sha256: self.sha256, requires, bytes: Some(self.size) }
    }
}

/// A word of somebody else's, which goes to terminals.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}
