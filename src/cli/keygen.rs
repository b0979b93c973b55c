//! `pitstop keygen release|pointer`: a pair of keys in minisign's format.

use std::{
    fmt,
    fs::File,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use minisign::KeyPair;
use serde::Serialize;

use super::{Console, Exit, Failure, signing::PASSWORD};
use crate::trust::{Role, id_of_key};

#[derive(Debug, Serialize)]
struct Answer {
    role: &'static str,
    secret_key: PathBuf,
    public_key_file: PathBuf,
    key_id: String,
    public_key: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, secret_key, public_key_file, key_id, public_key } = self;
        writeln!(f, "{}: the secret {role} key {key_id}; whoever has it signs", secret_key.display())?;
        writeln!(f, "{}: its public key, for minisign -p", public_key_file.display())?;
        write!(f, "for the agents:\ntrust:\n  {role}_keys: [{public_key}]")
    }
}

/// Writes two new files. The secret key has a password where the environment has one.
///
/// # Errors
/// [`Failure`] when a file is there already or cannot be written.
pub(crate) fn run(role: Role, out: Option<PathBuf>, console: Console) -> Result<Exit, Failure> {
    let secret_key = out.unwrap_or_else(|| format!("pitstop-{}.key", role.word()).into());
    let public_key_file = secret_key.with_extension("pub");
    let pair = match std::env::var(PASSWORD) {
        Ok(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        Err(_) => KeyPair::generate_unencrypted_keypair(),
    };
    let failed = |e: minisign::PError| Failure::failed(format!("no keys were made: {e}"));
    let KeyPair { pk, sk } = pair.map_err(failed)?;
    let public_key = pk.to_base64();
    let key_id = id_of_key(&public_key).unwrap_or_default();
    let comment = format!("pitstop secret {} key {key_id}", role.word());
    let secret = sk.to_box(Some(&comment)).map_err(failed)?;
    create(&secret_key, &secret.into_string(), 0o600)?;
    create(&public_key_file, &pk.to_box().map_err(failed)?.into_string(), 0o644)?;
    console.print(&Answer { role: role.word(), secret_key, public_key_file, key_id, public_key });
    Ok(Exit::Done)
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let file = File::options().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| Failure::failed(format!("{}: {e}; no key was replaced", path.display())))
}
