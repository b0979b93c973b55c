//! The disk: what may be unpacked, what is published, and that a kill at any moment harms nothing.

mod crash;
mod linked;
mod pointer;
mod prune;
mod publish;
mod rig;
mod tools;
mod unpack;
mod volume;
