//! What the agent may take: more descriptors than it is given by default, and less memory than its container has.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::procs::memory;

/// More are of no use, and some programs that a hook may run look at each of them.
const DESCRIPTORS: u64 = 65_536;
/// Stacks of threads count whole, and are hardly used.
const STACKS_BYTES: u64 = 40 << 20;

/// The soft limit becomes the hard one: 1,024 is what many systems give, and the hard limit is far above.
pub(crate) fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(u64::MAX).min(DESCRIPTORS);
    if current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files cannot be raised and stays at {}", current.unwrap_or_default());
        }
    }
}

/// Three quarters of the container's memory are for the data of this process: an allocation beyond fails, this
/// process ends, and its parent starts another. At the container's own limit the kernel would choose.
pub(crate) fn limit_memory() {
    let Some(container) = memory::of_container() else { return };
    let Rlimit { current, maximum } = getrlimit(Resource::Data);
    let wanted = data_bytes(container).min(maximum.unwrap_or(u64::MAX));
    if current.is_none_or(|current| current > wanted) {
        let lowered = Rlimit { current: Some(wanted), maximum };
        if let Err(error) = setrlimit(Resource::Data, lowered) {
            tracing::warn!(%error, "the agent's memory limit cannot be set; only the container's limit applies");
        }
    }
}

fn data_bytes(container: u64) -> u64 {
    (container / 4 * 3).saturating_add(STACKS_BYTES)
}
