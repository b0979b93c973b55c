//! Files at places that somebody else may write: what lies there may be a pipe or a device that never answers,
//! or have no end. What is opened here is a regular file, and what is read has a limit.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::{fs::OFlags, io::Errno};

/// What no open waits with, for anybody.
pub(crate) const FLAGS: OFlags = OFlags::NONBLOCK.union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Opens it for reading, at once. A link is followed.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when it is no regular file; else what the system says.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_with(path, FLAGS)
}

/// The same, but no link at the end of the path is followed: it may lead to any file that we can read.
///
/// # Errors
/// As [`open`]; `ELOOP` for a link.
pub(crate) fn open_no_link(path: &Path) -> io::Result<File> {
    open_with(path, FLAGS | OFlags::NOFOLLOW)
}

fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    only(OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path))
}

/// The file, if it is a regular one.
pub(crate) fn only(opened: io::Result<File>) -> io::Result<File> {
    let other = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    match opened {
        // A socket; or a pipe that nobody reads.
        Err(e) if Errno::from_io_error(&e) == Some(Errno::NXIO) => Err(other()),
        Ok(file) if !file.metadata()?.is_file() => Err(other()),
        opened => opened,
    }
}

/// Reads all of it, up to `limit_bytes`.
///
/// # Errors
/// As [`open`]; [`io::ErrorKind::FileTooLarge`] when there is more than the limit.
pub(crate) fn read(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    read_all(open(path)?, limit_bytes)
}

/// The same of a file that is open.
pub(crate) fn read_all(file: File, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read <= limit_bytes) {
        Ok(bytes)
    } else {
        let message = format!("larger than {limit_bytes} bytes");
        Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
    }
}

/// As [`read`], for text.
///
/// # Errors
/// As [`read`]; [`io::ErrorKind::InvalidData`] when it is not UTF-8.
pub(crate) fn read_to_string(path: &Path, limit_bytes: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit_bytes)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_a_device_and_a_file_without_end_are_refused_at_once() {
        let place = tempfile::tempdir().unwrap();
        let pipe = place.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&pipe, 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(read(Path::new("/dev/zero"), 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let sparse = place.path().join("sparse");
        File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&sparse, 1 << 20).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        std::fs::write(&sparse, "ten  bytes").unwrap();
        assert_eq!(read(&sparse, 10).unwrap(), b"ten  bytes");
        assert_eq!(read(&sparse, 9).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
