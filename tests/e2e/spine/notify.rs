//! What needs somebody is posted, signed, and waited for by nobody.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use hmac::{Hmac, KeyInit, Mac};
use pitstop_rig::{
    App, Pod, Setup, http,
    kubelet::{self, Hook},
    until, until_within,
};
use serde_json::Value;
use sha2::Sha256;

use crate::new_pod;

const SECRET: &str = "the key of this test";

/// Takes posts on a port of its own. It answers each by the next of `answers`; after the last of them it takes the
/// request and never answers.
struct Listener {
    port: u16,
    posts: mpsc::Receiver<Post>,
}

struct Post {
    head: String,
    body: Vec<u8>,
}

impl Listener {
    fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, posts) = mpsc::channel();
        thread::spawn(move || {
            let (mut answers, mut open) = (answers.iter(), Vec::new());
            while let Ok((mut stream, _)) = listener.accept() {
                let Some(post) = Post::read(&stream) else { continue };
                match answers.next() {
                    Some(status) => {
                        let _ = write!(
                            stream,
                            "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                        );
                    }
                    None => open.push(stream),
                }
                if send.send(post).is_err() {
                    return;
                }
            }
        });
        Self { port, posts }
    }

    /// Its address is a secret.
    fn told(&self, pod: Pod) -> Pod {
        let key = pod.puma.scratch().join("notify-key");
        fs::write(&key, format!("{SECRET}\n")).unwrap();
        pod.with("PITSTOP_NOTIFY_URL", format!("http://127.0.0.1:{}/services/hush", self.port))
            .with("PITSTOP_NOTIFY_SECRET_FILE", key.to_str().unwrap())
            .with("PITSTOP_APP", "shop")
    }

    /// The next post, whose signature is checked.
    #[track_caller]
    fn next(&self) -> Value {
        let post = self.posts.recv_timeout(Duration::from_secs(120)).expect("a notification");
        assert!(post.head.starts_with("post /services/hush "), "{}", post.head);
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(&post.body);
        let signed: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(post.head.contains(&format!("\nx-pitstop-signature: sha256={signed}\r")), "{}", post.head);
        serde_json::from_slice(&post.body).unwrap()
    }
}

impl Post {
    fn read(stream: &TcpStream) -> Option<Self> {
        let (mut reader, mut head) = (BufReader::new(stream), String::new());
        while !head.ends_with("\r\n\r\n") {
            (reader.read_line(&mut head).ok()? > 0).then_some(())?;
        }
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        Some(Self { head, body })
    }
}

#[test]
fn e2e_a_rejected_move_and_a_drain_at_its_deadline_are_posted_signed_and_again_after_a_failure() {
    let listener = Listener::start(&["503 Service Unavailable", "204 No Content", "200 OK"]);
    let pod = listener.told(new_pod(Setup::default()));
    let mut pod = pod.with("PITSTOP_DRAIN_MAX", "3s").with("PITSTOP_DRAIN_QUIET", "2s").in_sync();
    pod.deploy(App::RaisesOnBoot, "v2");
    let (first, again) = (listener.next(), listener.next());
    assert_eq!(first, again, "the listener said 503");
    let words = ["event", "app", "pointer", "release"].map(|key| first[key].as_str().unwrap_or_default());
    assert_eq!(words, ["rejected", "shop", "production", "v2"]);
    assert_eq!((&first["v"], &first["pod"]), (&1.into(), &pod.status()["pod"]));
    assert!(first["message"].as_str().unwrap().contains("is not tried again"), "{first}");
    pod.wait_for_rejection("v2");
    let _request = pod.slow_request(40);
    let end = kubelet::end(&mut pod.puma, Hook::HttpGet(pod.agent.port()), Duration::from_secs(5));
    assert_eq!(end.answer.unwrap()["result"], "deadline");
    let drain = listener.next();
    assert_eq!((&drain["event"], &drain["release"]), (&"drain_deadline".into(), &"v1".into()));
    assert!(drain["message"].as_str().unwrap().contains("1 requests in flight"), "{drain}");
    let log = pod.log();
    assert!(log.contains("notification delivered") && !log.contains("hush"), "{log}");
}

#[test]
fn e2e_a_listener_that_never_answers_holds_up_neither_a_stranded_pod_nor_its_next_deploy() {
    let listener = Listener::start(&[]);
    let setup = Setup { restarted: true, worker_shutdown_timeout: 3, ..Setup::single() };
    let pod = listener.told(new_pod(setup));
    let pod = pod
        .with("PITSTOP_RESTART_MODE", "hot")
        .with("PITSTOP_RESTART_TIMEOUT", "8s")
        .with("PITSTOP_RESTART_LONG_REQUESTS", "proceed")
        .in_sync();
    let port = pod.puma.port();
    let held = Duration::from_secs(200);
    let request = thread::spawn(move || http::get_within(port, "/slow?s=0&after=end", held));
    until("the request in flight", || (pod.metric("pitstop_puma_requests_in_flight")? >= 1.0).then_some(()));
    pod.deploy(App::Good, "v2");
    let news = listener.next();
    assert_eq!((&news["event"], &news["release"]), (&"stranded".into(), &"v2".into()), "{news}");
    fs::write(pod.puma.run_dir().join("end"), "").unwrap();
    assert_eq!(request.join().unwrap().expect("an answer").status, 200);
    until_within(held, "v1 again", || {
        let status = pod.status();
        (status["running"] == "v1" && status["stage"] == "steady").then_some(())
    });
    pod.deploy(App::Good, "v3");
    pod.agent.wait_in_sync("v3");
}
