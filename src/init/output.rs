//! What a server writes: it goes on to our own output, and its last lines are kept.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IsTerminal, PipeReader, Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

const LINES: usize = 100;
const LONGEST_LINE: usize = 500;
/// A line that is not ended goes on as it is after this.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const CHUNK: usize = 64 << 10;
const A_MOMENT: Duration = Duration::from_millis(2);

/// The last lines of one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits until all that the server wrote is here, once it has ended; for so long at most, since a process that it
    /// left behind may go on writing.
    pub(crate) fn wait_for_last(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while Arc::strong_count(&self.0) > 1 && Instant::now() < end {
            thread::sleep(A_MOMENT);
        }
    }

    fn add(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(&line[..line.len().min(LONGEST_LINE)]).into_owned();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Everybody's output.
#[derive(Debug)]
pub(crate) struct Outputs {
    /// Held by each thread until its server's output is over.
    busy: Sender<()>,
    over: Receiver<()>,
}

impl Outputs {
    pub(crate) fn new() -> Self {
        let (busy, over) = mpsc::channel();
        Self { busy, over }
    }

    /// The command is to write into pipes of ours. At a terminal it writes there itself.
    ///
    /// # Errors
    /// When there are no pipes or no threads to be had.
    pub(crate) fn take(&self, command: &mut Command) -> io::Result<Tail> {
        let tail = Tail::default();
        if io::stdout().is_terminal() || io::stderr().is_terminal() {
            return Ok(tail);
        }
        let (out, write_out) = io::pipe()?;
        let (err, write_err) = io::pipe()?;
        for (pipe, to) in [
            (out, io::stdout().as_fd().try_clone_to_owned()?),
            (err, io::stderr().as_fd().try_clone_to_owned()?),
        ] {
            let (tail, busy) = (tail.clone(), self.busy.clone());
            let copy = move || {
                copy(pipe, to, &tail);
                drop(busy);
            };
            thread::Builder::new().name("output".into()).spawn(copy)?;
        }
        command.stdout(Stdio::from(write_out)).stderr(Stdio::from(write_err));
        Ok(tail)
    }

    /// Waits until all that was written went on, for so long at most: a process that was left behind may hold it.
    pub(crate) fn finish(self, limit: Duration) {
        let Self { busy, over } = self;
        drop(busy);
        let _ = over.recv_timeout(limit);
    }
}

/// Whole lines where possible: another server writes to the same place.
fn copy(mut from: PipeReader, to: OwnedFd, tail: &Tail) {
    let mut to = File::from(to);
    let mut chunk = vec![0; CHUNK];
    let mut held: Vec<u8> = Vec::new();
    let mut line: Vec<u8> = Vec::new();
    loop {
        if !held.is_empty() && !has_more(&from) {
            write(&mut to, &mut held);
        }
        let read = match from.read(&mut chunk) {
            Ok(read) if read > 0 => &chunk[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            _ => break,
        };
        for byte in read {
            if *byte == b'\n' {
                tail.add(&line);
                line.clear();
            } else if line.len() < LONGEST_LINE {
                line.push(*byte);
            }
        }
        held.extend(read);
        let whole = held.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut rest = held.split_off(whole);
        write(&mut to, &mut held);
        std::mem::swap(&mut held, &mut rest);
        if held.len() > CHUNK {
            write(&mut to, &mut held);
        }
    }
    write(&mut to, &mut held);
    if !line.is_empty() {
        tail.add(&line);
    }
}

fn has_more(from: &PipeReader) -> bool {
    let mut fds = [PollFd::new(from, PollFlags::IN)];
    poll(&mut fds, Some(&PATIENCE)).is_ok_and(|ready| ready > 0)
}

/// Where nobody reads any more, it is lost: the server must not hang for that.
fn write(to: &mut File, bytes: &mut Vec<u8>) {
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(&*to, PollFlags::OUT)], Some(&PATIENCE));
            }
            Err(_) => break,
        }
    }
    bytes.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(writes: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
        let (from, mut into) = io::pipe().unwrap();
        let (mut out, to) = io::pipe().unwrap();
        let tail = Tail::default();
        let copying = thread::spawn({
            let tail = tail.clone();
            move || copy(from, to.into(), &tail)
        });
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            out.read_to_end(&mut all).unwrap();
            all
        });
        writes.iter().for_each(|bytes| into.write_all(bytes).unwrap());
        drop(into);
        copying.join().unwrap();
        (reading.join().unwrap(), tail.lines())
    }

    #[test]
    fn everything_goes_on_and_the_last_lines_are_kept() {
        let (all, tail) = copied(&[b"one\ntw", b"o\n", b"three"]);
        assert_eq!(all, b"one\ntwo\nthree");
        assert_eq!(tail, ["one", "two", "three"]);
    }

    #[test]
    fn the_last_lines_of_a_server_that_has_ended_are_waited_for() {
        let tail = Tail::default();
        let writes = tail.clone();
        let writing = thread::spawn(move || {
            thread::sleep(A_MOMENT * 10);
            writes.add(b"why it ended");
        });
        tail.wait_for_last(Duration::from_secs(60));
        assert_eq!(tail.lines(), ["why it ended"]);
        writing.join().unwrap();
        let _left_behind = tail.clone();
        tail.wait_for_last(A_MOMENT);
    }

    #[test]
    fn what_is_kept_has_a_limit_and_what_goes_on_has_none() {
        let long = [b'x'; 200_000];
        let numbers: String = (0..1_000).map(|n| format!("{n}\n")).collect();
        let (all, tail) = copied(&[&long, b"\n", numbers.as_bytes()]);
        assert_eq!(all.len(), long.len() + 1 + numbers.len());
        assert_eq!((tail.len(), tail.first().unwrap().as_str()), (LINES, "900"));
        let (_, tail) = copied(&[&long]);
        assert_eq!(tail[0].len(), LONGEST_LINE);
    }
}
