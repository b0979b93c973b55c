//! `pitstop run` as a container's process, without an app server: its parent and the agent below it.

mod container;

mod flood;
mod keeping;
