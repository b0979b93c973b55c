//! The exception that keeps an app from booting, from what Puma writes: where its output goes to regular files.

use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::{Duration, Instant},
};

use crate::plain_file;

/// So much of a file's end is read. The backtrace of a Rails app has up to 20 KB.
const TAIL_BYTES: u64 = 64 << 10;
const CHARACTERS_MAX: usize = 300;
/// No restart is watched for longer, and a log that was rotated away is not kept on the disk for longer.
const KEPT: Duration = Duration::from_secs(3600);

/// The files that a process writes its output to, and where they ended when it was restarted. They stay open: who
/// looks for the exception comes when the process may have ended.
#[derive(Debug)]
pub(super) struct Output {
    files: Vec<(File, u64)>,
    since: Instant,
}

impl Output {
    /// Its standard error, and its standard output where that is another file.
    pub(crate) fn of(pid: i32) -> Self {
        let mut files: Vec<(File, u64)> = Vec::new();
        let mut known = Vec::new();
        for descriptor in [2, 1] {
            let opened = plain_file::open(Path::new(&format!("/proc/{pid}/fd/{descriptor}")));
            let Ok((meta, file)) = opened.and_then(|file| Ok((file.metadata()?, file))) else { continue };
            if !known.contains(&(meta.dev(), meta.ino())) {
                known.push((meta.dev(), meta.ino()));
                files.push((file, meta.len()));
            }
        }
        Self { files, since: Instant::now() }
    }

    /// Nobody asks any more.
    pub(crate) fn is_old(&self) -> bool {
        self.since.elapsed() > KEPT
    }

    /// The last exception that was written since.
    pub(crate) fn raised(&self) -> Option<String> {
        self.files.iter().find_map(|(file, from)| exception(&tail(file, *from)?))
    }
}

fn tail(file: &File, from: u64) -> Option<String> {
    let end = file.metadata().ok()?.len();
    // A shorter one was begun anew.
    let from = if end < from { 0 } else { from };
    let start = from.max(end.saturating_sub(TAIL_BYTES));
    let mut bytes = vec![0; usize::try_from(end - start).ok()?];
    let read = file.read_at(&mut bytes, start).ok()?;
    bytes.truncate(read);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last exception in what Puma and Ruby write: `LoadError: cannot load such file -- a_gem (config.ru:3)`.
pub(super) fn exception(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let (_, found) = last(&lines)?;
    let plain: String = found.chars().filter(|c| !c.is_control()).collect();
    Some(match plain.char_indices().nth(CHARACTERS_MAX) {
        None => plain,
        Some(_) => plain.chars().take(CHARACTERS_MAX - 1).chain(['…']).collect(),
    })
}

/// The line where the last exception begins, and the exception.
pub(super) fn last(lines: &[&str]) -> Option<(usize, String)> {
    let lines: Vec<&str> = lines.iter().copied().map(without_pid).collect();
    (0..lines.len()).rev().find_map(|at| {
        let (head, below) = (*lines.get(at)?, lines.get(at + 1..)?);
        if head == "! Unable to start worker" {
            return Some((at, of_worker(below)?));
        }
        let loading = || {
            let text = head.strip_prefix("! Unable to load application: ")?;
            // The two come by different pipes, so that the one that says where may be the first.
            let fuller = (0..at).rev().find_map(|at| uncaught(lines.get(at)?, lines.get(at + 1..)?));
            Some(fuller.filter(|fuller| fuller.starts_with(text)).unwrap_or_else(|| text.to_owned()))
        };
        Some((at, uncaught(head, below).or_else(loading)?))
    })
}

/// `[4711] text`, of a cluster.
fn without_pid(line: &str) -> &str {
    let rest = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    rest.filter(|(pid, _)| pid.bytes().all(|b| b.is_ascii_digit())).map_or(line, |(_, rest)| rest)
}

/// Puma 5 writes the first line of the backtrace alone; later ones the message, without its class, and all of it.
fn of_worker(below: &[&str]) -> Option<String> {
    let first = below.first()?;
    let ends = |line: &&&str| !line.starts_with("! Unable to") && **line != "Early termination of worker";
    if in_method(first).is_some() {
        return Some(format!("an exception at {first} (this Puma does not log its message)"));
    }
    Some(at_place(first, below.iter().skip(1).take_while(ends).copied()))
}

/// What Ruby writes of an exception that ends it: place, message and class, then the rest of the backtrace.
fn uncaught(head: &str, below: &[&str]) -> Option<String> {
    let (text, class) = head.strip_suffix(')')?.rsplit_once(" (")?;
    let of_class = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_');
    if !class.starts_with(|c: char| c.is_ascii_uppercase()) || !class.chars().all(of_class) {
        return None;
    }
    let (_, rest) = place(text)?;
    let message = match rest.strip_prefix("in ") {
        Some(rest) => rest.split_once("': ")?.1,
        None => rest.strip_prefix(' ')?,
    };
    let frames = below
        .iter()
        .take_while(|line| !line.starts_with('!'))
        .filter_map(|l| l.trim_start().strip_prefix("from "));
    Some(at_place(&format!("{class}: {message}"), [text].into_iter().chain(frames)))
}

/// The message, and the first line of the app's own in the backtrace.
fn at_place<'a>(message: &str, frames: impl Iterator<Item = &'a str>) -> String {
    let others = ["<internal:", "/gems/", "/rubygems", "/lib/ruby/", "/bin/"];
    let own = |(place, _): &(&str, &str)| !others.iter().any(|other| place.contains(other));
    let first = frames.map(str::trim_start).filter(|line| !line.is_empty()).filter_map(place).find(own);
    first.map_or_else(|| message.to_owned(), |(place, _)| format!("{message} ({})", below_release(place)))
}

