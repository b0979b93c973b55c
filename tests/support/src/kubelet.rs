use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{PumaRig, poll};

/// Between SIGTERM after an overrun grace period and SIGKILL.
pub(crate) const LEAST_GRACE: Duration = Duration::from_secs(2);
/// Between the hook's end and SIGTERM.
pub(crate) const BEFORE_TERM: Duration = Duration::from_millis(20);

/// What the container's preStop hook is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `httpGet` to this port of the pod.
    HttpGet(u16),
    /// `sleep`.
    Sleep(Duration),
    /// There is none.
    None,
}

/// How a container ended; times are since the pod's deletion.
#[derive(Debug, Clone)]
pub struct End {
    /// When the pod was deleted.
    pub deleted: Instant,
    /// SIGTERM came.
    pub term: Duration,
    /// The container's first process was gone.
    pub gone: Duration,
    /// By SIGKILL.
    pub killed: bool,
    /// What the hook was answered; `None` when there is no such hook, nobody answered, or the grace period
    /// was over before.
    pub answer: Option<Value>,
}

/// Ends Puma's container as a kubelet 1.33 was seen to do it: the hook, SIGTERM on its answer, refusal
/// or expiry, SIGKILL when the grace period is over, but not sooner than 2 s after SIGTERM.
///
/// # Panics
/// When Puma was not started, or outlives SIGKILL.
pub fn end(puma: &mut PumaRig, hook: Hook, grace_period: Duration) -> End {
    let deleted = Instant::now();
    let container = puma.container();
    container.keep_ended();
    let answer = call(hook, grace_period);
    thread::sleep(BEFORE_TERM);
    let term = deleted.elapsed();
    signal(container.pid(), Signal::TERM);
    let patience = grace_period.saturating_sub(term).max(LEAST_GRACE);
    let by_itself = poll(patience, || container.ended().then_some(())).is_some();
    if !by_itself {
        signal(container.pid(), Signal::KILL);
        crate::until("the container's end after SIGKILL", || container.ended().then_some(()));
    }
    End { deleted, term, gone: deleted.elapsed(), killed: !by_itself, answer }
}

fn signal(pid: Option<i32>, signal: Signal) {
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn call(hook: Hook, grace_period: Duration) -> Option<Value> {
    match hook {
        Hook::HttpGet(port) => get(port, grace_period).ok(),
        Hook::Sleep(time) => {
            poll(time.min(grace_period), || None::<()>);
            None
        }
        Hook::None => None,
    }
}

/// The kubelet sets no time-out but the grace period, and follows nothing.
fn get(port: u16, within: Duration) -> io::Result<Value> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let request = "GET /prestop HTTP/1.1\r\nHost: pod\r\nUser-Agent: kube-lifecycle/1.33\r\n\
                   Authorization: Bearer of-no-use\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut raw = Vec::new();
    while let Some(left) = within.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer)? {
            0 => break,
            len => raw.extend(&buffer[..len]),
        }
    }
    let text = String::from_utf8_lossy(&raw).into_owned();
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).map_err(io::Error::other)
}
