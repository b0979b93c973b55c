use std::{
    fs,
    thread::{JoinHandle, spawn},
    time::Duration,
};

use crate::{AgentRig, PumaRig, http, until};

/// Asks the app for a request that it holds until the agent has seen it in flight, and `seconds` longer: however
/// rarely Puma's workers report, no request ends before it was noticed. The thread gives the answer's status.
///
/// # Panics
/// When the agent does not see it.
pub fn slow_request(puma: &PumaRig, agent: &AgentRig, seconds: u32) -> JoinHandle<Option<u16>> {
    let port = puma.port();
    let seen = puma.run_dir().join("seen");
    let _ = fs::remove_file(&seen);
    let request = spawn(move || {
        let path = format!("/slow?s={seconds}&after=seen");
        http::get_within(port, &path, Duration::from_secs(90)).ok().map(|answer| answer.status)
    });
    until("the request in flight", || {
        (agent.metric("pitstop_puma_requests_in_flight")? >= 1.0).then_some(())
    });
    fs::write(&seen, "").expect("the rig's own directory takes a file");
    request
}
