//! `pitstop promote ID`: moves the pointer.

use super::{Console, Exit, Failure, converge::Wait, moving::Moving, who::Said};
use crate::{config::Config, revision::ReleaseId};

/// Moves it by compare-and-swap. A pointer that is not there yet is made with `create` only, or as the store's first.
///
/// # Errors
/// [`Failure`] with the message for the user: nothing was moved.
pub(crate) async fn run(
    config: &Config,
    id: ReleaseId,
    create: bool,
    said: &Said,
    wait: Option<Wait>,
    console: Console,
) -> Result<Exit, Failure> {
    let moving = Moving::begin(config, Some(&id), "promote", said).await?;
    moving.to(id, create, wait, console).await
}
