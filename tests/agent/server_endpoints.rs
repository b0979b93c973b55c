//! The endpoints as a kubelet, Prometheus and an operator meet them: over loopback, in this process.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use pitstop::{
    core::{
        Moment, Operator, Problem, Reason,
        drain::{Answer, DrainResult, Evidence, Origin, Undone, WaitsFor},
    },
    handle::{PrestopEnd, Request, Requests, SupervisorHandle},
    metrics::Metrics,
    server::{self, Handles, Token},
    status::Snapshot,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

use crate::{PATIENCE, until};

struct App {
    handles: Handles,
    requests: Requests,
    snapshots: watch::Sender<Arc<Snapshot>>,
    stop: watch::Sender<bool>,
    port: u16,
}

fn snapshot() -> Snapshot {
    Snapshot::unknown(Moment(0), Problem::new(Reason::VolumeUnavailable, "/srv/app does not answer"))
}

fn handles(token_file: Option<PathBuf>) -> (Handles, Requests, watch::Sender<Arc<Snapshot>>) {
    let (snapshots, seen) = watch::channel(Arc::new(snapshot()));
    let (supervisor, requests) = SupervisorHandle::new(PATIENCE);
    let handles = Handles {
        pod: "web-0".into(),
        snapshots: seen,
        metrics: Arc::new(Metrics::new()),
        supervisor,
        token: Token::new(token_file),
        own_findings: Arc::new(Mutex::default()),
        fleet: None,
        clock: || Moment(0),
    };
    (handles, requests, snapshots)
}

