//! What the load generator counts as a failed request, as a reset, and as neither: every figure of
//! the demo and of the benchmarks rests on this.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    load::{Load, Plan, Record, Records, Tally},
    until,
};

/// What the server does with one request.
#[derive(Clone, Copy)]
enum Does {
    /// Answers with this status, as this release.
    Answer(u16, &'static str),
    /// Answers, and says that it closes the connection.
    AnswerAndClose,
    /// Closes without a byte.
    Close,
    /// Closes in the middle of the answer.
    CloseHalfway,
    /// Says nothing.
    Nothing,
}

const OK: Does = Does::Answer(200, "v1");

/// A server that does, with request `r` of connection `c` (both from 0), what `script(c, r)` says.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Server {
    fn start(script: fn(usize, usize) -> Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serve(stream, |request| script(number, request)));
            }
        });
        Self { port, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// One client on a kept connection, until it has the records of `n` requests.
    fn kept(&self, n: usize) -> Records {
        let plan = Plan { keep_alive: 1, fresh_per_second: 0, ..self.plan() };
        let load = Load::start(plan, "test");
        until("the requests", || (load.so_far().requests().len() >= n).then_some(()));
        load.finish()
    }

    /// One request on a connection of its own.
    fn fresh(&self) -> (Record, Records) {
        let load = Load::start(Plan { keep_alive: 0, fresh_per_second: 0, ..self.plan() }, "test");
        let record = load.send("/slow").recv().unwrap();
        (record, load.finish())
    }

    fn plan(&self) -> Plan {
        Plan { pause: Duration::from_millis(5), ..Plan::modest(self.port) }
    }
}

fn serve(stream: TcpStream, script: impl Fn(usize) -> Does) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    for request in 0.. {
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap_or(0) > 0 && line != "\r\n" {
            line.clear();
        }
        if line.is_empty() {
            return;
        }
        let (status, release, more) = match script(request) {
            Does::Answer(status, release) => (status, release, ""),
            Does::AnswerAndClose => (200, "v1", "Connection: close\r\n"),
            Does::Close => return,
            Does::CloseHalfway => {
                let _ = writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                return;
            }
            Does::Nothing => continue,
        };
        let head =
            format!("HTTP/1.1 {status} X\r\nX-Release: {release}\r\n{more}Content-Length: 2\r\n\r\nok");
        if writer.write_all(head.as_bytes()).is_err() || !more.is_empty() {
            return;
        }
    }
}

fn of_first(records: &Records, n: usize) -> Vec<(bool, bool, bool)> {
    let first = &records.requests()[..n];
    first.iter().map(|r| (r.failed(&[]), r.reset, r.reused)).collect()
}

#[test]
fn expected_answers_are_neither_failed_nor_reset() {
    let records = Server::start(|_, _| OK).kept(3);
    assert_eq!(of_first(&records, 3), [(false, false, false), (false, false, true), (false, false, true)]);
    let all = records.requests().len();
    assert_eq!(records.tally(&[]), Tally { requests: all, ..Tally::default() });
    assert_eq!(records.requests()[0].release.as_deref(), Some("v1"));
}

#[test]
fn a_reused_connection_closed_before_any_byte_is_a_reset_and_retried() {
    let server = Server::start(|c, r| if (c, r) == (0, 1) { Does::Close } else { OK });
    let records = server.kept(3);
    assert_eq!(of_first(&records, 3), [(false, false, false), (false, true, true), (false, false, true)]);
    assert_eq!((records.tally(&[]).resets, server.connections()), (1, 2));
}

#[test]
fn only_one_retry_is_granted() {
    let server = Server::start(|c, r| if c == 1 || (c, r) == (0, 1) { Does::Close } else { OK });
    let records = server.kept(3);
    assert_eq!(of_first(&records, 3), [(false, false, false), (true, true, true), (false, false, false)]);
    assert_eq!((records.tally(&[]).failed, server.connections()), (1, 3));
}

#[test]
fn a_reused_connection_closed_halfway_through_the_answer_is_a_failure() {
    let server = Server::start(|c, r| if (c, r) == (0, 1) { Does::CloseHalfway } else { OK });
    let records = server.kept(3);
    assert_eq!(of_first(&records, 3), [(false, false, false), (true, false, true), (false, false, false)]);
}

#[test]
fn a_fresh_connection_closed_before_any_byte_is_a_failure_and_not_retried() {
    let server = Server::start(|_, _| Does::Close);
    let (record, records) = server.fresh();
    assert_eq!((record.failed(&[]), record.reset), (true, false));
    assert_eq!((records.tally(&[]).requests, server.connections()), (1, 1));
}

#[test]
fn a_connection_that_the_server_said_it_closes_is_no_reset() {
    let server = Server::start(|_, _| Does::AnswerAndClose);
    let records = server.kept(3);
    assert_eq!(of_first(&records, 3), [(false, false, false); 3]);
    assert!(server.connections() >= 3);
}

#[test]
fn a_500_of_a_release_known_as_bad_is_counted_apart_and_any_other_one_failed() {
    let server = Server::start(|_, r| match r {
        0 => Does::Answer(500, "bad"),
        1 => Does::Answer(500, "good"),
        2 => Does::Answer(404, "bad"),
        _ => Does::Answer(200, "bad"),
    });
    let tally = server.kept(5).tally(&["bad"]);
    assert_eq!((tally.served_by_bad_release, tally.failed), (1, 2));
}

#[test]
fn an_answer_that_never_comes_is_a_failure() {
    let server = Server::start(|_, _| Does::Nothing);
    let plan =
        Plan { patience: Duration::from_millis(100), keep_alive: 1, fresh_per_second: 0, ..server.plan() };
    let load = Load::start(plan, "test");
    let failed = until("the failure", || load.so_far().failures(&[]).next().cloned());
    assert_eq!(failed.lost.as_deref(), Some("no whole answer within 100ms"));
}

#[test]
fn a_refused_connection_is_a_failure() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server { port, connections: Arc::default() };
    let (record, _) = server.fresh();
    assert!(record.failed(&[]), "{record:?}");
}

#[test]
fn fresh_requests_come_while_earlier_ones_still_wait() {
    let server = Server::start(|c, _| if c == 0 { Does::Nothing } else { OK });
    let plan = Plan { keep_alive: 0, patience: Duration::from_secs(2), ..server.plan() };
    let load = Load::start(plan, "test");
    until("others are answered", || (load.so_far().requests().len() >= 5).then_some(()));
    let records = load.finish();
    let fresh = |r: &Record| !r.reused && r.steady;
    assert!(records.requests().iter().all(fresh));
    assert_eq!(records.tally(&[]).failed, 1, "the one that waited in vain");
}

#[test]
fn answers_belong_to_the_phases_in_which_they_were_waited_for() {
    let server = Server::start(|_, _| OK);
    let load = Load::start(Plan { keep_alive: 1, fresh_per_second: 0, ..server.plan() }, "calm");
    let after = |n| until("more requests", || (load.so_far().requests().len() > n).then_some(()));
    after(2);
    load.phase("restart");
    let seen = load.so_far().requests().len();
    after(seen + 2);
    load.phase("calm");
    let records = load.finish();
    let (calm, restart) = (records.within("calm").count(), records.during("restart").count());
    assert!(calm >= 2 && restart >= 2, "{calm} {restart}");
    assert_eq!(calm + restart, records.requests().len(), "each belongs to one of the two");
    assert_eq!(records.during("never").count(), 0);
}
