//! `pitstop config`: the effective configuration, and where each value came from.

use super::{Console, Exit};
use crate::config::Loaded;

/// Prints it.
pub fn run(loaded: &Loaded, console: Console) -> Exit {
    console.print(&loaded.listing());
    Exit::Done
}