async fn app(token_file: Option<PathBuf>) -> App {
    let port = free_port().await;
    let (handles, requests, snapshots) = handles(token_file);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(server::serve(([127, 0, 0, 1], port).into(), handles.clone(), stopped));
    let app = App { handles, requests, snapshots, stop, port };
    until("the endpoints", || async { TcpStream::connect(("127.0.0.1", port)).await.is_ok() }).await;
    app
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// One request on a connection of its own: status code and body.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String) {
    let text = format!("{request}Host: pod\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

impl App {
    async fn get(&self, path: &str, headers: &str) -> (u16, String) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        ask(stream, &format!("GET {path} HTTP/1.1\r\n{headers}")).await
    }

    fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots.send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    /// What was sent to the supervisor, but for where the kubelet asks from.
    async fn next(&self) -> Request {
        let next = async {
            loop {
                match self.requests.lock().await.recv().await.unwrap() {
                    Request::Kubelet(_) => {}
                    command => break command,
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("no request was sent to the supervisor")
    }

    async fn next_prestop(&self) -> tokio::sync::oneshot::Sender<PrestopEnd> {
        match self.next().await {
            Request::Prestop(_, answer) => answer,
            other => panic!("not a drain: {other:?}"),
        }
    }
}

fn drained() -> Answer {
    Answer {
        drain_id: 7,
        result: DrainResult::Drained,
        held_ms: 5_500,
        requests_left: 0,
        waited_for: vec![WaitsFor::Min, WaitsFor::InFlight],
        waits: Vec::new(),
        last_peer: None,
        evidence: Evidence::default(),
        upgraded: 0,
        left: Vec::new(),
        stuck_ms: None,
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test]
async fn live_answers_whatever_the_volume_does() {
    assert_eq!(app(None).await.get("/live", "").await.0, 200);
}

#[tokio::test]
async fn startup_waits_for_a_complete_current() {
    let app = app(None).await;
    let (code, body) = app.get("/startup", "").await;
    assert_eq!(code, 503);
    let why = json!({"pending": ["current"], "reason": "volume_unavailable", "message": "/srv/app does not answer"});
    assert_eq!(json(&body), why);
    app.publish(|snapshot| snapshot.current_complete = true);
    assert_eq!(app.get("/startup", "").await.0, 200);
}

#[tokio::test]
async fn startup_tells_strangers_the_reason_and_no_words() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "s3cret").unwrap();
    let app = app(Some(file.path().into())).await;
    let (code, body) = app.get("/startup", "").await;
    assert_eq!((code, json(&body)), (503, json!({"pending": ["current"], "reason": "volume_unavailable"})));
    let (_, body) = app.get("/startup", "Authorization: Bearer s3cret\r\n").await;
    assert_eq!(json(&body)["message"], "/srv/app does not answer");
}

#[tokio::test]
async fn ready_names_what_is_pending_and_never_goes_back() {
    let app = app(None).await;
    assert_eq!(app.get("/ready", "").await, (503, r#"{"pending":["current","app_server"]}"#.into()));
    app.publish(|snapshot| snapshot.seen_current = true);
    assert_eq!(app.get("/ready", "").await, (503, r#"{"pending":["app_server"]}"#.into()));
    app.publish(|snapshot| snapshot.seen_booted = true);
    assert_eq!(app.get("/ready", "").await.0, 200);
    app.publish(|snapshot| snapshot.current_complete = false);
    assert_eq!(app.get("/ready", "").await.0, 200, "a problem of the volume takes no pod out of service");
}

#[tokio::test]
async fn status_and_metrics_answer_before_the_volume_does() {
    let app = app(None).await;
    let (code, body) = app.get("/status", "").await;
    assert_eq!((code, &json(&body)["reason"]), (200, &json!("volume_unavailable")));
    let (code, body) = app.get("/metrics", "").await;
    assert_eq!(code, 200);
    assert!(body.contains("pitstop_in_sync 0"), "{body}");
}

#[tokio::test]
async fn prestop_answers_only_when_the_drain_is_over_and_everybody_who_called() {
    let app = app(None).await;
    let release = async {
        let (first, second) = (app.next_prestop().await, app.next_prestop().await);
        first.send(PrestopEnd::Answered(drained())).unwrap();
        second.send(PrestopEnd::Answered(drained())).unwrap();
    };
    let (first, second, ()) = tokio::join!(app.get("/prestop", ""), app.get("/prestop", ""), release);
    assert_eq!(first, second);
    assert_eq!(first.0, 200);
    let expected = json!({
        "result": "drained", "seconds": 5.5, "requests_left": 0, "waited_for": ["min", "in_flight"], "drain_id": "7"
    });
    assert_eq!(json(&first.1), expected);
}

#[tokio::test]
async fn only_the_kubelet_and_who_shows_the_token_say_that_the_pod_ends() {
    async fn origin(app: &App, headers: &str) -> Origin {
        let origin = async {
            let Request::Prestop(origin, answer) = app.next().await else { panic!("not a drain") };
            answer.send(PrestopEnd::Answered(drained())).unwrap();
            origin
        };
        let (answer, origin) = tokio::join!(app.get("/prestop", headers), origin);
        assert_eq!(answer.0, 200, "{headers}");
        origin
    }
    let open = app(None).await;
    assert_eq!(origin(&open, "User-Agent: kube-lifecycle/1.33\r\n").await, Origin::PreStop);
    for stray in ["", "User-Agent: curl/8.5.0\r\n", "User-Agent: not kube-lifecycle/1.33\r\n"] {
        assert_eq!(origin(&open, stray).await, Origin::Stray, "{stray:?}");
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "s3cret").unwrap();
    let guarded = app(Some(file.path().into())).await;
    assert_eq!(origin(&guarded, "Authorization: Bearer s3cret\r\n").await, Origin::PreStop);
}

#[tokio::test]
async fn where_the_kubelet_asks_from_is_noted() {
    let app = app(None).await;
    app.get("/ready", "").await;
    for _ in 0..2 {
        app.get("/ready", "User-Agent: kube-probe/1.33\r\n").await;
    }
    let mut requests = app.requests.lock().await;
    let Some(Request::Kubelet(address)) = requests.recv().await else { panic!("nothing was noted") };
    assert!(address.is_loopback());
    assert!(requests.try_recv().is_err(), "once is enough");
}

#[tokio::test]
async fn a_head_request_begins_no_drain() {
    let app = app(None).await;
    let stream = TcpStream::connect(("127.0.0.1", app.port)).await.unwrap();
    let answer = ask(stream, "HEAD /prestop HTTP/1.1\r\nUser-Agent: kube-lifecycle/1.33\r\n").await;
    assert_eq!(answer.0, 405);
    let left = app.requests.lock().await.try_recv();
    assert!(!matches!(left, Ok(Request::Prestop(..))), "it left a request");
}

#[tokio::test]
async fn a_caller_that_hangs_up_has_asked_all_the_same() {
    let app = app(None).await;
    let mut caller = TcpStream::connect(("127.0.0.1", app.port)).await.unwrap();
    caller.write_all(b"POST /prestop HTTP/1.1\r\nHost: pod\r\n\r\n").await.unwrap();
    let mut answer = app.next_prestop().await;
    drop(caller);
    tokio::time::timeout(PATIENCE, answer.closed()).await.expect("the server never saw the caller go");
}

#[tokio::test]
async fn an_undone_drain_is_a_conflict_for_who_still_waits() {
    let app = app(None).await;
    let undo = async { app.next_prestop().await.send(PrestopEnd::Undone(Undone::Operator)).unwrap() };
    let (answer, ()) = tokio::join!(app.get("/prestop", ""), undo);
    assert_eq!(answer.0, 409);
}

#[tokio::test]
async fn the_token_guards_all_but_the_probes() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "s3cret").unwrap();
    let app = app(Some(file.path().into())).await;
    for path in ["/prestop", "/status", "/metrics"] {
        assert_eq!(app.get(path, "").await.0, 401, "{path} without a token");
        assert_eq!(app.get(path, "Authorization: Bearer wrong\r\n").await.0, 401, "{path}, wrong token");
    }
    assert!(app.requests.lock().await.try_recv().is_err(), "a refused call begins no drain");
    for path in ["/status", "/metrics"] {
        assert_eq!(app.get(path, "Authorization: Bearer s3cret\r\n").await.0, 200, "{path}");
        assert_eq!(app.get(path, "Authorization: bearer  s3cret\r\n").await.0, 200, "{path}, in lower case");
    }
    assert_eq!(app.get("/live", "").await.0, 200);
    assert_eq!(app.get("/ready", "").await.0, 503);
}

#[tokio::test]
async fn a_rotated_token_holds_at_once_and_a_lost_file_keeps_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "one").unwrap();
    let app = app(Some(file.clone())).await;
    let with = |token: &str| format!("Authorization: Bearer {token}\r\n");
    assert_eq!(app.get("/status", &with("one")).await.0, 200);
    std::fs::write(&file, "two").unwrap();
    assert_eq!(app.get("/status", &with("one")).await.0, 401);
    assert_eq!(app.get("/status", &with("two")).await.0, 200);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(app.get("/status", &with("two")).await.0, 200);
}

#[tokio::test]
async fn a_taken_port_is_named_and_taken_over_once_it_is_free() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = other.local_addr().unwrap();
    let (handles, _requests, _snapshots) = handles(None);
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(server::serve(listen, handles.clone(), stopped));
    until("a finding", || async { !handles.status().findings.is_empty() }).await;
    let finding = handles.status().findings.remove(0);
    assert_eq!(finding.code.code(), "PORT_TAKEN");
    assert!(finding.message.contains(&listen.to_string()), "{}", finding.message);
    drop(other);
    until("the endpoints", || async { TcpStream::connect(listen).await.is_ok() }).await;
    until("no finding", || async { handles.status().findings.is_empty() }).await;
}

#[tokio::test]
async fn the_end_of_the_server_waits_for_an_answer_under_way() {
    let app = app(None).await;
    let end = async {
        let answer = app.next_prestop().await;
        app.stop.send(true).unwrap();
        answer.send(PrestopEnd::Answered(drained())).unwrap();
    };
    let (answer, ()) = tokio::join!(app.get("/prestop", ""), end);
    assert_eq!(answer.0, 200);
}

#[tokio::test]
async fn operators_ask_over_a_socket_that_is_theirs_alone() {
    let app = app(None).await;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(server::SOCKET_NAME);
    std::fs::write(&socket, "stale").unwrap();
    tokio::spawn(server::serve_admin(dir.path().into(), app.handles.clone()));
    until("the socket", || async { UnixStream::connect(&socket).await.is_ok() }).await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let asked = ask(UnixStream::connect(&socket).await.unwrap(), "POST /sync?retry=true HTTP/1.1\r\n");
    let obey = async {
        let Request::Operator(operator, _, reply) = app.next().await else { panic!("not an operator's") };
        reply.send(Ok("looking".into())).unwrap();
        operator
    };
    let (answer, operator) = tokio::join!(asked, obey);
    assert_eq!(operator, Operator::Sync { retry: true });
    assert_eq!(answer, (200, r#"{"message":"looking"}"#.into()));

    let asked = ask(UnixStream::connect(&socket).await.unwrap(), "POST /undrain HTTP/1.1\r\n");
    let obey = async {
        let Request::Undrain(reply) = app.next().await else { panic!("not an undrain") };
        reply.send(Err("no drain is under way".into())).unwrap();
    };
    let (answer, ()) = tokio::join!(asked, obey);
    assert_eq!(answer, (409, r#"{"error":"no drain is under way"}"#.into()));
}

const AS_PASSWORD: &str = "Authorization: Basic YW55OnNlY3JldA==\r\n";

#[tokio::test]
async fn the_page_takes_the_token_as_a_browsers_password_and_nothing_else_does() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "secret").unwrap();
    let app = app(Some(file.path().to_owned())).await;
    for path in ["/", "/help/runbook"] {
        assert_eq!(app.get(path, "").await.0, 401);
        assert_eq!(app.get(path, AS_PASSWORD).await.0, 200);
        assert_eq!(app.get(path, "Authorization: Bearer secret\r\n").await.0, 200);
        assert_eq!(app.get(path, "Authorization: Basic YW55Ondyb25n\r\n").await.0, 401);
    }
    for path in ["/status", "/metrics", "/prestop"] {
        assert_eq!(app.get(path, AS_PASSWORD).await.0, 401, "{path}");
    }
    assert_eq!(app.get("/help/nothing", AS_PASSWORD).await.0, 404);
}

#[tokio::test]
async fn what_others_have_written_is_text_on_the_page() {
    let app = app(None).await;
    app.publish(|snapshot| {
        let problem = Problem::new(Reason::BootFailed, "LoadError: <script>alert(1)</script>");
        *snapshot = Snapshot::unknown(Moment(0), problem);
    });
    let (code, body) = app.get("/", "").await;
    assert_eq!(code, 200);
    assert!(body.contains("LoadError: &lt;script&gt;alert(1)&lt;/script&gt;"), "{body}");
    assert!(body.contains("href=\"/help/runbook#boot_failed\""), "{body}");
}
