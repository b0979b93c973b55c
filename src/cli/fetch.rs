//! `pitstop fetch`: once, for init containers.

use super::{Console, Exit, Failure};
use crate::config::Config;

/// Fetches and publishes what the pointer names.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(_config: &Config, _console: Console) -> Result<Exit, Failure> {
    Err(Failure::failed("not in this build yet"))
}
