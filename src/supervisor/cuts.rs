//! Requests that a restart of ours cut: counted by the socket table, named in the log, and for a while on /status.

use std::{collections::BTreeMap, time::SystemTime};

use crate::{
    core::{Connection, Moment, Observation, drain::InWork},
    finding::{Code, Finding},
};

/// For how long they stand on /status.
const SHOWN_MS: u64 = 3_600_000;
/// So many are named.
const MOST_NAMED: usize = 10;
/// A kept connection may be closed just as its client sends the next request. Clients and proxies send that again.
const CROSSED_MS: u64 = 1_000;

/// What the last look showed, and what was cut.
#[derive(Default)]
pub(crate) struct Cuts {
    /// Requests in work, and whether their clients had already closed their side.
    in_work: BTreeMap<u64, bool>,
    last: Option<(Moment, Finding)>,
}

impl Cuts {
    /// Takes in a look; says what was cut since the one before, where a restart of ours was under way.
    pub(crate) fn look(&mut self, now: Moment, look: &Observation, restarting: bool) -> Vec<InWork> {
        let Some(sockets) = &look.traffic.sockets else {
            self.in_work.clear();
            return Vec::new();
        };
        let given_up = |c: &Connection| self.in_work.get(&c.key) == Some(&true);
        let cut = |c: &&Connection| {
            restarting && c.unanswered() && !c.ours && !c.lost && !given_up(c) && !crossed(c)
        };
        let of = |c: &Connection| InWork { peer: c.peer, age_ms: c.last_received_ms.unwrap_or(0) };
        let mut cut: Vec<_> = sockets.ended.iter().flatten().filter(cut).map(of).collect();
        let in_work = sockets.connections.iter().filter(|c| c.unanswered());
        self.in_work = in_work.map(|c| (c.key, c.half_closed)).collect();
        if !cut.is_empty() {
            cut.sort_by_key(|request| std::cmp::Reverse(request.age_ms));
            self.tell(now, &cut);
        }
        cut
    }

    fn tell(&mut self, now: Moment, cut: &[InWork]) {
        let named: Vec<_> = cut.iter().take(MOST_NAMED).map(ToString::to_string).collect();
        let named = named.join(", ");
        tracing::warn!(requests = cut.len(), "pitstop's restart of the app server cut requests: {named}");
        let when = humantime::format_rfc3339_seconds(SystemTime::now());
        let message = format!("a restart for a deploy cut {} requests at {when}: {named}", cut.len());
        let remedy = "give the server more time for long requests (worker_shutdown_timeout), or let pitstop wait for them \
                      (restart.long_requests, restart.wait_in_flight)";
        self.last = Some((now, Finding::note(Code::RequestsCutByRestart, message, remedy)));
    }

    /// The last ones, for an hour.
    pub(crate) fn finding(&self, now: Moment) -> Option<Finding> {
        self.last.as_ref().filter(|(at, _)| now.since(*at) < SHOWN_MS).map(|(_, finding)| finding.clone())
    }
}

/// It had answers before, and the request was too young to have been waited for.
fn crossed(connection: &Connection) -> bool {
    connection.sent.is_some_and(|sent| sent > 0)
        && connection.last_received_ms.is_some_and(|age| age < CROSSED_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Detection, Sockets, Traffic};

    fn request(key: u64) -> Connection {
        Connection {
            key,
            peer: [10, 0, 3, 7].into(),
            unread: 0,
            unsent: 0,
            received: Some(200),
            sent: Some(0),
            last_received_ms: Some(30_000),
            last_sent_ms: Some(30_000),
            ours: false,
            half_closed: false,
            lost: false,
        }
    }

    fn look(connections: Vec<Connection>, ended: Vec<Connection>) -> Observation {
        let sockets = Sockets { connections, ended: Some(ended), ..Sockets::default() };
        Observation::new(Moment(1), Detection::Unclear, Traffic { workers: None, sockets: Some(sockets) })
    }

    #[test]
    fn what_ended_without_an_answer_in_our_restart_is_counted_and_named() {
        let mut cuts = Cuts::default();
        assert!(cuts.look(Moment(1), &look(vec![request(1), request(2)], Vec::new()), true).is_empty());
        let answered = Connection { sent: Some(90), last_sent_ms: Some(10), ..request(2) };
        let cut = cuts.look(Moment(2), &look(Vec::new(), vec![request(1), answered]), true);
        assert_eq!(cut.len(), 1);
        let finding = cuts.finding(Moment(3)).unwrap();
        assert_eq!(finding.code.code(), "REQUESTS_CUT_BY_RESTART");
        assert!(finding.message.contains("from 10.0.3.7, 30.0s old"), "{}", finding.message);
        assert_eq!(cuts.finding(Moment(SHOWN_MS + 3)), None);
    }

    #[test]
    fn what_ends_at_rest_or_by_its_client_was_not_cut() {
        let mut cuts = Cuts::default();
        assert!(cuts.look(Moment(1), &look(Vec::new(), vec![request(1)]), false).is_empty());
        let given_up = Connection { half_closed: true, ..request(2) };
        cuts.look(Moment(2), &look(vec![given_up.clone()], Vec::new()), true);
        assert!(cuts.look(Moment(3), &look(Vec::new(), vec![given_up]), true).is_empty());
        let crossed = Connection { sent: Some(90), last_received_ms: Some(300), ..request(5) };
        assert!(cuts.look(Moment(4), &look(Vec::new(), vec![crossed]), true).is_empty(), "a kept connection");
        let probe = Connection { ours: true, ..request(3) };
        let closed = Connection { received: Some(1), ..request(4) };
        assert!(cuts.look(Moment(4), &look(Vec::new(), vec![probe, closed]), true).is_empty());
    }
}
