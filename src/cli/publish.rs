//! `pitstop publish DIR --release ID`: packs and uploads.

use super::{Console, Exit, Failure, Publish};
use crate::config::Config;

/// Packs the directory and puts it into the store.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(_config: &Config, _args: Publish, _console: Console) -> Result<Exit, Failure> {
    Err(Failure::failed("not in this build yet"))
}
