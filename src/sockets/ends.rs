//! Connections that end, told by the kernel as they end (`sock_diag`'s multicast groups, what `ss -E`
//! uses), so that a short connection between two looks at the table is known as well: who it was
//! with, what came in, and when.
//!
//! An idle pod costs nothing: the listener sleeps in the kernel. A busy one wakes it some twenty
//! times a second, however many connections end.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
        socket, sockopt,
    },
};

use super::{SocketsError, diag};
use crate::core::Connection;

/// `SKNLGRP_INET_TCP_DESTROY` (1) and `SKNLGRP_INET6_TCP_DESTROY` (3), as a mask.
const GROUPS: u32 = 1 << 0 | 1 << 2;
/// The kernel drops what finds no room; it grants at most `net.core.rmem_max` of this.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Between two readings, so that a storm of ends is read in bulk.
const PAUSE: Duration = Duration::from_millis(50);
/// A listener that nobody needs any more ends at the latest after this.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// More than this between two looks is not kept: looks are at most a few seconds apart.
const ENDS_KEPT: usize = 65_536;

/// The listener.
#[derive(Debug)]
pub struct Ends {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    netlink: OwnedFd,
    heard: Mutex<Heard>,
}

/// What was heard since it was last asked for.
#[derive(Debug, Default)]
struct Heard {
    /// The ports that were asked for last. The app's own connections, to its database and to others, end as
    /// well, and nobody will ask for them. `None` before the first time: everything is kept.
    wanted: Option<Vec<u16>>,
    ends: Vec<End>,
    /// Something was not heard.
    missed: bool,
}

#[derive(Debug)]
struct End {
    port: u16,
    connection: Connection,
    heard: Instant,
}

impl Ends {
    /// Begins to listen, on a thread of its own. Needs no privilege.
    ///
    /// # Errors
    /// When the kernel has no such groups, or no thread is left.
    pub fn listen() -> Result<Self, SocketsError> {
        let kind = (SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
        let netlink = socket(AddressFamily::Netlink, kind.0, kind.1, SockProtocol::NetlinkSockDiag)?;
        setsockopt(&netlink, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        let shared = Arc::new(Shared { netlink, heard: Mutex::default() });
        let listener = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("connection-ends".into())
            .spawn(move || keep_listening(&listener))
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        Ok(Self { shared })
    }

    /// The connections to these local ports that ended since the last call, with the age of their
    /// last bytes as of now. `None` when some were missed: the kernel had no room to tell them all, or other
    /// ports were asked for until now.
    pub fn take(&self, ports: &[u16]) -> Option<Vec<Connection>> {
        let mut heard = self.shared.read();
        let next = Heard { wanted: Some(ports.into()), ..Heard::default() };
        let Heard { ends, missed, wanted } = std::mem::replace(&mut *heard, next);
        drop(heard);
        let missed = missed || wanted.is_some_and(|wanted| wanted != ports);
        let ours = ends.into_iter().filter(|end| ports.contains(&end.port));
        (!missed).then(|| ours.map(End::aged).collect())
    }
}

impl End {
    fn aged(self) -> Connection {
        let since = u64::try_from(self.heard.elapsed().as_millis()).unwrap_or(u64::MAX);
        let older = |age: Option<u64>| age.map(|ms| ms.saturating_add(since));
        let Connection { last_received_ms, last_sent_ms, .. } = self.connection;
        Connection {
            last_received_ms: older(last_received_ms),
            last_sent_ms: older(last_sent_ms),
            ..self.connection
        }
    }
}

fn keep_listening(shared: &Weak<Shared>) {
    let sleep = PollTimeout::try_from(LONGEST_SLEEP).unwrap_or(PollTimeout::MAX);
    while let Some(shared) = shared.upgrade() {
        let mut waiting = [PollFd::new(shared.netlink.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, sleep).is_ok_and(|ready| ready > 0) {
            drop(shared.read());
            std::thread::sleep(PAUSE);
        }
    }
}

impl Shared {
    /// Reads all that the kernel has to tell now.
    fn read(&self) -> MutexGuard<'_, Heard> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0; 8192];
        loop {
            match recv(self.netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => heard.take_in(&buffer[..len]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return heard,
                // ENOBUFS: the kernel has dropped some. The next ones are told again.
                Err(Errno::ENOBUFS) => heard.miss(),
                Err(_) => {
                    heard.miss();
                    return heard;
                }
            }
        }
    }
}

impl Heard {
    fn take_in(&mut self, datagram: &[u8]) {
        let now = Instant::now();
        let told = diag::rows(datagram, |port, row| {
            if self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&port)) {
                self.ends.push(End { port, connection: row.connection, heard: now });
            }
        });
        if told.is_err() || self.ends.len() > ENDS_KEPT {
            self.miss();
        }
    }

    fn miss(&mut self) {
        self.ends.clear();
        self.missed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_is_told_once_and_then_all_is_known_again() {
        let ends = Ends::listen().unwrap();
        ends.shared.heard.lock().unwrap().miss();
        assert_eq!(ends.take(&[1]), None);
        assert_eq!(ends.take(&[1]), Some(Vec::new()));
    }

    #[test]
    fn what_ended_on_a_port_before_anybody_asked_for_it_is_said_to_be_missed() {
        let ends = Ends::listen().unwrap();
        assert_eq!(ends.take(&[1]), Some(Vec::new()));
        assert_eq!(ends.take(&[1, 2]), None);
        assert_eq!(ends.take(&[1, 2]), Some(Vec::new()));
    }

    #[test]
    fn nothing_is_kept_of_connections_that_nobody_asks_for() {
        let ends = Ends::listen().unwrap();
        assert_eq!(ends.take(&[1]), Some(Vec::new()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let end_one =
            || drop((std::net::TcpStream::connect(("127.0.0.1", port)).unwrap(), listener.accept()));
        (0..20).for_each(|_| end_one());
        assert!(ends.shared.read().ends.is_empty());
        assert_eq!(ends.take(&[port]), None);
        end_one();
        let begin = Instant::now();
        while ends.shared.read().ends.is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(20), "never told");
        }
        assert!(ends.shared.read().ends.iter().all(|end| end.port == port));
    }
}
