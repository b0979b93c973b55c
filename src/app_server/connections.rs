//! The connections of a server's ports, from the pod's socket table: known for every user's server of every kind.

use std::{collections::HashSet, io, sync::Arc, time::Duration};

use crate::{
    core::Sockets,
    finding::{Check, Code, Finding},
    lane::Lane,
    procs,
    sockets::{self, Ends},
};

/// The kernel answers at once.
const LIMIT: Duration = Duration::from_secs(1);

/// Looks at the table, and hears of connections that end between two looks.
#[derive(Debug)]
pub(super) struct Connections {
    lane: Lane,
    /// `None` where the kernel does not tell of connections that end.
    ends: Option<Arc<Ends>>,
}

impl Connections {
    /// Begins to listen.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self { lane: Lane::one_at_a_time("sockets")?, ends: listen_for_ends() })
    }

    /// What is connected to these local ports; `None` without a port, or when the kernel does not tell.
    pub(crate) async fn on(&self, ports: Vec<u16>) -> Option<Sockets> {
        if ports.is_empty() {
            return None;
        }
        let ends = self.ends.clone();
        let look = move || {
            let table = sockets::observe(&ports).ok()?;
            // After the table: what ended since it was read is in both.
            let ended = ends.and_then(|ends| ends.take(&ports));
            Some(Sockets { ended, ..table })
        };
        self.lane.look(LIMIT, look).await.flatten()
    }

    /// Those of them that these processes hold; `None` also when no process may be looked into.
    pub(crate) async fn held(&self, ports: Vec<u16>, pids: Vec<i32>) -> Option<Sockets> {
        let look = move || {
            let inodes: HashSet<u64> = pids.into_iter().flat_map(procs::sockets_of).collect();
            if inodes.is_empty() { None } else { sockets::observe_held(&ports, &inodes).ok() }
        };
        self.lane.look(LIMIT, look).await.flatten()
    }
}

/// Whether requests in flight can be seen, of a server that keeps no numbers.
pub(super) fn requests_are_visible(of: &str, ports: &[u16], remedy: &str) -> Check {
    const ABOUT: &str = "requests in flight";
    if !ports.is_empty() {
        return Check::fine(ABOUT, format!("known from the socket table, for ports {ports:?}"));
    }
    let message = format!(
        "{of} not listening on a TCP port, so pitstop cannot see requests: a drain lasts until its deadline, and may \
         still end too early"
    );
    Check::found(ABOUT, Finding::broken(Code::NoPortToWatch, message, remedy))
}

fn listen_for_ends() -> Option<Arc<Ends>> {
    Ends::listen()
        .inspect_err(
            |error| tracing::warn!(%error, "connections shorter than the sampling interval are not counted"),
        )
        .ok()
        .map(Arc::new)
}
