//! The listening sockets of the slots: for each address a group, whose connections a program in the kernel
//! distributes.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::fstat,
    net::{self, AddressFamily, SocketFlags, SocketType},
    time::Timespec,
};

use super::{
    Slot,
    program::{self, Candidate, Steering},
};
use crate::{config::ListenAddress, procs};

/// Why the sockets cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("another process listens on {0}: end it, or set exec.listen to what the app server listens on")]
    Taken(String),
    #[error("listening on {address} failed: {source}")]
    Failed { address: String, source: io::Error },
    /// An old kernel, or a sandbox such as gVisor.
    #[error("the kernel does not let connections be steered (SO_ATTACH_REUSEPORT_CBPF): {0}")]
    NoProgram(io::Error),
}

/// A listening socket for each slot, all on the same address, for as long as this is there.
#[derive(Debug)]
pub(crate) struct Group {
    address: ListenAddress,
    /// In the order of the kernel's indices.
    sockets: Vec<(Slot, OwnedFd)>,
}

impl Group {
    /// The program is attached before the second socket is bound: connections may come at any moment.
    ///
    /// # Errors
    /// [`ListenError`]; nothing is held then.
    pub(crate) fn open(address: &ListenAddress, live: Slot) -> Result<Self, ListenError> {
        alone(address)?;
        Self::shared(address, live)
    }

    fn shared(address: &ListenAddress, live: Slot) -> Result<Self, ListenError> {
        let mut group = Self { address: address.clone(), sockets: Vec::new() };
        for slot in Slot::ALL {
            let socket = group.bound(true)?;
            group.sockets.push((slot, socket));
            if group.sockets.len() == 1 {
                let first = Steering { live: 0, candidate: None };
                group.attach(first).map_err(ListenError::NoProgram)?;
            }
            group.listen_last()?;
        }
        group.steer(live, None).map_err(ListenError::NoProgram)?;
        // Who came between the two binds shares the connections, and moves the kernel's indices.
        let ours: Vec<u64> = Slot::ALL.into_iter().filter_map(|slot| group.inode(slot)).collect();
        let others = procs::listening_at(address.socket()).into_iter().any(|inode| !ours.contains(&inode));
        if others { Err(ListenError::Taken(address.text().to_owned())) } else { Ok(group) }
    }

    pub(crate) fn address(&self) -> &ListenAddress {
        &self.address
    }

    fn bound(&self, shared: bool) -> Result<OwnedFd, ListenError> {
        bind(&self.address, shared)
    }

    fn listen_last(&self) -> Result<(), ListenError> {
        let Some((_, socket)) = self.sockets.last() else { return Ok(()) };
        net::listen(socket, self.address.backlog()).map_err(|error| refused(&self.address, error))
    }

    /// From the next connection on. The candidate gets so many of 1000.
    ///
    /// # Errors
    /// The kernel's; the program from before stays.
    pub(crate) fn steer(&self, live: Slot, candidate: Option<(Slot, u32)>) -> io::Result<()> {
        let index = |slot: Slot| {
            let at = self.sockets.iter().position(|(of, _)| *of == slot)?;
            u32::try_from(at).ok()
        };
        let live = index(live).ok_or_else(|| io::Error::other("its sockets are closed"))?;
        let candidate = candidate.and_then(|(slot, share)| Some(Candidate { index: index(slot)?, share }));
        self.attach(Steering { live, candidate })
    }

    fn attach(&self, steering: Steering) -> io::Result<()> {
        let Some((_, socket)) = self.sockets.first() else { return Ok(()) };
        let one = |i: program::Instruction| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
        let mut filter: Vec<libc::sock_filter> = program::of(steering).into_iter().map(one).collect();
        let len = u16::try_from(filter.len()).unwrap_or(u16::MAX);
        let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
        Ok(setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?)
    }

    pub(crate) fn socket(&self, slot: Slot) -> Option<&OwnedFd> {
        self.sockets.iter().find(|(of, _)| *of == slot).map(|(_, socket)| socket)
    }

    /// Which the socket is, as /proc names it.
    pub(crate) fn inode(&self, slot: Slot) -> Option<u64> {
        fstat(self.socket(slot)?).ok().map(|stat| stat.st_ino)
    }

    /// Whether somebody waits there to be accepted. In doubt nobody does: there is no such socket.
    pub(crate) fn waits(&self, slot: Slot) -> bool {
        let Some(socket) = self.socket(slot) else { return false };
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Whatever cannot be asked counts as somebody.
        poll(&mut fds, Some(&now)).is_err() || fds[0].revents().contains(PollFlags::IN)
    }

