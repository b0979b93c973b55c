//! The agent's questions, over a unix socket in `state_dir`. Each has a thread of its own, so that a client that is
//! slow, or means no good, holds up nobody.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::Event;
use crate::slots::{Reply, Request, SOCKET_NAME};

/// For the whole question, and again for the answer to be taken.
const LIMIT: Duration = Duration::from_secs(2);
/// The main loop answers at once, unless a volume hangs.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
const LARGEST_BYTES: u64 = 64 << 10;
/// More are turned away.
const AT_ONCE: usize = 16;

/// A question with the place where its answer is waited for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) answer: Sender<Reply>,
}

/// From now on each question is an event.
///
/// # Errors
/// When the socket cannot be made.
pub(super) fn listen(state_dir: &Path, events: Sender<Event>) -> io::Result<()> {
    let listener = bound(state_dir)?;
    let asking = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) if may_ask(&stream) => hear(stream, &events, &asking),
                Ok(_) => tracing::warn!("a question of another user was refused"),
                // Out of descriptors, say.
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    };
    thread::Builder::new().name("questions".into()).spawn(accept).map(drop)
}

/// Nobody else may open it at any moment; one of an earlier start is replaced.
fn bound(state_dir: &Path) -> io::Result<UnixListener> {
    let private = tempfile::Builder::new().prefix(".parent").tempdir_in(state_dir)?;
    let fresh = private.path().join(SOCKET_NAME);
    // A socket's address has room for 107 bytes; through a short name of its directory any path fits.
    let dir = fs::File::open(private.path())?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd()))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, state_dir.join(SOCKET_NAME))?;
    Ok(listener)
}

fn may_ask(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| [0, ours].contains(&peer.uid()))
}

fn hear(stream: UnixStream, events: &Sender<Event>, asking: &Arc<AtomicUsize>) {
    if asking.fetch_add(1, Ordering::SeqCst) >= AT_ONCE {
        asking.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    let (events, done) = (events.clone(), asking.clone());
    let hear = move || {
        if let Err(error) = exchange(stream, &events) {
            tracing::debug!(%error, "a question was not answered");
        }
        done.fetch_sub(1, Ordering::SeqCst);
    };
    if thread::Builder::new().name("question".into()).spawn(hear).is_err() {
        asking.fetch_sub(1, Ordering::SeqCst);
    }
}

fn exchange(mut stream: UnixStream, events: &Sender<Event>) -> io::Result<()> {
    let line = question(&stream)?;
    let request = serde_json::from_slice(&line)?;
    let (answer, answers) = mpsc::channel();
    events.send(Event::Asked(Asked { request, answer })).map_err(io::Error::other)?;
    let reply = answers.recv_timeout(ANSWERED_WITHIN).map_err(io::Error::other)?;
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(&line)
}

/// One line, within the limit however slowly it comes.
fn question(stream: &UnixStream) -> io::Result<Vec<u8>> {
    let end = Instant::now() + LIMIT;
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(LARGEST_BYTES));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let (taken, whole) = {
            let bytes = reader.fill_buf()?;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            line.extend(&bytes[..end.unwrap_or(bytes.len())]);
            (end.map_or(bytes.len(), |at| at + 1), end.is_some() || bytes.is_empty())
        };
        reader.consume(taken);
        if whole {
            return Ok(line);
        }
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {

    /// What the agent, or whoever reaches the socket, asks of the parent.
    pub(crate) fn asked(bytes: &[u8]) {
        let _ =
            serde_json::from_slice::<crate::slots::Request>(bytes).map(|asked| serde_json::to_string(&asked));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;
    use crate::{core::Moment, init::slots::Slots, slots::PROTOCOL};

    fn listening() -> (tempfile::TempDir, Receiver<Event>) {
        let dir = tempfile::tempdir().unwrap();
        let (send, events) = mpsc::channel();
        listen(dir.path(), send).unwrap();
        (dir, events)
    }

    fn answer(events: &Receiver<Event>) -> Request {
        let Event::Asked(Asked { request, answer }) = events.recv().unwrap() else { panic!("a question") };
        let list = Slots::new().list(Moment(0));
        answer.send(Reply { v: PROTOCOL, error: None, list }).unwrap();
        request
    }

    fn ask(dir: &Path, line: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(dir.join(SOCKET_NAME)).unwrap();
        stream.write_all(line).unwrap();
        stream
    }

    fn read(mut stream: &UnixStream) -> String {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    #[test]
    fn a_question_is_answered_past_clients_that_say_nothing_or_nonsense() {
        let (dir, events) = listening();
        let silent = ask(dir.path(), b"");
        let torn = ask(dir.path(), br#"{"do":"#);
        assert_eq!(read(&ask(dir.path(), b"{\"do\":\"fly\"}\n")), "");
        let asked = ask(dir.path(), b"{\"do\":\"list\"}\n");
        assert_eq!(answer(&events), Request::List);
        let reply: Reply = serde_json::from_str(&read(&asked)).unwrap();
        assert_eq!((reply.error, reply.list.slots.len()), (None, 3));
        assert_eq!(
            (read(&silent), read(&torn)),
            (String::new(), String::new()),
            "closed when their time is over"
        );
    }

    #[test]
    fn the_socket_is_for_its_owner_only_and_takes_an_earlier_ones_place() {
        let (dir, _events) = listening();
        let (send, events) = mpsc::channel();
        listen(dir.path(), send).unwrap();
        let mode = fs::metadata(dir.path().join(SOCKET_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let _asked = ask(dir.path(), b"{\"do\":\"list\"}\n");
        assert_eq!(answer(&events), Request::List);
    }

    #[test]
    fn too_many_at_once_are_turned_away() {
        let (dir, _events) = listening();
        let _silent: Vec<_> = (0..AT_ONCE).map(|_| ask(dir.path(), b"")).collect();
        assert_eq!(read(&ask(dir.path(), b"{\"do\":\"list\"}\n")), "");
    }
}
