//! Faults at each request that a command makes to its store: it is killed there, before or after the store has done what
//! it asks; the store fails, hangs, or loses its answer. Nobody lists the requests: they are counted until the command
//! ends without meeting the fault.

mod commands;
mod rollout;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use pitstop_rig::{Fault, S3Rig};

/// So many at a time: they wait most of the time.
const AT_ONCE: usize = 8;

/// What happens at a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The command is killed, and the store has not done it.
    KilledBefore,
    /// The command is killed, and the store has done it.
    KilledAfter,
    /// The store does it, and the answer is lost.
    AnswerLost,
    /// The store answers with an error, and with as many more as the command tries.
    Fails,
    /// The store does not answer this one.
    Hangs,
}

impl Trouble {
    const KILLS: [Self; 2] = [Self::KilledBefore, Self::KilledAfter];
    const FAILURES: [Self; 3] = [Self::AnswerLost, Self::Fails, Self::Hangs];

    fn kills(self) -> bool {
        Self::KILLS.contains(&self)
    }

    fn at(self, request: u32, s3: &S3Rig) {
        let (fault, times) = match self {
            Self::KilledBefore => (Fault::Silence, u32::MAX),
            Self::KilledAfter => (Fault::Unanswered, u32::MAX),
            Self::AnswerLost => (Fault::AnswerLost, 1),
            // So often as one is tried, and a few more.
            Self::Fails => (Fault::Answer(503, "SlowDown"), 6),
            Self::Hangs => (Fault::Silence, 1),
        };
        s3.fault(fault.after(request - 1).times(times));
    }
}

/// One of these troubles in turn at every `apart`-th request; with `RIG_EVERY` each of them at each request. `test` answers
/// whether it was met. Answers how often that was so.
fn at_each_request(troubles: &[Trouble], apart: u32, test: impl Fn(u32, Trouble) -> bool + Sync) -> u64 {
    let (turns, last, met) = (AtomicU32::new(0), AtomicU32::new(u32::MAX), AtomicU32::new(0));
    let every = std::env::var_os("RIG_EVERY").is_some();
    let work = || {
        loop {
            let turn = turns.fetch_add(1, Ordering::SeqCst);
            let request = 1 + turn * if every { 1 } else { apart };
            if request >= last.load(Ordering::SeqCst) {
                return;
            }
            let chosen = [troubles[turn as usize % troubles.len()]];
            for trouble in if every { troubles } else { &chosen } {
                if test(request, *trouble) {
                    met.fetch_add(1, Ordering::SeqCst);
                } else {
                    last.fetch_min(request, Ordering::SeqCst);
                }
            }
        }
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    u64::from(met.into_inner())
}

/// A server with what is in this directory.
fn served(store: &Path) -> S3Rig {
    let s3 = S3Rig::start();
    copy(store, &s3.objects());
    s3
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(name));
        } else if !name.as_encoded_bytes().starts_with(b".") {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// How it ended.
struct Ended {
    code: Option<i32>,
    said: String,
    /// The trouble was met.
    met: bool,
}

/// Runs it with this trouble; afterwards the store is well again.
fn run(mut command: Command, s3: &S3Rig, request: u32, trouble: Trouble) -> Ended {
    let before = s3.met();
    trouble.at(request, s3);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let met = || s3.met() > before;
    if trouble.kills() && until_ended_or(&mut child, met) {
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    s3.heal();
    let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
    Ended { code: output.status.code(), said, met: met() }
}

fn until_ended_or(child: &mut Child, met: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < 3 * pitstop_rig::PATIENCE {
        if met() {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    panic!("neither met nor at its end");
}
