//! Fail points: places where a test stops the agent, to kill it just there.
//!
//! `PITSTOP_FAILPOINTS=name[,name…]` blocks for ever at each of these names, after writing the name
//! to the file `PITSTOP_FAILPOINT_DIR/<name>` so that the test knows. They exist in debug builds only.

/// Whether a test asked for this one.
#[cfg(debug_assertions)]
pub(crate) fn wanted(name: &str) -> bool {
    std::env::var("PITSTOP_FAILPOINTS").is_ok_and(|names| names.split(',').any(|n| n == name))
}

/// Release builds have no fail points.
#[cfg(not(debug_assertions))]
pub(crate) fn wanted(_name: &str) -> bool {
    false
}

/// Blocks for ever if a test asked for it here.
#[cfg(debug_assertions)]
pub(crate) fn hit(name: &str) {
    if !wanted(name) {
        return;
    }
    if let Some(dir) = std::env::var_os("PITSTOP_FAILPOINT_DIR") {
        let _ = std::fs::write(std::path::Path::new(&dir).join(name), b"");
    }
    loop {
        std::thread::park();
    }
}

/// Release builds have no fail points.
#[cfg(not(debug_assertions))]
pub(crate) fn hit(_name: &str) {}
