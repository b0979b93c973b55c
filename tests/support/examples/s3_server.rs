//! The S3 server of the tests as a process of its own: prints the environment that leads to it, and ends
//! with its input (Ctrl-D). `cargo run -p pitstop-rig --example s3_server`

use std::io::{Read, Write};

fn main() -> std::io::Result<()> {
    let rig = pitstop_rig::S3Rig::start();
    let mut out = std::io::stdout();
    for (name, value) in rig.env() {
        writeln!(out, "export {name}={value}")?;
    }
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
}
