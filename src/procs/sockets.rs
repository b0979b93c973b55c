//! The sockets of processes. The kernel knows which process holds the other end of a connection of ours.

use std::{net::SocketAddr, path::PathBuf};

use procfs::{net::TcpNetEntry, process::Process as ProcDir};

use super::ProcessId;

/// The sockets that a process has open, by their inodes: what two processes share is the same.
pub(crate) fn sockets_of(pid: i32) -> Vec<u64> {
    let Ok(descriptors) = ProcDir::new(pid).and_then(|dir| dir.fd()) else { return Vec::new() };
    descriptors.flatten().filter_map(|fd| socket_inode(&fd)).collect()
}

fn socket_inode(fd: &procfs::process::FDInfo) -> Option<u64> {
    match fd.target {
        procfs::process::FDTarget::Socket(inode) => Some(inode),
        _ => None,
    }
}

/// The unix sockets that a process itself has bound, by the paths that it knows them by. Empty when it may
/// not be looked into.
pub(crate) fn unix_sockets(pid: i32) -> Vec<PathBuf> {
    let Ok(dir) = ProcDir::new(pid) else { return Vec::new() };
    let (Ok(descriptors), Ok(table)) = (dir.fd(), dir.unix()) else { return Vec::new() };
    let own: Vec<u64> = descriptors.flatten().filter_map(|fd| socket_inode(&fd)).collect();
    table.into_iter().filter(|entry| own.contains(&entry.inode)).filter_map(|entry| entry.path).collect()
}

/// Who has accepted a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acceptor {
    /// Nobody yet, or it is closed.
    Nobody,
    Process(ProcessId),
    /// None of those that were asked about, or more than one: a fork holds what its parent held.
    Another,
}

/// Which of these processes has accepted the connection from `ours` to `theirs`, as long as it is open.
pub(crate) fn acceptor(ours: SocketAddr, theirs: SocketAddr, among: &[i32]) -> Acceptor {
    let Some(inode) = accepted_socket(ours, theirs) else { return Acceptor::Nobody };
    let mut holders = among.iter().filter(|pid| holds(**pid, inode));
    let holder = holders.next().filter(|_| holders.next().is_none());
    holder.and_then(|pid| ProcessId::of(*pid).ok()).map_or(Acceptor::Another, Acceptor::Process)
}

fn accepted_socket(ours: SocketAddr, theirs: SocketAddr) -> Option<u64> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let mut entries = tables.into_iter().flatten().flatten();
    let is_it = |entry: &TcpNetEntry| {
        same(entry.local_address, theirs) && same(entry.remote_address, ours) && entry.inode != 0
    };
    entries.find(is_it).map(|entry| entry.inode)
}

/// A socket of IPv6 that serves IPv4 writes its addresses otherwise.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
}

fn holds(pid: i32, inode: u64) -> bool {
    sockets_of(pid).contains(&inode)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixListener,
    };

    use super::*;

    #[test]
    fn the_process_that_accepted_is_found_on_either_family_from_then_until_it_closes() {
        let us = i32::try_from(std::process::id()).unwrap();
        for address in ["127.0.0.1:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let ours = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let ends = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
            assert_eq!(acceptor(ends.0, ends.1, &[us]), Acceptor::Nobody, "{address}: not yet");
            let (accepted, _) = listener.accept().unwrap();
            let found = Acceptor::Process(ProcessId::of(us).unwrap());
            assert_eq!(acceptor(ends.0, ends.1, &[1, us]), found, "{address}");
            assert_eq!(acceptor(ends.0, ends.1, &[1]), Acceptor::Another, "{address}");
            drop(accepted);
            assert_eq!(acceptor(ends.0, ends.1, &[us]), Acceptor::Nobody, "{address}: closed");
        }
    }

    #[test]
    fn a_bound_socket_is_known_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("core_api");
        let listener = UnixListener::bind(&path).unwrap();
        let ours = std::process::id().try_into().unwrap();
        assert!(unix_sockets(ours).contains(&path));
        drop(listener);
        assert!(!unix_sockets(ours).contains(&path));
    }
}
