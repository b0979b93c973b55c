use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The expected answer, or another whole one.
pub struct Answer {
    pub status: u16,
    pub release: Option<String>,
}

/// There was no whole answer.
pub struct Lost {
    pub why: String,
    /// The connection ended before a single byte of the answer came.
    pub before_any_byte: bool,
}

/// One connection to the app.
pub struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    received: Arc<AtomicU64>,
}

impl Connection {
    pub async fn open(port: u16) -> Result<Self, Lost> {
        let refused = |error: &dyn std::fmt::Display| Lost {
            why: format!("no connection: {error}"),
            before_any_byte: true,
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| refused(&e))?;
        let received = Arc::new(AtomicU64::new(0));
        let counted = Counted { stream, received: received.clone() };
        let (sender, driver) = http1::handshake(TokioIo::new(counted)).await.map_err(|e| refused(&e))?;
        // Ends with the connection; the request that it breaks is told by the sender.
        tokio::spawn(driver);
        Ok(Self { sender, received })
    }

    /// Whether another request may be sent on it, as far as this end knows.
    pub async fn usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub async fn get(&mut self, path: &str, close: bool) -> Result<Answer, Lost> {
        let before = self.received.load(Ordering::SeqCst);
        self.exchange(path, close).await.map_err(|error| Lost {
            why: describe(&error),
            before_any_byte: self.received.load(Ordering::SeqCst) == before,
        })
    }

    async fn exchange(&mut self, path: &str, close: bool) -> hyper::Result<Answer> {
        let mut request = Request::get(path).header("Host", "demo.test");
        if close {
            request = request.header("Connection", "close");
        }
        let request = request.body(Empty::new()).expect("a plain path");
        let response = self.sender.send_request(request).await?;
        let release = response.headers().get("x-release");
        let release = release.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        Ok(Answer { status, release })
    }
}

fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Counts what comes in, because "closed before any byte of the answer" is what decides on a retry
/// and hyper's errors do not tell.
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::SeqCst);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
