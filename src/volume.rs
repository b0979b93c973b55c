//! Work on the volume, which may hang: each lane is one thread of its own, so that a hanging
//! network file system blocks nothing but its lane.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

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

    /// Runs a job; waits for at most `limit`, the wait behind earlier jobs included. What the job logs
    /// belongs to the caller's span, so that one deploy can be followed on all threads.
    ///
    /// # Errors
    /// [`Late`] when it has not reported by then.
    pub async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late<T>> {
        let (reply, mut answer) = oneshot::channel();
        let span = tracing::Span::current();
        let job = Box::new(move || {
            let _ = reply.send(span.in_scope(job));
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

/// A lane for looks that may be skipped: it takes no second job while the first has not reported, so
/// that looking at a hanging volume again and again piles nothing up.
#[derive(Clone, Debug)]
pub struct OneAtATime {
    lane: Lane,
    busy: Arc<AtomicBool>,
}

impl OneAtATime {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(name: &str) -> std::io::Result<Self> {
        Ok(Self { lane: Lane::start(name)?, busy: Arc::default() })
    }

    /// Runs a job; `None` when it has not reported within `limit`, or an earlier one still has not.
    pub async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.busy.swap(true, Ordering::SeqCst) {
            return None;
        }
        let busy = Busy(self.busy.clone());
        let job = move || {
            let _busy = busy;
            job()
        };
        self.lane.run(limit, job).await.ok()
    }
}

/// Ends being busy also when the job panics or is never run.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Whether the path is on a network file system.
pub fn is_networked(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| is_network(stat.f_type))
}

/// NFS (EFS too), CIFS and SMB, Ceph, Lustre, GPFS, 9p, FUSE: by their numbers in `statfs`.
fn is_network(kind: rustix::fs::FsWord) -> bool {
    const KINDS: [u32; 8] =
        [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400, 0x0bd0_0bd0, 0x4750_4653, 0x0102_1997, 0x6573_5546];
    KINDS.contains(&(kind as u32))
}

/// Says that the volume of the path is full, and what is left of it.
pub fn full(path: &Path) -> String {
    says(path, "is full")
}

/// Says this of the volume of the path, with what is left of it.
pub fn says(path: &Path, what: &str) -> String {
    let mut here = path.ancestors().filter_map(|dir| Some((dir, fs::metadata(dir).ok()?.dev())));
    let Some((nearest, dev)) = here.next() else {
        return format!("the volume of {} {what}", path.display());
    };
    let mount = here.take_while(|(_, other)| *other == dev).last().map_or(nearest, |(dir, _)| dir).display();
    let Ok(stat) = rustix::fs::statvfs(nearest) else { return format!("the volume at {mount} {what}") };
    let size = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let (free, all) = (size(stat.f_bavail), size(stat.f_blocks));
    if stat.f_files > 0 && stat.f_favail == 0 {
        return format!("the volume at {mount} {what} (it takes no more files: no inode is free)");
    }
    let (unit, name) = if all < 10 << 30 { (1 << 20, "MB") } else { (1 << 30, "GB") };
    format!("the volume at {mount} {what} ({} of {} {name} free)", free / unit, all / unit)
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
        let lane = OneAtATime::start("test").unwrap();
        let (release, hang) = mpsc::channel::<()>();
        assert_eq!(lane.run(Duration::from_millis(1), move || hang.recv().is_ok()).await, None);
        assert_eq!(lane.run(Duration::from_secs(10), || 1).await, None, "the first still hangs");
        release.send(()).unwrap();
        for _ in 0..1000 {
            if lane.run(Duration::from_secs(10), || 2).await == Some(2) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the lane stayed busy");
    }

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        let word = |kind: u32| kind as rustix::fs::FsWord;
        assert!(is_network(word(0x6969)) && is_network(word(0xff53_4d42)));
        assert!(!is_network(word(0x0102_1994)) && !is_network(word(0xef53)), "tmpfs, ext4");
    }
}
