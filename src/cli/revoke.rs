//! `pitstop revoke`: what nobody may trust any more, at once and without a new pod.

use std::{fmt, sync::Arc};

use clap::Args;
use serde::Serialize;

use super::{Console, Exit, Failure, signing::Key, swap::Swap};
use crate::{
    config::{self, Config},
    revision::ReleaseId,
    store::archive,
    trust::{Envelope, REVOKED, Revocations, Role, is_key},
};

/// What is revoked.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The pointer whose pods are to know; `pointer` of the configuration when absent.
    #[arg(value_name = "NAME", value_parser = config::pointer_name)]
    name: Option<String>,
    /// A public key, as often as needed.
    #[arg(long, value_name = "KEY", required_unless_present_any = ["release", "sha256"])]
    public_key: Vec<String>,
    /// A release, by what the store has of it; as often as needed.
    #[arg(long, value_name = "ID")]
    release: Vec<ReleaseId>,
    /// A release by the digest of its archive; as often as needed.
    #[arg(long, value_name = "SHA256")]
    sha256: Vec<String>,
    /// By which key?
    #[command(flatten)]
    key: Key,
}

#[derive(Debug, Serialize)]
struct Answer {
    pointer: String,
    #[serde(flatten)]
    revoked: Revocations,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pointer, revoked } = self;
        let (keys, releases) = (revoked.keys.len(), revoked.sha256.len());
        write!(
            f,
            "the pods of {pointer} trust {keys} keys and {releases} releases no more (list {})",
            revoked.sequence
        )
    }
}

/// Adds to the list in the pointer, and signs both.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub(crate) async fn run(config: &Config, args: Revoke, console: Console) -> Result<Exit, Failure> {
    let signer = args.key.asked().signer(Role::Pointer, config)?;
    let signer = signer.ok_or_else(|| Failure::usage("there is no key"))?;
    let mut swap = Swap::open(config, args.name.as_deref(), None).await?;
    if swap.is_new() {
        return Err(swap.missing().await);
    }
    let before: Option<Envelope> = swap.document.get(REVOKED);
    let mut revoked = Revocations::after(&signer.app, before.and_then(|envelope| envelope.unverified()));
    if let Some(key) = args.public_key.iter().find(|key| !is_key(key)) {
        return Err(Failure::usage(format!("{key} is not a public key: give the line that starts with RW")));
    }
    revoked.keys.extend(args.public_key);
    for id in &args.release {
        revoked.sha256.insert(archive::require(swap.store.as_ref(), id).await?.sha256);
    }
    if let Some(digest) = args.sha256.iter().find(|digest| !archive::is_sha256(digest)) {
        return Err(Failure::usage(format!("{digest} is not a SHA-256 digest")));
    }
    revoked.sha256.extend(args.sha256.iter().map(|digest| digest.to_ascii_lowercase()));
    let mut document = swap.document.clone();
    document.set(REVOKED, Some(signer.envelope(&revoked)?));
    swap.signer = Some(Arc::new(signer));
    swap.write(&document, |there| there.get(REVOKED) == document.get::<Envelope>(REVOKED)).await?;
    console.print(&Answer { pointer: swap.name.clone(), revoked });
    Ok(Exit::Done)
}
