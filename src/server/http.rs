//! The HTTP endpoints on `listen`.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

use super::{Handles, connections, listen::listen_on, page, prestop};
use crate::finding::{Code, Finding};

/// The pauses between attempts at a taken port double up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The endpoints. /live, /startup and /ready are open for probes, /status and /metrics ask for the
/// token, where there is one; /prestop and the page do so themselves.
pub(crate) fn router(handles: Handles) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route_layer(middleware::from_fn_with_state(handles.clone(), guard));
    Router::new()
        .route("/live", get(live))
        .route("/startup", get(startup))
        .route("/ready", get(ready))
        .route("/prestop", get(prestop::prestop).post(prestop::prestop))
        .route("/", get(page::page))
        .route("/help/{name}", get(page::help))
        .merge(guarded)
        .layer(middleware::from_fn_with_state(handles.clone(), prestop::note_kubelet))
        .with_state(handles)
}

/// Serves the endpoints until `stop` is true. A port that is taken is tried again and again: the agent stays
/// for its deploys, and says what is wrong in the log and on the admin socket.
pub async fn serve(listen: SocketAddr, handles: Handles, mut stop: watch::Receiver<bool>) {
    let listener = tokio::select! {
        listener = bind(listen, &handles) => listener,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    serve_on(listener, handles, stop).await;
}

/// The same on a port that is open already.
pub async fn serve_on(listener: TcpListener, handles: Handles, stop: watch::Receiver<bool>) {
    if let Ok(listen) = listener.local_addr() {
        tracing::info!(%listen, "serving");
    }
    connections::serve(listener, router(handles), stop).await;
}

async fn bind(listen: SocketAddr, handles: &Handles) -> TcpListener {
    let mut pause = Duration::from_millis(250);
    loop {
        match listen_on(listen).and_then(TcpListener::from_std) {
            Ok(listener) => {
                about_the_rest(handles);
                return listener;
            }
            Err(error) => {
                report(listen, &error, handles);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn report(listen: SocketAddr, error: &io::Error, handles: &Handles) {
    let finding = cannot_listen(listen, error);
    tracing::error!(%listen, %error, fix = finding.fix, "the HTTP server cannot listen; retrying");
    about_the_rest(handles);
    handles.findings().push(finding);
}

/// What was said of the port holds no longer.
fn about_the_rest(handles: &Handles) {
    handles.findings().retain(|finding| !matches!(finding.code, Code::PortTaken | Code::NotListening));
}

/// What it means that the endpoints cannot be served there.
pub fn cannot_listen(listen: SocketAddr, error: &io::Error) -> Finding {
    let taken = error.kind() == io::ErrorKind::AddrInUse;
    Finding::broken(
        if taken { Code::PortTaken } else { Code::NotListening },
        format!(
            "the agent cannot listen on {listen} ({error}): probes, metrics and preStop hooks fail, so pods \
             end without a drain"
        ),
        format!(
            "stop the process that listens on port {}, or set `listen` to another address",
            listen.port()
        ),
    )
}

async fn guard(State(handles): State<Handles>, request: Request, next: Next) -> Response {
    if handles.token.admits(request.headers()).await { next.run(request).await } else { prestop::refused() }
}

async fn live() -> &'static str {
    "ok\n"
}

/// Until the first release is in place, the probe's answer says what keeps it out: the kubelet shows
/// it among the pod's events, also where nobody can ask for /status.
/// The words may hold paths, or pieces of files: they are for those who may ask for /status.
async fn startup(State(handles): State<Handles>, headers: HeaderMap) -> Response {
    let snapshot = handles.snapshots.borrow().clone();
    if snapshot.current_complete {
        return pending(&[]);
    }
    let told = handles.token.admits(&headers).await;
    let problem = snapshot.view.problem.as_ref();
    let reason = problem.map(|problem| problem.reason.code());
    let mut body = json!({ "pending": ["current"], "reason": reason });
    if let Some(problem) = problem.filter(|_| told) {
        body["message"] = problem.message.as_str().into();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn ready(State(handles): State<Handles>) -> Response {
    pending(&handles.snapshots.borrow().pending())
}

fn pending(names: &[&str]) -> Response {
    let status = if names.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "pending": names }))).into_response()
}

async fn status(State(handles): State<Handles>) -> Response {
    Json(handles.status()).into_response()
}

async fn metrics(State(handles): State<Handles>) -> Response {
    match handles.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
