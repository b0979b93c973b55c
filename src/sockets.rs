//! The pod's socket table, read without any privilege: the network namespace is the pod's, so that
//! the app server's connections show whatever its user is.
//!
//! The kernel is asked over netlink (`inet_diag`, what `ss` uses), which tells byte counters and times
//! as well as queues. Where it has no `inet_diag`, `/proc/net/tcp` and `tcp6` tell the queues only:
//! then [`received`](crate::core::Connection::received) and the like are `None` and the drain trusts the table less.
//!
//! What a look at the table misses, connections that came and went between two looks, [`Ends`] tells.
//! Not seen: listeners on unix sockets (`unix://` binds behind a proxy in the same pod).

pub(crate) mod diag;
mod ends;
pub(crate) mod own;

pub use ends::Ends;

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
};

use procfs::net::{TcpNetEntry, TcpState};

use crate::core::{Connection, Sockets};

/// Why there is no socket table.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The kernel did not answer the netlink request.
    #[error("reading the socket table over netlink (sock_diag): {0}")]
    Netlink(#[from] nix::Error),
    /// The kernel's answer has another form than it should have.
    #[error("reading the socket table over netlink (sock_diag): the answer breaks off at byte {0}")]
    Torn(usize),
    /// Neither netlink nor /proc tell. Both failures, netlink's first.
    #[error("{0}; and /proc/net/tcp: {1}")]
    Neither(Box<SocketsError>, procfs::ProcError),
}

/// The connections to these local ports and what waits to be accepted there.
///
/// Blocks for as long as the kernel needs to walk its table, once per address family: 0.1 to 1 ms in
/// most pods; 10,000 connections take some 10 ms. It never waits for the network or a disk.
///
/// # Errors
/// When neither netlink nor /proc tell.
pub fn observe(ports: &[u16]) -> Result<Sockets, SocketsError> {
    table(ports).map(Table::finish)
}

/// The same of the connections with these inodes only: those that some process holds.
///
/// # Errors
/// As [`observe`].
pub(crate) fn observe_held(ports: &[u16], inodes: &HashSet<u64>) -> Result<Sockets, SocketsError> {
    table(ports).map(|table| table.only(inodes).finish())
}

