//! What changes something, on a unix socket that only this user can open: HTTP as well, so that
//! `curl --unix-socket` is enough where the program is not at hand.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use tokio::{net::UnixListener, sync::watch};

use super::{Handles, connections, prestop};
use crate::{
    core::{Operator, drain::Origin},
    handle::{Asked, Reply},
};

/// The socket's name in `state_dir`.
pub const SOCKET_NAME: &str = "admin.sock";

/// The admin socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the admin socket {path} could not be created: {source}; make `state_dir` writable for this user")]
pub struct AdminError {
    path: PathBuf,
    source: io::Error,
}

/// Serves the admin socket in `state_dir`, in place of one that an earlier process left.
///
/// # Errors
/// When it cannot be made. The other endpoints do not depend on it.
pub async fn serve(state_dir: PathBuf, handles: Handles) -> Result<(), AdminError> {
    let path = state_dir.join(SOCKET_NAME);
    let failed = |source| AdminError { path: path.clone(), source };
    let listener = listen(&state_dir, &path).map_err(failed)?;
    // Nothing there is worth waiting for at the end.
    let (_never, stop) = watch::channel(false);
    connections::serve(listener, router(handles), stop).await;
    Ok(())
}

/// Made in a directory of our own and moved into place: nobody else can ever open it, and there is
/// no moment without a socket.
fn listen(state_dir: &Path, path: &Path) -> io::Result<UnixListener> {
    fs::create_dir_all(state_dir)?;
    let private = tempfile::Builder::new().prefix(".admin").tempdir_in(state_dir)?;
    let fresh = private.path().join(SOCKET_NAME);
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

fn router(handles: Handles) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/sync", post(sync))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/revert", post(revert))
        .route("/undrain", post(undrain))
        .route("/prestop", post(drain))
        .route("/startup", get(startup))
        .route("/settled", get(settled))
        .with_state(handles)
}

#[derive(Debug, Deserialize)]
struct Sync {
    #[serde(default)]
    retry: bool,
}

async fn status(State(handles): State<Handles>) -> Response {
    Json(handles.status()).into_response()
}

async fn sync(
    State(handles): State<Handles>,
    Query(sync): Query<Sync>,
    Query(asked): Query<Asked>,
) -> Response {
    answer(handles.supervisor.operator(Operator::Sync { retry: sync.retry }, asked).await)
}

async fn pause(State(handles): State<Handles>, Query(asked): Query<Asked>) -> Response {
    answer(handles.supervisor.operator(Operator::Pause, asked).await)
}

async fn resume(State(handles): State<Handles>, Query(asked): Query<Asked>) -> Response {
    answer(handles.supervisor.operator(Operator::Resume, asked).await)
}

async fn revert(State(handles): State<Handles>, Query(asked): Query<Asked>) -> Response {
    answer(handles.supervisor.operator(Operator::Revert, asked).await)
}

async fn undrain(State(handles): State<Handles>) -> Response {
    answer(handles.supervisor.undrain().await)
}

/// For `pitstop exec`: this socket is private, so that no token is asked for.
async fn drain(State(handles): State<Handles>) -> Response {
    tracing::info!("the container's first process received a stop signal");
    prestop::answer(handles.supervisor.prestop(Origin::PreStop).await)
}

/// For `pitstop exec`: may the app server boot? Not from a release that is about to be taken back.
async fn startup(State(handles): State<Handles>) -> Response {
    let snapshot = handles.snapshots.borrow().clone();
    yes_or_not_yet(snapshot.current_complete && snapshot.settled)
}

/// For `pitstop exec`: may the container end?
async fn settled(State(handles): State<Handles>) -> Response {
    let settled = handles.snapshots.borrow().settled;
    yes_or_not_yet(settled)
}

fn yes_or_not_yet(yes: bool) -> Response {
    if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }.into_response()
}

fn answer(reply: Reply) -> Response {
    match reply {
        Ok(message) => Json(json!({ "message": message })).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(json!({ "error": error }))).into_response(),
    }
}
