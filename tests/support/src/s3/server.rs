use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{HeaderMap, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use s3s::{
    Body, S3Error, S3ErrorCode,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc::UnboundedReceiver,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{
    BUCKET, Fault, Keys, PREFIX, Rule, Seen,
    bucket::{Bucket, Guard},
};

/// Time to send what was written before a connection breaks.
const FLUSH: Duration = Duration::from_millis(20);
const MESSAGE: &str = "a fault of the rig";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the server and its owner both see.
pub(super) struct Shared {
    pub(super) bucket: Bucket,
    pub(super) rules: Mutex<Vec<Rule>>,
    pub(super) seen: Mutex<Vec<Seen>>,
    /// So many requests have met a fault.
    pub(super) met: AtomicU32,
    pub(super) keys: Mutex<Keys>,
}

/// What its owner wants; answered when it is done.
pub(super) enum Order {
    Outage(mpsc::Sender<()>),
    Recover(mpsc::Sender<()>),
    End,
}

/// The server's thread.
pub(super) fn run(
    shared: Arc<Shared>,
    acceptor: Option<TlsAcceptor>,
    mut orders: UnboundedReceiver<Order>,
    tell: &mpsc::Sender<SocketAddr>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        tell.send(address).expect("the owner waits");
        let mut builder = S3ServiceBuilder::new(shared.bucket.clone());
        builder.set_auth(Guard(shared.clone()));
        let server = Server { shared, service: builder.build(), acceptor };
        loop {
            let Order::Outage(done) = server.serve(&listener, &mut orders).await else {
                return;
            };
            drop(listener);
            // Bound and not listening: connections are refused, and nobody else gets the port.
            let closed = bind(address);
            let _ = done.send(());
            let done = loop {
                match orders.recv().await {
                    Some(Order::Recover(done)) => break done,
                    Some(Order::Outage(done)) => drop(done.send(())),
                    Some(Order::End) | None => return,
                }
            };
            listener = closed.listen(1024).expect("it listens again");
            let _ = done.send(());
        }
    });
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option of the socket");
    socket.bind(address).expect("the same port");
    socket
}

#[derive(Clone)]
struct Server {
    shared: Arc<Shared>,
    service: S3Service,
    acceptor: Option<TlsAcceptor>,
}

impl Server {
    /// Until an order ends it; every connection ends with it.
    async fn serve(&self, listener: &TcpListener, orders: &mut UnboundedReceiver<Order>) -> Order {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Recover(done)) => drop(done.send(())),
                    Some(order) => return order,
                    None => return Order::End,
                },
                Ok((stream, _)) = listener.accept() => {
                    connections.spawn(self.clone().welcome(stream));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn welcome(self, stream: TcpStream) {
        match self.acceptor.clone() {
            None => self.converse(stream).await,
            Some(acceptor) => {
                // Who does not trust us hangs up.
                if let Ok(stream) = acceptor.accept(stream).await {
                    self.converse(stream).await;
                }
            }
        }
    }

    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let answer = service_fn(|request| self.answer(request));
        // An error here is a connection that was broken on purpose, or by the client.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Faulty>, Error> {
        let mut seen = look(&request);
        let fault = self.fault(&seen);
        let at = self.note(seen.clone());
        let answer = self.act(request, fault, &seen).await;
        seen.status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
        self.shared.seen.lock().expect("what was seen")[at] = seen;
        answer
    }

    fn fault(&self, seen: &Seen) -> Option<Fault> {
        let mut rules = self.shared.rules.lock().expect("the rules");
        let rule =
            rules.iter_mut().rev().find_map(|rule| rule.takes(&seen.method, &seen.key).then_some(rule));
        rule.map(|rule| rule.fault.clone())
    }

    fn met(&self) {
        self.shared.met.fetch_add(1, Ordering::SeqCst);
    }

    fn note(&self, seen: Seen) -> usize {
        let mut all = self.shared.seen.lock().expect("what was seen");
        all.push(seen);
        all.len() - 1
    }

    async fn act(
        &self,
        request: Request<Incoming>,
        fault: Option<Fault>,
        seen: &Seen,
    ) -> Result<Response<Faulty>, Error> {
        if !matches!(fault, None | Some(Fault::Unanswered)) {
            self.met();
        }
        match &fault {
            Some(Fault::Answer(status, code)) => return refusal(request, *status, code, MESSAGE).await,
            Some(Fault::Says(status, code, message)) => {
                return refusal(request, *status, code, message).await;
            }
            Some(Fault::OtherRegion(region)) => {
                let mut answer = refusal(request, 301, "PermanentRedirect", MESSAGE).await?;
                answer.headers_mut().insert("x-amz-bucket-region", HeaderValue::from_static(region));
                return Ok(answer);
            }
            Some(Fault::Endless) => {
                return Ok(refusal(request, 403, "Endless", MESSAGE).await?.map(Faulty::endless));
            }
            Some(Fault::NoListing) if seen.is_list() => {
                return refusal(request, 403, "AccessDenied", MESSAGE).await;
            }
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Together(barrier)) => {
                barrier.wait().await;
            }
            _ => {}
        }
        let rest = Rest::default();
        let body = |body| Body::http_body_unsync(Unread { body: Some(body), rest: rest.clone() });
        let mut answer = self.service.call(request.map(body)).await?;
        rest.read().await;
        change(answer.headers_mut(), fault.as_ref())?;
        let missing = answer.status() == 404;
        if let Some(Fault::CutAndReplace(_, bytes)) = &fault {
            self.shared.bucket.replace(&format!("{PREFIX}/{}", seen.key), bytes.clone()).await?;
        }
        match fault {
            Some(Fault::Unanswered) => {
                self.met();
                std::future::pending().await
            }
            Some(Fault::AnswerLost) => Err("the answer is lost, on purpose".into()),
            Some(Fault::NoListing) if missing => denied(),
            fault => Ok(answer.map(|body| Faulty::new(body, fault))),
        }
    }
}

