//! Asking the app itself: is it healthy, and which release is it?

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use hyper::{Response, StatusCode, Uri, body::Bytes};
use serde_json::Value;
use tokio::{net::TcpStream, sync::oneshot, time::Instant};

use crate::{
    config::Verify,
    core::{self, Probe, ProcessKey},
    http_get, procs,
    procs::Acceptor,
    revision::ReleaseId,
    sockets,
};

mod paused;

use paused::Paused;

/// A server that has a thread free accepts at once; one that has none is asked all the same. Some servers
/// close the connection with their answer, so that this is the time to look.
const BEFORE_THE_REQUEST: &[Duration] = &[
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(15),
    Duration::from_millis(40),
    Duration::from_millis(80),
];
const AFTER_THE_ANSWER: &[Duration] = &[Duration::ZERO];

/// Our end of a connection, and the server's.
type Ends = (SocketAddr, SocketAddr);

/// Why a URL cannot be probed.
#[derive(Debug, thiserror::Error)]
#[error("verify.url {url:?}: {why}")]
pub struct InvalidUrl {
    url: String,
    why: String,
}

/// The app's health path.
#[derive(Debug, Clone)]
pub struct Prober {
    host: String,
    address: String,
    path: String,
    release_header: Option<String>,
    release_field: Option<String>,
    pid_field: Option<String>,
    limit: Duration,
}

/// What the app said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How.
    pub status: StatusCode,
    /// What it calls its release, where it is asked to and does.
    pub release: Option<String>,
    /// The process that gave it, where that is known.
    pub by: Option<ProcessKey>,
}

impl Prober {
    /// Will ask `url`, by plain HTTP, with `verify.timeout` for connection and answer together. Where
    /// a header or a field for it is configured, the answer must name the release meant.
    ///
    /// # Errors
    /// When the URL is no `http://` one.
    pub fn new(url: &str, section: &Verify) -> Result<Self, InvalidUrl> {
        let invalid = |why: &str| InvalidUrl { url: url.to_owned(), why: why.to_owned() };
        let uri: Uri = url.parse().map_err(|e: hyper::http::uri::InvalidUri| invalid(&e.to_string()))?;
        if uri.scheme_str() != Some("http") {
            return Err(invalid("must begin with http://, as this pod reaches the app itself"));
        }
        let host = uri.authority().ok_or_else(|| invalid("names no host"))?.to_string();
        let name = uri.host().unwrap_or_default();
        let address = format!("{name}:{}", uri.port_u16().unwrap_or(80));
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let Verify { release_header, release_field, pid_field, timeout: limit, .. } = section.clone();
        Ok(Self { host, address, path, release_header, release_field, pid_field, limit })
    }

    /// Whether a healthy answer names its release.
    pub fn names_release(&self) -> bool {
        self.release_header.is_some() || self.release_field.is_some()
    }

    /// Asks once. With a release to compare, an app that is to name it must do so. Which of the `workers`
    /// answered is found out as well, where it can be.
    ///
    /// Healthy is any 2xx, as Rails' own `/up` answers; a redirect may lead anywhere and proves nothing.
    pub async fn probe(&self, release: Option<&ReleaseId>, workers: &[(i32, ProcessKey)]) -> core::Answer {
        match self.ask(workers).await {
            Ok(answer) if answer.status.is_success() => {
                core::Answer { by: answer.by, probe: self.compare(&answer, release) }
            }
            Ok(answer) => core::Answer { by: answer.by, probe: Probe::Unhealthy },
            Err(_) => core::Answer { by: None, probe: Probe::Unhealthy },
        }
    }

    /// Asks once, for who wants to know more than whether it is healthy.
    ///
    /// # Errors
    /// Why there was no answer, in words.
    pub async fn answer(&self) -> Result<Answer, String> {
        self.ask(&[]).await
    }

