//! The secret key of who signs: from a file, the environment, or a command. It is never printed or stored.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use clap::Args;
use minisign::{PublicKey, SecretKey, SecretKeyBox};
use serde::Serialize;

use super::Failure;
use crate::{
    config::Config,
    pointer::document::Document,
    trust::{Envelope, PointerStatement, Role, SIGNED, canonical, id_of_key, said, signed_by},
};

/// The password of a secret key, where it has one.
pub(super) const PASSWORD: &str = "PITSTOP_KEY_PASSWORD";
/// A pointer's signature holds for so long, unless somebody says otherwise.
const HOLDS: Duration = Duration::from_secs(30 * 86_400);

/// Where the key comes from.
#[derive(Debug, Clone, Default, Args)]
pub struct Key {
    /// Sign. The secret key (minisign's format) comes from --key, --key-command, or the environment: PITSTOP_RELEASE_KEY
    /// for releases, PITSTOP_POINTER_KEY for pointers, or the same name with _COMMAND. Any of them means --sign.
    #[arg(long)]
    sign: bool,
    /// The file with the secret key.
    #[arg(long, value_name = "FILE", conflicts_with = "key_command")]
    key: Option<PathBuf>,
    /// A shell command that prints the secret key; or, for a key that never leaves its place (KMS), that reads the
    /// statement and prints its signature as `minisign -S` writes it.
    #[arg(long, value_name = "COMMAND")]
    key_command: Option<String>,
}

/// Signs statements of one role.
pub(super) struct Signer {
    /// Whom the statements are for.
    pub(super) app: String,
    role: Role,
    secret: Secret,
    /// The keys of this role that the configuration names: one that agents would refuse is no use.
    trusted: Vec<String>,
    /// How long a pointer's signature holds.
    pub(super) holds: Duration,
}

enum Secret {
    Key(Box<SecretKey>),
    Command(String),
}

impl Key {
    /// The same, where there has to be a key.
    pub(super) fn asked(&self) -> Self {
        Self { sign: true, ..self.clone() }
    }

    /// Who signs; `None` where nobody is asked to.
    ///
    /// # Errors
    /// [`Failure`] when the key cannot be read, or there is none and `--sign` was given.
    pub(super) fn signer(&self, role: Role, config: &Config) -> Result<Option<Signer>, Failure> {
        let name = role.variable();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let command = self.key_command.clone();
        let secret = if let Some(path) = &self.key {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
            Some(Secret::Key(Box::new(secret_key(&text)?)))
        } else if let Some(command) = command {
            Some(Secret::Command(command))
        } else if let Some(text) = variable(name) {
            Some(Secret::Key(Box::new(secret_key(&text)?)))
        } else {
            variable(&format!("{name}_COMMAND")).map(Secret::Command)
        };
        let Some(secret) = secret else {
            return match self.sign {
                true => Err(Failure::usage(format!(
                    "--sign needs a secret key: give --key or --key-command, or set {name} or {name}_COMMAND"
                ))),
                false => Ok(None),
            };
        };
        let app = config.trust.app.clone().ok_or_else(|| {
            Failure::usage("trust.app is not set: set it, or PITSTOP_TRUST_APP, to the name of the app that the agents have")
        })?;
        let trusted = match role {
            Role::Release => config.trust.release_keys.clone(),
            Role::Pointer => config.trust.pointer_keys.clone(),
        };
        Ok(Some(Signer { app, role, secret, trusted, holds: HOLDS }))
    }
}

impl Signer {
    /// The same, whose signatures on pointers hold for so long.
    pub(super) fn holding(self, holds: Option<Duration>) -> Self {
        Self { holds: holds.unwrap_or(self.holds), ..self }
    }

    /// Whether the statement has a signature of this role's keys already; unknown keys are looked at by none.
    pub(super) fn has_signed(&self, envelope: &Envelope) -> bool {
        match &self.secret {
            Secret::Key(key) => {
                let public =
                    PublicKey::from_secret_key(key).map(|key| vec![key.to_base64()]).unwrap_or_default();
                envelope.signatures.iter().any(|one| signed_by(&envelope.statement, one, &public))
            }
            Secret::Command(_) => false,
        }
    }

