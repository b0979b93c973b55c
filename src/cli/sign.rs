//! `pitstop sign ID`, `pitstop sign --pointer`: for what is in the store already.

use std::{fmt, path::PathBuf, time::Duration};

use clap::Args;
use serde::Serialize;

use super::{
    Console, Exit, Failure,
    publish::{failure, usage},
    signing::{self, Key, Signer},
    swap::Swap,
};
use crate::{
    config::Config,
    revision::ReleaseId,
    store::{
        self, Body, Condition, Found, Store, StoreError,
        archive::{self, Published},
    },
    trust::{Envelope, ReleaseStatement, Role, SIGNED},
};

/// What is signed.
#[derive(Debug, Args)]
pub struct Sign {
    /// A release that is in the store.
    #[arg(value_name = "ID", required_unless_present = "pointer")]
    id: Option<ReleaseId>,
    /// The release's archive as CI made it: what the store has is signed only if it is that.
    #[arg(long, value_name = "FILE", requires = "id")]
    archive: Option<PathBuf>,
    /// The pointer, as it is: after a change by hand, and before its signature expires.
    #[arg(long, conflicts_with_all = ["id", "archive"])]
    pointer: bool,
    /// Add a signature to the one that the pointer has, where trust.threshold asks for several.
    #[arg(long, requires = "pointer")]
    add: bool,
    /// How long the signature of a pointer holds; 30 days when absent.
    #[arg(long, value_name = "DURATION", requires = "pointer", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// By which key?
    #[command(flatten)]
    key: Key,
}

#[derive(Debug, Serialize)]
struct Answer {
    signed: String,
    statement: String,
    signatures: usize,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = if self.signatures == 1 {
            "1 signature".into()
        } else {
            format!("{} signatures", self.signatures)
        };
        write!(f, "{} is signed ({number}): {}", self.signed, self.statement)
    }
}

/// Signs, and writes that into the store.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub(crate) async fn run(config: &Config, args: Sign, console: Console) -> Result<Exit, Failure> {
    let role = if args.pointer { Role::Pointer } else { Role::Release };
    // Who signs has to have a key.
    let signer = args.key.asked().signer(role, config)?;
    let signer = signer.ok_or_else(|| Failure::usage("there is no key"))?.holding(args.expires);
    let (signed, Envelope { statement, signatures }) = match args.id {
        Some(id) => {
            let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
            let (published, size) = in_store(store.as_ref(), &id).await?;
            if let Some(path) = args.archive {
                let (kind, sha256) = super::publish::measured(&path)?;
                if (kind, &sha256) != (published.kind, &published.sha256) {
                    let path = path.display();
                    return Err(Failure::failed(format!(
                        "release {id} in the store is not {path}: nothing was signed"
                    )));
                }
            }
            (format!("release {id}"), put(store.as_ref(), &id, (&published, size), &signer).await?)
        }
        None => pointer(config, signer, args.add).await?,
    };
    console.print(&Answer { signed, statement, signatures: signatures.len() });
    Ok(Exit::Done)
}

async fn in_store(store: &dyn Store, id: &ReleaseId) -> Result<(Published, u64), Failure> {
    let published = archive::require(store, id).await?;
    let size = store.read(&published.kind.key(id), 0, None).await.map_err(failure)?.size_bytes;
    Ok((published, size))
}

/// Writes the statement on a release beside it. One that says the same gets one more signature, if that is by another
/// key.
pub(super) async fn put(
    store: &dyn Store,
    id: &ReleaseId,
    (published, size): (&Published, u64),
    signer: &Signer,
) -> Result<Envelope, Failure> {
    let key = archive::signed_key(id);
    let mut envelope = signer.envelope(&ReleaseStatement::new(&signer.app, id, published, size))?;
    let text = |envelope: &Envelope| {
        serde_json::to_vec(envelope).map_err(|e| Failure::failed(e.to_string())).map(Body::Bytes)
    };
    match store.put(&key, text(&envelope)?, Condition::Absent).await {
        Ok(_) => return Ok(envelope),
        Err(StoreError::Changed(_)) => {}
        Err(error) => return Err(failure(error)),
    }
    let Found::Object { version, bytes } =
        store.get(&key, None, archive::SIGNED_LIMIT_BYTES).await.map_err(failure)?
    else {
        return Err(failure(StoreError::Changed(key)));
    };
    let other = || {
        Failure::failed(format!("{key} is in the store and says something else; publish under another id"))
    };
    let before: Envelope = serde_json::from_slice(&bytes).map_err(|_| other())?;
    if before.statement != envelope.statement {
        return Err(other());
    }
    if signer.has_signed(&before) {
        return Ok(before);
    }
    envelope.signatures.extend(before.signatures);
    store.put(&key, text(&envelope)?, Condition::Matches(version)).await.map_err(failure)?;
    Ok(envelope)
}

async fn pointer(config: &Config, signer: Signer, add: bool) -> Result<(String, Envelope), Failure> {
    let mut swap = Swap::open(config, None, None).await?;
    if swap.is_new() {
        return Err(swap.missing().await);
    }
    let mut document = swap.document.clone();
    if add {
        let before: Option<Envelope> = document.get(SIGNED);
        let mut envelope =
            before.ok_or_else(|| Failure::failed("the pointer is not signed: sign it without --add"))?;
        envelope.signatures.push(signer.sign(&envelope.statement)?);
        document.set(SIGNED, Some(envelope));
        swap.signer = None;
    } else {
        document = signing::renewed(&document, &document, &swap.name, Some(&signer))?;
        swap.signer = None;
    }
    let written = document.text();
    swap.write(&document, |there| there.text() == written).await?;
    let envelope: Envelope = document.get(SIGNED).ok_or_else(|| Failure::failed("it was not signed"))?;
    Ok((format!("the pointer {}", swap.name), envelope))
}
