//! Fail points: places where a test stops the agent, to kill it just there.
//!
//! `PITSTOP_FAILPOINTS=name[,name…]` blocks at each of these names, after writing the file
//! `PITSTOP_FAILPOINT_DIR/<name>` so that the test knows, until the test removes it. A file `<name>.wanted` there does the
//! same for a process that runs already. With
//! `PITSTOP_FAILPOINT_PASSED=dir` the file `dir/passed+<name>` is asked for at each point: a volume of the tests hears
//! of it so. They exist in debug builds only.

/// Whether a test asked for this one.
#[cfg(debug_assertions)]
pub(crate) fn wanted(name: &str) -> bool {
    let named = std::env::var("PITSTOP_FAILPOINTS").is_ok_and(|names| names.split(',').any(|n| n == name));
    named || dir().is_some_and(|dir| dir.join(format!("{name}.wanted")).exists())
}

#[cfg(debug_assertions)]
fn dir() -> Option<std::path::PathBuf> {
    std::env::var_os("PITSTOP_FAILPOINT_DIR").map(Into::into)
}

/// Release builds have no fail points.
#[cfg(not(debug_assertions))]
pub(crate) fn wanted(_name: &str) -> bool {
    false
}

/// Blocks if a test asked for it here.
#[cfg(debug_assertions)]
pub(crate) fn hit(name: &str) {
    if let Some(dir) = std::env::var_os("PITSTOP_FAILPOINT_PASSED") {
        let _ = std::fs::metadata(std::path::Path::new(&dir).join(format!("passed+{name}")));
    }
    if !wanted(name) {
        return;
    }
    let reached = dir().map(|dir| dir.join(name));
    let written = reached.filter(|reached| std::fs::write(reached, b"").is_ok());
    while written.as_ref().is_none_or(|reached| reached.exists()) {
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
}

/// Release builds have no fail points.
#[cfg(not(debug_assertions))]
pub(crate) fn hit(_name: &str) {}
