//! `pitstop promote ID`: moves the pointer.

use super::{Console, Exit, Failure};
use crate::{config::Config, revision::ReleaseId};

/// Moves it by compare-and-swap; [`Exit::Failed`] when somebody else was faster.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(_config: &Config, _id: ReleaseId, _console: Console) -> Result<Exit, Failure> {
    Err(Failure::failed("not in this build yet"))
}
