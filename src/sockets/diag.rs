//! `inet_diag` over netlink: requests and answers as bytes, by the kernel's `linux/inet_diag.h`,
//! `linux/netlink.h` and `linux/tcp.h`.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
    },
    time::TimeVal,
};

use super::{Row, SocketsError, State, Table, address, own};
use crate::core::Connection;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The older request: it asks for both families at once.
const TCPDIAG_GETSOCK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_REQUEST_DUMP: u16 = NLM_F_REQUEST | 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// The extension asked for, and the attribute that answers it: `struct tcp_info`.
const INET_DIAG_INFO: u16 = 2;

const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
/// Those whose queues can matter. Sockets in TIME_WAIT are many and tell nothing.
const STATES: u32 =
    1 << ESTABLISHED | 1 << FIN_WAIT1 | 1 << CLOSE_WAIT | 1 << LAST_ACK | 1 << LISTEN | 1 << CLOSING;

/// So many repetitions, and so many milliseconds since the last answer.
const LOST_AFTER: (u8, u32) = (3, 10_000);

const NLMSG_HEADER: usize = 16;
const SOCKET_ID: usize = 48;
const MESSAGE: usize = 72;
/// The kernel fills at most 32 KiB at once.
const BUFFER: usize = 64 * 1024;

/// Asks for both families: a v6 listener's IPv4 connections are v6 sockets. For each request the kernel walks its
/// whole table, hundreds of thousands of places of which few are taken, and that is most of what a look at a
/// Puma costs. So there is one request, and one for each family only where that is not understood.
pub(super) fn table(ports: &[u16]) -> Result<Table, SocketsError> {
    let of_each = || ask(&[AF_INET, AF_INET6].map(|family| of_one(family, ports)), ports);
    ask(&[of_both(ports)], ports).or_else(|_| of_each())
}

/// The inode of the socket that has this connection at `local`: the kernel looks it up, and walks no table. `None`
/// before it was accepted, and when there is none.
pub(super) fn inode(local: SocketAddr, remote: SocketAddr) -> Result<Option<u64>, SocketsError> {
    let netlink = netlink()?;
    send(netlink.as_raw_fd(), &of_connection(local, remote), MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let len = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut found = None;
    match rows(&buffer[..len], |_, row| found = Some(row)) {
        Err(SocketsError::Netlink(nix::Error::ENOENT)) => Ok(None),
        // Without such a connection the listener is what the kernel finds.
        told => told.map(|_| {
            let connection = found.filter(|row| row.state != State::Listening);
            connection.map(|row| row.inode).filter(|inode| *inode != 0)
        }),
    }
}

fn netlink() -> Result<OwnedFd, SocketsError> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    // The kernel answers in the same call; this is for one that never does.
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    Ok(netlink)
}

fn ask(requests: &[Vec<u8>], ports: &[u16]) -> Result<Table, SocketsError> {
    let netlink = netlink()?;
    let mut table = Table::default();
    for request in requests {
        dump(&netlink, request, ports, &mut table)?;
    }
    Ok(table)
}

fn dump(netlink: &OwnedFd, request: &[u8], ports: &[u16], table: &mut Table) -> Result<(), SocketsError> {
    send(netlink.as_raw_fd(), request, MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if take_datagram(&buffer[..len], ports, table)? == Progress::Done {
            return Ok(());
        }
    }
}

fn of_one(family: u8, ports: &[u16]) -> Vec<u8> {
    let head = [family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0];
    request(SOCK_DIAG_BY_FAMILY, &[head, STATES.to_ne_bytes()].concat(), ports, &[])
}

/// `inet_diag_req`, which leaves the family open.
fn of_both(ports: &[u16]) -> Vec<u8> {
    let tail = [STATES.to_ne_bytes(), [0; 4]].concat();
    request(TCPDIAG_GETSOCK, &[0, 0, 0, 1 << (INET_DIAG_INFO - 1)], ports, &tail)
}

