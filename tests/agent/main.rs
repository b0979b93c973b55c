//! Parts of the agent in the test's own process: its endpoints, its view of sockets, its supervision.

mod server_endpoints;
mod sockets;
mod supervisor_lost;