/// `config.ru:3` and what follows its colon.
fn place(line: &str) -> Option<(&str, &str)> {
    line.match_indices(':').find_map(|(at, _)| {
        let rest = line.get(at + 1..)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0)?;
        Some((line.get(..at + 1 + digits)?, rest.get(digits..)?.strip_prefix(':')?))
    })
}

fn in_method(line: &str) -> Option<&str> {
    place(line)?.1.strip_prefix("in ").filter(|method| method.ends_with('\''))
}

fn below_release(place: &str) -> &str {
    let inside = place.split_once("/releases/").and_then(|(_, rest)| Some(rest.split_once('/')?.1));
    inside.or_else(|| Some(place.split_once("/current/")?.1)).unwrap_or(place)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// The last exception in what an app server wrote.
    pub(crate) fn output(bytes: &[u8]) {
        if let Some(found) = exception(&String::from_utf8_lossy(bytes)) {
            assert!(found.chars().count() <= CHARACTERS_MAX && !found.contains(char::is_control));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PRELOADING_5_6: &str = "\
[28133] * Preloading application
[28133] ! Unable to load application: LoadError: cannot load such file -- a_gem
<internal:/usr/lib/ruby/vendor_ruby/rubygems/core_ext/kernel_require.rb>:85:in `require': cannot load such file -- a_gem (LoadError)
\tfrom <internal:/usr/lib/ruby/vendor_ruby/rubygems/core_ext/kernel_require.rb>:85:in `require'
\tfrom config.ru:2:in `block in <main>'
\tfrom /usr/share/rubygems-integration/all/gems/rack-2.2.22/lib/rack/builder.rb:116:in `eval'
\tfrom /usr/bin/puma:25:in `<main>'
";
    const SINGLE_6_6: &str = "\
*          PID: 30634
! Unable to load application: RuntimeError: this release is broken on purpose
/srv/app/releases/v2/config/initializers/broken.rb:1:in `block in <main>': this release is broken on purpose (RuntimeError)
\tfrom /usr/lib/x86_64-linux-gnu/rubygems-integration/3.3.0/gems/puma-6.6.0/lib/puma/rack/builder.rb:186:in `instance_eval'
\tfrom /usr/bin/puma:25:in `<main>'
";
    const WORKERS_6_6: &str = "\
[29981] Use Ctrl-C to stop
[29987] ! Unable to start worker
[29987] another message
[29987] config.ru:9:in `block in <main>'
[29988] ! Unable to start worker
[29988] cannot load such file -- a_gem
[29988] <internal:/usr/lib/ruby/vendor_ruby/rubygems/core_ext/kernel_require.rb>:136:in `require'
    <internal:/usr/lib/ruby/vendor_ruby/rubygems/core_ext/kernel_require.rb>:136:in `require'
    config.ru:2:in `block in <main>'
    /usr/lib/x86_64-linux-gnu/rubygems-integration/3.3.0/gems/puma-6.6.0/lib/puma/rack/builder.rb:186:in `instance_eval'
    config.ru:in `<main>'
[29988] Early termination of worker
";
    const SYNTAX_6_6: &str = "\
[31620] ! Unable to start worker
[31620] syn.ru:3: syntax error, unexpected end-of-input, expecting '}'
}.to_app
        ^

[31620] /usr/lib/x86_64-linux-gnu/rubygems-integration/3.3.0/gems/puma-6.6.0/lib/puma/rack/builder.rb:172:in `eval'
";
    const WORKERS_5_6: &str = "\
[32467] ! Unable to start worker
[32467] bad.ru:1:in `block in <main>'
[32467] Early termination of worker
";

    #[test]
    fn the_last_exception_is_found_in_what_puma_5_6_and_6_6_write() {
        let all = [
            (PRELOADING_5_6, "LoadError: cannot load such file -- a_gem (config.ru:2)"),
            (SINGLE_6_6, "RuntimeError: this release is broken on purpose (config/initializers/broken.rb:1)"),
            (WORKERS_6_6, "cannot load such file -- a_gem (config.ru:2)"),
            (SYNTAX_6_6, "syn.ru:3: syntax error, unexpected end-of-input, expecting '}'"),
            (
                WORKERS_5_6,
                "an exception at bad.ru:1:in `block in <main>' (this Puma does not log its message)",
            ),
            (
                "c.rb:1:in `_load_from': cfg (RuntimeError)\n\tfrom /usr/bin/puma:25:in `<main>'\n",
                "RuntimeError: cfg (c.rb:1)",
            ),
            (
                "config.ru:1:in 'Object#boot': divided by 0 (ZeroDivisionError)\n",
                "ZeroDivisionError: divided by 0 (config.ru:1)",
            ),
            (
                "config.ru:2:in `block in <main>': no way (KeyError)\n\tfrom x.rb:1:in `y'\n\
                 [7] ! Unable to load application: KeyError: no way\n",
                "KeyError: no way (config.ru:2)",
            ),
            (
                "[7] ! Unable to load application: LoadError: cannot load such file -- a_gem\n",
                "LoadError: cannot load such file -- a_gem",
            ),
        ];
        for (text, wanted) in all {
            assert_eq!(exception(text).as_deref(), Some(wanted), "{text}");
        }
        for text in [
            "",
            "[7] * Listening on http://127.0.0.1:9292\n[7] - Worker 0 (PID: 8) booted in 0.1s, phase: 0\n",
            "GET /x:1: odd (Thing",
        ] {
            assert_eq!(exception(text), None, "{text}");
        }
    }

    #[test]
    fn an_exception_is_one_short_line() {
        let long = format!("a.rb:1: \u{1b}[31m{} (RuntimeError)\n", "é".repeat(1000));
        let found = exception(&long).unwrap();
        assert_eq!((found.chars().count(), found.contains('\u{1b}')), (CHARACTERS_MAX, false), "{found}");
    }

    #[test]
    fn only_what_was_written_since_the_restart_counts_and_a_log_that_was_emptied_is_read_from_its_beginning()
    {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        writeln!(log, "old.rb:1: an old one (RuntimeError)").unwrap();
        let output = Output {
            files: vec![(log.reopen().unwrap(), log.as_file().metadata().unwrap().len())],
            since: Instant::now(),
        };
        assert_eq!(output.raised(), None);
        write!(log, "{}", "x".repeat(1 << 20)).unwrap();
        writeln!(log, "\nnew.rb:1: a new one (RuntimeError)").unwrap();
        assert_eq!(output.raised().as_deref(), Some("RuntimeError: a new one (new.rb:1)"));
        log.as_file().set_len(0).unwrap();
        std::fs::write(log.path(), "a.rb:1: x (KeyError)\n").unwrap();
        assert_eq!(output.raised().as_deref(), Some("KeyError: x (a.rb:1)"));
    }
}
