//! Work that branches out, done by several threads: over a network each operation takes a round trip.

use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard},
    thread::{Builder, scope},
};

/// Does these jobs and those that they answer, the last one first. The first error ends it.
///
/// # Errors
/// That error.
pub(super) fn in_parallel<J: Send>(
    threads: usize,
    jobs: Vec<J>,
    work: &(dyn Fn(J) -> io::Result<Vec<J>> + Sync),
) -> io::Result<()> {
    let shared = Shared { state: Mutex::new(State { jobs, busy: 0, failed: None }), changed: Condvar::new() };
    scope(|scope| {
        for _ in 1..threads {
            // Where the system has no thread left, the work is done with those that there are.
            let _ = Builder::new().spawn_scoped(scope, || shared.run(work));
        }
        shared.run(work);
    });
    let state = shared.state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    state.failed.map_or(Ok(()), Err)
}

struct Shared<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    jobs: Vec<J>,
    busy: usize,
    failed: Option<io::Error>,
}

impl<J> Shared<J> {
    fn run(&self, work: &(dyn Fn(J) -> io::Result<Vec<J>> + Sync)) {
        while let Some(job) = self.next() {
            let done = work(job);
            let mut state = self.locked();
            state.busy -= 1;
            match done {
                Ok(jobs) => state.jobs.extend(jobs),
                Err(error) => drop(state.failed.get_or_insert(error)),
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits for a job; `None` when there will be none.
    fn next(&self) -> Option<J> {
        let mut state = self.locked();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                state.busy += 1;
                return Some(job);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn locked(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn all_that_branches_out_is_done_once_and_an_error_ends_it() {
        let done = AtomicU32::new(0);
        let branch = |depth: u32| {
            done.fetch_add(1, Ordering::SeqCst);
            Ok(vec![depth.saturating_sub(1); if depth > 0 { 3 } else { 0 }])
        };
        in_parallel(8, vec![5], &branch).unwrap();
        assert_eq!(done.into_inner(), (0..=5).map(|depth| 3_u32.pow(depth)).sum::<u32>());
        let fail = |n: u32| if n == 3 { Err(io::Error::other("three")) } else { Ok(vec![n + 1]) };
        assert_eq!(in_parallel(2, vec![0], &fail).unwrap_err().to_string(), "three");
    }
}
