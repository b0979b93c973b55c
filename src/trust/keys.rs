//! Public keys and signatures, as minisign writes them: Ed25519 over the BLAKE2b of the statement.

use minisign_verify::{PublicKey, Signature};

/// What a key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Which bytes a release is: CI's key.
    Release,
    /// What pods run: the key of who promotes.
    Pointer,
}

impl Role {
    /// Where the environment has the secret key.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Release => "PITSTOP_RELEASE_KEY",
            Self::Pointer => "PITSTOP_POINTER_KEY",
        }
    }

    /// As users write it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Pointer => "pointer",
        }
    }
}

/// Whether this is a public key, in one line of base64 (`RW…`).
pub(crate) fn is_key(text: &str) -> bool {
    PublicKey::from_base64(text).is_ok() && id_of_key(text).is_some()
}

/// The id that minisign shows of a public key: 16 hexadecimal digits.
pub(crate) fn id_of_key(text: &str) -> Option<String> {
    let key = minisign::PublicKey::from_base64(text).ok()?;
    let number = u64::from_le_bytes(key.keynum().try_into().ok()?);
    Some(format!("{number:016X}"))
}

/// The keys among these that have signed the statement, each once. Whole keys are compared: ids may collide.
pub(super) fn signers<'a>(statement: &str, signatures: &[String], keys: &'a [String]) -> Vec<&'a str> {
    let signed = |key: &&'a str| {
        let Ok(public) = PublicKey::from_base64(key) else { return false };
        signatures.iter().any(|text| holds(&public, statement, text))
    };
    let mut found: Vec<&str> = keys.iter().map(String::as_str).filter(signed).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether one of these keys made the signature.
pub(crate) fn signed_by(statement: &str, signature: &str, keys: &[String]) -> bool {
    !signers(statement, &[signature.to_owned()], keys).is_empty()
}

/// Only prehashed signatures count, and the trusted comment is part of what they hold.
fn holds(key: &PublicKey, statement: &str, text: &str) -> bool {
    // Comments, also the untrusted one, are shown to nobody.
    let lines = text.trim_end_matches('\n').split('\n').count();
    lines == 4
        && Signature::decode(text)
            .is_ok_and(|signature| key.verify(statement.as_bytes(), &signature, false).is_ok())
}
