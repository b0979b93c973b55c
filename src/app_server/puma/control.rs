//! Puma's control server: its own numbers, asked over HTTP on a unix socket or TCP.

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hyper::body::Bytes;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::{
    aside::{self, Aside},
    started_by::{StartedBy, Thread},
};
use crate::{
    config,
    http_get::{self, GetError},
    lane::Lane,
    plain_file,
};

/// The control server answers from memory.
const LIMIT: Duration = Duration::from_secs(1);

/// Puma's state file has a handful of lines.
const LARGEST: u64 = 64 << 10;

/// Where Rails applications keep Puma's state file, below the master's working directory.
pub(super) const USUAL_STATE_FILES: [&str; 2] = ["tmp/pids/puma.state", "tmp/puma.state"];

/// What came of asking.
#[derive(Debug)]
pub(super) enum Control {
    /// Nothing says where it is, or whether there is one.
    Absent,
    /// The state file is of a process that is not this master.
    StaleStateFile(PathBuf),
    /// It does not accept the token.
    Denied,
    /// It cannot be reached, or what it says makes no sense.
    Silent(String),
    Stats(Box<Stats>),
}

/// `GET /stats`: of a cluster, or of the single process.
#[derive(Debug, Deserialize)]
pub(super) struct Stats {
    /// How many workers there are, in any state; absent in single mode.
    pub(crate) workers: Option<usize>,
    /// How many of them belong to an earlier phase.
    #[serde(default)]
    pub(crate) old_workers: u32,
    #[serde(default)]
    pub(crate) worker_status: Vec<WorkerStatus>,
    #[serde(flatten)]
    pub(crate) single: Load,
}

/// One worker as its master knows it.
#[derive(Debug, Deserialize)]
pub(super) struct WorkerStatus {
    /// Its process; absent for a moment while `fork_worker` starts it.
    pub(crate) pid: Option<i32>,
    #[serde(default)]
    pub(crate) booted: bool,
    /// When it last reported, by Puma's clock, in steps of a second.
    #[serde(default)]
    pub(crate) last_checkin: String,
    /// What it reported; empty before its first report.
    #[serde(default)]
    pub(crate) last_status: Load,
}

/// Numbers of one process that serves.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Load {
    /// Connections accepted and waiting for a thread.
    pub(crate) backlog: Option<u32>,
    /// Requests that a thread works on, and those that wait for one (`backlog`); since 6.6.
    pub(crate) busy_threads: Option<u32>,
    /// Free threads, those not yet started included.
    pub(crate) pool_capacity: Option<u32>,
    /// The most threads there may be.
    pub(crate) max_threads: Option<u32>,
    /// Requests since the start.
    pub(crate) requests_count: Option<u64>,
}

impl Load {
    /// Requests being served, those that wait not included, if this is a report at all.
    pub(crate) fn busy(&self) -> Option<u32> {
        let waiting = self.backlog.unwrap_or(0);
        let taken = || Some(self.max_threads?.saturating_sub(self.pool_capacity?));
        self.busy_threads.map(|busy| busy.saturating_sub(waiting)).or_else(taken)
    }
}

impl WorkerStatus {
    /// The check-in as a number that grows with it: the digits of its date and time.
    pub(crate) fn checkin(&self) -> u64 {
        let digits = self.last_checkin.bytes().filter(u8::is_ascii_digit).take(14);
        digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    }
}

/// How to reach a control server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Access {
    url: String,
    token: Option<String>,
}

/// Whose control server is asked.
#[derive(Debug, Clone)]
pub(super) struct Whose {
    pub(crate) master: i32,
    /// Where its files are meanwhile.
    pub(crate) aside: Aside,
}

/// Finds the control server and asks it.
#[derive(Debug)]
pub(super) struct ControlServer {
    section: config::Puma,
    lane: Lane,
    /// The last state file that was read, for when its volume does not answer.
    known: Mutex<Option<(i32, Access)>>,
}

impl ControlServer {
    pub(crate) fn start(section: config::Puma) -> io::Result<Self> {
        Ok(Self { section, lane: Lane::one_at_a_time("control")?, known: Mutex::default() })
    }

    /// Asks the control server of this master.
    pub(crate) async fn ask(&self, whose: &Whose) -> Control {
        match self.access(whose).await {
            Ok(access) => stats(&self.lane, whose, &access).await.unwrap_or_else(|control| control),
            Err(control) => control,
        }
    }

