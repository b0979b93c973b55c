//! A second server beside the first, in the same container.

mod cells;
mod container;
mod counts;
mod deploys;
mod fit;
mod parent;
mod shift;
mod soak;
mod unicorn;
