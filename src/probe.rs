//! Asking the app itself: is it healthy, and which release is it?

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use http_body_util::Full;
use hyper::{HeaderMap, Request, Response, StatusCode, body::Bytes};
use serde_json::Value;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    config::{HealthUrl, Verify, parse_header},
    core::{self, Probe, ProcessKey},
    http_get, procs,
    procs::Acceptor,
    revision::ReleaseId,
    sockets,
};

mod dial;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed;
mod paused;

use dial::Dialled;
pub(crate) use dial::Whom;

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
/// On a busy machine the looks take long: the request then goes on without them.
const HELD_BACK_AT_MOST: Duration = Duration::from_millis(500);

/// So many bytes of an answer are looked at for people, and so many characters shown.
const LOOKED_AT: usize = 4096;
const SHOWN: usize = 120;

/// Our end of a connection, and the server's.
type Ends = (SocketAddr, SocketAddr);

/// Why a URL cannot be probed.
#[derive(Debug, thiserror::Error)]
#[error("verify.url {url:?}: {why}")]
pub(crate) struct InvalidUrl {
    url: String,
    why: String,
}

/// The app's health path.
#[derive(Debug, Clone)]
pub struct Prober {
    url: HealthUrl,
    headers: HeaderMap,
    release_header: Option<String>,
    release_field: Option<String>,
    pid_field: Option<String>,
    limit: Duration,
}

/// What the app said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub(crate) status: StatusCode,
    /// What it calls its release, where it is asked to and does.
    pub(crate) release: Option<String>,
    /// The process that gave it, where that is known.
    pub(crate) by: Option<ProcessKey>,
    /// It came from none of the workers that were meant.
    pub(crate) astray: bool,
    /// How its text begins, for people.
    pub(crate) begins: Option<String>,
}

/// What one probe came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) answer: core::Answer,
    /// What was asked and what came instead of a good answer.
    pub(crate) failure: Option<String>,
    /// Another server than the one that was meant has answered: it proves nothing.
    pub(crate) astray: bool,
}

impl Prober {
    /// Will ask `url`, with `verify.timeout` for connection and answer together. Where
    /// a header or a field for it is configured, the answer must name the release meant.
    ///
    /// # Errors
    /// When the URL names no place that can be asked.
    pub(crate) fn new(url: &str, section: &Verify) -> Result<Self, InvalidUrl> {
        let invalid = |why: String| InvalidUrl { url: url.to_owned(), why };
        let url = HealthUrl::parse(url).map_err(invalid)?;
        let headers = section.headers.iter().filter_map(|header| parse_header(header).ok()).collect();
        let Verify { release_header, release_field, pid_field, timeout: limit, .. } = section.clone();
        Ok(Self { url, headers, release_header, release_field, pid_field, limit })
    }

    /// Whether a healthy answer names its release.
    pub(crate) fn names_release(&self) -> bool {
        self.release_header.is_some() || self.release_field.is_some()
    }

    /// Asks once. With a release to compare, an app that is to name it must do so. Which of the `workers`
    /// answered is found out as well, where it can be.
    ///
    /// Healthy is any 2xx, as Rails' own `/up` answers; a redirect may lead anywhere and proves nothing.
    pub(crate) async fn probe(
        &self,
        whom: Whom,
        release: Option<&ReleaseId>,
        workers: &[(i32, ProcessKey)],
    ) -> Said {
        let asked = self.ask(whom, workers).await;
        let by = asked.as_ref().ok().and_then(|answer| answer.by);
        // Of the live server it is known by the port alone.
        let astray = whom == Whom::Candidate && asked.as_ref().is_ok_and(|answer| answer.astray);
        match asked {
            Ok(_) if astray => {
                let place = self.url.place();
                let failure =
                    Some(format!("{place} was answered by another process than the second server's"));
                Said { answer: core::Answer { by, probe: Probe::Unhealthy }, failure, astray }
            }
            Ok(answer) if answer.status.is_success() => {
                let probe = self.compare(&answer, release);
                Said { answer: core::Answer { by, probe }, failure: None, astray }
            }
            asked => {
                let failure = Some(self.failure(&asked));
                Said { answer: core::Answer { by, probe: Probe::Unhealthy }, failure, astray }
            }
        }
    }

