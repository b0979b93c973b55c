//! An address that servers listen on, as Puma's `bind` writes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What Puma takes when nothing is said.
const BACKLOG: i32 = 1024;

/// `tcp://0.0.0.0:3000`, `tcp://[::]:3000?backlog=512`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ListenAddress {
    /// To the letter: a Puma takes a socket only under the name that its own configuration has.
    text: String,
    socket: SocketAddr,
    backlog: i32,
    low_latency: bool,
}

impl ListenAddress {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn socket(&self) -> SocketAddr {
        self.socket
    }

    /// How many connections may wait.
    pub(crate) fn backlog(&self) -> i32 {
        self.backlog
    }

    /// Small answers are sent at once (TCP_NODELAY).
    pub(crate) fn low_latency(&self) -> bool {
        self.low_latency
    }

    /// The names by which a Puma may know this socket, the one that was given first; never only one.
    pub(crate) fn names(&self) -> Vec<String> {
        let (bare, port) = (self.text.split('?').next().unwrap_or(&self.text), self.socket.port());
        let mut names = vec![self.text.clone(), bare.to_owned()];
        match self.socket.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => names.push(format!("tcp://[::]:{port}")),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => names.push(format!("tcp://0.0.0.0:{port}")),
            ip if ip.is_loopback() => {
                names.extend([format!("tcp://{}", self.socket), format!("tcp://localhost:{port}")])
            }
            _ => names.push(format!("{bare}?backlog={BACKLOG}")),
        }
        let mut known = Vec::new();
        names.retain(|name| {
            !known.contains(name) && {
                known.push(name.clone());
                true
            }
        });
        names
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |why: &str| format!("\"{text}\" {why}: expected tcp://IP:PORT, like tcp://0.0.0.0:3000");
        let rest = text.strip_prefix("tcp://").ok_or_else(|| wrong("is not a TCP address"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let place = place.replacen("localhost:", "127.0.0.1:", 1);
        let socket: SocketAddr = place.parse().map_err(|_| wrong("has no IP address and port"))?;
        if socket.port() == 0 {
            return Err(wrong("has no port"));
        }
        let value = |key: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
        };
        let backlog = value("backlog").map_or(Some(BACKLOG), |text| text.parse().ok().filter(|n| *n > 0));
        let backlog = backlog.ok_or_else(|| wrong("has a backlog that is not a number"))?;
        let low_latency = value("low_latency").is_some_and(|text| text != "false");
        Ok(Self { text, socket, backlog, low_latency })
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<ListenAddress, String> {
        ListenAddress::try_from(text.to_owned())
    }

    #[test]
    fn an_address_is_what_puma_binds() {
        let address = parsed("tcp://[::]:3000?backlog=7&low_latency=true").unwrap();
        assert_eq!(address.socket(), "[::]:3000".parse().unwrap());
        assert_eq!((address.backlog(), address.low_latency()), (7, true));
        assert_eq!(parsed("tcp://localhost:3000").unwrap().socket(), "127.0.0.1:3000".parse().unwrap());
        let plain = parsed("tcp://0.0.0.0:3000").unwrap();
        assert_eq!((plain.backlog(), plain.low_latency()), (1024, false));
    }

    #[test]
    fn what_two_servers_cannot_share_is_refused_with_an_example() {
        for text in [
            "unix:///run/puma.sock",
            "ssl://0.0.0.0:3000",
            "0.0.0.0:3000",
            "tcp://shop:3000",
            "tcp://0.0.0.0",
            "tcp://0.0.0.0:0",
            "tcp://0.0.0.0:1?backlog=x",
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(text) && error.contains("tcp://0.0.0.0:3000"), "{error}");
        }
    }

    #[test]
    fn a_socket_has_several_names_and_the_given_one_first() {
        let names = |text: &str| parsed(text).unwrap().names();
        assert_eq!(names("tcp://0.0.0.0:3000"), ["tcp://0.0.0.0:3000", "tcp://[::]:3000"]);
        assert_eq!(
            names("tcp://[::]:3000?backlog=5"),
            ["tcp://[::]:3000?backlog=5", "tcp://[::]:3000", "tcp://0.0.0.0:3000"]
        );
        assert_eq!(names("tcp://127.0.0.1:3000"), ["tcp://127.0.0.1:3000", "tcp://localhost:3000"]);
        assert_eq!(names("tcp://localhost:80"), ["tcp://localhost:80", "tcp://127.0.0.1:80"]);
        assert_eq!(names("tcp://10.0.0.7:80"), ["tcp://10.0.0.7:80", "tcp://10.0.0.7:80?backlog=1024"]);
    }
}
