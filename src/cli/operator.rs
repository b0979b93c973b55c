//! `pitstop sync`, `pause`, `resume`, `undrain`, `revert`: one question each, over the admin socket.

use std::path::Path;

use super::{Console, Exit, Failure};

/// What this pod's agent is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Look at the pointer now.
    Sync {
        /// Forget that the desired move was rejected.
        retry: bool,
    },
    /// Start no deploy.
    Pause,
    /// Deploy again.
    Resume,
    /// End a false drain.
    Undrain,
    /// Back to the previous release.
    Revert,
}

/// Asks the agent whose admin socket is in `state_dir`.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(_state_dir: &Path, _ask: Ask, _console: Console) -> Result<Exit, Failure> {
    Err(Failure::failed("not in this build yet"))
}