    async fn ask(&self, workers: &[(i32, ProcessKey)]) -> Result<Answer, String> {
        let begun = Instant::now();
        let connected = tokio::time::timeout(self.limit, TcpStream::connect(&self.address)).await;
        let late = |_| format!("no connection within {:?}", self.limit);
        let stream = connected.map_err(late)?.map_err(|error| error.to_string())?;
        if let Ok(local) = stream.local_addr() {
            sockets::own::remember(local);
        }
        let ends = stream.local_addr().ok().zip(stream.peer_addr().ok()).filter(|_| !workers.is_empty());
        let (go_on, gate) = oneshot::channel();
        let by_kernel = OnceLock::new();
        let early = async {
            if let Some(key) = acceptor(ends, workers.to_vec(), BEFORE_THE_REQUEST).await {
                let _ = by_kernel.set(key);
            }
            let _ = go_on.send(());
        };
        let late = async {
            match by_kernel.get() {
                Some(key) => Some(*key),
                None => acceptor(ends, workers.to_vec(), AFTER_THE_ANSWER).await,
            }
        };
        let left = self.limit.saturating_sub(begun.elapsed());
        let stream = Paused::until(gate, stream);
        let asked = http_get::get_and(stream, &self.host, &self.path, left, late);
        let ((), asked) = tokio::join!(early, asked);
        let (answer, by_kernel) = asked.map_err(|e| e.to_string())?;
        let body = || serde_json::from_slice::<Value>(answer.body()).ok();
        let json = if self.release_field.is_some() || self.pid_field.is_some() { body() } else { None };
        let release = self.named_release(&answer, json.as_ref());
        let named = || named_process(json.as_ref()?, self.pid_field.as_ref()?, workers);
        Ok(Answer { status: answer.status(), release, by: by_kernel.or_else(named) })
    }

    fn named_release(&self, answer: &Response<Bytes>, json: Option<&Value>) -> Option<String> {
        let header = self.release_header.as_ref().and_then(|header| answer.headers().get(header));
        let header = header.and_then(|value| value.to_str().ok()).map(|text| text.trim().to_owned());
        header.or_else(|| match field(json?, self.release_field.as_ref()?)? {
            Value::String(text) => Some(text.trim().to_owned()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    }

    fn compare(&self, answer: &Answer, release: Option<&ReleaseId>) -> Probe {
        let Some(release) = release.filter(|_| self.names_release()) else { return Probe::Healthy };
        if answer.release.as_deref() == Some(release.as_str()) { Probe::Healthy } else { Probe::OtherRelease }
    }
}

/// `build.release`, or `0.release` in a list.
fn field<'a>(json: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(json, |value, part| match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        value => value.get(part),
    })
}

/// Behind a proxy the app itself has to say which process it is.
fn named_process(json: &Value, path: &str, workers: &[(i32, ProcessKey)]) -> Option<ProcessKey> {
    let pid = i32::try_from(field(json, path)?.as_i64()?).ok()?;
    key_of(workers, pid)
}

/// The core's word for the process that was seen under this pid.
fn key_of(workers: &[(i32, ProcessKey)], pid: i32) -> Option<ProcessKey> {
    workers.iter().find(|(worker, _)| *worker == pid).map(|(_, key)| *key)
}

