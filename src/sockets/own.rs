//! The agent's own connections to the app server: its questions are no traffic, whoever else shares its address.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

/// More than are opened between two looks. Later a port may be somebody else's.
const KEPT: usize = 512;

static OWN: Mutex<VecDeque<SocketAddr>> = Mutex::new(VecDeque::new());

/// Notes the local end of a connection that this process has opened, before anything is sent on it.
pub(crate) fn remember(local: SocketAddr) {
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    if own.len() == KEPT {
        own.pop_front();
    }
    own.push_back(canonical(local));
}

/// Whether the other end of a connection is ours.
pub(super) fn is(peer: SocketAddr) -> bool {
    OWN.lock().unwrap_or_else(PoisonError::into_inner).contains(&canonical(peer))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
