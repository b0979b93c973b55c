use std::io;

use procfs::ProcError;

/// Why a process could not be looked into or signalled.
#[derive(Debug, thiserror::Error)]
pub enum ProcsError {
    /// It is gone, or a zombie.
    #[error("process {0} is gone")]
    Gone(i32),
    /// The kernel does not let us.
    #[error("process {0} belongs to somebody else: run the agent as the same user")]
    NotPermitted(i32),
    /// It changed while it was looked at, as in an exec. Worth another look.
    #[error("process {0} changed while it was looked at")]
    Torn(i32),
    /// The pid is alive, but it is not the image that was meant.
    #[error("process {0} is another image than the one meant")]
    AnotherImage(i32),
    /// It may be looked into, and a signal is refused all the same.
    #[error(
        "the kernel refuses to deliver a signal to process {pid} ({errno}): the user is the same, so a security \
         profile (AppArmor, SELinux, seccomp) of one of the two containers forbids it. Give both containers the same \
         profile, or allow the signal in it"
    )]
    SignalDenied {
        /// Whom it was for.
        pid: i32,
        /// What the kernel said, by its name.
        errno: &'static str,
    },
    /// Nobody may ever signal this one: pid 1, or the agent itself.
    #[error("process {0} must never be signalled")]
    OffLimits(i32),
    /// Anything else.
    #[error("reading /proc/{pid}: {source}")]
    Io {
        /// Which process.
        pid: i32,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ProcsError {
    pub(super) fn of(pid: i32, error: ProcError) -> Self {
        match error {
            ProcError::PermissionDenied(_) => Self::NotPermitted(pid),
            ProcError::NotFound(_) => Self::Gone(pid),
            ProcError::Io(source, _) => Self::io(pid, source),
            ProcError::Incomplete(_) | ProcError::Other(_) | ProcError::InternalError(_) => Self::Torn(pid),
        }
    }

    pub(super) fn io(pid: i32, source: io::Error) -> Self {
        const NO_SUCH_PROCESS: i32 = 3;
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted(pid),
            io::ErrorKind::NotFound => Self::Gone(pid),
            _ if source.raw_os_error() == Some(NO_SUCH_PROCESS) => Self::Gone(pid),
            _ => Self::Io { pid, source },
        }
    }
}
