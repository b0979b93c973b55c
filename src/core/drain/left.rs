//! What becomes of the requests that were left at the answer: the app server may still finish them after SIGTERM.

use super::types::{Answer, InWork};
use crate::core::observation::{Connection, Sockets};

/// One request in work, on this connection, of whose answer so much had been sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Request {
    pub(crate) key: u64,
    pub(crate) sent: Option<u64>,
    pub(crate) of: InWork,
}

/// Requests whose end has not been seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Left {
    open: Vec<Request>,
    /// Connections that ended without an answer.
    cut: Vec<InWork>,
}

impl Left {
    /// Those of an answer that could not wait for them.
    pub(crate) fn of(answer: &Answer, in_work: &[Request]) -> Self {
        let open = if answer.result.gives_up() { in_work.to_vec() } else { Vec::new() };
        Self { open, cut: Vec::new() }
    }

    /// Takes in a look. Once the app server is gone: what was really cut.
    pub(crate) fn look(&mut self, sockets: Option<&Sockets>, gone: bool) -> Option<Vec<InWork>> {
        for request in std::mem::take(&mut self.open) {
            let of = |c: &&Connection| c.key == request.key;
            let ended = sockets.and_then(|s| s.ended.iter().flatten().find(of));
            let here = sockets.and_then(|s| s.connections.iter().find(of));
            match (ended, here) {
                (Some(c), _) if c.sent > request.sent => {}
                (Some(_), _) => self.cut.push(request.of),
                (None, Some(c)) if c.sent > request.sent && !c.busy() => {}
                // Of one that ended unheard nothing is known but that the server has gone.
                (None, _) => self.open.push(request),
            }
        }
        if !gone {
            return None;
        }
        self.cut.extend(self.open.drain(..).map(|request| request.of));
        Some(std::mem::take(&mut self.cut)).filter(|cut| !cut.is_empty())
    }
}
