//! `pitstop drain`: what `/prestop` does, as a command for `lifecycle.preStop.exec`, over the admin socket.
//!
//! A hook that fails ends the container as one that works does. So an agent that is not there is waited for, for
//! `drain.min`: it may be starting again, and if it is not, the time is what a `sleep` would have been.

use std::{
    fmt,
    path::Path,
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    Console, Exit, Failure,
    agent_socket::{self, parsed},
};

/// The kubelet's patience ends before.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(250);

/// What the agent says of the drain.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    result: String,
    seconds: f64,
    requests_left: u32,
    waited_for: Vec<String>,
    drain_id: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:.1}s, {} requests left", self.result, self.seconds, self.requests_left)
    }
}

/// Begins the drain, or joins it, and waits for its end. Without an agent it holds for `least`, as long as none comes.
///
/// # Errors
/// [`Failure`] when there was no agent for so long: said in the pod's events, and no reason to hold any longer.
pub(crate) async fn run(state_dir: &Path, least: Duration, console: Console) -> Result<Exit, Failure> {
    let mut alone = Instant::now();
    loop {
        let asked = Instant::now();
        match agent_socket::ask_within(LONGEST, state_dir, Method::POST, "/prestop").await {
            Ok(answer) if answer.status() == StatusCode::OK => {
                console.print::<Answer>(&parsed(answer.body())?);
                return Ok(Exit::Done);
            }
            // An operator has undone it: there is nothing to wait for.
            Ok(answer) => {
                eprintln!("pitstop drain: {}", String::from_utf8_lossy(answer.body()).trim_end());
                return Ok(Exit::Done);
            }
            // It was there until now. One that is started again goes on with the drain.
            Err(_) if asked.elapsed() > BETWEEN_ATTEMPTS => alone = Instant::now(),
            Err(unreachable) if alone.elapsed() >= least => {
                let failure = Failure::from(unreachable);
                return Err(Failure::failed(format!(
                    "waited {least:?} (drain.min) without a drain: {failure}"
                )));
            }
            Err(_) => {}
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    }
}
