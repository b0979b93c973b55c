//! What the app's image brings, found by looking at the running server: nothing is executed, and
//! paths are those of the app's container.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use super::not_found::{self, ServerKind};
use crate::{
    core::{
        Detection, Problem, Reason,
        requirement::{Brought, Requirement},
    },
    lane::Lane,
    plain_file, procs,
};

/// Tens of megabytes at most.
const LIMIT: Duration = Duration::from_secs(5);

/// A piece of a binary that is searched at once; a version is never longer than the overlap.
const PIECE: usize = 1 << 20;
const OVERLAP: usize = 128;

/// What of this the image of a process does not bring, each with what was found instead.
///
/// # Errors
/// When it may not be inspected, or its image does not answer.
pub(super) async fn lacks(
    kind: &ServerKind,
    files: &Lane,
    pid: i32,
    requires: Vec<Requirement>,
) -> Result<Vec<String>, Problem> {
    looked_into(kind, files, pid, move || look(pid, &requires).map(|brought| brought.lacks(&requires))).await
}

/// The Ruby of a process's image, where it is known and not the one that is wanted.
///
/// # Errors
/// As [`lacks`].
pub(super) async fn another_ruby(
    kind: &ServerKind,
    files: &Lane,
    pid: i32,
    wanted: String,
) -> Result<Option<String>, Problem> {
    let wanted = [Requirement::Ruby(wanted)];
    let looked = move || {
        let brought = look(pid, &wanted)?;
        let differs = !brought.lacks(&wanted).is_empty();
        Ok(brought.ruby.filter(|_| differs))
    };
    looked_into(kind, files, pid, looked).await
}

async fn looked_into<T: Send + 'static>(
    kind: &ServerKind,
    files: &Lane,
    pid: i32,
    look: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    let looked = files.look(LIMIT, look);
    let late = || {
        let message =
            format!("the image of {} {pid} could not be read within {}s", kind.name, LIMIT.as_secs());
        Problem::new(Reason::VolumeUnavailable, message)
    };
    looked.await.ok_or_else(late)?.map_err(|error| match error.kind() {
        // Without this permission no restart could be proved either.
        io::ErrorKind::PermissionDenied => not_found::problem(kind, &Detection::NotPermitted),
        io::ErrorKind::NotFound => not_found::problem(kind, &Detection::Missing),
        _ => Problem::new(Reason::Internal, format!("/proc/{pid}: {error}")),
    })
}

/// Looks at this process and its root.
///
/// # Errors
/// When it may not be looked into.
fn look(pid: i32, requires: &[Requirement]) -> io::Result<Brought> {
    let exe = File::open(format!("/proc/{pid}/exe"))?;
    let mapped = mapped(&fs::read_to_string(format!("/proc/{pid}/maps"))?);
    let libc = libc(pid, &mapped);
    let files = requires.iter().filter_map(|need| match need {
        Requirement::File(path) => {
            fs::symlink_metadata(procs::in_root_of(pid, Path::new(path))).ok().map(|_| path.clone())
        }
        _ => None,
    });
    Ok(Brought {
        arch: architecture(&exe).map(str::to_owned),
        files: files.collect(),
        libc: libc.as_ref().map(|(kind, _)| (*kind).to_owned()),
        libc_version: libc.and_then(|(_, version)| version),
        ruby: ruby(pid, exe, &mapped),
    })
}

/// The files that a process has mapped.
fn mapped(maps: &str) -> BTreeSet<String> {
    let path = |line: &str| line.find('/').map(|at| line[at..].trim_end().to_owned());
    maps.lines().filter_map(path).collect()
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// By the machine in the ELF header.
fn architecture(exe: &File) -> Option<&'static str> {
    let mut header = [0; 20];
    exe.read_exact_at(&mut header, 0).ok()?;
    match (&header[..4], u16::from_le_bytes([header[18], header[19]])) {
        (b"\x7fELF", 62) => Some("amd64"),
        (b"\x7fELF", 183) => Some("arm64"),
        _ => None,
    }
}

