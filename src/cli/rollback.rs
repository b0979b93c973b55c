//! `pitstop rollback [ID]`: moves the pointer back.

use super::{Console, Exit, Failure, converge::Wait, promote::Moving};
use crate::{config::Config, revision::ReleaseId};

/// Moves it to its `previous`, or to `id`; [`Exit::Failed`] when somebody else was faster.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(
    config: &Config,
    id: Option<ReleaseId>,
    wait: Option<Wait>,
    console: Console,
) -> Result<Exit, Failure> {
    let moving = Moving::begin(config, id.as_ref()).await?;
    let previous = moving.now.as_ref().and_then(|now| now.previous.clone());
    let Some(id) = id.or(previous) else {
        let name = &config.pointer;
        return Err(Failure::failed(format!(
            "{name} names no previous release; say which: pitstop rollback ID (see `pitstop releases`)"
        )));
    };
    moving.to(id, wait, console).await
}
