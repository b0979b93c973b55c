//! What is between the agent and its store fails: the resolver that knows the store's name, and the proxy on the way. An
//! agent that starts meanwhile leaves the app alone, asks seldom, and is in sync by itself afterwards.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use pitstop_rig::{Dice, S3Rig, needs_root, poll, ports::free_port};

use super::{agent::Pod, tried};

const TROUBLE: Duration = Duration::from_secs(3);
/// In that time: twice a second, each time with retries, for two families of addresses.
const ASKED_MAX: usize = 80;
/// The store's name. Nobody has this domain.
const NAME: &str = "store.pitstop.test";

/// What the one in between does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Works,
    /// It takes what comes, and does not answer.
    Silent,
    /// NXDOMAIN; a proxy: 502.
    Denies,
    /// SERVFAIL; a proxy closes the connection.
    Fails,
}

/// Somebody in between, until it is dropped.
struct Between {
    does: Arc<Mutex<Does>>,
    asked: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Between {
    fn start(serve: impl Fn(&Mutex<Does>, &AtomicUsize, &AtomicBool) + Send + 'static) -> Self {
        let (does, asked, ended) = (Arc::new(Mutex::new(Does::Works)), Arc::default(), Arc::default());
        let (d, a, e) = (Arc::clone(&does), Arc::clone(&asked), Arc::clone(&ended));
        Self { does, asked, ended, thread: Some(thread::spawn(move || serve(&d, &a, &e))) }
    }

    fn set(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// A resolver at port 53 of an address of loopback that is its own, and which.
fn resolver(number: u64) -> (Between, Ipv4Addr) {
    let mut dice = Dice(u64::from(std::process::id()) << 8 | number);
    let mut octet = || u8::try_from(1 + dice.below(250)).unwrap();
    let (socket, address) = std::iter::repeat_with(|| Ipv4Addr::new(127, octet(), octet(), octet()))
        .take(100)
        .find_map(|address| Some((UdpSocket::bind((address, 53)).ok()?, address)))
        .expect("port 53 of an address");
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let serve = move |does: &Mutex<Does>, asked: &AtomicUsize, ended: &AtomicBool| {
        let mut query = [0; 512];
        while !ended.load(Ordering::SeqCst) {
            let Ok((len, from)) = socket.recv_from(&mut query) else { continue };
            asked.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answer(&query[..len], *does.lock().unwrap()) {
                let _ = socket.send_to(&answer, from);
            }
        }
    };
    (Between::start(serve), address)
}

/// The answer to a query for one name: 127.0.0.1, and no address of version 6.
fn answer(query: &[u8], does: Does) -> Option<Vec<u8>> {
    let name_end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)?;
    let question = query.get(12..name_end + 5)?;
    let code = match does {
        Does::Silent => return None,
        Does::Works => 0,
        Does::Fails => 2,
        Does::Denies => 3,
    };
    let has_address = does == Does::Works && question[question.len() - 4..] == [0, 1, 0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend(question);
    if has_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

/// An HTTP proxy, and its port.
fn proxy() -> (Between, u16) {
    let port = free_port();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let serve = move |does: &Mutex<Does>, asked: &AtomicUsize, ended: &AtomicBool| {
        // Held open, those that get no answer.
        let mut silent = Vec::new();
        while !ended.load(Ordering::SeqCst) {
            let Ok((mut client, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            asked.fetch_add(1, Ordering::SeqCst);
            client.set_nonblocking(false).unwrap();
            match *does.lock().unwrap() {
                Does::Works => drop(thread::spawn(move || connect(client))),
                Does::Silent => silent.push(client),
                Does::Denies => {
                    drop(client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"))
                }
                Does::Fails => {}
            }
        }
    };
    (Between::start(serve), port)
}

/// Connects a client to what it asks for.
fn connect(mut client: TcpStream) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| n > 0) {}
    let Some(target) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else { return };
    let Ok(mut server) = TcpStream::connect(target) else { return };
    let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut reader, &mut server);
    let _ = server.shutdown(Shutdown::Both);
}

/// The agent of a pod that runs v2 starts anew in this trouble.
fn starts_in(what: &str, does: Does, between: &Between, (s3, mut pod): (&S3Rig, Pod)) {
    let keys = s3.keys();
    let text =
        format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", keys.access, keys.secret);
    fs::write(pod.credentials(), text).unwrap();
    pod.promote_in(s3, "v2");
    pod.start();
    pod.wait_in_sync("v2", what);
    pod.kill();
    between.set(does);
    let before = between.asked.load(Ordering::SeqCst);
    pod.start();
    pod.wait("without its store", what, |status| status["reason"] == "store_unreachable");
    let first = between.asked.load(Ordering::SeqCst);
    assert!(first > before, "{what}: nobody was asked");
    poll(TROUBLE, || {
        pod.wait("answering", what, |status| status["running"] == "v2");
        assert_eq!(pod.serves(), "v2", "{what}");
        None::<()>
    });
    let asked = between.asked.load(Ordering::SeqCst) - first;
    assert!(asked <= ASKED_MAX, "{what}: asked {asked} times in {TROUBLE:?}");
    between.set(Does::Works);
    pod.promote_in(s3, "v3");
    pod.wait_in_sync("v3", what);
    println!("{what}: asked {asked} times in {TROUBLE:?}");
}

/// Each trouble with somebody in between and a store of its own, side by side.
fn in_each(troubles: &[(&str, Does)], case: impl Fn(&str, Does) + Sync) -> String {
    thread::scope(|scope| {
        for (what, does) in troubles {
            let case = &case;
            scope.spawn(move || case(what, *does));
        }
    });
    troubles.iter().map(|(what, _)| *what).collect::<Vec<_>>().join(", ")
}

#[test]
fn an_agent_that_starts_without_a_resolver_leaves_the_app_alone_until_there_is_one() {
    needs_root!();
    let troubles = [("no answer", Does::Silent), ("NXDOMAIN", Does::Denies), ("SERVFAIL", Does::Fails)];
    let names = in_each(&troubles, |what, does| {
        let (resolver, address) = resolver(does as u64);
        let s3 = S3Rig::start();
        let mut pod = Pod::of_s3(&s3);
        let config = pod.credentials().with_file_name("resolv.conf");
        fs::write(&config, format!("nameserver {address}\noptions timeout:1\n")).unwrap();
        pod.resolves_by(&config);
        pod.set("PITSTOP_S3_ENDPOINT", &s3.endpoint().replace("127.0.0.1", NAME));
        starts_in(what, does, &resolver, (&s3, pod));
    });
    let test = "an_agent_that_starts_without_a_resolver_leaves_the_app_alone_until_there_is_one";
    let seen = "at most 80 queries";
    tried(test, &format!("DNS with {names} at an agent's start"), 3, seen);
}

#[test]
fn an_agent_that_starts_without_its_proxy_leaves_the_app_alone_until_there_is_one() {
    let troubles = [("no answer", Does::Silent), ("502", Does::Denies), ("closed connections", Does::Fails)];
    let names = in_each(&troubles, |what, does| {
        let (proxy, port) = proxy();
        let s3 = S3Rig::start_tls();
        let mut pod = Pod::of_s3(&s3);
        pod.set("SSL_CERT_FILE", &s3.ca().unwrap().display().to_string());
        pod.set("HTTPS_PROXY", &format!("http://127.0.0.1:{port}"));
        starts_in(what, does, &proxy, (&s3, pod));
    });
    let test = "an_agent_that_starts_without_its_proxy_leaves_the_app_alone_until_there_is_one";
    tried(test, &format!("`HTTPS_PROXY` with {names} at an agent's start"), 3, "");
}
