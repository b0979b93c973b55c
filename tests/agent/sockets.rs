//! The pod's socket table, against real sockets on loopback.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use pitstop::{
    core::{Connection, Sockets},
    sockets::{Ends, observe, observe_proc},
};

struct Pair {
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn on(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        Self { listener, client, server }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    fn request(&mut self) {
        self.client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut buffer = [0; 256];
        assert!(self.server.read(&mut buffer).unwrap() > 0);
    }

    fn answer(&mut self) {
        self.server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut buffer = [0; 256];
        assert!(self.client.read(&mut buffer).unwrap() > 0);
    }

    /// Waits until the connection looks like this.
    fn until(&self, what: &str, seen: impl Fn(&Connection) -> bool) -> Connection {
        let table = until(self.port(), what, |t| t.connections.iter().any(&seen));
        assert_eq!(table.connections.len(), 1, "only the server's end counts: {table:?}");
        table.connections.into_iter().next().unwrap()
    }
}

fn until(port: u16, what: &str, seen: impl Fn(&Sockets) -> bool) -> Sockets {
    let begin = Instant::now();
    loop {
        let table = observe(&[port]).unwrap();
        if seen(&table) {
            return table;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "never {what}: {table:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_request_being_served_is_busy_and_has_an_age() {
    let mut pair = Pair::on("127.0.0.1:0");
    pair.request();
    pair.until("busy for 50 ms", |c| c.request_age_ms().is_some_and(|age| age >= 50));
    let fresh = pair.until("first request of a fresh connection", Connection::busy);
    assert_eq!((fresh.sent, fresh.unread), (Some(0), 0));
    pair.answer();
    pair.until("idle after the answer", |c| !c.busy());
    // The kernel's clock for this ticks each 1 to 4 ms: a next request within the same tick is ambiguous.
    pair.until("idle for some ticks", |c| c.last_sent_ms.is_some_and(|ms| ms >= 20));
    pair.request();
    pair.until("busy again on a kept connection", Connection::busy);
}

#[test]
fn a_request_right_after_an_answer_is_busy_or_ambiguous() {
    let mut pair = Pair::on("127.0.0.1:0");
    for _ in 0..20 {
        pair.request();
        pair.answer();
        pair.request();
        pair.until("seen", |c| c.busy() || c.ambiguous());
        pair.answer();
    }
}

#[test]
fn a_kept_connection_is_idle_between_requests() {
    let mut pair = Pair::on("127.0.0.1:0");
    pair.request();
    pair.answer();
    let idle = pair.until("idle", |c| !c.busy());
    assert!(idle.received.unwrap() > 0 && idle.sent.unwrap() > 0, "{idle:?}");
    assert_eq!((idle.peer, idle.request_age_ms()), (IpAddr::from([127, 0, 0, 1]), None));
    let later = pair.until("still idle", |c| c.last_received_ms.is_some_and(|ms| ms >= 100));
    assert_eq!((later.key, later.busy()), (idle.key, false));
}

#[test]
fn half_a_request_is_busy() {
    let mut pair = Pair::on("127.0.0.1:0");
    assert!(!pair.until("there", |_| true).busy(), "no byte came yet");
    pair.client.write_all(b"GET / HT").unwrap();
    let unread = pair.until("unread", |c| c.unread == 8);
    assert!(unread.busy());
    let mut buffer = [0; 256];
    assert_eq!(pair.server.read(&mut buffer).unwrap(), 8);
    pair.until("busy though everything was read", |c| c.unread == 0 && c.busy());
}

#[test]
fn an_answer_that_the_client_does_not_take_is_busy() {
    let mut pair = Pair::on("127.0.0.1:0");
    pair.request();
    pair.server.set_nonblocking(true).unwrap();
    let chunk = [b'x'; 65_536];
    while pair.server.write(&chunk).is_ok() {}
    assert!(pair.until("unsent", |c| c.unsent > 0).busy());
}

#[test]
fn a_streaming_answer_moves_the_counters() {
    let mut pair = Pair::on("127.0.0.1:0");
    pair.request();
    pair.answer();
    let first = pair.until("sent", |c| c.sent.is_some_and(|n| n > 0));
    pair.answer();
    let second = pair.until("sent more", |c| c.sent > first.sent);
    assert_eq!((second.received, second.key), (first.received, first.key));
}

#[test]
fn a_closed_connection_counts_until_its_answer_is_taken() {
    let mut pair = Pair::on("127.0.0.1:0");
    let port = pair.port();
    pair.request();
    pair.server.set_nonblocking(true).unwrap();
    let chunk = [b'x'; 65_536];
    while pair.server.write(&chunk).is_ok() {}
    let Pair { listener, mut client, server } = pair;
    drop(server);
    let table = until(port, "being sent after the close", |t| !t.connections.is_empty());
    assert!(table.connections[0].busy());
    let mut sink = Vec::new();
    client.read_to_end(&mut sink).unwrap();
    until(port, "gone once all was taken", |t| t.connections.is_empty());
    drop(listener);
}

#[test]
fn the_accept_queue_is_counted_and_its_connections_only_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    waiting[0].write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let queued = until(address.port(), "queued", |t| t.accept_queue == 3);
    assert_eq!((queued.connections.len(), queued.closed), (0, false));
    let accepted = listener.accept().unwrap().0;
    let table = until(address.port(), "accepted", |t| t.accept_queue == 2);
    assert_eq!(table.connections.len(), 1);
    drop((accepted, listener));
    until(address.port(), "closed", |t| t.closed);
}

#[test]
fn both_families_and_mapped_addresses_are_seen() {
    let v6 = Pair::on("[::1]:0");
    assert_eq!(v6.until("there", |_| true).peer, "::1".parse::<IpAddr>().unwrap());
    let dual = TcpListener::bind("[::]:0").unwrap();
    let port = dual.local_addr().unwrap().port();
    let client = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let server = dual.accept().unwrap().0;
    let table = until(port, "there", |t| t.connections.len() == 1);
    assert_eq!(table.connections[0].peer, IpAddr::from([127, 0, 0, 1]));
    drop((client, server));
}

#[test]
fn several_ports_are_one_table() {
    let (one, two) = (Pair::on("127.0.0.1:0"), Pair::on("127.0.0.1:0"));
    let table = observe(&[one.port(), two.port()]).unwrap();
    assert_eq!(table.connections.len(), 2, "{table:?}");
    assert!(observe(&[]).unwrap().connections.is_empty());
}

#[test]
fn proc_tells_queues_and_knows_that_it_knows_no_more() {
    let mut pair = Pair::on("127.0.0.1:0");
    pair.client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    pair.until("arrived", |c| c.unread > 0);
    let waiting = TcpStream::connect(pair.listener.local_addr().unwrap()).unwrap();
    until(pair.port(), "queued", |t| t.accept_queue == 1);
    let table = observe_proc(&[pair.port()]).unwrap();
    assert_eq!((table.accept_queue, table.connections.len(), table.closed), (1, 1, false), "{table:?}");
    assert!(table.connections[0].busy() && table.connections[0].received.is_none());
    drop(waiting);
}

/// Waits until so many connections of this port have ended.
fn ended(ends: &Ends, port: u16, count: usize) -> Vec<Connection> {
    let begin = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(ends.take(&[port]).expect("nothing is missed"));
        assert!(begin.elapsed() < Duration::from_secs(20), "only {all:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    all
}

#[test]
fn connections_that_end_between_two_looks_are_told_with_their_peer_and_what_came_in() {
    let ends = Ends::listen().unwrap();
    let mut pair = Pair::on("127.0.0.1:0");
    let port = pair.port();
    pair.request();
    pair.answer();
    let Pair { client, server, listener } = pair;
    drop(client);
    drop(server);
    let all = ended(&ends, port, 1);
    assert_eq!(all.len(), 1, "only the server's end counts: {all:?}");
    assert_eq!(all[0].peer, IpAddr::from([127, 0, 0, 1]));
    // The end mark counts as a byte.
    assert!([27, 28].contains(&all[0].received.unwrap()), "{all:?}");
    assert!(all[0].last_received_ms.unwrap() < 20_000);
    assert_eq!(ends.take(&[port]), Some(Vec::new()), "told once");
    drop(listener);
}

#[test]
fn a_connection_has_the_same_key_while_it_is_open_and_when_it_ends() {
    let ends = Ends::listen().unwrap();
    let mut pair = Pair::on("[::1]:0");
    pair.request();
    let open = pair.until("open", |_| true);
    let Pair { client, server, listener } = pair;
    drop((client, server));
    let all = ended(&ends, listener.local_addr().unwrap().port(), 1);
    assert_eq!((all[0].key, all[0].peer), (open.key, open.peer));
}

#[test]
fn a_storm_of_connections_is_told_in_full_or_known_to_be_missed() {
    let ends = Ends::listen().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..500 {
        let client = TcpStream::connect(address).unwrap();
        drop((client, listener.accept().unwrap()));
    }
    let begin = Instant::now();
    let mut told = 0;
    while told < 500 && begin.elapsed() < Duration::from_secs(20) {
        let Some(more) = ends.take(&[address.port()]) else { return };
        told += more.len();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(told, 500);
}
