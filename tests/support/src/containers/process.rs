//! The first process of a container, by a handle that no other process can take over.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// A process that runs, or has ended.
pub(super) struct Process {
    pub(super) pid: i32,
    /// The runtime's id of its container.
    pub(super) container: String,
    /// `None` when it had ended before anybody could take hold of it.
    handle: Option<OwnedFd>,
}

impl Process {
    pub(super) fn of(pid: i32, container: String) -> Self {
        let handle = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { pid, container, handle }
    }

    pub(super) fn ended(&self) -> bool {
        let Some(handle) = &self.handle else { return true };
        let mut fds = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// One that has ended hears nothing.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(handle) = &self.handle {
            let _ = pidfd_send_signal(handle, signal);
        }
    }
}
