//! Work of a command on the volume that this pod's agent shares: it waits while that restarts the app server or drains.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hyper::Method;
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{Console, agent_socket};
use crate::core::Stage;

/// How often the agent is asked.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(500);
/// How often who waits looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// A restart that lasts longer holds nobody up. As in the agent, for what it deletes.
const WAIT_MAX: Duration = Duration::from_secs(900);
const LIMIT: Duration = Duration::from_secs(2);

/// What the user is told once.
#[derive(Serialize)]
struct Waits {
    waits_for: &'static str,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("waiting: the agent of this pod restarts the app server or drains")
    }
}

/// Knows whether the agent is busy. No agent is never busy.
pub(super) struct Gently {
    busy: Arc<AtomicBool>,
    asks: JoinHandle<()>,
    console: Console,
    told: AtomicBool,
}

impl Gently {
    /// Asks the agent from now on; it has been asked once when this returns.
    pub(super) async fn beside(state_dir: PathBuf, console: Console) -> Self {
        let busy = Arc::new(AtomicBool::new(is_busy(&state_dir).await));
        let noted = busy.clone();
        let asks = tokio::spawn(async move {
            let mut idle_at = Instant::now();
            loop {
                tokio::time::sleep(BETWEEN_QUESTIONS).await;
                let busy = is_busy(&state_dir).await;
                if !busy {
                    idle_at = Instant::now();
                }
                noted.store(busy && idle_at.elapsed() < WAIT_MAX, Ordering::SeqCst);
            }
        });
        Self { busy, asks, console, told: AtomicBool::new(false) }
    }

    /// Waits until the agent is not busy. Blocks.
    pub(super) fn wait(&self) {
        while self.busy.load(Ordering::SeqCst) {
            if !self.told.swap(true, Ordering::SeqCst) {
                self.console.tell(&Waits { waits_for: "agent" });
            }
            thread::sleep(BETWEEN_LOOKS);
        }
    }
}

impl Drop for Gently {
    fn drop(&mut self) {
        self.asks.abort();
    }
}

async fn is_busy(state_dir: &Path) -> bool {
    let answer = agent_socket::ask_within(LIMIT, state_dir, Method::GET, "/status").await;
    let status = answer.ok().and_then(|answer| serde_json::from_slice::<Value>(answer.body()).ok());
    status.is_some_and(|status| shows_work(&status))
}

/// Not while it fetches: that may need the room which a command makes.
fn shows_work(status: &Value) -> bool {
    use Stage::{Committing, Publishing, Restarting, Reverting, Verifying};
    let restarts = [Publishing, Restarting, Verifying, Committing, Reverting];
    status["drain"]["holds_deploys"] == true || restarts.iter().any(|stage| status["stage"] == stage.name())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::shows_work;

    #[test]
    fn restarts_and_drains_are_left_alone_and_a_fetch_that_needs_room_is_helped() {
        let at = |stage: &str| shows_work(&json!({"stage": stage, "drain": null}));
        assert!(at("restarting") && at("verifying") && at("reverting"));
        assert!(!at("steady") && !at("fetching") && !at("stranded"));
        let drains = |meant: bool| json!({"stage": "steady", "drain": {"holds_deploys": meant}});
        assert!(shows_work(&drains(true)) && !shows_work(&drains(false)));
        assert!(!shows_work(&json!({})), "an agent that says nothing");
    }
}
