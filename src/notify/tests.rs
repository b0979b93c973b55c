use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::mpsc,
    thread,
};

use super::*;
use crate::{
    core::{Moment, Problem, Reason, drain::Evidence},
    revision::Revision,
};

const SHORT: [Duration; 4] = [Duration::from_millis(1); 4];

fn sender() -> Sender {
    Sender { pod: Some("web-2".into()), app: Some("shop".into()), pointer: "production".into() }
}

fn revision() -> Revision {
    Revision { release: "v3".parse().unwrap(), sequence: Some(7) }
}

fn snapshot(result: &str) -> Snapshot {
    let mut snapshot = Snapshot::unknown(Moment(1), Problem::new(Reason::Internal, "a secret"));
    snapshot.view.running = Some("v2".parse().unwrap());
    snapshot.view.rejected = vec![(revision(), Reason::BootFailed)];
    snapshot.last_deploy = Some(LastDeploy {
        revision: revision(),
        result: result.into(),
        reason: Some("boot_failed".into()),
        seconds: 3.0,
        at: "2026-11-30T10:00:00Z".into(),
    });
    snapshot
}

fn told(snapshots: &[Snapshot]) -> Vec<(&'static str, String)> {
    let mut told = Told::default();
    let all = snapshots.iter().flat_map(|snapshot| news(&mut told, snapshot, &sender()));
    all.map(|news| (news.event, news.message)).collect()
}

#[test]
fn a_rejected_move_and_a_pod_that_cannot_go_back_are_told_once() {
    let twice = told(&[snapshot("reverted"), snapshot("reverted")]);
    let message = "the deploy of v3#7 failed (boot_failed) and is not tried again; the pod runs v2";
    assert_eq!(twice, [("rejected", message.to_owned())]);
    let stranded = told(&[snapshot("stranded")]);
    assert_eq!(stranded[0].0, "stranded");
    for fine in ["verified", "superseded"] {
        assert_eq!(told(&[snapshot(fine)]), [], "{fine}");
    }
    // After the agent's restart the rejection is known from the journal, and no news.
    let recovered = Snapshot { last_deploy: None, ..snapshot("reverted") };
    assert_eq!(told(&[recovered]), []);
    // A refusal that is retried is no rejection.
    let mut retried = snapshot("refused");
    retried.view.rejected.clear();
    assert_eq!(told(&[retried]), []);
}

#[test]
fn a_drain_at_its_deadline_is_told_once_and_one_that_went_well_is_not() {
    let ended = |result| {
        let answer = Answer {
            drain_id: 5,
            result,
            held_ms: 1,
            requests_left: 3,
            waited_for: Vec::new(),
            waits: Vec::new(),
            last_peer: None,
            evidence: Evidence::default(),
            upgraded: 0,
            left: Vec::new(),
            stuck_ms: None,
        };
        Snapshot { answer: Some(answer), last_deploy: None, ..snapshot("verified") }
    };
    let late = told(&[ended(DrainResult::Deadline), ended(DrainResult::Deadline)]);
    let message = "the drain ended at its deadline, with 3 requests in flight";
    assert_eq!(late, [("drain_deadline", message.to_owned())]);
    assert_eq!(told(&[ended(DrainResult::Drained)]), []);
}

#[test]
fn the_signature_is_that_of_rfc_4231() {
    assert_eq!(
        signed(b"Jefe", b"what do ya want for nothing?"),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

/// Answers each request with the next status, and gives on what it was asked: head and body.
fn listener(statuses: &'static [u16]) -> (String, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/services/hush", listener.local_addr().unwrap());
    let (heard, asked) = mpsc::channel();
    thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
            heard.send((head, String::from_utf8(body).unwrap())).unwrap();
        }
    });
    (url, asked)
}

fn target(url: String, format: NotifyFormat, secret_file: Option<PathBuf>) -> Arc<Target> {
    Arc::new(Target { url, format, secret_file, pauses: &SHORT, connector: http::connector() })
}

fn one() -> News {
    let mut told = Told::default();
    news(&mut told, &snapshot("reverted"), &sender()).remove(0)
}

#[tokio::test]
async fn json_is_signed_and_tried_again_until_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "hush\n").unwrap();
    let (url, asked) = listener(&[503, 429, 200]);
    target(url, NotifyFormat::Json, Some(secret)).tell(one()).await;
    let all: Vec<_> = asked.iter().collect();
    assert_eq!(all.len(), 3);
    let (head, body) = &all[2];
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&json["event"], &json["pod"], &json["sequence"]),
        (&"rejected".into(), &"web-2".into(), &7.into())
    );
    assert!(head.starts_with("post /services/hush ") && head.contains("content-type: application/json"));
    assert!(head.contains(&format!("{SIGNATURE}: sha256={}", signed(b"hush", body.as_bytes()))), "{head}");
    assert!(!body.contains("hush") && !body.contains("secret"), "{body}");
}

#[tokio::test]
async fn slack_gets_a_text_without_markup_and_what_it_refuses_is_not_tried_again() {
    let (url, asked) = listener(&[404]);
    let loud = News { message: "<!channel> & more".into(), ..one() };
    target(url, NotifyFormat::Slack, None).tell(loud).await;
    let (head, body) = asked.recv().unwrap();
    assert!(!head.contains(SIGNATURE));
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["text"], "shop: pod web-2 of production: &lt;!channel&gt; &amp; more");
    assert!(asked.recv().is_err(), "once");
}

#[tokio::test]
async fn nobody_waits_for_a_place_that_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let section = config::Notify {
        url: Some(format!("http://{}/", silent.local_addr().unwrap())),
        ..config::Notify::default()
    };
    let (_snapshots, seen) = watch::channel(Arc::new(snapshot("reverted")));
    let (stop, stopped) = watch::channel(false);
    let notifier = Notifier::new(&section, sender(), seen).unwrap();
    let running = tokio::spawn(notifier.run(stopped));
    stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(20), running).await.expect("it ends").unwrap();
}
