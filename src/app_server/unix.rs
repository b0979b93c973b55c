//! Sockets of another container's file system.

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

/// Connects, ready for asynchronous use. A socket's address has room for 107 bytes; through a short name of
/// its directory any path fits.
///
/// # Errors
/// When nobody listens there, or we may not connect.
pub(super) fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let stream = UnixStream::connect(short)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
