//! `pitstop sync`, `pause`, `resume`, `undrain`, `revert`: one question each, over the admin socket.

use std::{fmt, path::Path, time::Duration};

use hyper::{Method, StatusCode, body::Bytes, http::Response};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::{Console, Exit, Failure};
use crate::{http_get, server::SOCKET_NAME};

/// The agent answers at once, whatever its volume does.
const LIMIT: Duration = Duration::from_secs(10);

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
    let answer = over_socket(state_dir, Method::POST, ask.path()).await?;
    if answer.status() == StatusCode::OK {
        console.print::<Answer>(&parsed(answer.body())?);
        return Ok(Exit::Done);
    }
    let refusal: Refusal = parsed(answer.body())?;
    Err(Failure::failed(refusal.error))
}

/// One request to the agent of this pod.
pub(super) async fn over_socket(
    state_dir: &Path,
    method: Method,
    path: &str,
) -> Result<Response<Bytes>, Failure> {
    let socket = state_dir.join(SOCKET_NAME);
    let unreachable = |error: &dyn fmt::Display| {
        let socket = socket.display();
        Failure::failed(format!(
            "the agent does not answer on {socket}: {error}; is `pitstop run` running in this pod, as this \
             user and with this state_dir?"
        ))
    };
    let stream = UnixStream::connect(&socket).await.map_err(|error| unreachable(&error))?;
    http_get::ask(method, stream, "pitstop", path, LIMIT).await.map_err(|error| unreachable(&error))
}

/// The agent's JSON.
pub(super) fn parsed<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let body = String::from_utf8_lossy(body);
        Failure::failed(format!("the agent's answer is not understood ({error}): {body}"))
    })
}
