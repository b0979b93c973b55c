//! Plain words on the terminal, with the time since the demo began.

use std::{
    io::{IsTerminal, Write, stdout},
    sync::LazyLock,
    time::Instant,
};

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
static COLOURS: LazyLock<bool> = LazyLock::new(|| stdout().is_terminal());

/// A new act: its name, and why it is played.
pub fn act(title: &str, why: &str) {
    println!("\n{}", styled("1", &format!("== {title}")));
    for line in why.lines() {
        println!("   {}", line.trim());
    }
    flush();
}

/// Something that happens now.
pub fn say(text: &str) {
    println!("{} {text}", stamp());
    flush();
}

/// A command as the user would type it, and what it printed.
pub fn command(typed: &str, printed: &str) {
    println!("{} {}", stamp(), styled("36", &format!("$ pitstop {typed}")));
    for line in printed.lines().take(16) {
        println!("          {line}");
    }
    flush();
}

/// An expectation and whether it held.
pub fn verdict(held: bool, what: &str, detail: &str) {
    let mark = if held { styled("32", "ok  ") } else { styled("31", "FAIL") };
    let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    println!("{} {mark} {what}{detail}", stamp());
    flush();
}

fn stamp() -> String {
    format!("{:7.1}s ", BEGAN.elapsed().as_secs_f64())
}

fn styled(code: &str, text: &str) -> String {
    if *COLOURS { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn flush() {
    // Somebody may read along through a pipe; if nobody does any more, the summary file remains.
    let _ = stdout().flush();
}
