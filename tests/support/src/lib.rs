//! Real Pumas for pitstop's tests, demo and benchmarks.
//!
//! [`PumaRig`] is a volume with releases and a Puma that serves `current`, optionally kept alive as a
//! kubelet would; [`AgentRig`] is pitstop beside it, and [`Load`] are its clients. Everything it starts ends with it, also when the test panics.

/// pitstop itself beside a Puma, with a store and a configuration.
pub mod agent;
/// The app that is deployed, and its broken variants.
pub mod app;
/// A process that is started again when it ends, and never outlives its owner.
pub mod container;
/// One request at a time, for tests that ask the app something.
pub mod http;
/// HTTP clients that keep asking while something happens, and count what they lose.
pub mod load;
/// A volume with releases and a Puma that serves `current`.
pub mod puma;

pub use agent::AgentRig;
pub use app::App;
pub use container::Container;
pub use load::Load;
pub use puma::{Directory, PumaRig, Setup, Wrapper};

use std::time::{Duration, Instant};

/// How long a condition may take on a busy machine before its test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `condition` gives something.
///
/// # Panics
/// When it has not within [`PATIENCE`], naming `what` was waited for.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the test may change users and mount namespaces.
///
/// # Panics
/// In CI (`CI` is set), where such tests must run.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI runs the privileged tests, as root");
    root
}