    /// What was asked and what came, for people.
    fn failure(&self, asked: &Result<Answer, String>) -> String {
        let question = format!("GET {} on {}", self.url.path, self.url.place());
        match asked {
            Err(why) => format!("{question} failed: {why}"),
            Ok(answer) => {
                let begins = answer.begins.as_ref().map(|text| format!("; the answer says {text:?}"));
                format!("{question} answered {} (wanted 2xx){}", answer.status, begins.unwrap_or_default())
            }
        }
    }

    /// Asks once, for who wants to know more than whether it is healthy.
    ///
    /// # Errors
    /// Why there was no answer, in words.
    pub(crate) async fn answer(&self) -> Result<Answer, String> {
        self.ask(Whom::Live, &[]).await
    }

    /// The status of an answer to a request for another path.
    ///
    /// # Errors
    /// Why there was no answer within `limit`, in words.
    pub(crate) async fn status(&self, whom: Whom, path: &str, limit: Duration) -> Result<u16, String> {
        let begun = Instant::now();
        let stream = self.dial(whom, limit).await?;
        // Nothing is held back.
        let (go_on, gate) = oneshot::channel();
        let _ = go_on.send(());
        let left = limit.saturating_sub(begun.elapsed());
        let asked = async {
            let stream = stream.paused(gate).await?;
            let answer = http_get::send(stream, &self.url.host, self.request(path)?, left).await;
            answer.map(|answer| answer.status().as_u16()).map_err(|error| error.to_string())
        };
        tokio::time::timeout(left, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {limit:.1?}")))
    }

    async fn dial(&self, whom: Whom, limit: Duration) -> Result<Dialled, String> {
        let connected = tokio::time::timeout(limit, Dialled::to(&self.url.at, whom)).await;
        let stream = connected.map_err(|_| format!("no connection within {limit:.1?}"))??;
        if let Some((local, _)) = stream.ends() {
            sockets::own::remember(local);
        }
        Ok(stream)
    }

    async fn ask(&self, whom: Whom, workers: &[(i32, ProcessKey)]) -> Result<Answer, String> {
        let begun = Instant::now();
        let stream = self.dial(whom, self.limit).await?;
        let ends = stream.ends().filter(|_| !workers.is_empty());
        let (go_on, gate) = oneshot::channel();
        let by_kernel = OnceLock::new();
        let early = async {
            let looked = acceptor(ends, workers.to_vec(), BEFORE_THE_REQUEST);
            if let Ok(Some(Some(key))) = tokio::time::timeout(HELD_BACK_AT_MOST, looked).await {
                let _ = by_kernel.set(key);
            }
            let _ = go_on.send(());
        };
        let late = async {
            match by_kernel.get() {
                Some(key) => Some(Some(*key)),
                None => acceptor(ends, workers.to_vec(), AFTER_THE_ANSWER).await,
            }
        };
        let left = self.limit.saturating_sub(begun.elapsed());
        let asked = async {
            let stream = tokio::time::timeout(left, stream.paused(gate)).await;
            let stream = stream.map_err(|_| format!("no answer within {left:?}"))??;
            let asked = http_get::get_and(stream, &self.url.host, self.request(&self.url.path)?, left, late);
            asked.await.map_err(|error| error.to_string())
        };
        let ((), asked) = tokio::join!(early, asked);
        let (answer, by_kernel) = asked?;
        let body = || serde_json::from_slice::<Value>(answer.body()).ok();
        let json = if self.release_field.is_some() || self.pid_field.is_some() { body() } else { None };
        let release = self.named_release(&answer, json.as_ref());
        let named = || named_process(json.as_ref()?, self.pid_field.as_ref()?, workers);
        let begins = beginning(answer.body());
        let astray = by_kernel == Some(None);
        let by = by_kernel.flatten().or_else(named);
        Ok(Answer { status: answer.status(), release, by, astray, begins })
    }

    fn request(&self, path: &str) -> Result<Request<Full<Bytes>>, String> {
        let request = Request::builder().uri(path).body(Full::default());
        let mut request = request.map_err(|error| error.to_string())?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
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

/// The title of a page, else the first line of a text.
fn beginning(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body.get(..LOOKED_AT).unwrap_or(body)).into_owned();
    let title = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    let line =
        title.map_or_else(|| text.lines().find(|line| !line.trim().is_empty()), |(title, _)| Some(title))?;
    Some(line.trim().chars().take(SHOWN).collect())
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

/// Which of the workers has accepted the connection between these ends, or that none of them has; looked for after each
/// pause.
/// The files of /proc are read on a thread for that.
async fn acceptor(
    ends: Option<Ends>,
    workers: Vec<(i32, ProcessKey)>,
    pauses: &'static [Duration],
) -> Option<Option<ProcessKey>> {
    let (ours, theirs) = ends?;
    let pids: Vec<i32> = workers.iter().map(|(pid, _)| *pid).collect();
    let look = move || {
        pauses.iter().find_map(|pause| {
            std::thread::sleep(*pause);
            let inode = sockets::accepted(theirs, ours)?;
            match procs::acceptor(inode, &pids) {
                Acceptor::Process(process) => Some(key_of(&workers, process.pid)),
                Acceptor::Another => Some(None),
            }
        })
    };
    tokio::task::spawn_blocking(look).await.ok()?
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
        prober.probe(Whom::Live, Some(&release.parse().unwrap()), workers).await.answer
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
        let said = nobody.probe(Whom::Live, None, &[]).await;
        assert_eq!(said.answer, core::Answer { by: None, probe: Probe::Unhealthy });
        let failure = said.failure.unwrap();
        assert!(failure.starts_with(&format!("GET /up on {free} failed: Connection refused")), "{failure}");
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

    /// Rails' host authorization and `force_ssl` in one.
    async fn picky() -> Router {
        let answer = async |headers: axum::http::HeaderMap| {
            let is = |name: &str, value: &str| headers.get(name).is_some_and(|given| given == value);
            match (is("host", "shop.example.com"), is("x-forwarded-proto", "https")) {
                (true, true) => (StatusCode::OK, "up"),
                (true, false) => (StatusCode::MOVED_PERMANENTLY, ""),
                _ => (StatusCode::FORBIDDEN, "<html><head><title>Blocked host: x</title></head>"),
            }
        };
        Router::new().route("/up", get(answer))
    }

    fn with_headers(headers: &[&str]) -> Verify {
        Verify { headers: headers.iter().map(ToString::to_string).collect(), ..Verify::default() }
    }

    #[tokio::test]
    async fn the_headers_that_the_app_wants_are_sent_and_what_came_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = picky().await;
        tokio::spawn(async move { axum::serve(listener, app).await });
        let url = format!("http://{address}/up");
        let ask = async |headers: &[&str]| {
            Prober::new(&url, &with_headers(headers)).unwrap().probe(Whom::Live, None, &[]).await
        };
        let blocked = ask(&[]).await;
        let expected = format!(
            "GET /up on {address} answered 403 Forbidden (wanted 2xx); the answer says \"Blocked host: x\""
        );
        assert_eq!((blocked.answer.probe, blocked.failure.unwrap()), (Probe::Unhealthy, expected));
        let moved = ask(&["Host: shop.example.com"]).await;
        assert!(moved.failure.unwrap().ends_with("answered 301 Moved Permanently (wanted 2xx)"));
        let well = ask(&["Host: shop.example.com", "X-Forwarded-Proto: https"]).await;
        assert_eq!((well.answer.probe, well.failure), (Probe::Healthy, None));
    }

    #[tokio::test]
    async fn an_app_on_a_unix_socket_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("app.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let app = picky().await;
        tokio::spawn(async move { axum::serve(listener, app).await });
        let url = format!("unix://{}:/up", socket.display());
        let section = with_headers(&["Host: shop.example.com", "X-Forwarded-Proto: https"]);
        assert_eq!(
            Prober::new(&url, &section).unwrap().probe(Whom::Live, None, &[]).await.answer.probe,
            Probe::Healthy
        );
        let said = Prober::new(&url, &Verify::default()).unwrap().probe(Whom::Live, None, &[]).await;
        assert!(said.failure.unwrap().contains("app.sock answered 403"));
    }

    #[tokio::test]
    async fn an_app_that_speaks_tls_is_asked_whatever_its_certificate_says() {
        let certificate = rcgen::generate_simple_self_signed(vec!["elsewhere.invalid".into()]).unwrap();
        let key =
            rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        let tls =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.cert.der().clone()], key)
                .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup").await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
        });
        let prober = Prober::new(&format!("https://{address}/up"), &Verify::default()).unwrap();
        let us = (i32::try_from(std::process::id()).unwrap(), ProcessKey(7));
        let said = prober.probe(Whom::Live, None, &[us]).await;
        assert_eq!((said.answer.probe, said.failure, said.answer.by), (Probe::Healthy, None, Some(us.1)));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_the_reason() {
        for (url, why) in
            [("https://a/up", "only for the app in this pod"), ("/up", "http://"), ("http://", "verify.url")]
        {
            let error = Prober::new(url, &Verify::default()).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
