//! The documents keep up with the code: no block that nobody checks, no command that is not there, no code
//! without its heading. What takes Kubernetes' schemas is in `tests/chart`, what takes Prometheus in `tests/monitoring`.

mod deploying;
mod image;
mod kinds;
mod length;
mod links;
mod pipelines;
mod policies;
mod reliability;
mod runbook;
mod shell;
mod sums;
mod tables;
mod transcript;
