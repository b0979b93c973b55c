//! `pitstop releases`: what the store and the volume hold.

use super::{Console, Exit, Failure};
use crate::config::Config;

/// Lists them.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(_config: &Config, _console: Console) -> Result<Exit, Failure> {
    Err(Failure::failed("not in this build yet"))
}
