//! How a command ends.

use std::fmt;

use crate::{
    config::ConfigError,
    core::{Problem, Reason},
};

/// How a command ends when nothing went wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: not done, and the output says why (`status` out of sync, `doctor` found something broken, …).
    Failed,
    /// 2: the pointer was moved, and pods rejected that and went back.
    TakenBack,
    /// 3: the pointer was moved, and the pods have not all arrived in time.
    TimedOut,
    /// 4: somebody else moved the pointer.
    Lost,
    /// What `exec` ran ended like this.
    Code(u8),
}

impl Exit {
    /// The program's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::TakenBack => 2,
            Self::TimedOut => 3,
            Self::Lost => 4,
            Self::Code(code) => code,
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    /// 1: failed; 4: somebody else was faster, or it is frozen; 64: usage or configuration.
    pub exit_code: u8,
    /// The code, where the contract has one.
    pub reason: Option<Reason>,
    /// What failed, on which path or key, and what to do.
    pub message: String,
}

impl Failure {
    /// It could not work as asked: exit code 64.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit_code: 64, reason: None, message: message.into() }
    }

    /// Somebody else moved the pointer, or froze it: exit code 4.
    pub(crate) fn lost(message: impl Into<String>) -> Self {
        Self { exit_code: 4, reason: None, message: message.into() }
    }

    /// It was tried and failed: exit code 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { exit_code: 1, reason: None, message: message.into() }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { exit_code: 1, reason: Some(problem.reason), message: problem.message }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { exit_code: 64, reason: Some(Reason::ConfigInvalid), message: error.to_string() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Some(reason) => write!(f, "{} ({reason})", self.message),
            None => f.write_str(&self.message),
        }
    }
}
