//! Sending signals: never behind a look that hangs, and never after the caller was told that none was sent.

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
    procs::{Image, ProcessId, ProcsError},
};

/// Sending a signal takes microseconds; the rest is for a machine that is very busy.
const LIMIT: Duration = Duration::from_secs(5);

/// A thread for it.
#[derive(Debug)]
pub(super) struct Signaller {
    lane: Lane,
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// Exactly this image: not the one that an exec puts in its place.
    Image(Image),
    /// This process, whatever it runs.
    Process(ProcessId),
}

impl Target {
    fn signal(self, signal: Signal) -> Result<(), ProcsError> {
        match self {
            Self::Image(image) => image.signal(signal),
            Self::Process(process) => process.signal(signal),
        }
    }
}

/// The thread that sends and the caller that stops waiting race for it: only one of them gets it.
#[derive(Debug, Clone)]
struct SendOnce(Arc<AtomicBool>);

impl SendOnce {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Signaller {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self { lane: Lane::start("signals")? })
    }

    /// Sends the signals that `decide` asks for. If that takes too long, none of them is ever sent.
    ///
    /// # Errors
    /// What `decide` says, or why the kernel refuses one. A process that has ended needs no SIGKILL.
    pub(crate) async fn send(
        &self,
        name: &'static str,
        decide: impl FnOnce() -> Result<Vec<(Target, Signal)>, Problem> + Send + 'static,
    ) -> Result<(), Problem> {
        self.once(name, decide, move |signals| {
            for (target, signal) in signals {
                match target.signal(signal) {
                    Err(ProcsError::Gone(_)) if signal == Signal::KILL => {}
                    sent => sent.map_err(|error| not_sent(name, &error))?,
                }
            }
            Ok(())
        })
        .await
    }

    /// Whether signals reach this image. A security profile may refuse them where looking is allowed, and that shows
    /// only when one is sent: SIGCONT does nothing to a process that runs.
    ///
    /// # Errors
    /// When the kernel refuses it. Whatever else keeps it from being sent says nothing of the next one.
    pub(crate) async fn try_signal(&self, name: &'static str, image: Image) -> Result<(), Problem> {
        let send = move |()| match image.signal_if_it_runs(Signal::CONT) {
            Err(error @ ProcsError::SignalDenied { .. }) => Err(not_sent(name, &error)),
            _ => Ok(()),
        };
        match self.once(name, || Ok(()), send).await {
            Err(problem) if problem.reason == Reason::NotPermitted => Err(problem),
            _ => Ok(()),
        }
    }

    async fn once<T>(
        &self,
        name: &str,
        decide: impl FnOnce() -> Result<T, Problem> + Send + 'static,
        send: impl FnOnce(T) -> Result<(), Problem> + Send + 'static,
    ) -> Result<(), Problem> {
        let send_once = SendOnce(Arc::new(AtomicBool::new(true)));
        let job = {
            let send_once = send_once.clone();
            move || {
                let decided = decide()?;
                let late = || Problem::new(Reason::Internal, "the signal came too late and was not sent");
                if send_once.take() { send(decided) } else { Err(late()) }
            }
        };
        let lost = || Problem::new(Reason::Internal, format!("the thread that signals {name} panicked"));
        match self.lane.run(LIMIT, job).await {
            Ok(result) => result,
            Err(Late::Pending(_)) if send_once.take() => {
                let message = format!("/proc did not answer in time: nothing was sent to {name}");
                Err(Problem::new(Reason::Internal, message))
            }
            Err(Late::Pending(answer)) => answer.await.unwrap_or_else(|_| Err(lost())),
            Err(Late::Refused | Late::Lost) => Err(lost()),
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

/// The process it was for is not there any more.
pub(super) fn gone(message: &str) -> Problem {
    Problem::new(Reason::MasterGone, format!("{message}: nothing was sent"))
}