    /// The statement with a signature.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be signed, or agents with this configuration would refuse it.
    pub(super) fn envelope(&self, statement: &impl Serialize) -> Result<Envelope, Failure> {
        let statement = canonical(statement);
        let signature = self.sign(&statement)?;
        Ok(Envelope { statement, signatures: vec![signature] })
    }

    /// The signature of a statement.
    ///
    /// # Errors
    /// As for [`Self::envelope`].
    pub(super) fn sign(&self, statement: &str) -> Result<String, Failure> {
        let signature = match &self.secret {
            Secret::Key(key) => by_key(key, statement)?,
            Secret::Command(command) => {
                let printed = run(command, statement)?;
                match printed.lines().filter(|line| !line.trim().is_empty()).count() {
                    0..=2 => by_key(&secret_key(&printed)?, statement)?,
                    _ => printed,
                }
            }
        };
        if !self.trusted.is_empty() && !signed_by(statement, &signature, &self.trusted) {
            let role = self.role.word();
            return Err(Failure::failed(format!(
                "the signature does not hold by any of trust.{role}_keys, so agents would refuse it: use the {role} key, \
                 or add its public key there"
            )));
        }
        Ok(signature)
    }
}

/// A pointer's object, signed as it is now.
///
/// # Errors
/// [`Failure`] where nobody signs it, and what its signature covers is another than `before`.
pub(super) fn renewed(
    document: &Document,
    before: &Document,
    name: &str,
    signer: Option<&Signer>,
) -> Result<Document, Failure> {
    let mut document = document.clone();
    let signed: Option<Envelope> = before.get(SIGNED);
    match signer {
        Some(signer) => {
            let last = signed.and_then(|envelope| envelope.unverified::<PointerStatement>());
            let about = (signer.app.as_str(), name);
            let statement = PointerStatement::new(about, document.fields(), last.as_ref(), signer.holds);
            document.set(SIGNED, Some(signer.envelope(&statement)?));
        }
        None if signed.is_some() && said(document.fields()) != said(before.fields()) => {
            return Err(no_key(name));
        }
        None => {}
    }
    Ok(document)
}

pub(super) fn no_key(name: &str) -> Failure {
    let variable = Role::Pointer.variable();
    Failure::usage(format!(
        "{name} is signed, and this command has no key to sign it again, so nothing was changed: give --key, or set \
         {variable}"
    ))
}

fn by_key(key: &SecretKey, statement: &str) -> Result<String, Failure> {
    let public = PublicKey::from_secret_key(key).map_err(unsigned)?;
    let id = id_of_key(&public.to_base64()).unwrap_or_default();
    let comment = format!("signature from pitstop by key {id}");
    let signature =
        minisign::sign(Some(&public), key, statement.as_bytes(), Some("pitstop statement"), Some(&comment));
    Ok(signature.map_err(unsigned)?.into_string())
}

fn unsigned(error: minisign::PError) -> Failure {
    Failure::failed(format!("it could not be signed: {error}"))
}

/// A key of minisign's, also its second line alone. One with a password is opened by that.
fn secret_key(text: &str) -> Result<SecretKey, Failure> {
    let line = text.trim().lines().last().unwrap_or_default().trim();
    let file = || SecretKeyBox::from(format!("untrusted comment: secret key\n{line}\n"));
    let Ok(password) = std::env::var(PASSWORD) else {
        return file().into_unencrypted_secret_key().map_err(|_| {
            Failure::failed(format!(
                "the secret key cannot be read: it is none of minisign's, or it has a password. Then set {PASSWORD}"
            ))
        });
    };
    file().into_secret_key(Some(password)).or_else(|error| {
        // A password that the key does not need is no reason to refuse it.
        let plain = file().into_unencrypted_secret_key();
        plain.map_err(|_| Failure::failed(format!("the secret key cannot be read with {PASSWORD}: {error}")))
    })
}

/// What the command prints, given the statement.
fn run(command: &str, statement: &str) -> Result<String, Failure> {
    let failed = |why: String| Failure::failed(format!("the command for the key failed: {why}"));
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    // One that prints the key reads nothing. A statement is shorter than a pipe's buffer.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(statement.as_bytes()));
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    String::from_utf8(output.stdout).map_err(|_| failed("it printed no text".into()))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A secret key, from a file or the environment.
    pub(crate) fn key(bytes: &[u8]) {
        drop(secret_key(&String::from_utf8_lossy(bytes)));
    }
}
