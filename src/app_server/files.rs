//! Files of releases and of the app: their authors may have put anything there, of any size.

use std::{
    io::{self, Read},
    path::Path,
};

use crate::plain_file;

/// Texts that people or Bundler write are shorter.
pub(super) const LARGEST_TEXT: u64 = 4 << 20;
/// What is larger counts as different without being read.
const LARGEST_COMPARED: u64 = 64 << 20;
const PIECE: usize = 64 << 10;

/// A text; `None` where there is none that could be one: nothing there, no regular file, too large.
///
/// # Errors
/// When it is there and cannot be read, with its path.
pub(super) fn text(path: &Path) -> io::Result<Option<String>> {
    match plain_file::read(path, LARGEST_TEXT) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if is_none(&error) || error.kind() == io::ErrorKind::FileTooLarge => Ok(None),
        Err(error) => Err(named(path, &error)),
    }
}

/// Whether two files differ. One that is there and cannot be compared differs from every other.
///
/// # Errors
/// When one is there and cannot be read, with its path.
pub(super) fn differ(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut first, mut second) = match (open(one)?, open(other)?) {
        (Kind::Nothing, Kind::Nothing) => return Ok(false),
        (Kind::File(first), Kind::File(second)) => (first, second),
        _ => return Ok(true),
    };
    let lengths = (first.metadata()?.len(), second.metadata()?.len());
    if lengths.0 != lengths.1 || lengths.0 > LARGEST_COMPARED {
        return Ok(true);
    }
    loop {
        let (a, b) = (piece(&mut first, one)?, piece(&mut second, other)?);
        if a != b || a.is_empty() {
            return Ok(a != b);
        }
    }
}

enum Kind {
    Nothing,
    File(std::fs::File),
    Odd,
}

fn open(path: &Path) -> io::Result<Kind> {
    match plain_file::open(path) {
        Ok(file) => Ok(Kind::File(file)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && !path.is_dir() => Ok(Kind::Odd),
        Err(error) if is_none(&error) => Ok(Kind::Nothing),
        Err(error) => Err(named(path, &error)),
    }
}

fn piece(file: &mut std::fs::File, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(PIECE);
    Read::by_ref(file).take(PIECE as u64).read_to_end(&mut bytes).map_err(|error| named(path, &error))?;
    Ok(bytes)
}

fn is_none(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | IsADirectory | NotADirectory | InvalidInput)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("reading {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn what_is_large_or_odd_is_no_text_and_differs_from_everything() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::write(at("a"), "gem 'puma'").unwrap();
        fs::write(at("same"), "gem 'puma'").unwrap();
        fs::write(at("other"), "gem 'pume'").unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(at("dir")).unwrap();
        for name in ["large", "as_large"] {
            File::create(at(name)).unwrap().set_len(1 << 40).unwrap();
        }
        for (one, other, expected) in [
            ("a", "same", false),
            ("a", "other", true),
            ("a", "none", true),
            ("none", "none", false),
            ("none", "dir", false),
            ("a", "pipe", true),
            ("pipe", "pipe", true),
            ("large", "a", true),
            ("large", "as_large", true),
        ] {
            assert_eq!(differ(&at(one), &at(other)).unwrap(), expected, "{one} {other}");
        }
        assert_eq!(text(&at("a")).unwrap().as_deref(), Some("gem 'puma'"));
        for name in ["none", "dir", "pipe", "large"] {
            assert_eq!(text(&at(name)).unwrap(), None, "{name}");
        }
    }
}
