//! GET or POST /prestop: the hook's answer is the one way to hold SIGTERM, so it comes when the drain
//! is over and not before.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Handles, connections::Caller};
use crate::{
    core::drain::{DrainResult, Origin, Undone},
    handle::PrestopEnd,
    status::PrestopAnswer,
};

/// What the kubelet's hooks call themselves, and its probes.
const KUBELET: &str = "kube-lifecycle/";
const PROBE: &str = "kube-probe/";

/// Where a kubelet asks from, its probes of the app server come from as well.
pub(super) async fn note_kubelet(State(handles): State<Handles>, request: Request, next: Next) -> Response {
    let caller =
        request.headers().get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let (true, Some(Caller(Some(peer)))) =
        (caller.starts_with(KUBELET) || caller.starts_with(PROBE), request.extensions().get::<Caller>())
    {
        handles.supervisor.kubelet(*peer);
    }
    next.run(request).await
}

pub(super) async fn prestop(State(handles): State<Handles>, method: Method, headers: HeaderMap) -> Response {
    if method == Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, [("allow", "GET, POST")]).into_response();
    }
    if !handles.token.admits(&headers).await {
        tracing::error!(
            "/prestop was refused: its token is missing or wrong. The kubelet now sends SIGTERM without a \
             drain. Add an Authorization entry with the token of token_file to the hook's httpHeaders"
        );
        return refused();
    }
    let caller = headers.get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or("?");
    let meant = handles.token.is_asked_for() || caller.starts_with(KUBELET);
    let origin = if meant { Origin::PreStop } else { Origin::Stray };
    match origin {
        Origin::Stray => tracing::warn!(
            caller,
            "/prestop was called, but not by the kubelet: the call is held and deploys go on. To start a drain \
             from elsewhere, run `pitstop drain` or send the token of token_file"
        ),
        _ => tracing::info!(caller, "/prestop was called"),
    }
    answer(handles.supervisor.prestop(origin).await)
}

/// 401: the same for every guarded endpoint.
pub(super) fn refused() -> Response {
    let hint = [("www-authenticate", "Bearer")];
    (StatusCode::UNAUTHORIZED, hint, "the token is missing or wrong\n").into_response()
}

/// How the wait ended.
pub(super) fn answer(ending: PrestopEnd) -> Response {
    match ending {
        PrestopEnd::Answered(answer) => Json(PrestopAnswer::from(&answer)).into_response(),
        // The server that the hook was for has gone; whoever still waits may go on.
        PrestopEnd::Undone(Undone::NewImage) => Json(without_drain(DrainResult::AlreadyGone)).into_response(),
        PrestopEnd::Undone(Undone::Operator | Undone::FalseDrain) => {
            (StatusCode::CONFLICT, "the drain was undone\n").into_response()
        }
        PrestopEnd::OutOfTime => Json(without_drain(DrainResult::Deadline)).into_response(),
    }
}

fn without_drain(result: DrainResult) -> PrestopAnswer {
    PrestopAnswer { result, seconds: 0.0, requests_left: 0, waited_for: Vec::new(), drain_id: String::new() }
}
