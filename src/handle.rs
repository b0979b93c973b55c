//! How the endpoints ask the supervisor: a request goes into a channel, and its answer is awaited here.
//!
//! It outlives the supervisor. When the loop is lost to a panic and started again, whoever waits on
//! /prestop asks anew and goes on waiting.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::core::{
    Operator,
    drain::{Answer, Origin, Undone},
};

/// A loop that was lost and started again learns anew where the kubelet asks from.
const KUBELET_IS_NEWS_AFTER: Duration = Duration::from_secs(60);
/// Anybody can say that it is a kubelet.
const KUBELETS_KEPT: usize = 8;

/// A request, with the way to answer it.
#[derive(Debug)]
pub enum Request {
    /// A call of /prestop, or the like: hold it until the drain is over.
    Prestop(Origin, oneshot::Sender<PrestopEnd>),
    /// A kubelet asks from this address.
    Kubelet(IpAddr),
    /// The operator says that the drain was false.
    Undrain(oneshot::Sender<Reply>),
    /// Any other thing that an operator asks.
    Operator(Operator, Asked, oneshot::Sender<Reply>),
}

/// Who asks, and why, as far as they say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Asked {
    /// A name and where, `deploy@host`.
    pub(crate) by: Option<String>,
    /// For those who find it like that.
    pub(crate) why: Option<String>,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
        if let Some(by) = &self.by {
            write!(f, " by {}", short(by))?;
        }
        if let Some(why) = &self.why {
            write!(f, ": {}", short(why))?;
        }
        Ok(())
    }
}

/// What an operator is told: what happens now, or why nothing does.
pub(crate) type Reply = Result<String, String>;

/// How a wait on /prestop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrestopEnd {
    /// With the drain's answer.
    Answered(Answer),
    /// The drain was undone meanwhile.
    Undone(Undone),
    /// The agent could not tell for as long as it may hold the hook. A defect of its own.
    OutOfTime,
}

/// Where requests are left.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    commands: mpsc::UnboundedSender<Request>,
    /// /prestop is never held longer, whatever happens inside the agent.
    longest_hold: Duration,
    /// When a kubelet's address was last passed on.
    kubelets: Arc<Mutex<Vec<(IpAddr, Instant)>>>,
}

/// Where the supervisor finds them. Survives it.
pub type Requests = Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Request>>>;

impl SupervisorHandle {
    /// A handle, and the receiving end of it.
    pub fn new(longest_hold: Duration) -> (Self, Requests) {
        let (commands, requests) = mpsc::unbounded_channel();
        (
            Self { commands, longest_hold, kubelets: Arc::default() },
            Arc::new(tokio::sync::Mutex::new(requests)),
        )
    }

    /// Begins the drain, or joins it, and waits for its end. The drain goes on when this future is
    /// dropped: the request is left on the first poll, before anything is waited for.
    pub async fn prestop(&self, origin: Origin) -> PrestopEnd {
        let until = Instant::now() + self.longest_hold;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let (answer, ending) = oneshot::channel();
            // Refused only when the agent ends, which it does after the app server's end.
            let _ = self.commands.send(Request::Prestop(origin, answer));
            match tokio::time::timeout(left, ending).await {
                Ok(Ok(ending)) => return ending,
                Err(_) => break,
                // The supervisor was lost; its successor takes the drain up from the journal.
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        PrestopEnd::OutOfTime
    }

    /// A kubelet asks from this address. Probes are many, and news only now and then.
    pub(crate) fn kubelet(&self, address: IpAddr) {
        let mut known = self.kubelets.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, told)| told.elapsed() < KUBELET_IS_NEWS_AFTER);
        if known.len() < KUBELETS_KEPT && !known.iter().any(|(known, _)| *known == address) {
            known.push((address, Instant::now()));
            let _ = self.commands.send(Request::Kubelet(address));
        }
    }

    /// Ends a false drain.
    ///
    /// # Errors
    /// When there is none, or the agent does not answer.
    pub(crate) async fn undrain(&self) -> Reply {
        self.ask(Request::Undrain).await
    }

    /// Passes on what an operator asks.
    ///
    /// # Errors
    /// When it cannot be done, or the agent does not answer.
    pub(crate) async fn operator(&self, operator: Operator, asked: Asked) -> Reply {
        self.ask(|reply| Request::Operator(operator, asked, reply)).await
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Reply>) -> Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(command(reply));
        let lost = || "the agent did not answer; see its log".to_owned();
        match tokio::time::timeout(Duration::from_secs(5), answer).await {
            Ok(Ok(reply)) => reply,
            _ => Err(lost()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_supervisor_does_not_end_the_wait_on_prestop() {
        let (supervisor, requests) = SupervisorHandle::new(Duration::from_secs(60));
        let waiting = tokio::spawn(async move { supervisor.prestop(Origin::PreStop).await });
        let Some(Request::Prestop(_, first)) = requests.lock().await.recv().await else { panic!("no call") };
        drop(first);
        let Some(Request::Prestop(_, second)) = requests.lock().await.recv().await else {
            panic!("not again")
        };
        second.send(PrestopEnd::Undone(Undone::Operator)).unwrap();
        assert_eq!(waiting.await.unwrap(), PrestopEnd::Undone(Undone::Operator));
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_the_hook_may_be_held() {
        let (supervisor, _requests) = SupervisorHandle::new(Duration::from_millis(1));
        assert_eq!(supervisor.prestop(Origin::Stray).await, PrestopEnd::OutOfTime);
    }
}
