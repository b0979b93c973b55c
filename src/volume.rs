//! Work on the volume, which may hang: each lane is one thread of its own, so that a hanging
//! network file system blocks nothing but its lane.

use std::{sync::mpsc, time::Duration};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// One thread that works on the volume, one job after another.
#[derive(Clone, Debug)]
pub struct Lane {
    jobs: mpsc::Sender<Job>,
}

/// A job that did not report in time. It is not cancelled (nothing can cancel a hanging system call).
#[derive(Debug)]
pub enum Late<T> {
    /// It goes on; its result arrives here.
    Pending(oneshot::Receiver<T>),
    /// It panicked, or its thread is gone.
    Lost,
}

impl Lane {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(name: &str) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            for job in queue {
                // A panicking job drops its reply, which its caller sees as `Lost`; the lane lives on.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            }
        })?;
        Ok(Self { jobs })
    }

    /// Runs a job; waits for at most `limit`, the wait behind earlier jobs included.
    ///
    /// # Errors
    /// [`Late`] when it has not reported by then.
    pub async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late<T>> {
        let (reply, mut answer) = oneshot::channel();
        let job = Box::new(move || {
            let _ = reply.send(job());
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
}
