//! `pitstop rollback [ID]`: moves the pointer back.

use super::{Console, Exit, Failure};
use crate::{config::Config, revision::ReleaseId};

/// Moves it to its `previous`, or to `id`.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(_config: &Config, _id: Option<ReleaseId>, _console: Console) -> Result<Exit, Failure> {
    Err(Failure::failed("not in this build yet"))
}
