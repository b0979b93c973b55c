//! Connections: HTTP/1.1 only, with small buffers, a limit for each request's head, and no more of them than
//! there is room for. Where strangers reach the port, they can take neither the agent's memory nor its
//! descriptors.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
    response::IntoResponse,
};
use hyper::{body::Incoming, server::conn::http1, service::Service, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
};

/// A connection without a whole request's head for this long is closed, also between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// No request's head is longer.
const BUFFER_BYTES: usize = 16 * 1024;
/// Open at the same time, at most; fewer where a quarter of the descriptors is less.
const ROOM: u64 = 256;
const LEAST_ROOM: u64 = 16;
/// One address holds so many calls of /prestop at most: the rest of the room is for others.
const HELD_BY_ONE: usize = 16;
/// Before another attempt at accepting when there is no descriptor left.
const PAUSE: Duration = Duration::from_millis(50);

/// Who asks, with each request; `None` on the admin socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller(pub(crate) Option<IpAddr>);

pub(super) trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<IpAddr>)>;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<IpAddr>)> {
        let (stream, peer): (_, SocketAddr) = TcpListener::accept(self).await?;
        Ok((stream, Some(peer.ip().to_canonical())))
    }
}

/// Only this user can connect there: nobody is told from anybody.
impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<IpAddr>)> {
        Ok((UnixListener::accept(self).await?.0, None))
    }
}

/// Serves until `stop` is true, and then until the answers under way are given.
pub(super) async fn serve(listener: impl Accept, app: Router, mut stop: watch::Receiver<bool>) {
    let open = Open::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The sender's end is an end as well.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = open.admit(peer).await else { continue };
                tokio::spawn(talk(stream, Caller(peer), place, app.clone(), stop.clone()));
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; retrying");
                open.close_oldest();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    open.all_closed().await;
}

/// It was gone before it was accepted.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// No time-out for an answer: /prestop is held for as long as the drain takes. A request's body is not read.
async fn talk<S>(stream: S, caller: Caller, place: Place, app: Router, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let close = place.close.clone();
    let place = Arc::new(place);
    let app = TowerToHyperService::new(app);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        answer(place.clone(), app.clone(), request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(BUFFER_BYTES);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let stopped = async {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        () = close.notified() => return,
        () = stopped => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(
    place: Arc<Place>,
    app: TowerToHyperService<Router>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let Some(_busy) = place.answering(request.uri().path() == "/prestop") else {
        let why = "too many /prestop calls from this address are waiting\n";
        return Ok((StatusCode::SERVICE_UNAVAILABLE, why).into_response());
    };
    app.call(request).await
}

/// Those that are open.
struct Open {
    permits: Arc<Semaphore>,
    room: u32,
    entries: Arc<Mutex<HashMap<u64, Entry>>>,
    /// Counts what happens, so that the oldest is known.
    clock: Arc<AtomicU64>,
}

struct Entry {
    peer: Option<IpAddr>,
    close: Arc<Notify>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Without a request since then.
    Idle(u64),
    Answering {
        prestop: bool,
    },
}

impl Open {
    fn new() -> Self {
        let room = room();
        Self {
            permits: Arc::new(Semaphore::new(room as usize)),
            room,
            entries: Arc::default(),
            clock: Arc::default(),
        }
    }

    /// A place for one more; the oldest without a request makes room for it. `None` when all are being answered.
    async fn admit(&self, peer: Option<IpAddr>) -> Option<Place> {
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) if self.close_oldest() => self.permits.clone().acquire_owned().await.ok()?,
            Err(_) => return None,
        };
        let id = self.clock.fetch_add(1, Ordering::Relaxed);
        let close = Arc::new(Notify::new());
        let entry = Entry { peer, close: close.clone(), state: State::Idle(id) };
        locked(&self.entries).insert(id, entry);
        let (entries, clock) = (self.entries.clone(), self.clock.clone());
        Some(Place { id, close, entries, clock, _permit: permit })
    }

    fn close_oldest(&self) -> bool {
        let mut entries = locked(&self.entries);
        let idle = entries.iter().filter_map(|(id, entry)| match entry.state {
            State::Idle(since) => Some((since, *id)),
            State::Answering { .. } => None,
        });
        let oldest = idle.min().and_then(|(_, id)| entries.remove(&id));
        oldest.as_ref().inspect(|entry| entry.close.notify_one()).is_some()
    }

    async fn all_closed(&self) {
        let _ = self.permits.acquire_many(self.room).await;
    }
}

/// One connection's, until it is closed.
struct Place {
    id: u64,
    close: Arc<Notify>,
    entries: Arc<Mutex<HashMap<u64, Entry>>>,
    clock: Arc<AtomicU64>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// A request has come; `None` when its address holds too many.
    fn answering(self: Arc<Self>, prestop: bool) -> Option<Busy> {
        let mut entries = locked(&self.entries);
        let held = State::Answering { prestop: true };
        let peer = entries.get(&self.id)?.peer;
        let by_the_same = entries.values().filter(|e| e.state == held && e.peer == peer).count();
        if prestop && peer.is_some() && by_the_same >= HELD_BY_ONE {
            return None;
        }
        entries.get_mut(&self.id)?.state = State::Answering { prestop };
        drop(entries);
        Some(Busy(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.entries).remove(&self.id);
    }
}

/// As long as a request is being answered.
struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        let now = self.0.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = locked(&self.0.entries).get_mut(&self.0.id) {
            entry.state = State::Idle(now);
        }
    }
}

fn locked(entries: &Mutex<HashMap<u64, Entry>>) -> MutexGuard<'_, HashMap<u64, Entry>> {
    // No step in between leaves it half-changed.
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

fn room() -> u32 {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    u32::try_from((descriptors / 4).clamp(LEAST_ROOM, ROOM)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Open {
        let permits = Arc::new(Semaphore::new(2));
        Open { permits, room: 2, entries: Arc::default(), clock: Arc::default() }
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[tokio::test]
    async fn the_oldest_without_a_request_makes_room_and_a_held_one_never_does() {
        let open = full();
        let held = Arc::new(open.admit(address(1)).await.unwrap());
        let busy = held.clone().answering(true).unwrap();
        let idle = open.admit(address(2)).await.unwrap();
        let closed = idle.close.clone();
        let talk = tokio::spawn(async move {
            idle.close.notified().await;
        });
        let third = Arc::new(open.admit(address(3)).await.unwrap());
        talk.await.unwrap();
        drop(closed);
        let busy_too = third.clone().answering(false).unwrap();
        assert!(open.admit(address(4)).await.is_none(), "both are being answered");
        drop((busy, busy_too));
    }

    #[tokio::test]
    async fn one_address_does_not_hold_all_the_room() {
        let open = Open { permits: Arc::new(Semaphore::new(100)), ..full() };
        let mut held = Vec::new();
        for _ in 0..HELD_BY_ONE {
            held.push(Arc::new(open.admit(address(1)).await.unwrap()).answering(true).unwrap());
        }
        let same = Arc::new(open.admit(address(1)).await.unwrap());
        assert!(same.clone().answering(true).is_none());
        assert!(same.answering(false).is_some(), "anything but /prestop");
        assert!(Arc::new(open.admit(address(2)).await.unwrap()).answering(true).is_some());
    }
}
