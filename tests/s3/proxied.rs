//! A store behind an HTTP proxy (`HTTPS_PROXY`, `NO_PROXY`).

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::Command,
    thread,
};

use pitstop_rig::S3Rig;

use crate::rig::Listener;

/// Connects its clients to what they ask for.
fn proxy() -> Listener {
    Listener::start(connect)
}

fn connect(mut client: TcpStream, asked: &dyn Fn(String)) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| n > 0) {}
    asked(head.clone());
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap();
    let mut server = TcpStream::connect(target).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut reader, &mut server);
    let _ = server.shutdown(std::net::Shutdown::Write);
    let _ = back.join();
}

fn releases(rig: &S3Rig, env: &[(&str, &str)]) -> (bool, String) {
    let mut pitstop = Command::new(env!("CARGO_BIN_EXE_pitstop"));
    pitstop.args(["releases", "--json"]).env_clear().envs(rig.env()).envs(env.iter().copied());
    pitstop.env("PITSTOP_DEPLOY_TO", "/nowhere").env("SSL_CERT_FILE", rig.ca().unwrap());
    let output = pitstop.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_store_is_asked_through_the_proxy_that_the_environment_names() {
    let rig = S3Rig::start_tls();
    rig.put("releases/v1.tar.zst.sha256", b"digest".to_vec());
    let proxy = proxy();
    let url = format!("http://somebody:secret@127.0.0.1:{}", proxy.port);
    let (listed, said) = releases(&rig, &[("HTTPS_PROXY", &url)]);
    assert!(listed && said.contains(r#""release":"v1","in_store":true"#), "{said}");
    let asked = proxy.asked();
    let port = rig.endpoint().rsplit(':').next().unwrap().to_owned();
    assert!(asked[0].starts_with(&format!("CONNECT 127.0.0.1:{port} ")), "{asked:?}");
    assert!(asked[0].to_ascii_lowercase().contains("proxy-authorization: basic"), "{asked:?}");
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn hosts_that_no_proxy_names_are_asked_directly() {
    let rig = S3Rig::start_tls();
    rig.put("releases/v1.tar.zst.sha256", b"digest".to_vec());
    let proxy = proxy();
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let (listed, said) = releases(&rig, &[("HTTPS_PROXY", &url), ("NO_PROXY", "10.0.0.0/8,127.0.0.1")]);
    assert!(listed, "{said}");
    assert_eq!(proxy.asked(), Vec::<String>::new());
}
