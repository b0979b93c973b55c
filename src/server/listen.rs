//! The port: on IPv4 and IPv6 at once, where the kernel has both.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt},
};

/// What waits to be accepted.
const BACKLOG: i32 = 1024;

/// Listens there. `[::]` is every address of both kinds; where the kernel has no IPv6, `0.0.0.0` instead.
///
/// # Errors
/// What the system says.
pub(crate) fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    match open(address) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
            if address.is_ipv6() && address.ip().is_unspecified() =>
        {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
    .map_err(io::Error::from)
}

fn open(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// The listening socket that the parent has given us in the place of the standard input.
pub(crate) fn inherited() -> Option<TcpListener> {
    let input = io::stdin();
    if !sockopt::socket_acceptconn(&input).unwrap_or(false) {
        return None;
    }
    let listener = TcpListener::from(input.as_fd().try_clone_to_owned().ok()?);
    listener.set_nonblocking(true).ok()?;
    Some(listener)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpStream};

    use super::*;

    #[test]
    fn the_unspecified_address_takes_connections_of_both_kinds() {
        let listener = listen_on((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        // A machine without IPv6 listens on IPv4 alone.
        if TcpListener::bind("[::1]:0").is_ok() {
            TcpStream::connect(("::1", port)).unwrap();
        }
    }
}
