//! One HTTP/1.1 request over any stream: for the health probe, an app server's own statistics and the
//! agent's admin socket.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, Response, body::Bytes};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// No answer that we ask for is larger than this.
const LARGEST_BODY_BYTES: usize = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection failed or what came was no HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The path or the host name is none.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    /// The body is larger than any that we ask for, or broke off.
    #[error("the body: {0}")]
    Body(String),
}

/// Sends the request, reads the whole answer and closes the connection.
///
/// # Errors
/// When there is no whole answer within `limit`, or it is larger than a megabyte.
pub async fn get<S>(stream: S, host: &str, path: &str, limit: Duration) -> Result<Response<Bytes>, GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    ask(Method::GET, stream, host, path, limit).await
}

/// The same with any method, without a body.
///
/// # Errors
/// As [`get`].
pub async fn ask<S>(
    method: Method,
    stream: S,
    host: &str,
    path: &str,
    limit: Duration,
) -> Result<Response<Bytes>, GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = exchange(method, stream, host, path);
    tokio::time::timeout(limit, exchange).await.unwrap_or(Err(GetError::TimedOut(limit)))
}

async fn exchange<S>(method: Method, stream: S, host: &str, path: &str) -> Result<Response<Bytes>, GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request =
        Request::builder().method(method).uri(path).header("host", host).header("connection", "close");
    let request = request.header("user-agent", "pitstop").body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LARGEST_BODY_BYTES).collect().await;
        let body = body.map_err(|e| GetError::Body(e.to_string()))?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    // The connection's own error, if any, comes out of the answer as well.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
