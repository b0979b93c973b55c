//! The pod's own network: loopback and the pod's address, and nobody else.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    process::Command,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::manifest::{Container, HttpGet};
use crate::http;

/// The pod's address, to which the kubelet's requests go.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

/// A pod's network namespace.
pub(super) struct Network(File);

impl Network {
    /// That of a process, with the pod's address in it.
    pub(super) fn of(pid: i32) -> Self {
        let path = format!("/proc/{pid}/ns/net");
        let mut ip = Command::new("nsenter");
        ip.arg(format!("--net={path}")).args(["ip", "address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]);
        assert!(ip.status().expect("nsenter is there").success(), "{ip:?}");
        Self(File::open(path).expect("the pod's network"))
    }

    /// Does something there, on a thread of its own. What it starts stays there.
    pub(super) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let there = || {
            let moved = move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network));
            moved.expect("the way into the pod's network");
            act()
        };
        thread::scope(|scope| scope.spawn(there).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The kubelet's request: a probe or a hook of this container's, which says so (`kube-probe`, `kube-lifecycle`).
    pub(super) fn ask(
        &self,
        container: &Container,
        what: &HttpGet,
        caller: &str,
        patience: Duration,
    ) -> std::io::Result<http::Answer> {
        let port = container.port(&what.port);
        let caller = format!("{caller}/1.33");
        let headers = what.http_headers.iter().map(|header| (header.name.as_str(), header.value.as_str()));
        let headers: Vec<_> = headers.chain([("User-Agent", caller.as_str())]).collect();
        self.get(port, &what.path, &headers, patience)
    }

    pub(super) fn get(
        &self,
        port: u16,
        path: &str,
        headers: &[(&str, &str)],
        patience: Duration,
    ) -> std::io::Result<http::Answer> {
        self.within(|| http::get_from(SocketAddr::from((ADDRESS, port)), path, headers, patience))
    }
}
