//! `pitstop sync`, `pause`, `resume`, `undrain`, `revert`: one question each, over the admin socket.

use std::{fmt, path::Path};

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    Console, Exit, Failure,
    agent_socket::{self, parsed},
};

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

impl Ask {
    fn path(self) -> &'static str {
        match self {
            Self::Sync { retry: false } => "/sync",
            Self::Sync { retry: true } => "/sync?retry=true",
            Self::Pause => "/pause",
            Self::Resume => "/resume",
            Self::Undrain => "/undrain",
            Self::Revert => "/revert",
        }
    }
}

/// What the agent does now.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    message: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Why it does not.
#[derive(Debug, Deserialize)]
struct Refusal {
    error: String,
}

/// Asks the agent whose admin socket is in `state_dir`.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(state_dir: &Path, ask: Ask, console: Console) -> Result<Exit, Failure> {
    let answer = agent_socket::ask(state_dir, Method::POST, ask.path()).await?;
    if answer.status() == StatusCode::OK {
        console.print::<Answer>(&parsed(answer.body())?);
        return Ok(Exit::Done);
    }
    let refusal: Refusal = parsed(answer.body())?;
    Err(Failure::failed(refusal.error))
}