/// Ruby says what it is in a text of its library, or of its binary where that holds everything. Without
/// it, the library's name tells.
fn ruby(pid: i32, exe: File, mapped: &BTreeSet<String>) -> Option<String> {
    let library = mapped.iter().find(|path| name(path).starts_with("libruby") && name(path).contains(".so"));
    let Some(library) = library else { return search(exe, described) };
    let told = plain_file::open(&procs::in_root_of(pid, Path::new(library)))
        .ok()
        .and_then(|file| search(file, described));
    told.or_else(|| library.rsplit_once(".so.").map(|(_, version)| version.to_owned()))
}

/// `ruby 3.3.6 (2024-11-05 revision …`, with a patch level in older ones: `3.1.2p20`.
fn described(text: &[u8]) -> Option<String> {
    let mut from = 0;
    while let Some(at) = find(&text[from..], b"ruby ") {
        let rest = &text[from + at + 5..];
        let version = version(rest);
        let after = &rest[version.len()..];
        let end = after.iter().take(24).position(|b| *b == b' ');
        let dated = end.is_some_and(|end| after[end..].starts_with(b" (20"));
        if version.matches('.').count() == 2 && dated {
            return Some(version.to_owned());
        }
        from += at + 5;
    }
    None
}

/// Which C library is loaded, and glibc's version.
fn libc(pid: i32, mapped: &BTreeSet<String>) -> Option<(&'static str, Option<String>)> {
    let is =
        |begins: &'static [&str]| mapped.iter().find(|path| begins.iter().any(|b| name(path).starts_with(b)));
    if is(&["ld-musl-", "libc.musl-"]).is_some() {
        return Some(("musl", None));
    }
    let library = is(&["libc.so.6", "libc-2."])?;
    let released = |text: &[u8]| {
        let at = find(text, b"stable release version ")?;
        let version = version(&text[at + 23..]).trim_end_matches('.');
        (!version.is_empty()).then(|| version.to_owned())
    };
    let version = plain_file::open(&procs::in_root_of(pid, Path::new(library)))
        .ok()
        .and_then(|file| search(file, released));
    Some(("glibc", version))
}

/// Reads a file piece by piece until something is found in it.
fn search(mut file: File, found: impl Fn(&[u8]) -> Option<String>) -> Option<String> {
    let mut text = Vec::with_capacity(PIECE + OVERLAP);
    loop {
        let before = text.len();
        Read::by_ref(&mut file).take(PIECE as u64).read_to_end(&mut text).ok()?;
        if let Some(found) = found(&text) {
            return Some(found);
        }
        if text.len() == before {
            return None;
        }
        text.drain(..text.len().saturating_sub(OVERLAP));
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// The digits and dots that it begins with.
fn version(text: &[u8]) -> &str {
    let end = text.iter().position(|b| !b.is_ascii_digit() && *b != b'.').unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ruby_describes_itself_in_old_and_new_ways_and_wherever_a_piece_ends() {
        let told = |text: &str| described(text.as_bytes());
        assert_eq!(told("x\0ruby 3.1.2p20 (2022-04-12 revision 4491bb740a)"), Some("3.1.2".into()));
        assert_eq!(told("ruby 3.3.6 (2024-11-05 revision 75015d4c1f) +YJIT"), Some("3.3.6".into()));
        assert_eq!(told("ruby 3.5.0preview1 (2025-04-18 master"), Some("3.5.0".into()));
        assert_eq!(told("ruby 3.3.6 is required; ruby - (20"), None);
        let mut file = tempfile::tempfile().unwrap();
        let padding = vec![b' '; PIECE - 10];
        io::Write::write_all(&mut file, &padding).unwrap();
        io::Write::write_all(&mut file, b"ruby 3.4.1 (2024-12-25 revision 48d4efcb85)").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        assert_eq!(search(file, described), Some("3.4.1".into()));
    }

    #[test]
    fn this_process_has_an_architecture_and_a_c_library() {
        let pid = std::process::id().try_into().unwrap();
        let there = Requirement::parse("file=/bin/sh");
        let brought = look(pid, &[there.clone(), Requirement::parse("file=/no/such/file")]).unwrap();
        assert!(brought.arch.is_some() && brought.libc.is_some(), "{brought:?}");
        assert_eq!(brought.files.len(), 1, "the one that is there");
    }
}