    /// Who called this master; `None` when it did not answer.
    pub(crate) async fn started_by(&self, whose: &Whose) -> Option<StartedBy> {
        let access = self.access(whose).await.ok()?;
        let (status, body) = fetch(&self.lane, whose, &access, "/thread-backtraces").await.ok()?;
        let threads = serde_json::from_slice::<Vec<Thread>>(&body).ok().filter(|_| status == 200);
        Some(threads.map_or(StartedBy::Unknown, |threads| StartedBy::of(&threads)))
    }

    /// Its files that another Puma with the same configuration would take from it, by their names in the container.
    pub(crate) async fn shared_files(&self, whose: &Whose) -> Vec<PathBuf> {
        let url = self.access(whose).await.ok().map(|access| access.url);
        let socket = url.as_deref().and_then(|url| url.strip_prefix("unix://")).map(PathBuf::from);
        let (master, given) = (whose.master, self.section.state_file.clone());
        let names = move || {
            let names = state_files(given).into_iter().chain(socket);
            names.filter_map(|name| aside::shared_name(master, &name)).collect()
        };
        self.lane.look(LIMIT, names).await.unwrap_or_default()
    }

    async fn access(&self, whose: &Whose) -> Result<Access, Control> {
        let (configured, token) = (self.section.control_url.clone(), self.section.control_token.clone());
        if let (Some(url), Some(_)) = (&configured, &token) {
            return Ok(Access { url: url.clone(), token });
        }
        let given = self.section.state_file.clone();
        let (master, of) = (whose.master, whose.clone());
        let read = self.lane.look(LIMIT, move || StateFile::first_of(master, &candidates(&of, given))).await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Some(Ok(found)) => {
                let url = configured.unwrap_or(found.url);
                let access = Access { url, token: token.or(found.token) };
                *known = Some((master, access.clone()));
                Ok(access)
            }
            Some(Err(_)) if configured.is_some() => Ok(Access { url: configured.unwrap_or_default(), token }),
            Some(Err(control)) => Err(control),
            None => {
                known.clone().filter(|(pid, _)| *pid == master).map(|(_, access)| access).ok_or_else(|| {
                    Control::Silent("the volume with Puma's state file does not answer".into())
                })
            }
        }
    }
}

/// As the master names them.
fn state_files(given: Option<PathBuf>) -> Vec<PathBuf> {
    given.map_or_else(|| USUAL_STATE_FILES.iter().map(PathBuf::from).collect(), |path| vec![path])
}

/// As we reach them.
fn candidates(Whose { master, aside }: &Whose, given: Option<PathBuf>) -> Vec<PathBuf> {
    // One that is given may be ours.
    let ours = given.clone();
    state_files(given).iter().map(|name| aside.reached(*master, name)).chain(ours).collect()
}

/// What Puma's state file says. Its token must never reach a log.
#[derive(Deserialize)]
struct StateFile {
    pid: i32,
    control_url: Option<String>,
    control_auth_token: Option<String>,
}

impl StateFile {
    fn first_of(master: i32, candidates: &[PathBuf]) -> Result<Access, Control> {
        let odd = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
            )
        };
        let found = candidates.iter().find_map(|path| match plain_file::read_to_string(path, LARGEST) {
            Err(error) if !odd(&error) => None,
            read => Some((path, read.ok())),
        });
        let Some((path, text)) = found else { return Err(Control::Absent) };
        let unreadable = || Control::Silent(format!("{} is not a Puma state file", path.display()));
        let text = text.ok_or_else(unreadable)?;
        let state: Self = serde_saphyr::from_str(&text).map_err(|_| unreadable())?;
        if state.pid != master {
            return Err(Control::StaleStateFile(path.clone()));
        }
        let url = state.control_url.filter(|url| !url.is_empty()).ok_or(Control::Absent)?;
        Ok(Access { url, token: state.control_auth_token })
    }
}

async fn stats(lane: &Lane, whose: &Whose, access: &Access) -> Result<Control, Control> {
    let silent = |what: String| Control::Silent(format!("{}: {what}", access.url));
    match fetch(lane, whose, access, "/stats").await.map_err(silent)? {
        (200, body) => serde_json::from_slice(&body).map(Control::Stats).map_err(|e| silent(e.to_string())),
        (403, _) => Err(Control::Denied),
        (other, _) => Err(silent(format!("status {other}"))),
    }
}

