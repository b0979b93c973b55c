//! Strangers who reach the port.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use pitstop_rig::{PATIENCE, http, until_within};
use rustix::{
    net::{AddressFamily, SocketType, bind, connect, socket},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::container::{Pod, Running};

/// What an agent gives itself in a container of 64 MiB: three quarters of it, and 40 MiB for stacks that are
/// counted and not used. And the descriptors that many systems give.
const SMALL: [&str; 3] = ["prlimit", "--data=92274688", "--nofile=1024:1024"];
const CONNECTIONS: usize = 1_000;

/// Of another address than the kubelet's.
fn stranger(port: u16) -> TcpStream {
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&stream, &SocketAddr::from(([127, 0, 0, 9], 0))).unwrap();
    connect(&stream, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let stream = TcpStream::from(stream);
    stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    stream
}

/// The agent may close the connection at any moment, or read no further.
fn flood(port: u16, says: impl Fn(&mut TcpStream)) -> Vec<TcpStream> {
    let talk = |_| {
        let mut stream = stranger(port);
        says(&mut stream);
        stream
    };
    (0..CONNECTIONS).map(talk).collect()
}

fn answers(running: &mut Running, port: u16, kind: &str) {
    for (path, expected) in [("/ready", 503), ("/metrics", 200), ("/prestop", 200)] {
        // The agent works off a thousand connections, with whatever else runs on the machine.
        let answer = until_within(PATIENCE * 4, &format!("{path} beside {kind}"), || {
            http::get_within(port, path, Duration::from_secs(20)).ok()
        });
        assert_eq!(answer.status, expected, "{path} beside {kind}: {answer:?}");
    }
    assert!(running.ended().is_none());
    let log = running.log();
    assert!(!log.contains("the agent exited unexpectedly"), "{kind}: {log}");
}

#[test]
fn a_thousand_connections_of_any_kind_take_neither_the_memory_nor_the_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let pod = Pod::new();
    let mut running = pod.start(&SMALL);
    let huge = format!("GET /live HTTP/1.1\r\nHost: pod\r\nX-Huge: {}", "a".repeat(380 * 1024));
    let body = format!(
        "POST /prestop HTTP/1.1\r\nHost: pod\r\nContent-Length: 400000\r\n\r\n{}",
        "b".repeat(100_000)
    );
    type Says<'a> = &'a dyn Fn(&mut TcpStream);
    let say = |text: &str, stream: &mut TcpStream| drop(stream.write_all(text.as_bytes()));
    let kinds: [(&str, Says<'_>); 7] = [
        ("silence", &|_| {}),
        ("half a request's line", &|stream| say("GET /li", stream)),
        ("380 KB of one header", &|stream| say(&huge, stream)),
        ("headers without an end", &|stream| say("GET /live HTTP/1.1\r\nHost: pod\r\nX-A: b\r\n", stream)),
        ("HTTP/2", &|stream| say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", stream)),
        ("a body that nobody reads", &|stream| say(&body, stream)),
        ("answers that nobody reads", &|stream| {
            say(&"GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n".repeat(20), stream)
        }),
    ];
    for (kind, says) in kinds {
        let held = flood(pod.port, says);
        answers(&mut running, pod.port, kind);
        drop(held);
    }
}

#[test]
fn http_2_is_not_spoken() {
    let pod = Pod::new();
    let _running = pod.start(&[]);
    let mut stream = stranger(pod.port);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
}
