//! The sockets of processes. The kernel knows which process holds the other end of a connection of ours.

use std::path::PathBuf;

use procfs::process::Process as ProcDir;

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
    Process(ProcessId),
    /// None of those that were asked about, or more than one: a fork holds what its parent held.
    Another,
}

/// Which of these processes has the socket with this inode.
pub(crate) fn acceptor(inode: u64, among: &[i32]) -> Acceptor {
    let mut holders = among.iter().filter(|pid| holds(**pid, inode));
    let holder = holders.next().filter(|_| holders.next().is_none());
    holder.and_then(|pid| ProcessId::of(*pid).ok()).map_or(Acceptor::Another, Acceptor::Process)
}

fn holds(pid: i32, inode: u64) -> bool {
    sockets_of(pid).contains(&inode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn of_some_processes_the_one_that_has_a_socket_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let us = i32::try_from(std::process::id()).unwrap();
        assert_eq!(acceptor(inode, &[1, us]), Acceptor::Process(ProcessId::of(us).unwrap()));
        assert_eq!(acceptor(inode, &[1]), Acceptor::Another);
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