/// Which of the workers has accepted the connection between these ends; looked for after each pause.
/// The files of /proc are read on a thread for that.
async fn acceptor(
    ends: Option<Ends>,
    workers: Vec<(i32, ProcessKey)>,
    pauses: &'static [Duration],
) -> Option<ProcessKey> {
    let (ours, theirs) = ends?;
    let pids: Vec<i32> = workers.iter().map(|(pid, _)| *pid).collect();
    let look = move || {
        pauses.iter().find_map(|pause| {
            std::thread::sleep(*pause);
            match procs::acceptor(ours, theirs, &pids) {
                Acceptor::Nobody => None,
                Acceptor::Process(process) => Some(key_of(&workers, process.pid)),
                Acceptor::Another => Some(None),
            }
        })
    };
    tokio::task::spawn_blocking(look).await.ok()?.flatten()
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, routing::get};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    async fn app() -> String {
        let app = Router::new()
            .route("/up", get(async || [("x-release", "v2")]))
            .route("/facts", get(async || r#"{"build":{"release":"v2","parts":["v1","v2"],"number":7}}"#))
            .route("/anonymous", get(async || StatusCode::NO_CONTENT))
            .route("/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR))
            .route("/moved", get(async || (StatusCode::FOUND, [("location", "/up")])))
            .route("/hangs", get(async || std::future::pending::<()>().await));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    async fn told(path: &str, section: Verify, release: &str, workers: &[(i32, ProcessKey)]) -> core::Answer {
        let prober = Prober::new(&format!("{}{path}", app().await), &section).unwrap();
        prober.probe(Some(&release.parse().unwrap()), workers).await
    }

    async fn ask(path: &str, header: Option<&str>, release: &str, timeout: Duration) -> Probe {
        let section = Verify { release_header: header.map(Into::into), timeout, ..Verify::default() };
        told(path, section, release, &[]).await.probe
    }

    #[tokio::test]
    async fn only_a_2xx_is_healthy() {
        for (path, expected) in [
            ("/up", Probe::Healthy),
            ("/anonymous", Probe::Healthy),
            ("/broken", Probe::Unhealthy),
            ("/moved", Probe::Unhealthy),
            ("/absent", Probe::Unhealthy),
        ] {
            assert_eq!(ask(path, None, "v2", LIMIT).await, expected, "{path}");
        }
    }

    #[tokio::test]
    async fn the_header_must_name_the_release() {
        for (path, release, expected) in [
            ("/up", "v2", Probe::Healthy),
            ("/up", "v1", Probe::OtherRelease),
            ("/anonymous", "v2", Probe::OtherRelease),
            ("/broken", "v2", Probe::Unhealthy),
        ] {
            assert_eq!(ask(path, Some("X-Release"), release, LIMIT).await, expected, "{path} as {release}");
        }
    }

    #[tokio::test]
    async fn no_answer_is_unhealthy() {
        assert_eq!(ask("/hangs", None, "v2", Duration::from_millis(50)).await, Probe::Unhealthy);
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let nobody = Prober::new(&format!("http://{free}/up"), &Verify::default()).unwrap();
        assert_eq!(nobody.probe(None, &[]).await, core::Answer { by: None, probe: Probe::Unhealthy });
    }

    #[tokio::test]
    async fn a_field_of_the_answer_may_name_the_release() {
        for (path, field, release, expected) in [
            ("/facts", "build.release", "v2", Probe::Healthy),
            ("/facts", "build.release", "v1", Probe::OtherRelease),
            ("/facts", "build.parts.1", "v2", Probe::Healthy),
            ("/facts", "build.number", "7", Probe::Healthy),
            ("/facts", "build", "v2", Probe::OtherRelease),
            ("/facts", "absent", "v2", Probe::OtherRelease),
            ("/up", "build.release", "v2", Probe::OtherRelease),
        ] {
            let section = Verify { release_field: Some(field.into()), ..Verify::default() };
            let answer = told(path, section, release, &[]).await;
            assert_eq!(answer.probe, expected, "{field} of {path} as {release}");
        }
    }

    #[tokio::test]
    async fn the_kernel_tells_who_answered_and_else_the_app_may() {
        let us = i32::try_from(std::process::id()).unwrap();
        let (our_key, other) = (ProcessKey(7), (1, ProcessKey(1)));
        let plain = Verify::default();
        assert_eq!(told("/up", plain.clone(), "v2", &[other, (us, our_key)]).await.by, Some(our_key));
        assert_eq!(told("/up", plain, "v2", &[other]).await.by, None, "none of those that were asked about");
        let json = serde_json::json!({ "pid": us, "other": 1, "text": "x" });
        assert_eq!(named_process(&json, "pid", &[(us, our_key)]), Some(our_key));
        for (path, worker) in [("pid", 1), ("other", us), ("text", us), ("absent", us)] {
            assert_eq!(named_process(&json, path, &[(worker, our_key)]), None, "{path}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_the_reason() {
        for (url, why) in [("https://localhost/up", "http://"), ("/up", "http://"), ("http://", "verify.url")]
        {
            let error = Prober::new(url, &Verify::default()).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