/// One GET: status and body, or what kept it from being answered.
async fn fetch(lane: &Lane, whose: &Whose, access: &Access, path: &str) -> Result<(u16, Bytes), String> {
    let token = access.token.as_deref().filter(|token| !token.is_empty() && *token != "none");
    // 5.6 wants the query to be this and nothing else.
    let path = token.map_or_else(|| path.to_owned(), |token| format!("{path}?token={token}"));
    let answer = match access.url.split_once("://") {
        Some(("unix", socket)) => {
            let (socket, Whose { master, aside }) = (PathBuf::from(socket), whose.clone());
            let stream =
                lane.look(LIMIT, move || http_get::connect_unix(&aside.reached(master, &socket))).await;
            let stream = stream.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()));
            let stream = stream.and_then(tokio::net::UnixStream::from_std).map_err(|e| e.to_string())?;
            http_get::get(stream, "puma", &path, LIMIT).await
        }
        Some(("tcp", address)) => match tokio::time::timeout(LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => http_get::get(stream, "puma", &path, LIMIT).await,
            Ok(Err(e)) => return Err(e.to_string()),
            Err(_) => Err(GetError::TimedOut(LIMIT)),
        },
        _ => return Err("its address must begin with unix:// or tcp://".into()),
    };
    let answer = answer.map_err(|e| e.to_string())?;
    Ok((answer.status().as_u16(), answer.into_body()))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// Puma's state file is of this master, or refused.
    pub(crate) fn state_file(bytes: &[u8]) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("it is written");
        let _ = StateFile::first_of(17, &[file.path().to_owned()]);
    }

    /// What Puma's control server answers: statistics, and the stacks of its threads.
    pub(crate) fn answer(bytes: &[u8]) {
        if let Ok(stats) = serde_json::from_slice::<Stats>(bytes) {
            let _ = stats.single.busy();
            for worker in &stats.worker_status {
                let _ = (worker.checkin(), worker.last_status.busy());
            }
        }
        let _ = serde_json::from_slice::<Vec<Thread>>(bytes).map(|threads| StartedBy::of(&threads));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn stats(text: &str) -> Stats {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_cluster_of_5_6_counts_busy_threads_by_the_free_ones() {
        let stats = stats(
            r#"{"started_at":"2026-11-21T12:40:49Z","workers":2,"phase":0,"booted_workers":1,"old_workers":1,
            "worker_status":[{"started_at":"2026-11-21T12:40:49Z","pid":11361,"index":0,"phase":0,"booted":true,
            "last_checkin":"2026-11-21T12:40:51Z","last_status":{"backlog":0,"running":1,"pool_capacity":1,
            "max_threads":3,"requests_count":7}},{"pid":11363,"index":1,"booted":false,"last_status":{}}]}"#,
        );
        assert_eq!((stats.workers, stats.old_workers), (Some(2), 1));
        let [first, second] = &stats.worker_status[..] else { panic!("two workers") };
        assert_eq!((first.pid, first.booted, first.checkin()), (Some(11361), true, 20_261_121_124_051));
        assert_eq!((first.last_status.busy(), first.last_status.requests_count), (Some(2), Some(7)));
        assert_eq!((second.booted, second.last_status.busy()), (false, None));
    }

    #[test]
    fn single_mode_of_8_0_says_it_at_the_top() {
        let stats = stats(
            r#"{"started_at":"2026-11-21T10:25:40Z","backlog":1,"running":3,"pool_capacity":2,"busy_threads":4,
            "max_threads":5,"requests_count":9,"io_threads":0,"versions":{"puma":"8.0.2"}}"#,
        );
        assert_eq!((stats.workers, stats.single.busy(), stats.single.backlog), (None, Some(3), Some(1)));
    }

    #[test]
    fn a_state_file_that_is_huge_or_a_device_is_said_to_be_none() {
        let place = tempfile::tempdir().unwrap();
        let sparse = place.path().join("puma.state");
        std::fs::File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
        let of = |path: &Path| StateFile::first_of(1, &[place.path().join("none"), path.to_owned()]);
        for path in [&sparse, Path::new("/dev/zero")] {
            assert!(
                matches!(of(path), Err(Control::Silent(said)) if said.contains("not a Puma state file")),
                "{path:?}"
            );
        }
        std::fs::write(&sparse, "pid: 1\ncontrol_url: tcp://127.0.0.1:9293\n").unwrap();
        assert_eq!(of(&sparse).ok().unwrap().url, "tcp://127.0.0.1:9293");
    }

    #[test]
    fn single_mode_of_8_0_has_no_numbers_before_it_serves() {
        let stats = stats(r#"{"started_at":"2026-11-21T10:25:40Z","versions":{"puma":"8.0.2"}}"#);
        assert_eq!((stats.workers, stats.single.busy()), (None, None));
    }
}
