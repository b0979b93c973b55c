//! Threads for work that may hang: on a network file system, or on another process. A lane is one thread that does one
//! job after another, so that what hangs holds up nothing but its lane.
//!
//! Who asks waits for at most the limit of the call, the wait behind earlier jobs included. After that the job goes on:
//! no system call can be cancelled. What becomes of its result, the caller decides ([`Late`]). A lane that may be asked
//! again and again while a job hangs has a bound on how many jobs it takes ([`Lane::bounded`]), so that nothing piles up.
//!
//! Code that blocks and needs the asynchronous store goes the other way: see [`crate::store::Blocking`].

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// One thread that does one job after another.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    jobs: mpsc::Sender<Job>,
    unfinished: Arc<AtomicUsize>,
    at_most: usize,
}

/// Why there is no result yet, or none at all.
#[derive(Debug)]
pub(crate) enum Late<T> {
    /// The job has not reported within the limit. It goes on; its result arrives here.
    Pending(oneshot::Receiver<T>),
    /// The job was not taken: too many are unfinished.
    Refused,
    /// The job panicked, or its thread is gone.
    Lost,
}

impl Lane {
    /// Starts a thread that takes any number of jobs.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        Self::bounded(name, usize::MAX)
    }

    /// Starts a thread that refuses a job while so many others are unfinished.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn bounded(name: &str, at_most: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            for job in queue {
                // A panicking job drops its reply, which its caller sees as `Lost`; the lane lives on.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            }
        })?;
        Ok(Self { jobs, unfinished: Arc::default(), at_most })
    }

    /// Starts a thread for looks: while one hangs, no second one is taken.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn one_at_a_time(name: &str) -> io::Result<Self> {
        Self::bounded(name, 1)
    }

    /// Runs a job, and waits for its result for at most `limit`. What the job logs belongs to the caller's span, so that
    /// one deploy can be followed on all threads.
    ///
    /// # Errors
    /// [`Late`] when there is no result by then.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late<T>> {
        let others = self.unfinished.fetch_add(1, Ordering::SeqCst);
        let unfinished = Unfinished(self.unfinished.clone());
        if others >= self.at_most {
            return Err(Late::Refused);
        }
        let (reply, mut answer) = oneshot::channel();
        let span = tracing::Span::current();
        let job = Box::new(move || {
            let result = {
                let _unfinished = unfinished;
                span.in_scope(job)
            };
            let _ = reply.send(result);
        });
        if self.jobs.send(job).is_err() {
            return Err(Late::Lost);
        }
        match tokio::time::timeout(limit, &mut answer).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Late::Lost),
            Err(_) => Err(Late::Pending(answer)),
        }
    }

    /// The same for a look, which may be skipped: `None` without a result in time.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.run(limit, job).await.ok()
    }
}

/// Counts a job until it has ended, in a panic as well, or is never run.
struct Unfinished(Arc<AtomicUsize>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_works_in_the_span_of_who_asked_for_it() {
        use tracing::Instrument;
        // For the whole process: the lane's thread has to see it as well.
        tracing_subscriber::fmt().init();
        let lane = Lane::start("test").unwrap();
        let span = tracing::info_span!("deploy");
        let id = || tracing::Span::current().id();
        let inside = lane.run(Duration::from_secs(10), id).instrument(span.clone()).await.unwrap();
        assert!(inside.is_some() && inside == span.id());
        assert_eq!(lane.run(Duration::from_secs(10), id).await.unwrap(), None, "and only that job");
    }

    #[tokio::test]
    async fn a_hanging_look_is_not_joined_by_a_second_one() {
        let lane = Lane::one_at_a_time("test").unwrap();
        let (release, hang) = mpsc::channel::<()>();
        let Err(Late::Pending(first)) = lane.run(Duration::from_millis(1), move || hang.recv().is_ok()).await
        else {
            panic!("it hangs")
        };
        assert_eq!(lane.look(Duration::from_secs(10), || 1).await, None, "the first still hangs");
        release.send(()).unwrap();
        assert!(first.await.unwrap());
        assert_eq!(lane.look(Duration::from_secs(10), || 2).await, Some(2));
    }

    #[tokio::test]
    async fn a_job_that_panics_is_lost_and_counts_no_more() {
        let lane = Lane::one_at_a_time("test").unwrap();
        let lost = lane.run(Duration::from_secs(10), || panic!("a defect")).await;
        assert!(matches!(lost, Err(Late::<()>::Lost)));
        assert_eq!(lane.look(Duration::from_secs(10), || 2).await, Some(2));
    }
}
