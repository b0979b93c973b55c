//! What a restart beside asks of its watch.

use super::{AppServer, Moment, Watch};
use crate::core::observation::Candidate;

impl Watch {
    /// The candidate that it watches, of those in other slots the one that was not there before.
    pub(crate) fn candidate<'a>(&self, server: &'a AppServer) -> Option<&'a Candidate> {
        let old = |key| self.baseline.as_ref().is_some_and(|b| b.generations.contains(key));
        server.beside.candidate.as_ref().filter(|candidate| !old(&candidate.key))
    }

    /// Its time has run out.
    pub(crate) fn over(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// It gets more time.
    pub(crate) fn go_on_until(&mut self, until: Moment) {
        self.until = self.until.max(Some(until));
    }

    /// The health path answered well before the restart.
    pub(crate) fn was_healthy(&self) -> bool {
        self.baseline.as_ref().is_some_and(|b| b.healthy)
    }

    /// A process of the release was seen to be booted.
    pub(crate) fn served(&self) -> bool {
        self.served
    }
}
