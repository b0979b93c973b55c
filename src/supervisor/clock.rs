//! The one clock of all decisions.

use nix::time::{ClockId, clock_gettime};

use crate::core::Moment;

/// Now, in milliseconds of CLOCK_BOOTTIME: it counts on while the machine sleeps, and nobody sets it.
pub fn boottime() -> Moment {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| {
        let ms = t.tv_sec().saturating_mul(1000).saturating_add(t.tv_nsec() / 1_000_000);
        u64::try_from(ms).unwrap_or(0)
    });
    Moment(now)
}
