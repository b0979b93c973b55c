//! Questions to the agent, over its admin socket. Each has a thread of its own, so that an agent that
//! hangs holds up nobody but the answer.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc::Sender,
    thread,
    time::Duration,
};

use super::Event;
use crate::server::SOCKET_NAME;

/// What the agent knows at once it also says at once.
const SHORT: Duration = Duration::from_secs(2);
/// No answer is longer.
const LARGEST_BYTES: u64 = 64 * 1024;

/// What the init wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Is the first release in place?
    Startup,
    /// Begin the drain, or join it. Answered at its end.
    Drain,
    /// May the container end, with nothing to be put right on the volume?
    Settled,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Yes; of a drain, how it ended.
    Yes(String),
    /// Not yet.
    No,
    /// Nobody answered.
    Silence,
}

impl Question {
    fn request(self) -> &'static str {
        match self {
            Self::Startup => "GET /startup",
            Self::Drain => "POST /prestop",
            Self::Settled => "GET /settled",
        }
    }

    fn understand(self, status: u16, body: &str) -> Answer {
        match (self, status) {
            (Self::Drain, 200) => Answer::Yes(result_of(body)),
            // Undone by an operator: there is nothing to wait for any more.
            (Self::Drain, _) => Answer::Yes("undone".into()),
            (_, 200) => Answer::Yes(String::new()),
            _ => Answer::No,
        }
    }
}

fn result_of(body: &str) -> String {
    let answer: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    answer["result"].as_str().unwrap_or("unknown").to_owned()
}

/// Asks; the answer comes as an event, after `hold_ms` at the latest.
pub(super) fn ask(state_dir: &Path, question: Question, hold_ms: u64, answers: Sender<Event>) {
    let socket = state_dir.join(SOCKET_NAME);
    let patience = if question == Question::Drain { Duration::from_millis(hold_ms.max(1)) } else { SHORT };
    let failed = answers.clone();
    let asking = move || {
        let answer = exchange(&socket, question, patience);
        let answer = answer.map_or(Answer::Silence, |(status, body)| question.understand(status, &body));
        let _ = answers.send(Event::Answered(question, answer));
    };
    if thread::Builder::new().name("ask".into()).spawn(asking).is_err() {
        let _ = failed.send(Event::Answered(question, Answer::Silence));
    }
}

fn exchange(socket: &PathBuf, question: Question, patience: Duration) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    // A silence, not the whole exchange; but the agent answers in one go.
    stream.set_read_timeout(Some(patience.saturating_add(SHORT)))?;
    stream.set_write_timeout(Some(SHORT))?;
    let head = format!(
        "{} HTTP/1.1\r\nHost: pitstop\r\nUser-Agent: pitstop-exec\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        question.request()
    );
    stream.write_all(head.as_bytes())?;
    let mut raw = Vec::new();
    stream.take(LARGEST_BYTES).read_to_end(&mut raw)?;
    parse(&String::from_utf8_lossy(&raw)).ok_or_else(|| io::Error::other("the answer broke off"))
}

/// An agent that is killed leaves a connection without an answer, which is none.
fn parse(raw: &str) -> Option<(u16, String)> {
    let (head, body) = raw.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// What the agent answers to its parent.
    pub(crate) fn answer(bytes: &[u8]) {
        let Some((status, body)) = parse(&String::from_utf8_lossy(bytes)) else { return };
        for question in [Question::Startup, Question::Drain, Question::Settled] {
            let _ = question.understand(status, &body);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, sync::mpsc};

    use super::*;

    fn answered(question: Question, reply: &'static str) -> Answer {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
        let (send, events) = mpsc::channel();
        ask(dir.path(), question, 5_000, send);
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 512];
        let read = stream.read(&mut request).unwrap();
        assert!(String::from_utf8_lossy(&request[..read]).starts_with(question.request()));
        stream.write_all(reply.as_bytes()).unwrap();
        drop(stream);
        match events.recv().unwrap() {
            Event::Answered(_, answer) => answer,
            _ => panic!("nothing else happens"),
        }
    }

    #[test]
    fn the_end_of_a_drain_comes_with_its_result() {
        let reply = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"result\":\"drained\"}";
        assert_eq!(answered(Question::Drain, reply), Answer::Yes("drained".into()));
    }

    #[test]
    fn an_undone_drain_holds_nothing_back() {
        assert_eq!(answered(Question::Drain, "HTTP/1.1 409 Conflict\r\n\r\n"), Answer::Yes("undone".into()));
    }

    #[test]
    fn a_release_that_is_not_there_yet_is_a_no() {
        assert_eq!(answered(Question::Startup, "HTTP/1.1 503 No\r\n\r\n{}"), Answer::No);
        assert_eq!(answered(Question::Startup, "HTTP/1.1 200 OK\r\n\r\n{}"), Answer::Yes(String::new()));
    }

    #[test]
    fn an_agent_that_dies_in_mid_answer_has_not_answered() {
        assert_eq!(answered(Question::Drain, ""), Answer::Silence);
        assert_eq!(answered(Question::Drain, "HTTP/1.1 200 OK\r\n"), Answer::Silence);
    }

    #[test]
    fn nobody_at_the_socket_is_silence() {
        let dir = tempfile::tempdir().unwrap();
        let (send, events) = mpsc::channel();
        ask(dir.path(), Question::Settled, 1, send);
        assert!(matches!(events.recv().unwrap(), Event::Answered(Question::Settled, Answer::Silence)));
    }
}
