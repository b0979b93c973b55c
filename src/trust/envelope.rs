//! A statement with its signatures, as it is stored.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::keys;
use crate::core::Problem;

/// More signatures than anybody has keys.
const SIGNATURES_MAX: usize = 16;

/// A statement and the signatures over its very bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Envelope {
    /// Canonical JSON: keys sorted, no spaces.
    pub(crate) statement: String,
    /// Each as minisign writes it, of four lines.
    pub(crate) signatures: Vec<String>,
}

impl Envelope {
    /// What the statement says, if at least `threshold` of the keys have signed it.
    ///
    /// # Errors
    /// [`crate::core::Reason::SignatureInvalid`], beginning with `what`.
    pub(super) fn open<T: DeserializeOwned>(
        &self,
        what: &str,
        keys: &[String],
        threshold: usize,
    ) -> Result<(T, Vec<String>), Problem> {
        let bad = |why: &str| super::invalid(format!("{what} {why}"));
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(bad("has too many signatures"));
        }
        let signers = keys::signers(&self.statement, &self.signatures, keys);
        match signers.len() {
            n if n >= threshold.max(1) => {}
            0 => return Err(bad("has no signature by a key that is trusted for it")),
            n => return Err(bad(&format!("has {n} of {threshold} signatures that are needed"))),
        }
        let statement = parse(&self.statement)
            .ok_or_else(|| bad("says something that this version of pitstop does not understand"))?;
        Ok((statement, signers.into_iter().map(Into::into).collect()))
    }

    /// What the statement says, by whomever: for the next one, and for people.
    pub(crate) fn unverified<T: DeserializeOwned>(&self) -> Option<T> {
        parse(&self.statement)
    }
}

/// Nothing but the canonical text: no key twice, nothing before, between or behind.
fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    let value: Value = serde_json::from_str(text).ok()?;
    let canonical = value.to_string();
    (canonical == text).then(|| serde_json::from_value(value).ok())?
}

/// The canonical text of a statement.
pub(crate) fn canonical(statement: &impl Serialize) -> String {
    serde_json::to_value(statement).expect("a statement is plain data").to_string()
}
