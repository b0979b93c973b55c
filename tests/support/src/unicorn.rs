use std::fs;

use crate::{Image, Setup, Wrapper};

/// The part of a release's configuration that every Unicorn here has.
pub const CONFIG: &str = "listen \"127.0.0.1:#{ENV.fetch('RIG_PORT')}\"\nworker_processes 2\ntimeout 20\n";

/// A Unicorn with two workers, which is its container's first process.
pub fn setup() -> Setup {
    with("")
}

/// The same with more lines in its configuration.
pub fn with(lines: &str) -> Setup {
    Setup {
        server: "unicorn",
        image: Image::Machine,
        wrapper: Wrapper::Command("exec unicorn -E deployment -c config/unicorn.rb"),
        files: vec![("config/unicorn.rb", format!("{CONFIG}{lines}"))],
        ..Setup::default()
    }
}

/// The masters that are to be seen, oldest first.
pub fn masters() -> Vec<i32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let mut pids: Vec<i32> = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.retain(|pid| {
        let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        title.starts_with("unicorn master")
    });
    pids.sort_by_key(|pid| started(*pid));
    pids
}

/// In ticks since the kernel's boot.
fn started(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().nth(19).and_then(|start| start.parse().ok()).unwrap_or(0)
}
