//! A second server beside the first, in the same container.

mod container;
mod deploys;
mod parent;
