//! Several servers side by side in one container: what the agent and the parent of the server know of each other.
//!
//! The parent (`pitstop exec`) holds the listening sockets, as many for each address as there are [`Slot`]s, and starts
//! a server in a slot. A program in the kernel gives each new connection to the slot that is live, and connections from
//! [`PROBE_SOURCE`] to the candidate, which may get a share of the others as well. Unix sockets have names instead
//! (`named`). The agent decides; the parent does as it is told, and tells each new agent what is there.

pub(crate) mod client;
pub(crate) mod counts;
pub(crate) mod listen;
mod named;
pub(crate) mod program;
mod protocol;

pub(crate) use client::{Client, NoList};
pub(crate) use named::candidate_socket;
pub(crate) use program::{LIVE_TRAFFIC_CLASS, PROBE_TRAFFIC_CLASS};
pub(crate) use protocol::{
    Ended, LIVE_SOURCE, List, PROBE_SOURCE, PROTOCOL, Reply, Request, Role, Run, SOCKET_NAME, Slot,
    SlotState, WHOLE,
};
