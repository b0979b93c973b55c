//! `pitstop status`: this pod, over the admin socket.

use std::path::Path;

use super::{Console, Exit, Failure};

/// Asks the agent; [`Exit::Failed`] when the pod is not in sync.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(_state_dir: &Path, _console: Console) -> Result<Exit, Failure> {
    Err(Failure::failed("not in this build yet"))
}
