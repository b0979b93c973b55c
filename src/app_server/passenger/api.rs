//! The core's socket for commands. The core knows its clients by the socket itself: its own user and root may ask
//! and order anything, without a password.

use std::{io, path::PathBuf, time::Duration};

use http_body_util::Full;
use hyper::{Method, Request, Response, body::Bytes, header::CONTENT_TYPE};

use super::{discovery::Instance, pool::Pool};
use crate::{
    http_get::{self, GetError},
    lane::Lane,
};

/// The core answers from memory.
const LIMIT: Duration = Duration::from_secs(1);

/// Asks the core, and tells it.
#[derive(Debug)]
pub(super) struct Api {
    lane: Lane,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Nobody listens, or not any more.
    #[error("{}: {error}", socket.display())]
    Connect {
        /// Where it was tried.
        socket: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// What came was no answer.
    #[error("{0}")]
    Get(#[from] GetError),
    /// The request itself is none.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    #[error("Passenger refused the request (401): run pitstop as the same user")]
    Denied,
    #[error("status {0}: {1}")]
    Status(u16, String),
    /// A document that we do not understand.
    #[error("{0}")]
    Document(String),
}

impl Api {
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self { lane: Lane::one_at_a_time("passenger")? })
    }

    pub(crate) async fn pool(&self, instance: &Instance) -> Result<Pool, ApiError> {
        let request = Request::builder().method(Method::GET).uri("/pool.xml").body(Full::default())?;
        let answer = self.send(instance, request).await?;
        Pool::parse(answer.body()).map_err(|error| ApiError::Document(error.to_string()))
    }

    /// How many requests of this app may wait for a process, 0 for any number; `None` when it does not say.
    pub(crate) async fn longest_queue(&self, instance: &Instance, group: &str) -> Option<u64> {
        let request = Request::builder().method(Method::GET).uri("/pool.json").body(Full::default()).ok()?;
        let answer = self.send(instance, request).await.ok()?;
        let pool: serde_json::Value = serde_json::from_slice(answer.body()).ok()?;
        pool[group]["max_request_queue_size"][0]["value"].as_u64()
    }

    /// Orders a restart of this app. False when it has none of this name, so that there was nothing to
    /// restart.
    pub(crate) async fn restart(&self, instance: &Instance, group: &str) -> Result<bool, ApiError> {
        let order = serde_json::json!({ "name": group, "restart_method": "blocking" }).to_string();
        let request = Request::builder().method(Method::POST).uri("/pool/restart_app_group.json");
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::from(order))?;
        let answer = self.send(instance, request).await?;
        let said: serde_json::Value =
            serde_json::from_slice(answer.body()).map_err(|error| ApiError::Document(error.to_string()))?;
        said["restarted"].as_bool().ok_or_else(|| ApiError::Document(said.to_string()))
    }

    async fn send(
        &self,
        instance: &Instance,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, ApiError> {
        let socket = instance.api();
        let failed = |error| ApiError::Connect { socket: instance.api(), error };
        let stream = self.lane.look(LIMIT, move || http_get::connect_unix(&socket)).await;
        let stream = stream.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.and_then(tokio::net::UnixStream::from_std).map_err(failed)?;
        let answer = http_get::send(stream, "passenger", request, LIMIT).await?;
        match answer.status().as_u16() {
            200 => Ok(answer),
            401 => Err(ApiError::Denied),
            other => Err(ApiError::Status(other, String::from_utf8_lossy(answer.body()).into_owned())),
        }
    }
}
