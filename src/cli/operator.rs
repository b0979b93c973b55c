//! `pitstop sync`, `pause`, `resume`, `undrain`, `revert`: one question each, over the admin socket.

use std::{fmt, path::Path};

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    Console, Exit, Failure,
    agent_socket::{self, parsed},
    who,
};

/// What this pod's agent is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
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
            Self::Sync { retry: false } => "/sync?",
            Self::Sync { retry: true } => "/sync?retry=true&",
            Self::Pause => "/pause?",
            Self::Resume => "/resume?",
            Self::Undrain => "/undrain?",
            Self::Revert => "/revert?",
        }
    }
}

/// The path, with who asks and why.
fn path(ask: Ask, why: Option<&str>) -> String {
    let by = encoded(&who::user_at_host());
    let why = why.map_or_else(String::new, |why| format!("&why={}", encoded(why)));
    format!("{}by={by}{why}", ask.path())
}

/// For a query: all but what is plain there is escaped.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escaped = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escaped).collect()
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
pub(crate) async fn run(
    state_dir: &Path,
    ask: Ask,
    why: Option<&str>,
    console: Console,
) -> Result<Exit, Failure> {
    let answer = agent_socket::ask(state_dir, Method::POST, &path(ask, why)).await?;
    if answer.status() == StatusCode::OK {
        console.print::<Answer>(&parsed(answer.body())?);
        return Ok(Exit::Done);
    }
    let refusal: Refusal = parsed(answer.body())?;
    Err(Failure::failed(refusal.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reaches_the_agent_as_it_was_written() {
        assert_eq!(encoded("a&b ü#1"), "a%26b%20%C3%BC%231");
        assert!(path(Ask::Sync { retry: true }, None).starts_with("/sync?retry=true&by="));
        assert!(path(Ask::Pause, Some("import")).ends_with("&why=import"));
    }
}