/// `inet_diag_req_v2` with a whole `inet_diag_sockid`. A v6 socket is found by the IPv4 addresses that it serves.
fn of_connection(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let (local, remote) = (canonical(local), canonical(remote));
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let head = [family, IPPROTO_TCP, 0, 0];
    let mut id = [local.port().to_be_bytes(), remote.port().to_be_bytes()].concat();
    for address in [local.ip(), remote.ip()] {
        let mut place = [0; 16];
        match address {
            IpAddr::V4(address) => place[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => place.copy_from_slice(&address.octets()),
        }
        id.extend(place);
    }
    // Whichever interface and cookie.
    id.extend([0; 4]);
    id.extend([0xff; 8]);
    message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, &[&head, &u32::MAX.to_ne_bytes(), &id[..]])
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `nlmsghdr`, and between head and tail `inet_diag_sockid`. A single port is filtered by the kernel.
fn request(kind: u16, head: &[u8], ports: &[u16], tail: &[u8]) -> Vec<u8> {
    let port = if let [port] = ports { *port } else { 0 };
    let id = [&port.to_be_bytes()[..], &[0; SOCKET_ID - 2]].concat();
    message(kind, NLM_F_REQUEST_DUMP, &[head, &id, tail])
}

fn message(kind: u16, flags: u16, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    parts.iter().for_each(|part| bytes.extend(*part));
    let len = u32::try_from(bytes.len()).unwrap_or_default();
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
}

fn take_datagram(bytes: &[u8], ports: &[u16], table: &mut Table) -> Result<Progress, SocketsError> {
    rows(bytes, |port, row| {
        if ports.contains(&port) {
            table.add(row);
        }
    })
}

/// Calls `take` with the local port and the row of each socket that a datagram tells of.
pub(super) fn rows(bytes: &[u8], mut take: impl FnMut(u16, Row)) -> Result<Progress, SocketsError> {
    let mut at = 0;
    while at < bytes.len() {
        let torn = SocketsError::Torn(at);
        let rest = &bytes[at..];
        let (Some(len), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) else { return Err(torn) };
        let Some(body) = rest.get(NLMSG_HEADER..len as usize) else { return Err(torn) };
        match kind {
            NLMSG_DONE => return Ok(Progress::Done),
            NLMSG_ERROR => {
                let code = u32_at(body, 0).map_or(0, |n| n.cast_signed().wrapping_neg());
                return Err(nix::Error::from_raw(code).into());
            }
            SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK => {
                let (port, row) = row(body).ok_or(torn)?;
                take(port, row);
            }
            _ => {}
        }
        at += (len as usize).next_multiple_of(4);
    }
    Ok(Progress::More)
}

/// `inet_diag_msg` and its attributes: the local port, and the row.
fn row(body: &[u8]) -> Option<(u16, Row)> {
    let v6 = *body.first()? == AF_INET6;
    let state = match *body.get(1)? {
        LISTEN => State::Listening,
        ESTABLISHED | CLOSE_WAIT => State::Open,
        FIN_WAIT1 | LAST_ACK | CLOSING => State::Closing,
        _ => State::Over,
    };
    let port = u16::from_be_bytes(body.get(4..6)?.try_into().ok()?);
    let info = attribute(body.get(MESSAGE..)?, INET_DIAG_INFO).unwrap_or_default();
    let peer = address(body.get(24..40)?.try_into().ok()?, v6);
    let peer_port = u16::from_be_bytes(body.get(6..8)?.try_into().ok()?);
    let unsent = u32_at(body, 60)?;
    let connection = Connection {
        key: u64_at(body, 44)?,
        peer,
        unread: u32_at(body, 56)?,
        unsent,
        received: u64_at(info, 128),
        // bytes_sent less bytes_retrans since Linux 4.19, else bytes_acked.
        sent: u64_at(info, 200)
            .map(|sent| sent.saturating_sub(u64_at(info, 208).unwrap_or(0)))
            .or_else(|| u64_at(info, 120)),
        last_received_ms: u32_at(info, 52).map(u64::from),
        last_sent_ms: u32_at(info, 44).map(u64::from),
        ours: own::is(SocketAddr::new(peer, peer_port)),
        half_closed: *body.get(1)? == CLOSE_WAIT,
        lost: unsent > 0 && lost(info),
    };
    Some((port, Row { state, inode: u32_at(body, 68)?.into(), connection }))
}

/// Sent again without an answer, so often and for so long that nobody is there: `tcpi_retransmits`, which
/// begins anew with each answer, and `tcpi_last_ack_recv`.
fn lost(info: &[u8]) -> bool {
    let again = info.get(2).copied().unwrap_or(0);
    again >= LOST_AFTER.0 && u32_at(info, 56).is_some_and(|ms| ms >= LOST_AFTER.1)
}

/// The first attribute of this type. An older kernel's `tcp_info` is shorter: fields beyond its end
/// are unknown.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)?;
        let value = bytes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A datagram of the kernel's is rows, or torn.
    pub(crate) fn datagram(bytes: &[u8]) {
        let mut told = 0;
        let _ = rows(bytes, |_, _| told += 1);
        assert!(told <= bytes.len() / NLMSG_HEADER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An established v4 connection to port 3000 from 10.0.0.7, with a `tcp_info` of this length.
    fn message(info_len: usize) -> Vec<u8> {
        let mut body = vec![0; MESSAGE];
        body[0] = AF_INET;
        body[1] = ESTABLISHED;
        body[4..6].copy_from_slice(&3000u16.to_be_bytes());
        body[24..28].copy_from_slice(&[10, 0, 0, 7]);
        body[44..52].copy_from_slice(&77u64.to_ne_bytes());
        body[68..72].copy_from_slice(&5u32.to_ne_bytes());
        let mut info = vec![0; info_len];
        let mut put = |at: usize, value: u64, len: usize| {
            if info_len >= at + len {
                info[at..at + len].copy_from_slice(&value.to_ne_bytes()[..len]);
            }
        };
        put(44, 900, 4);
        put(52, 20, 4);
        put(120, 300, 8);
        put(128, 400, 8);
        put(200, 310, 8);
        body.extend(u16::try_from(info_len + 4).unwrap().to_ne_bytes());
        body.extend(INET_DIAG_INFO.to_ne_bytes());
        body.extend(info);
        let mut bytes = u32::try_from(NLMSG_HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn parsed(info_len: usize) -> Connection {
        let mut table = Table::default();
        take_datagram(&message(info_len), &[3000], &mut table).unwrap();
        table.finish().connections.remove(0)
    }

    #[test]
    fn one_request_tells_as_much_as_one_for_each_family() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _server = listener.accept().unwrap();
        let told = |requests: &[Vec<u8>], ports: &[u16]| {
            let table = ask(requests, ports).unwrap().finish();
            (table.closed, table.connections.iter().map(|c| (c.key, c.peer, c.received)).collect::<Vec<_>>())
        };
        let both = told(&[of_both(&[port])], &[port]);
        assert_eq!((both.0, both.1.len()), (false, 1));
        assert_eq!(both, told(&[AF_INET, AF_INET6].map(|family| of_one(family, &[port])), &[port]));
        assert_eq!(both, told(&[of_both(&[port, 1])], &[port, 1]), "of several ports");
    }

    #[test]
    fn a_full_tcp_info_tells_counters_and_times() {
        let c = parsed(232);
        assert_eq!((c.key, c.peer.to_string().as_str()), (77, "10.0.0.7"));
        assert_eq!((c.received, c.sent), (Some(400), Some(310)));
        assert_eq!((c.last_received_ms, c.last_sent_ms), (Some(20), Some(900)));
        assert!(c.busy());
    }

    #[test]
    fn a_peer_that_acknowledges_nothing_is_lost() {
        let seen = |unsent: u32, again: u8, silent_ms: u32| {
            let mut bytes = message(232);
            let info = NLMSG_HEADER + MESSAGE + 4;
            bytes[NLMSG_HEADER + 60..][..4].copy_from_slice(&unsent.to_ne_bytes());
            bytes[info + 2] = again;
            bytes[info + 56..][..4].copy_from_slice(&silent_ms.to_ne_bytes());
            let mut table = Table::default();
            take_datagram(&bytes, &[3000], &mut table).unwrap();
            table.finish().connections.remove(0).lost
        };
        assert!(seen(500, 6, 12_000));
        assert!(!seen(0, 6, 12_000), "all was acknowledged");
        assert!(!seen(500, 0, 12_000), "it takes its time, and says so");
        assert!(!seen(500, 6, 3_000), "it may come back");
    }

    #[test]
    fn what_is_sent_again_is_counted_once() {
        let mut bytes = message(232);
        let info = NLMSG_HEADER + MESSAGE + 4;
        bytes[info + 208..][..8].copy_from_slice(&110u64.to_ne_bytes());
        let mut table = Table::default();
        take_datagram(&bytes, &[3000], &mut table).unwrap();
        assert_eq!(table.finish().connections[0].sent, Some(200));
    }

    #[test]
    fn older_kernels_tell_less() {
        let before_bytes_sent = parsed(192);
        assert_eq!(before_bytes_sent.sent, Some(300));
        let before_byte_counters = parsed(104);
        assert_eq!((before_byte_counters.received, before_byte_counters.sent), (None, None));
        assert_eq!(before_byte_counters.last_received_ms, Some(20));
        assert_eq!(parsed(0).last_received_ms, None);
    }

    #[test]
    fn other_ports_are_left_out() {
        let mut table = Table::default();
        take_datagram(&message(232), &[3001], &mut table).unwrap();
        assert!(table.finish().connections.is_empty());
    }

    #[test]
    fn a_refusal_and_a_torn_answer_are_errors() {
        let mut refusal = 20u32.to_ne_bytes().to_vec();
        refusal.extend(NLMSG_ERROR.to_ne_bytes());
        refusal.extend([0; 10]);
        refusal.extend((-2i32).to_ne_bytes());
        let mut table = Table::default();
        let error = take_datagram(&refusal, &[1], &mut table).unwrap_err();
        assert!(matches!(error, SocketsError::Netlink(nix::Error::ENOENT)), "{error}");
        let whole = message(232);
        for len in 1..whole.len() {
            let error = take_datagram(&whole[..len], &[3000], &mut table).unwrap_err();
            assert!(matches!(error, SocketsError::Torn(0)), "{error}");
        }
    }
}
