//! The end of what a command says.

use std::{
    collections::VecDeque,
    io::{self, PipeReader, Read},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// How often it is looked whether the command still may go on.
const STEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// So much of what it says is kept: the end of it.
const KEPT: usize = 16 * 1024;
/// So much of that goes into a message.
const LINES_IN_MESSAGE: usize = 5;
const CHARS_IN_MESSAGE: usize = 1_000;

/// Where it is heard.
pub(super) struct Output {
    /// `None` once everybody has closed it.
    pipe: Option<PipeReader>,
    /// Tells at once when the command has ended.
    process: Option<OwnedFd>,
    kept: VecDeque<u8>,
}

impl Output {
    pub(crate) fn of(pipe: PipeReader, process: Pid) -> Self {
        let process = pidfd_open(process, PidfdFlags::empty()).ok();
        Self { pipe: Some(pipe), process, kept: VecDeque::new() }
    }

    /// Until something is said, or the command has ended; for a moment at most.
    pub(crate) fn wait(&mut self) {
        let heard = self.pipe.as_ref().map(AsFd::as_fd);
        let ended = self.process.as_ref().map(AsFd::as_fd);
        let mut both: Vec<_> =
            heard.into_iter().chain(ended).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let _ = poll(&mut both, Some(&STEP));
        self.read();
    }

    /// What is there now. Who talks without end must not keep us here.
    fn read(&mut self) {
        let mut piece = [0; 4096];
        for _ in 0..64 {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut piece) {
                Ok(0) => self.pipe = None,
                Ok(n) => self.keep(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        self.kept.extend(piece);
        self.kept.drain(..self.kept.len().saturating_sub(KEPT));
    }

    /// All that is kept, with what it said last.
    pub(crate) fn text(mut self) -> String {
        self.read();
        String::from_utf8_lossy(self.kept.make_contiguous()).trim().to_owned()
    }
}

/// The last lines, on one line. Ruby says what is wrong first, and then where: that is in the log.
pub(super) fn shown(output: &str) -> String {
    let says = |line: &&str| !line.is_empty() && !line.starts_with("from ");
    let lines: Vec<&str> = output.lines().map(str::trim).filter(says).collect();
    let last = lines[lines.len().saturating_sub(LINES_IN_MESSAGE)..].join(" | ");
    if last.is_empty() {
        return String::new();
    }
    let skip = last.chars().count().saturating_sub(CHARS_IN_MESSAGE);
    let dots = if skip > 0 { "…" } else { "" };
    format!(": {dots}{}", last.chars().skip(skip).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_last_lines_and_of_a_backtrace_what_is_wrong() {
        assert_eq!(shown("1\n2\n3\n4\n\n5\n6\n"), ": 2 | 3 | 4 | 5 | 6");
        let raising = "a.rb:2:in `x': boom (RuntimeError)\n\tfrom a.rb:9:in `y'\n\tfrom -e:1:in `<main>'\n";
        assert_eq!(shown(raising), ": a.rb:2:in `x': boom (RuntimeError)");
        assert_eq!(shown(" \n"), "");
    }
}