/// The inode of the socket at `local` that has the connection from `remote`; `None` before it was accepted, after its
/// end, and where nothing tells. With netlink its cost does not grow with the number of connections.
pub(crate) fn accepted(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    diag::inode(local, remote).unwrap_or_else(|_| {
        let of = |one: SocketAddr, other: SocketAddr| {
            (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
        };
        let tables = [procfs::net::tcp(), procfs::net::tcp6()];
        let mut entries = tables.into_iter().flatten().flatten();
        let is_it = |entry: &TcpNetEntry| {
            of(entry.local_address, local) && of(entry.remote_address, remote) && entry.inode != 0
        };
        entries.find(is_it).map(|entry| entry.inode)
    })
}

fn table(ports: &[u16]) -> Result<Table, SocketsError> {
    diag::table(ports)
        .or_else(|error| proc_table(ports).map_err(|proc| SocketsError::Neither(Box::new(error), proc)))
}

/// The same from `/proc/net/tcp` and `tcp6`: queues only.
///
/// # Errors
/// When neither file can be read.
pub fn observe_proc(ports: &[u16]) -> Result<Sockets, procfs::ProcError> {
    proc_table(ports).map(Table::finish)
}

fn proc_table(ports: &[u16]) -> Result<Table, procfs::ProcError> {
    let v4 = procfs::net::tcp()?;
    // Absent where IPv6 is switched off.
    let v6 = procfs::net::tcp6().unwrap_or_default();
    let mut table = Table::default();
    for entry in v4.into_iter().chain(v6).filter(|e| ports.contains(&e.local_address.port())) {
        table.add(proc_row(&entry));
    }
    Ok(table)
}

fn proc_row(entry: &TcpNetEntry) -> Row {
    let state = match entry.state {
        TcpState::Listen => State::Listening,
        TcpState::Established | TcpState::CloseWait => State::Open,
        TcpState::FinWait1 | TcpState::LastAck | TcpState::Closing => State::Closing,
        _ => State::Over,
    };
    let mut hasher = DefaultHasher::new();
    (entry.remote_address, entry.local_address).hash(&mut hasher);
    Row {
        state,
        inode: entry.inode,
        connection: Connection {
            key: hasher.finish(),
            peer: entry.remote_address.ip().to_canonical(),
            unread: entry.rx_queue,
            unsent: entry.tx_queue,
            received: None,
            sent: None,
            last_received_ms: None,
            last_sent_ms: None,
            ours: own::is(entry.remote_address),
            half_closed: entry.state == TcpState::CloseWait,
            lost: false,
        },
    }
}

/// One socket of the table.
#[derive(Debug)]
struct Row {
    state: State,
    /// 0 while no process holds the socket: not accepted yet, or closed already.
    inode: u64,
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Listening,
    /// The server can still answer on it.
    Open,
    /// The server has closed it; the kernel may still be sending.
    Closing,
    Over,
}

#[derive(Debug, Default)]
struct Table {
    sockets: Sockets,
    /// Of its connections, in their order.
    inodes: Vec<u64>,
    listeners: usize,
}

impl Table {
    fn add(&mut self, mut row: Row) {
        match row.state {
            State::Listening => {
                self.listeners += 1;
                // A listener's receive queue is its accept queue.
                self.sockets.accept_queue = self.sockets.accept_queue.saturating_add(row.connection.unread);
            }
            // Without an inode it is one of the accept queue, counted there.
            State::Open if row.inode != 0 => self.push(row),
            State::Closing => {
                // The end mark itself takes one place in the queue.
                row.connection.unsent = row.connection.unsent.saturating_sub(1);
                if row.connection.unsent > 0 {
                    self.push(row);
                }
            }
            State::Open | State::Over => {}
        }
    }

    fn push(&mut self, row: Row) {
        self.sockets.connections.push(row.connection);
        self.inodes.push(row.inode);
    }

    fn only(mut self, inodes: &HashSet<u64>) -> Self {
        let mut held = self.inodes.iter().map(|inode| inodes.contains(inode));
        self.sockets.connections.retain(|_| held.next().unwrap_or(false));
        self.inodes.retain(|inode| inodes.contains(inode));
        self
    }

    fn finish(mut self) -> Sockets {
        self.sockets.closed = self.listeners == 0;
        self.sockets
    }
}

/// Four or sixteen bytes as an address, an IPv4-mapped one as the IPv4 address that it is.
fn address(bytes: [u8; 16], v6: bool) -> IpAddr {
    if v6 {
        IpAddr::from(bytes).to_canonical()
    } else {
        IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    use procfs::FromBufReadSI;

    /// `/proc/net/tcp`, and `tcp6`.
    pub(crate) fn proc_net(bytes: &[u8]) {
        let entries = procfs::net::TcpNetEntries::from_buf_read(bytes, procfs::current_system_info());
        let mut table = Table::default();
        entries.iter().flat_map(|entries| &entries.0).for_each(|entry| table.add(proc_row(entry)));
        table.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn an_accepted_socket_is_found_on_either_family_from_then_until_it_closes() {
        for (bound, host) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::1]:0", "::1")] {
            let listener = TcpListener::bind(bound).unwrap();
            let ours = TcpStream::connect((host, listener.local_addr().unwrap().port())).unwrap();
            let (here, there) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
            assert_eq!(accepted(there, here), None, "{bound}: not yet");
            let (stream, _) = listener.accept().unwrap();
            let inode = rustix::fs::fstat(&stream).unwrap().st_ino;
            assert_eq!(diag::inode(there, here).unwrap(), Some(inode), "{bound}: no table was read for it");
            assert_eq!(accepted(there, here), Some(inode), "{bound}");
            drop(stream);
            assert_eq!(accepted(there, here), None, "{bound}: closed");
        }
    }
}