    /// Accepts and closes whatever waits there: nobody else would answer it. Returns how many there were.
    pub(crate) fn empty(&self, slot: Slot) -> usize {
        let Some(socket) = self.socket(slot) else { return 0 };
        let mut found = 0;
        // More cannot have waited.
        while found <= usize::try_from(self.address.backlog()).unwrap_or(0) && self.waits(slot) {
            if net::accept_with(socket.as_fd(), SocketFlags::CLOEXEC).is_err() {
                break;
            }
            found += 1;
        }
        found
    }

    /// Gives the sockets up, those of slots without a server first: what comes meanwhile goes on to `live`.
    pub(crate) fn close(mut self, live: Slot) {
        while let Some(at) = self.sockets.iter().position(|(slot, _)| *slot != live) {
            // The kernel puts the last one into the gap as well.
            drop(self.sockets.swap_remove(at));
            let _ = self.steer(live, None);
        }
    }
}

/// Whether nobody else has the address, not even somebody who would share it.
fn alone(address: &ListenAddress) -> Result<(), ListenError> {
    bind(address, false).map(drop)
}

fn bind(address: &ListenAddress, shared: bool) -> Result<OwnedFd, ListenError> {
    let family = match address.socket() {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let bound = || -> rustix::io::Result<OwnedFd> {
        let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        net::sockopt::set_socket_reuseaddr(&socket, true)?;
        net::sockopt::set_socket_reuseport(&socket, shared)?;
        net::sockopt::set_tcp_nodelay(&socket, address.low_latency())?;
        net::bind(&socket, &address.socket())?;
        Ok(socket)
    };
    bound().map_err(|error| refused(address, error))
}

fn refused(address: &ListenAddress, error: rustix::io::Errno) -> ListenError {
    let address = address.text().to_owned();
    match error {
        rustix::io::Errno::ADDRINUSE => ListenError::Taken(address),
        error => ListenError::Failed { address, source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::net::{AddressFamily, sockopt};

    use super::*;
    use crate::slots::PROBE_SOURCE;

    fn free(host: &str) -> ListenAddress {
        let port = TcpListener::bind(format!("{host}:0")).unwrap().local_addr().unwrap().port();
        ListenAddress::try_from(format!("tcp://{host}:{port}")).unwrap()
    }

    fn connect(address: &ListenAddress, from: &str, class: u32) -> TcpStream {
        let port = address.socket().port();
        let from: std::net::IpAddr = from.parse().unwrap();
        let v6 = from.is_ipv6();
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        if v6 {
            sockopt::set_ipv6_tclass(&socket, class).unwrap();
        }
        net::bind(&socket, &SocketAddr::new(from, 0)).unwrap();
        let to = if v6 { SocketAddr::new(from, port) } else { SocketAddr::from(([127, 0, 0, 1], port)) };
        net::connect(&socket, &to).unwrap();
        TcpStream::from(socket)
    }

    fn reached(group: &Group) -> Vec<Slot> {
        Slot::ALL.into_iter().filter(|slot| group.empty(*slot) > 0).collect()
    }

    fn clients_and_probes_are_told_apart(host: &str, client: &str, probe: (&str, u32)) {
        let address = free(host);
        let group = Group::open(&address, Slot::A).unwrap();
        let to = |from: &str, class| {
            let _connections: Vec<_> = (0..8).map(|_| connect(&address, from, class)).collect();
            reached(&group)
        };
        assert_eq!((to(client, 0), to(probe.0, probe.1)), (vec![Slot::A], vec![Slot::A]));
        group.steer(Slot::A, Some((Slot::C, 0))).unwrap();
        assert_eq!((to(client, 0), to(probe.0, probe.1)), (vec![Slot::A], vec![Slot::C]));
        group.steer(Slot::C, None).unwrap();
        assert_eq!((to(client, 0), to(probe.0, probe.1)), (vec![Slot::C], vec![Slot::C]));
        group.steer(Slot::C, Some((Slot::B, 0))).unwrap();
        assert_eq!((to(client, 0), to(probe.0, probe.1)), (vec![Slot::C], vec![Slot::B]));
    }

    /// Five standard deviations: of a million such tests one fails.
    #[test]
    fn the_candidate_gets_its_share_of_new_connections() {
        const CONNECTIONS: u32 = 1_000;
        for (host, client) in [("0.0.0.0", "127.0.0.1"), ("[::]", "::1")] {
            let address = free(host);
            let group = Group::open(&address, Slot::A).unwrap();
            for permille in [50, 250, 500, 1_000, 0] {
                group.steer(Slot::A, Some((Slot::B, permille))).unwrap();
                let reached: usize = (0..CONNECTIONS / 100)
                    .map(|_| {
                        let _connections: Vec<_> = (0..100).map(|_| connect(&address, client, 0)).collect();
                        let [live, reached, idle] = Slot::ALL.map(|slot| group.empty(slot));
                        assert_eq!((live + reached, idle), (100, 0), "nobody waits elsewhere");
                        reached
                    })
                    .sum();
                let share = f64::from(permille) / 1000.0;
                let deviation = (f64::from(CONNECTIONS) * share * (1.0 - share)).sqrt();
                let off = (reached as f64 - f64::from(CONNECTIONS) * share).abs();
                assert!(off <= 5.0 * deviation, "{reached} of {CONNECTIONS} at {permille} of 1000");
            }
        }
    }

    #[test]
    fn clients_and_probes_are_told_apart_over_ipv4() {
        let source = PROBE_SOURCE.to_string();
        clients_and_probes_are_told_apart("0.0.0.0", "127.0.0.1", (&source, 0));
        clients_and_probes_are_told_apart("0.0.0.0", "127.0.0.2", (&source, 0));
    }

    #[test]
    fn clients_and_probes_are_told_apart_on_a_dual_stack_socket() {
        let source = PROBE_SOURCE.to_string();
        clients_and_probes_are_told_apart("[::]", "127.0.0.1", (&source, 0));
        clients_and_probes_are_told_apart("[::]", "::1", (&source, 0));
    }

    #[test]
    fn clients_and_probes_are_told_apart_over_ipv6() {
        clients_and_probes_are_told_apart("[::1]", "::1", ("::1", program::PROBE_TRAFFIC_CLASS.into()));
    }

    #[test]
    fn an_address_that_somebody_has_is_named_also_where_he_would_share_it() {
        let address = free("127.0.0.1");
        for shared in [false, true] {
            let other = bind(&address, shared).unwrap();
            net::listen(&other, 1).unwrap();
            let error = Group::open(&address, Slot::A).unwrap_err().to_string();
            assert!(error.contains(address.text()), "{error}");
        }
        Group::open(&address, Slot::A).unwrap();
    }

    #[test]
    fn who_joins_between_the_two_binds_is_found() {
        for host in ["127.0.0.1", "[::1]"] {
            let address = free(host);
            let other = bind(&address, true).unwrap();
            net::listen(&other, 1).unwrap();
            assert!(matches!(Group::shared(&address, Slot::A), Err(ListenError::Taken(_))), "{host}");
            drop(other);
            Group::shared(&address, Slot::A).unwrap();
        }
    }

    #[test]
    fn what_is_held_cannot_be_opened_by_others() {
        let address = free("127.0.0.1");
        let _group = Group::open(&address, Slot::A).unwrap();
        assert!(TcpListener::bind(address.socket()).is_err());
        assert!(matches!(Group::open(&address, Slot::A), Err(ListenError::Taken(_))));
    }

    #[test]
    fn whoever_waits_is_seen_and_sent_away() {
        let address = free("127.0.0.1");
        let group = Group::open(&address, Slot::B).unwrap();
        assert!(Slot::ALL.into_iter().all(|slot| !group.waits(slot)));
        let _waiting = [connect(&address, "127.0.0.1", 0), connect(&address, "127.0.0.1", 0)];
        assert_eq!(Slot::ALL.map(|slot| group.waits(slot)), [false, true, false]);
        assert_eq!(Slot::ALL.map(|slot| group.empty(slot)), [0, 2, 0]);
        assert!(!group.waits(Slot::B));
    }

    #[test]
    fn what_a_server_still_holds_is_reached_when_the_rest_is_closed() {
        for live in Slot::ALL {
            let address = free("127.0.0.1");
            let group = Group::open(&address, live).unwrap();
            let held = group.socket(live).unwrap().try_clone().unwrap();
            group.close(live);
            for _ in 0..8 {
                let _client = connect(&address, "127.0.0.1", 0);
                let mut fds = [PollFd::new(&held, PollFlags::IN)];
                poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap();
                net::accept_with(&held, SocketFlags::CLOEXEC).unwrap();
            }
            drop(held);
            assert!(TcpStream::connect(address.socket()).is_err(), "nobody holds it any more");
        }
    }
}
