//! Real pods: what the chart renders, in containers of runc's, with the rig as their kubelet.

mod beside;
mod ends;
mod first_hour;
mod jobs;
mod lives;
mod shop;
mod troubles;
