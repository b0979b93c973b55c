//! Real pods: what the chart renders, in containers of runc's, with the rig as their kubelet.

mod beside;
mod ends;
mod lives;
mod shop;
mod troubles;
