//! Telling an app server something: never behind a look that hangs, and never behind our own back.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    core::{Problem, Reason},
    lane::{Lane, Late},
    procs::{Image, ProcsError},
};

/// Sending a signal takes microseconds; the rest is for a machine that is very busy.
const LIMIT: Duration = Duration::from_secs(5);

/// A thread for it.
#[derive(Debug)]
pub(super) struct Signaller {
    lane: Lane,
}

/// Whoever takes it first decides: who tells, or who has stopped waiting.
#[derive(Debug, Clone)]
pub(super) struct SendOnce(Arc<AtomicBool>);

impl SendOnce {
    /// To be called just before the deed.
    ///
    /// # Errors
    /// When nobody waits for it any more: then it must not be done.
    pub fn take(&self) -> Result<(), Problem> {
        let taken = self.0.swap(false, Ordering::SeqCst);
        let late = || Problem::new(Reason::Internal, "the signal came too late and was not sent");
        if taken { Ok(()) } else { Err(late()) }
    }
}

impl Signaller {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start() -> io::Result<Self> {
        Ok(Self { lane: Lane::start("signaller")? })
    }

    /// Does it, unless it takes too long before `send_once` is taken.
    pub async fn carry_out(
        &self,
        name: &str,
        deed: impl FnOnce(&SendOnce) -> Result<(), Problem> + Send + 'static,
    ) -> Result<(), Problem> {
        let send_once = SendOnce(Arc::new(AtomicBool::new(true)));
        let job = {
            let send_once = send_once.clone();
            move || deed(&send_once)
        };
        let lost = || Problem::new(Reason::Internal, format!("the thread that signals {name} panicked"));
        match self.lane.run(LIMIT, job).await {
            Ok(result) => result,
            Err(Late::Pending(_)) if send_once.take().is_ok() => {
                let message = format!("/proc did not answer in time: nothing was sent to {name}");
                Err(Problem::new(Reason::Internal, message))
            }
            Err(Late::Pending(answer)) => answer.await.unwrap_or_else(|_| Err(lost())),
            Err(Late::Refused | Late::Lost) => Err(lost()),
        }
    }
}

impl Signaller {
    /// Whether signals reach this image. A security profile may refuse them where looking is allowed, and that shows
    /// only when one is sent: SIGCONT does nothing to a process that runs.
    ///
    /// # Errors
    /// When the kernel refuses it. Whatever else keeps it from being sent says nothing of the next one.
    pub async fn try_signal(&self, name: &str, image: Image) -> Result<(), Problem> {
        let whose = name.to_owned();
        let deed = move |send_once: &SendOnce| {
            send_once.take()?;
            match image.signal_if_it_runs(Signal::CONT) {
                Err(error @ ProcsError::SignalDenied { .. }) => Err(not_sent(&whose, &error)),
                _ => Ok(()),
            }
        };
        match self.carry_out(name, deed).await {
            Err(problem) if problem.reason == Reason::NotPermitted => Err(problem),
            _ => Ok(()),
        }
    }
}

/// Nothing was sent, for this reason.
pub(super) fn not_sent(name: &str, error: &ProcsError) -> Problem {
    let reason = match error {
        ProcsError::NotPermitted(_) | ProcsError::SignalDenied { .. } | ProcsError::OffLimits(_) => {
            Reason::NotPermitted
        }
        ProcsError::Gone(_) | ProcsError::AnotherImage(_) => Reason::MasterGone,
        ProcsError::Torn(_) | ProcsError::Io { .. } => Reason::Internal,
    };
    Problem::new(reason, format!("nothing was sent to {name}: {error}"))
}

/// Whom it was for is not there any more.
pub(super) fn gone(message: &str) -> Problem {
    Problem::new(Reason::MasterGone, format!("{message}: nothing was sent"))
}
