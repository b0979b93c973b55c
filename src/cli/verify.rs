//! `pitstop verify ID`, `pitstop verify --pointer`: would an agent with this configuration accept it?

use std::{fmt, fs, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    Console, Exit, Failure,
    publish::{failure, usage},
    swap::Swap,
};
use crate::{
    config::{self, Config},
    core::Problem,
    revision::ReleaseId,
    store::{self, archive},
    trust::{Envelope, SIGNED, Trust, id_of_key, signed_by},
};

/// What is looked at.
#[derive(Debug, Args)]
pub struct Verify {
    /// A release in the store.
    #[arg(value_name = "ID", required_unless_present = "pointer")]
    id: Option<ReleaseId>,
    /// The pointer.
    #[arg(long, conflicts_with = "id")]
    pointer: bool,
    /// Write the statement and its signatures into this directory, for minisign -V.
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Answer {
    verified: String,
    statement: String,
    /// The ids of the keys whose signatures hold.
    keys: Vec<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the signature of {} holds, by key {}: {}",
            self.verified,
            self.keys.join(" and "),
            self.statement
        )
    }
}

/// Checks as an agent does that requires signatures; [`Failure`] says why it would refuse.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub(crate) async fn run(config: &Config, args: Verify, console: Console) -> Result<Exit, Failure> {
    let keys = config::Trust { required: true, ..config.trust.clone() };
    let trust = Trust::new(&keys, &config.pointer);
    let (verified, envelope, keys) = match &args.id {
        Some(id) if trust.checks_releases() => {
            (format!("release {id}"), release(config, &trust, id).await?, &keys.release_keys)
        }
        None if trust.checks_pointers() => {
            (format!("the pointer {}", config.pointer), pointer(config, &trust).await?, &keys.pointer_keys)
        }
        _ => {
            return Err(Failure::usage(
                "set trust.release_keys and trust.pointer_keys to the public keys that count",
            ));
        }
    };
    if let Some(dir) = &args.export {
        export(&envelope, dir, args.id.as_ref().map_or(config.pointer.as_str(), ReleaseId::as_str))?;
    }
    let held = |key: &&String| {
        envelope.signatures.iter().any(|one| signed_by(&envelope.statement, one, std::slice::from_ref(key)))
    };
    let keys = keys.iter().filter(held).filter_map(|key| id_of_key(key)).collect();
    console.print(&Answer { verified, statement: envelope.statement, keys });
    Ok(Exit::Done)
}

async fn release(config: &Config, trust: &Trust, id: &ReleaseId) -> Result<Envelope, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    let bytes = archive::signed(store.as_ref(), id).await.map_err(failure)?;
    trust.release(id, bytes.as_deref(), None)?;
    serde_json::from_slice(&bytes.unwrap_or_default()).map_err(|e| Failure::failed(e.to_string()))
}

async fn pointer(config: &Config, trust: &Trust) -> Result<Envelope, Failure> {
    let swap = Swap::open(config, None, None).await?;
    if swap.is_new() {
        return Err(swap.missing().await);
    }
    if let Some(at) = trust.admit(swap.document.text().as_bytes())? {
        let message =
            format!("the signature of the pointer expired at {at}: `pitstop sign --pointer` signs it again");
        return Err(Problem::new(crate::core::Reason::SignatureInvalid, message).into());
    }
    swap.document.get(SIGNED).ok_or_else(|| Failure::failed("the pointer is not signed"))
}

fn export(envelope: &Envelope, dir: &std::path::Path, name: &str) -> Result<(), Failure> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join(format!("{name}.statement")), &envelope.statement)?;
    for (n, signature) in envelope.signatures.iter().enumerate() {
        let number = if n == 0 { String::new() } else { format!(".{n}") };
        fs::write(dir.join(format!("{name}.statement{number}.minisig")), signature)?;
    }
    Ok(())
}
