//! Fail points: places where a test stops the agent, to kill it just there.
//!
//! `PITSTOP_FAILPOINTS=name[,name…]` blocks for ever at each of these names, after writing the name
//! to the file `PITSTOP_FAILPOINT_DIR/<name>` so that the test knows. They exist in debug builds only.

/// Blocks for ever if a test asked for it here.
#[cfg(debug_assertions)]
pub fn hit(name: &str) {
    let Ok(names) = std::env::var("PITSTOP_FAILPOINTS") else { return };
    if !names.split(',').any(|n| n == name) {
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
pub fn hit(_name: &str) {}
