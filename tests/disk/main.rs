//! The disk: what may be unpacked, what is published, and that a kill at any moment harms nothing.

mod against_tar;
mod commands;
mod crash;
mod diff;
mod exhaust;
mod fleet;
mod linked;
mod matrix;
mod moves;
mod odd;
mod one_archive;
mod operations;
mod packing;
mod plants;
mod pointer;
mod prune;
mod publish;
mod random;
mod rig;
mod spare;
mod spare_making;
mod together;
mod tools;
mod unpack;
mod volume;
