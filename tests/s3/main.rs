//! The store in S3, against a real server in this process that checks signatures and checksums, and
//! misbehaves on demand.

mod commands;
mod credentials;
mod denied;
mod download;
mod moto;
mod objects;
mod odd;
mod pointer;
mod proxied;
mod rig;
mod tls;
mod troubles;
