use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::ports::loopback;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header `X-Release`: which release answered.
    pub release: Option<String>,
    /// The body as it came over the wire (chunks included).
    pub body: String,
}

/// One GET on a fresh connection that is closed afterwards.
///
/// # Errors
/// When there is no connection, or no whole answer within 10 s.
pub fn get(port: u16, path: &str) -> io::Result<Answer> {
    get_within(port, path, Duration::from_secs(10))
}

/// [`get`] with a silence of at most `patience`.
///
/// # Errors
/// When there is no connection, or no whole answer.
pub fn get_within(port: u16, path: &str, patience: Duration) -> io::Result<Answer> {
    get_from(SocketAddr::from((loopback(), port)), path, &[], patience)
}

/// [`get_within`] from any address, with more headers.
///
/// # Errors
/// When there is no connection, or no whole answer.
pub fn get_from(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    patience: Duration,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, patience.max(Duration::from_millis(1)))?;
    stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: rig\r\n{more}Connection: close\r\n\r\n")?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw)?;
    parse(&String::from_utf8_lossy(&raw)).ok_or_else(|| io::Error::other("the answer broke off"))
}

fn parse(raw: &str) -> Option<Answer> {
    let (head, body) = raw.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let release = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-release").then(|| value.trim().to_owned())
    });
    Some(Answer { status, release, body: body.to_owned() })
}
