//! Listening unix sockets of the slots. The kernel steers no connections there, but a connection goes to the socket that
//! the path leads to in that moment. So each slot has a path of its own, and the public one is a further link to the live
//! server's: putting another link into its place is the switch.
//!
//! ```text
//!   puma.sock                  the live server's: clients
//!   puma.sock.pitstop-a, -b …  one for each slot
//!   puma.sock.pitstop-probe    the candidate's: the agent's probes
//! ```
//!
//! What waits in the queue of the earlier live server is accepted by that one.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, chmod},
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use super::Slot;

/// Where the agent's probes reach the candidate.
pub(crate) fn candidate_socket(path: &Path) -> PathBuf {
    beside(path, "probe")
}

fn of_slot(path: &Path, slot: Slot) -> PathBuf {
    beside(path, slot.name())
}

fn beside(path: &Path, name: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".pitstop-{name}"));
    beside.into()
}

/// A connection to this path. It is not waited for.
pub(super) fn connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The same to the server in this slot.
pub(super) fn knock(path: &Path, slot: Slot) -> rustix::io::Result<OwnedFd> {
    connect(&of_slot(path, slot))
}

/// Not listening yet. `mode`: who may connect, where that is said. What an earlier container has left goes.
pub(super) fn bind(path: &Path, mode: Option<u32>, slot: Slot) -> rustix::io::Result<OwnedFd> {
    let own = of_slot(path, slot);
    let _ = fs::remove_file(&own);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::bind(&socket, &SocketAddrUnix::new(&own)?)?;
    if let Some(mode) = mode {
        chmod(&own, Mode::from_raw_mode(mode))?;
    }
    Ok(socket)
}

/// Clients are led to the live server's from now on, and probes to the candidate's.
///
/// # Errors
/// The file system's; clients are led where they were before then.
pub(super) fn lead(path: &Path, live: Slot, candidate: Option<Slot>) -> io::Result<()> {
    let probes = candidate_socket(path);
    match candidate {
        Some(slot) => point(&probes, &of_slot(path, slot))?,
        // The next candidate takes a name that cannot be removed.
        None => drop(fs::remove_file(probes)),
    }
    point(path, &of_slot(path, live))
}

/// The name is never missing meanwhile.
fn point(name: &Path, to: &Path) -> io::Result<()> {
    let inode = |path: &Path| fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()));
    // Two links of one file are left alone by a rename.
    if inode(name).is_ok_and(|known| inode(to).is_ok_and(|other| other == known)) {
        return Ok(());
    }
    let new = beside(name, "new");
    let _ = fs::remove_file(&new);
    fs::hard_link(to, &new)?;
    fs::rename(&new, name)
}

/// The slot's own path goes. The public name stays as long as something may listen behind it.
pub(super) fn forget(path: &Path, slot: Slot) {
    let _ = fs::remove_file(of_slot(path, slot));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_stay_where_they_are_while_the_name_cannot_be_moved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("puma.sock");
        let _sockets = [Slot::A, Slot::B].map(|slot| bind(&path, None, slot).unwrap());
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let leads_to = |slot| inode(&path) == inode(&of_slot(&path, slot));
        lead(&path, Slot::A, Some(Slot::B)).unwrap();
        assert!(leads_to(Slot::A));
        let obstacle = beside(&path, "new");
        fs::create_dir_all(obstacle.join("not empty")).unwrap();
        lead(&path, Slot::B, None).unwrap_err();
        assert!(leads_to(Slot::A));
        lead(&path, Slot::A, None).unwrap();
        fs::remove_dir_all(obstacle).unwrap();
        lead(&path, Slot::B, None).unwrap();
        assert!(leads_to(Slot::B) && !candidate_socket(&path).exists());
    }
}
