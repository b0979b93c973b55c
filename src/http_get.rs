//! One HTTP/1.1 request over any stream: for the health probe, an app server's own statistics and orders,
//! and the agent's admin socket.

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::Bytes,
    header::{CONNECTION, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncRead, AsyncWrite};

/// No answer that we ask for is larger than this.
const LARGEST_BODY_BYTES: usize = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GetError {
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
pub(crate) async fn get<S>(
    stream: S,
    host: &str,
    path: &str,
    limit: Duration,
) -> Result<Response<Bytes>, GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    ask(Method::GET, stream, host, path, limit).await
}

/// The same with any method, without a body.
///
/// # Errors
/// As [`get`].
pub(crate) async fn ask<S>(
    method: Method,
    stream: S,
    host: &str,
    path: &str,
    limit: Duration,
) -> Result<Response<Bytes>, GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::builder().method(method).uri(path).body(Full::default())?;
    send(stream, host, request, limit).await
}

/// Sends a request that the caller has made, with whatever headers and body it has.
///
/// # Errors
/// As [`get`].
pub(crate) async fn send<S>(
    stream: S,
    host: &str,
    mut request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Response<Bytes>, GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let exchange = exchange(stream, host, request, async {});
    let answer = tokio::time::timeout(limit, exchange).await.unwrap_or(Err(GetError::TimedOut(limit)))?;
    Ok(answer.0)
}

/// As [`send`], but the server is not asked to close the connection: what `meanwhile` finds out, it finds
/// out after the answer has come and before we close.
///
/// # Errors
/// As [`get`].
pub(crate) async fn get_and<S, M>(
    stream: S,
    host: &str,
    request: Request<Full<Bytes>>,
    limit: Duration,
    meanwhile: M,
) -> Result<(Response<Bytes>, M::Output), GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M: Future,
{
    let exchange = exchange(stream, host, request, meanwhile);
    tokio::time::timeout(limit, exchange).await.unwrap_or(Err(GetError::TimedOut(limit)))
}

async fn exchange<S, M>(
    stream: S,
    host: &str,
    mut request: Request<Full<Bytes>>,
    meanwhile: M,
) -> Result<(Response<Bytes>, M::Output), GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M: Future,
{
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(host).map_err(hyper::http::Error::from)?;
    headers.entry(HOST).or_insert(host);
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("pitstop"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LARGEST_BODY_BYTES).collect().await;
        let body = body.map_err(|e| GetError::Body(e.to_string()))?.to_bytes();
        let found = meanwhile.await;
        drop(sender);
        Ok((Response::from_parts(head, body), found))
    };
    // The connection's own error, if any, comes out of the answer as well.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
/// Connects to a Unix socket, ready for asynchronous use. A socket's address has room for 107 bytes; through a short name of
/// its directory any path fits.
///
/// # Errors
/// When nobody listens there, or we may not connect.
pub(crate) fn connect_unix(socket: &Path) -> io::Result<UnixStream> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let stream = UnixStream::connect(short)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
