use std::path::PathBuf;

use procfs::process::Process as ProcDir;

use super::socket_inode;

/// The unix sockets that a process itself has bound, by the paths that it knows them by. Empty when it may
/// not be looked into.
pub fn unix_sockets(pid: i32) -> Vec<PathBuf> {
    let Ok(dir) = ProcDir::new(pid) else { return Vec::new() };
    let (Ok(descriptors), Ok(table)) = (dir.fd(), dir.unix()) else { return Vec::new() };
    let own: Vec<u64> = descriptors.flatten().filter_map(|fd| socket_inode(&fd)).collect();
    table.into_iter().filter(|entry| own.contains(&entry.inode)).filter_map(|entry| entry.path).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

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
