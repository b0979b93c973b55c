//! The spine: `pitstop run` as a process beside a real Puma, from the pointer to the proof.

mod births;
mod by_other_hands;
mod crash;
mod deploys;
mod end;
mod fleet;
mod hooks;
mod linked;
mod log;
mod needs_image;
mod on_6_6;
mod pod;
mod restart_dir;
mod surroundings;
mod troubles;
