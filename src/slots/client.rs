//! The agent's side: asking the parent, over its socket.

use std::{
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{List, PROTOCOL, Reply, Request, SOCKET_NAME};

/// It answers from memory.
const LIST_LIMIT: Duration = Duration::from_secs(1);
/// It starts a process, or tells the kernel.
const ORDER_LIMIT: Duration = Duration::from_secs(5);
/// No reply is longer: three servers with a hundred lines of output each.
const LONGEST_REPLY: u64 = 2 << 20;

/// Where the parent is asked.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoList {
    /// Nobody listens there.
    #[error("no parent listens on {0}: the app server was not started by `pitstop exec`")]
    Absent(PathBuf),
    /// It is there, and cannot be worked with.
    #[error("{0}")]
    Unfit(String),
    /// It is there, and has not answered this time.
    #[error("the parent of the app server did not answer: {0}")]
    Silent(String),
    /// It has not done what it was told to do.
    #[error("the parent of the app server refused: {0}")]
    Refused(String),
}

impl Client {
    /// Of the pod with this `state_dir`.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { socket: state_dir.join(SOCKET_NAME) }
    }

    /// What the parent knows.
    ///
    /// # Errors
    /// [`NoList`], after a second at the latest.
    pub(crate) async fn list(&self) -> Result<List, NoList> {
        self.ask(&Request::List, LIST_LIMIT).await
    }

    /// Tells it to do something. What is there afterwards.
    ///
    /// # Errors
    /// [`NoList`]. [`NoList::Silent`]: whether it was done is not known.
    pub(crate) async fn order(&self, request: &Request) -> Result<List, NoList> {
        self.ask(request, ORDER_LIMIT).await
    }

    async fn ask(&self, request: &Request, limit: Duration) -> Result<List, NoList> {
        let exchange = tokio::time::timeout(limit, self.exchange(request)).await;
        let line = exchange.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let line = line.map_err(|error| self.no_answer(&error))?;
        read(&line)
    }

    async fn exchange(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut stream = self.connect().await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut reply = Vec::new();
        stream.take(LONGEST_REPLY).read_to_end(&mut reply).await?;
        Ok(reply)
    }

    /// A socket's address has room for 107 bytes; through a short name of its directory any path fits.
    async fn connect(&self) -> io::Result<UnixStream> {
        let dir = self.socket.parent().unwrap_or(Path::new("/"));
        let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let dir_name = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
        UnixStream::connect(dir_name.join(SOCKET_NAME)).await
    }

    fn no_answer(&self, error: &io::Error) -> NoList {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::ConnectionRefused => {
                NoList::Absent(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => NoList::Unfit(format!(
                "the agent may not connect to {}: give both containers the same runAsUser",
                self.socket.display()
            )),
            _ => NoList::Silent(error.to_string()),
        }
    }
}

/// Its version comes first: the rest of another one's reply may mean anything.
fn read(line: &[u8]) -> Result<List, NoList> {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    let odd = |error: serde_json::Error| NoList::Silent(format!("its reply is not understood: {error}"));
    if line.is_empty() {
        return Err(NoList::Silent("it closed the connection".into()));
    }
    let Version { v } = serde_json::from_slice(line).map_err(odd)?;
    if v != PROTOCOL {
        return Err(NoList::Unfit(format!(
            "the parent of the app server speaks version {v} of its protocol, and the agent version {PROTOCOL}: use the \
             same image of pitstop in both containers"
        )));
    }
    let reply: Reply = serde_json::from_slice(line).map_err(odd)?;
    reply.error.map_or(Ok(reply.list), |error| Err(NoList::Refused(error)))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A reply of the parent is understood or named.
    pub(crate) fn reply(bytes: &[u8]) {
        if let Ok(list) = read(bytes) {
            assert!(list.runs().count() <= bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::UnixListener,
    };

    use super::*;

    /// A parent that reads one line and answers with this; and what it was asked.
    fn parent(reply: &'static str) -> (tempfile::TempDir, std::thread::JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
            line
        });
        (dir, asked)
    }

    const LIST: &str = "{\"v\":1,\"list\":{\"pid\":7,\"version\":\"1\",\"addresses\":[],\"slots\":[]}}\n";

    #[tokio::test]
    async fn the_parent_is_asked_by_one_line_and_its_list_comes_back() {
        let (dir, asked) = parent(LIST);
        assert_eq!(Client::new(dir.path()).list().await.unwrap().pid, 7);
        assert_eq!(asked.join().unwrap(), "{\"do\":\"list\"}\n");
    }

    #[tokio::test]
    async fn without_a_parent_there_is_no_list() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(dir.path());
        assert!(matches!(client.list().await, Err(NoList::Absent(_))));
        drop(UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap());
        assert!(matches!(client.list().await, Err(NoList::Absent(_))), "its parent has ended");
        let nowhere = Client::new(&dir.path().join("none"));
        assert!(matches!(nowhere.list().await, Err(NoList::Absent(_))));
    }

    #[tokio::test]
    async fn a_reply_of_another_protocol_is_unfit_and_garbage_is_no_answer() {
        let told = async |reply| {
            let (dir, _asked) = parent(reply);
            Client::new(dir.path()).order(&Request::Steer { run: 1 }).await.unwrap_err()
        };
        let NoList::Unfit(words) = told("{\"v\":2,\"list\":3}\n").await else { panic!("unfit") };
        assert!(words.contains("version 2") && words.contains("same image"), "{words}");
        assert!(matches!(told("{\"v\":1}\n").await, NoList::Silent(_)));
        assert!(matches!(told("no\n").await, NoList::Silent(_)));
        assert!(matches!(told("").await, NoList::Silent(_)));
        let refused = LIST.replace("\"v\":1,", "\"v\":1,\"error\":\"slot b is not empty\",");
        let NoList::Refused(words) = told(Box::leak(refused.into_boxed_str())).await else {
            panic!("refused")
        };
        assert_eq!(words, "slot b is not empty");
    }

    #[tokio::test]
    async fn a_deep_state_dir_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        assert!(matches!(Client::new(&deep).list().await, Err(NoList::Absent(_))));
    }
}
