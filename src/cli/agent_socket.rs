//! The way to this pod's agent: one request over its admin socket, and why there was no answer.

use std::{
    fmt, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::{Method, body::Bytes, http::Response};
use serde::Deserialize;
use tokio::net::UnixStream;

use super::Failure;
use crate::{
    http_get::{self, GetError},
    server::SOCKET_NAME,
};

/// The agent answers at once, whatever its volume does.
const LIMIT: Duration = Duration::from_secs(10);

/// Why the agent did not answer.
#[derive(Debug)]
pub(crate) struct Unreachable {
    socket: PathBuf,
    why: Why,
}

/// In which way.
#[derive(Debug)]
pub(crate) enum Why {
    /// There is no socket: no agent was ever here, or it is another place.
    NoSocket,
    /// A socket without anybody behind it.
    NobodyListens,
    /// It belongs to this user, and we are another one.
    NotPermitted {
        /// Whose it is, as far as that can be seen.
        owner: Option<u32>,
    },
    /// It took the question and said nothing for so long.
    Silent(Duration),
    /// Anything else.
    Failed(String),
}

impl Unreachable {
    /// In which way.
    pub(crate) fn why(&self) -> &Why {
        &self.why
    }

    /// What to do about it, in one line.
    pub(crate) fn remedy(&self) -> String {
        match self.why {
            Why::NoSocket => "run it in the agent's container, with the same --config (or \
                              PITSTOP_STATE_DIR) as `pitstop run`"
                .into(),
            Why::NobodyListens => "check the state and the log of the agent's container".into(),
            Why::NotPermitted { owner } => match owner {
                Some(owner) => format!("run it as user {owner}, as the agent does"),
                None => "run it as the agent's user".into(),
            },
            Why::Silent(_) => {
                "check the agent's log, and restart its container unless a drain is running".into()
            }
            Why::Failed(_) => "check that state_dir is the agent's".into(),
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.socket.display();
        match &self.why {
            Why::NoSocket => write!(f, "no agent runs here: {socket} does not exist"),
            Why::NobodyListens => write!(f, "the agent has stopped: nothing listens on {socket}"),
            Why::NotPermitted { .. } => {
                let own = rustix::process::geteuid();
                write!(f, "user {} may not open the agent's socket {socket}", own.as_raw())
            }
            Why::Silent(limit) => {
                write!(f, "the agent does not respond: no answer on {socket} within {limit:?}")
            }
            Why::Failed(what) => write!(f, "the agent does not answer on {socket}: {what}"),
        }
    }
}

impl From<Unreachable> for Failure {
    fn from(unreachable: Unreachable) -> Self {
        Self::failed(format!("{unreachable}; {}", unreachable.remedy()))
    }
}

/// One request to the agent whose admin socket is in `state_dir`.
///
/// # Errors
/// [`Unreachable`] when there is no whole answer.
pub(crate) async fn ask(
    state_dir: &Path,
    method: Method,
    path: &str,
) -> Result<Response<Bytes>, Unreachable> {
    ask_within(LIMIT, state_dir, method, path).await
}

/// The same with another limit.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn ask_within(
    limit: Duration,
    state_dir: &Path,
    method: Method,
    path: &str,
) -> Result<Response<Bytes>, Unreachable> {
    let socket = state_dir.join(SOCKET_NAME);
    let unreachable = |why| Unreachable { socket: socket.clone(), why };
    let stream = UnixStream::connect(&socket).await.map_err(|error| unreachable(Why::of(&socket, &error)))?;
    http_get::ask(method, stream, "pitstop", path, limit).await.map_err(|error| {
        unreachable(match error {
            GetError::TimedOut(limit) => Why::Silent(limit),
            error => Why::Failed(error.to_string()),
        })
    })
}

impl Why {
    fn of(socket: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NoSocket,
            io::ErrorKind::ConnectionRefused => Self::NobodyListens,
            io::ErrorKind::PermissionDenied => {
                Self::NotPermitted { owner: std::fs::symlink_metadata(socket).ok().map(|meta| meta.uid()) }
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// The agent's JSON.
///
/// # Errors
/// When it is none, or not what was expected.
pub(crate) fn parsed<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let body = String::from_utf8_lossy(body);
        Failure::failed(format!("the agent's answer could not be parsed ({error}): {body}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn why(state_dir: &Path) -> String {
        let asked = ask_within(Duration::from_millis(50), state_dir, Method::GET, "/status").await;
        Failure::from(asked.unwrap_err()).to_string()
    }

    #[tokio::test]
    async fn each_way_of_not_answering_is_told_apart_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(SOCKET_NAME);
        let none = why(dir.path()).await;
        assert!(none.contains("no agent runs here") && none.contains("--config"), "{none}");

        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let hanging = why(dir.path()).await;
        assert!(hanging.contains("does not respond") && hanging.contains("a drain"), "{hanging}");

        drop(listener);
        let gone = why(dir.path()).await;
        assert!(gone.contains("nothing listens") && gone.contains("log"), "{gone}");
    }

    #[test]
    fn a_socket_of_another_user_names_that_user() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let why = Why::of(file.path(), &denied);
        let owner = file.as_file().metadata().unwrap().uid();
        let told = Failure::from(Unreachable { socket: file.path().into(), why }).to_string();
        assert!(told.contains(&format!("as user {owner}")), "{told}");
    }
}
