//! The listening sockets of the slots: for each address a group, whose connections a program in the kernel
//! distributes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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
    LIVE_SOURCE, LIVE_TRAFFIC_CLASS, PROBE_SOURCE, PROBE_TRAFFIC_CLASS, Slot, named,
    program::{self, Candidate, Steering},
};
use crate::{
    config::{ListenAddress, Place},
    procs,
};

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
        match address.place() {
            Place::Tcp(socket) => {
                // Not even somebody who would share it has it.
                bind(address, *socket, false)?;
                Self::shared(address, *socket, live)
            }
            Place::Unix(..) => Self::named(address, live),
        }
    }

    fn named(address: &ListenAddress, live: Slot) -> Result<Self, ListenError> {
        let mut group = Self { address: address.clone(), sockets: Vec::new() };
        let Place::Unix(path, mode) = address.place() else { return Ok(group) };
        match named::connect(path) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => {}
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {
                return Err(ListenError::Taken(address.text().to_owned()));
            }
            Err(error) => return Err(refused(address, error)),
        }
        for slot in Slot::ALL {
            let socket = named::bind(path, *mode, slot).map_err(|error| refused(address, error))?;
            group.sockets.push((slot, socket));
            group.listen_last()?;
        }
        let failed = |source| ListenError::Failed { address: address.text().to_owned(), source };
        group.steer(live, None).map_err(failed)?;
        Ok(group)
    }

    fn shared(address: &ListenAddress, socket: SocketAddr, live: Slot) -> Result<Self, ListenError> {
        let mut group = Self { address: address.clone(), sockets: Vec::new() };
        for slot in Slot::ALL {
            group.sockets.push((slot, bind(address, socket, true)?));
            if group.sockets.len() == 1 {
                let first = Steering { live: 0, candidate: None };
                group.attach(first).map_err(ListenError::NoProgram)?;
            }
            group.listen_last()?;
        }
        group.steer(live, None).map_err(ListenError::NoProgram)?;
        // Who came between the two binds shares the connections, and moves the kernel's indices.
        let ours: Vec<u64> = Slot::ALL.into_iter().filter_map(|slot| group.inode(slot)).collect();
        let others = procs::listening_at(socket).into_iter().any(|inode| !ours.contains(&inode));
        if others { Err(ListenError::Taken(address.text().to_owned())) } else { Ok(group) }
    }

    pub(crate) fn address(&self) -> &ListenAddress {
        &self.address
    }

    fn listen_last(&self) -> Result<(), ListenError> {
        let Some((_, socket)) = self.sockets.last() else { return Ok(()) };
        net::listen(socket, self.address.backlog()).map_err(|error| refused(&self.address, error))
    }

    /// From the next connection on. The candidate gets so many of 1000; none of those to a unix socket.
    ///
    /// # Errors
    /// The kernel's or, of a unix socket, the file system's: clients are led where they were before then.
    pub(crate) fn steer(&self, live: Slot, candidate: Option<(Slot, u32)>) -> io::Result<()> {
        if let Place::Unix(path, _) = self.address.place() {
            return named::lead(path, live, candidate.map(|(slot, _)| slot));
        }
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

    /// A connection that the server in this slot gets, so that it is seen whether it accepts any. `candidate`: it is not
    /// live.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn knock(&self, slot: Slot, candidate: bool) -> io::Result<OwnedFd> {
        let to = match self.address.place() {
            Place::Unix(path, _) => return Ok(named::knock(path, slot)?),
            Place::Tcp(socket) => *socket,
        };
        let only_v6 = self.socket(slot).is_some_and(|socket| net::sockopt::ipv6_v6only(socket) == Ok(true));
        let to = match to.ip() {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if only_v6 => {
                SocketAddr::new(Ipv6Addr::LOCALHOST.into(), to.port())
            }
            ip if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port()),
            _ => to,
        };
        let (source, class) =
            if candidate { (PROBE_SOURCE, PROBE_TRAFFIC_CLASS) } else { (LIVE_SOURCE, LIVE_TRAFFIC_CLASS) };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, source) = match to {
            SocketAddr::V4(_) => (AddressFamily::INET, IpAddr::from(source)),
            SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::LOCALHOST.into()),
        };
        let stream = net::socket_with(family, SocketType::STREAM, flags, None)?;
        if to.is_ipv6() {
            net::sockopt::set_ipv6_tclass(&stream, class.into())?;
        }
        net::bind(&stream, &SocketAddr::new(source, 0))?;
        match net::connect(&stream, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(stream),
            Err(error) => Err(error.into()),
        }
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
            let (slot, _) = self.sockets.swap_remove(at);
            let _ = self.steer(live, None);
            self.forget(slot);
        }
        self.forget(live);
    }

    fn forget(&self, slot: Slot) {
        if let Place::Unix(path, _) = self.address.place() {
            named::forget(path, slot);
        }
    }
}

fn bind(address: &ListenAddress, place: SocketAddr, shared: bool) -> Result<OwnedFd, ListenError> {
    let family = match place {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let bound = || -> rustix::io::Result<OwnedFd> {
        let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        net::sockopt::set_socket_reuseaddr(&socket, true)?;
        net::sockopt::set_socket_reuseport(&socket, shared)?;
        net::sockopt::set_tcp_nodelay(&socket, address.low_latency())?;
        net::bind(&socket, &place)?;
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
mod tests;
