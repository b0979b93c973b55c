//! The core of pitstop once more, optimised, for `src/core/walk`: what is walked are millions of states.

#![expect(unused_imports, dead_code, reason = "the rest of pitstop uses it")]

#[path = "../../src"]
mod src {
    pub mod core;
    pub mod revision;
}

pub use src::{core, revision};