fn look(request: &Request<Incoming>) -> Seen {
    let header = |name: &str| text(request.headers(), name);
    let path = request.uri().path().trim_start_matches('/');
    let key = path.strip_prefix(BUCKET).unwrap_or(path).trim_start_matches('/');
    let key = key.strip_prefix(PREFIX).unwrap_or(key).trim_start_matches('/');
    let query = request.uri().query().unwrap_or_default();
    Seen {
        method: request.method().to_string(),
        key: if key.is_empty() { format!("?{query}") } else { key.to_owned() },
        range: header("range"),
        condition: header("if-match").or_else(|| header("if-none-match")),
        session: header("x-amz-security-token").is_some(),
        status: 0,
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// What a service has left of a body. S3 reads that too: otherwise clients that still send see a broken pipe.
#[derive(Clone, Default)]
struct Rest(Arc<Mutex<Option<Incoming>>>);

impl Rest {
    async fn read(&self) {
        let rest = self.0.lock().expect("a body").take();
        if let Some(mut body) = rest {
            while let Some(Ok(_)) = body.frame().await {}
        }
    }
}

struct Unread {
    body: Option<Incoming>,
    rest: Rest,
}

impl HttpBody for Unread {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(self.body.as_mut().expect("it is given up in the end only")).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        *self.rest.0.lock().expect("a body") = self.body.take();
    }
}

/// As [`Rest`], of a request that no service has seen.
async fn refusal(
    request: Request<Incoming>,
    status: u16,
    code: &str,
    message: &str,
) -> Result<Response<Faulty>, Error> {
    let _ = request.into_body().collect().await;
    let xml = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let answer = Response::builder().status(status).header("content-type", "application/xml");
    Ok(answer.body(Faulty::new(Body::from(xml), None))?)
}

fn change(headers: &mut HeaderMap, fault: Option<&Fault>) -> Result<(), Error> {
    match fault {
        Some(Fault::Header(name, value)) => {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        Some(Fault::WeakETag) => {
            if let Some(tag) = text(headers, "etag") {
                headers.insert("etag", format!("W/{tag}").parse()?);
            }
        }
        _ => {}
    }
    Ok(())
}

fn denied() -> Result<Response<Faulty>, Error> {
    let answer = S3Error::new(S3ErrorCode::AccessDenied).to_http_response()?;
    Ok(answer.map(|body| Faulty::new(body, None)))
}

/// A body, and what goes wrong with it.
struct Faulty {
    body: Body,
    /// Bytes until it breaks, or stalls.
    left: Option<u64>,
    breaks: bool,
    pause: Option<Duration>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    endless: bool,
}

impl Faulty {
    fn new(body: Body, fault: Option<Fault>) -> Self {
        let (left, breaks, pause) = match fault {
            Some(Fault::Cut(after) | Fault::CutAndReplace(after, _)) => (Some(after), true, None),
            Some(Fault::Stall(after)) => (Some(after), false, None),
            Some(Fault::Slow(pause)) => (None, false, Some(pause)),
            _ => (None, false, None),
        };
        Self { body, left, breaks, pause, sleep: None, endless: false }
    }

    fn endless(self) -> Self {
        Self { endless: true, ..self }
    }

    fn pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pause) = self.pause else { return Poll::Ready(()) };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        std::task::ready!(sleep.as_mut().poll(cx));
        self.sleep = None;
        Poll::Ready(())
    }
}

impl HttpBody for Faulty {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.endless {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 1 << 16])))));
        }
        if self.left == Some(0) {
            if !self.breaks {
                // Nobody wakes it.
                return Poll::Pending;
            }
            // A pending body lets the server send what it has.
            self.pause = Some(FLUSH);
            std::task::ready!(self.pause(cx));
            return Poll::Ready(Some(Err("the body breaks off, on purpose".into())));
        }
        std::task::ready!(self.pause(cx));
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let Ok(mut data) = frame.into_data() else { return Poll::Ready(None) };
        if let Some(left) = &mut self.left {
            data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= data.len() as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.endless { SizeHint::default() } else { self.body.size_hint() }
    }
}
