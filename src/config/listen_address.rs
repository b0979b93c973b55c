//! An address that servers listen on, as Puma's `bind` writes it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// What Puma takes when nothing is said.
const BACKLOG: i32 = 1024;
/// A socket's address has room for 107 bytes, and the agent's probes reach a candidate at `PATH.pitstop-probe`.
const LONGEST_PATH: usize = 93;

/// `tcp://0.0.0.0:3000`, `tcp://[::]:3000?backlog=512`, `unix:///run/app/puma.sock?umask=0111`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ListenAddress {
    /// To the letter: a Puma takes a socket only under the name that its own configuration has.
    text: String,
    place: Place,
    backlog: i32,
    low_latency: bool,
}

/// Where clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    /// A socket's path, and who may connect where that is said.
    Unix(PathBuf, Option<u32>),
}

impl ListenAddress {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// What no two addresses have in common.
    pub(crate) fn key(&self) -> String {
        match &self.place {
            Place::Tcp(socket) => socket.port().to_string(),
            Place::Unix(path, _) => path.display().to_string(),
        }
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
        let socket = match &self.place {
            Place::Tcp(socket) => socket,
            // A Puma deletes the path of a unix socket that it has no use for, so there is one such name alone.
            Place::Unix(path, _) => {
                return vec![self.text.clone(), format!("tcp://unused{}", path.display())];
            }
        };
        let (bare, port) = (self.text.split('?').next().unwrap_or(&self.text), socket.port());
        let mut names = vec![self.text.clone(), bare.to_owned()];
        match socket.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => names.push(format!("tcp://[::]:{port}")),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => names.push(format!("tcp://0.0.0.0:{port}")),
            ip if ip.is_loopback() => {
                names.extend([format!("tcp://{socket}"), format!("tcp://localhost:{port}")])
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
        let wrong = |why: &str| {
            format!("\"{text}\" {why}: expected tcp://IP:PORT, like tcp://0.0.0.0:3000, or unix:///PATH")
        };
        let (bare, query) = text.split_once('?').unwrap_or((&text, ""));
        let value = |key: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
        };
        let octal = |key: &str| match value(key) {
            Some(text) => u32::from_str_radix(text, 8)
                .map(|mode| Some(mode & 0o777))
                .map_err(|_| wrong(&format!("has a {key} that is not an octal number"))),
            None => Ok(None),
        };
        let place = if let Some(path) = bare.strip_prefix("unix://") {
            if !path.starts_with('/') || path.ends_with('/') {
                return Err(wrong("has no absolute path to a socket"));
            }
            if path.len() > LONGEST_PATH {
                return Err(format!(
                    "\"{text}\" has a path of {} bytes: use at most {LONGEST_PATH}, since the sockets of two servers \
                     get longer names beside it, and the kernel takes 107",
                    path.len()
                ));
            }
            let (umask, mode) = (octal("umask")?, octal("mode")?);
            Place::Unix(Path::new(path).to_owned(), mode.or(umask.map(|umask| 0o777 & !umask)))
        } else {
            let place =
                bare.strip_prefix("tcp://").ok_or_else(|| wrong("starts with neither tcp:// nor unix://"))?;
            let place = place.replacen("localhost:", "127.0.0.1:", 1);
            let socket: SocketAddr = place.parse().map_err(|_| wrong("has no IP address and port"))?;
            if socket.port() == 0 {
                return Err(wrong("has no port"));
            }
            Place::Tcp(socket)
        };
        let backlog = value("backlog").map_or(Some(BACKLOG), |text| text.parse().ok().filter(|n| *n > 0));
        let backlog = backlog.ok_or_else(|| wrong("has a backlog that is not a number"))?;
        let low_latency = value("low_latency").is_some_and(|text| text != "false");
        Ok(Self { place, backlog, low_latency, text })
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
        let tcp = |socket: &str| Place::Tcp(socket.parse().unwrap());
        assert_eq!(*address.place(), tcp("[::]:3000"));
        assert_eq!((address.backlog(), address.low_latency()), (7, true));
        assert_eq!(*parsed("tcp://localhost:3000").unwrap().place(), tcp("127.0.0.1:3000"));
        let plain = parsed("tcp://0.0.0.0:3000").unwrap();
        assert_eq!((plain.backlog(), plain.low_latency()), (1024, false));
        let unix = |text: &str| parsed(text).unwrap().place().clone();
        let socket = |mode| Place::Unix("/run/puma.sock".into(), mode);
        assert_eq!(unix("unix:///run/puma.sock?backlog=9"), socket(None));
        assert_eq!(unix("unix:///run/puma.sock?umask=0111"), socket(Some(0o666)));
        assert_eq!(unix("unix:///run/puma.sock?umask=0111&mode=0600"), socket(Some(0o600)));
    }

    #[test]
    fn what_two_servers_cannot_share_is_refused_with_an_example() {
        for text in [
            "unix://run/puma.sock",
            "unix://@puma",
            "unix:///run/puma.sock?umask=9",
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
    fn a_path_that_leaves_no_room_for_the_names_beside_it_is_refused() {
        let longest = |bytes: usize| format!("unix:///{}?umask=0111", "p".repeat(bytes - 1));
        assert!(parsed(&longest(LONGEST_PATH)).is_ok());
        let error = parsed(&longest(LONGEST_PATH + 1)).unwrap_err();
        assert!(error.contains("94 bytes") && error.contains("at most 93"), "{error}");
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
        assert_eq!(
            names("unix:///run/puma.sock?umask=0"),
            ["unix:///run/puma.sock?umask=0", "tcp://unused/run/puma.sock"]
        );
        assert_eq!(names("tcp://10.0.0.7:80"), ["tcp://10.0.0.7:80", "tcp://10.0.0.7:80?backlog=1024"]);
    }
}
