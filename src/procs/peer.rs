//! Who holds the other end of a connection of ours: the kernel knows which process has accepted it.

use std::net::SocketAddr;

use procfs::{net::TcpNetEntry, process::Process as ProcDir};

use super::{ProcessId, socket_inode};

/// Who has accepted a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptor {
    /// Nobody yet, or it is closed.
    Nobody,
    /// This one.
    Process(ProcessId),
    /// None of those that were asked about, or more than one: a fork holds what its parent held.
    Another,
}

/// Which of these processes has accepted the connection from `ours` to `theirs`, as long as it is open.
pub fn acceptor(ours: SocketAddr, theirs: SocketAddr, among: &[i32]) -> Acceptor {
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
    let descriptors = ProcDir::new(pid).and_then(|dir| dir.fd());
    descriptors.into_iter().flatten().flatten().any(|fd| socket_inode(&fd) == Some(inode))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

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
}
