//! The drain, in /status.

use std::net::IpAddr;

use serde::Serialize;

use super::seconds;
use crate::core::{
    Moment,
    drain::{Answer, DrainResult, DrainView, WaitsFor},
};

/// The drain in /status.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DrainStatus {
    pub(crate) drain_id: String,
    /// How it ended; `null` while it goes on.
    pub(crate) result: Option<DrainResult>,
    /// For how long it holds, or held.
    pub(crate) seconds: f64,
    /// How much longer it may hold; 0 after the answer.
    pub(crate) seconds_left: f64,
    /// What it waits for.
    pub(crate) waits_for: Vec<WaitsFor>,
    /// Senders whose silence is not proved yet.
    pub(crate) peers_not_quiet: usize,
    /// Requests in flight at the last look; `null` when nothing can tell.
    pub(crate) requests_in_flight: Option<u32>,
    /// Those that the socket table shows, the oldest first; at most ten.
    pub(crate) requests: Vec<RequestStatus>,
    /// Websockets and hijacked connections that are open, whether they are waited for or not.
    pub(crate) upgraded: u32,
    /// Deploys wait for it. Not for a stray call, which is held and means nothing.
    pub(crate) holds_deploys: bool,
}

/// A request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct RequestStatus {
    pub(crate) peer: IpAddr,
    /// For how long it has been there.
    pub(crate) seconds: f64,
}

impl DrainStatus {
    pub(super) fn of(drain: &DrainView, answer: Option<&Answer>, now: Moment) -> Self {
        let answer = answer.filter(|_| drain.answered);
        let held_ms = answer.map_or(now.since(drain.began), |answer| answer.held_ms);
        let left_ms = if drain.answered { 0 } else { drain.deadline.since(now) };
        Self {
            drain_id: drain.drain_id.to_string(),
            result: drain.result,
            seconds: seconds(held_ms),
            seconds_left: seconds(left_ms),
            waits_for: drain.waits_for.clone(),
            peers_not_quiet: drain.peers_not_quiet,
            requests_in_flight: drain.requests_in_flight,
            requests: drain
                .in_work
                .iter()
                .map(|request| RequestStatus { peer: request.peer, seconds: seconds(request.age_ms) })
                .collect(),
            upgraded: drain.upgraded,
            holds_deploys: drain.meant,
        }
    }
}
