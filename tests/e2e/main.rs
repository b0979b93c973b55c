//! Everything with a real app server, in one binary: linking takes longer than most of its tests.
//!
//! A module per promise. `.config/nextest.toml` knows the modules `pods` and this binary by their names.

/// For a pod with more parts, in front of its field `pod`: it can do whatever that one can.
macro_rules! extends_pod {
    ($extended:ty) => {
        impl std::ops::Deref for $extended {
            type Target = pitstop_rig::Pod;

            fn deref(&self) -> &Self::Target {
                &self.pod
            }
        }

        impl std::ops::DerefMut for $extended {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.pod
            }
        }
    };
}

mod beside;
mod broken_releases;
mod command;
mod doctor;
mod drain;
mod exec;
mod jobs;
mod memory_group;
mod operator;
mod page;
mod passenger;
mod pods;
mod proof;
mod puma_adapter;
mod puma_drain;
mod rails;
mod rig;
mod rollout;
mod s3;
mod soak;
mod spine;
mod unicorn;

use std::path::Path;

use pitstop_rig::{Pod, Setup};

/// The program under test.
const PITSTOP: &str = env!("CARGO_BIN_EXE_pitstop");

/// A pod with an empty volume and an empty store. Nothing runs.
fn new_pod(setup: Setup) -> Pod {
    Pod::prepare(Path::new(PITSTOP), setup)
}
