//! `pitstop exec` as the first process: signals, orphans, exit codes, an agent that dies or is silent.
//!
//! The command is a shell here; `e2e::exec` does the same with a real Puma.

mod container;

mod exit;
mod keeping;
mod signals;
mod start;
