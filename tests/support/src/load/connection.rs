use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt, Either, Empty};
use hyper::{
    Request,
    body::{Body, Bytes, Frame},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::{Instant, Sleep, sleep, sleep_until},
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
    sender: http1::SendRequest<Either<Empty<Bytes>, Trickle>>,
    received: Arc<AtomicU64>,
}

impl Connection {
    pub async fn open(from: IpAddr, port: u16) -> Result<Self, Lost> {
        let refused = |error: &dyn std::fmt::Display| Lost {
            why: format!("no connection: {error}"),
            before_any_byte: true,
        };
        let connect = async {
            let (socket, to): (_, IpAddr) = match from {
                IpAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::LOCALHOST.into()),
            };
            socket.bind((from, 0).into())?;
            socket.connect((to, port).into()).await
        };
        let stream = connect.await.map_err(|e| refused(&e))?;
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
        let upload = path.strip_prefix("/upload?n=").and_then(|chunks| chunks.parse().ok());
        let request = if upload.is_some() { Request::post(path) } else { Request::get(path) };
        let mut request = request.header("Host", "demo.test");
        if close {
            request = request.header("Connection", "close");
        }
        let body = upload.map_or(Either::Left(Empty::new()), |chunks| Either::Right(Trickle::of(chunks)));
        let request = request.body(body).expect("a plain path");
        let response = self.sender.send_request(request).await?;
        let release = response.headers().get("x-release");
        let release = release.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        Ok(Answer { status, release })
    }
}

/// An upload by a slow client: a kilobyte each 100 ms.
pub struct Trickle {
    left: u64,
    due: Pin<Box<Sleep>>,
}

impl Trickle {
    const PAUSE: Duration = Duration::from_millis(100);

    fn of(chunks: u64) -> Self {
        Self { left: chunks, due: Box::pin(sleep(Self::PAUSE)) }
    }
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        std::task::ready!(self.due.as_mut().poll(cx));
        self.left -= 1;
        self.due = Box::pin(sleep_until(Instant::now() + Self::PAUSE));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 1000])))))
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
