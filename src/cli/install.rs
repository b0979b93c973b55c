//! `pitstop install DEST`: copies this very program, to run it inside of another image.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Console, Exit, Failure};

/// The program as it runs, whatever its path was.
const ITSELF: &str = "/proc/self/exe";
/// What it is called in a directory.
const NAME: &str = "pitstop";

/// Where it is now.
#[derive(Debug, Serialize)]
struct Answer {
    path: PathBuf,
    was_there: bool,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.was_there { "is there already" } else { "installed" };
        write!(f, "{} {how}", self.path.display())
    }
}

/// Copies it in one rename: whoever starts it meanwhile gets the old one or the new one.
///
/// # Errors
/// [`Failure`] naming the path.
pub(crate) fn run(dest: &Path, console: Console) -> Result<Exit, Failure> {
    let failed = |e: io::Error| {
        Failure::failed(format!("{}: {e}; choose a directory that this user may write to", dest.display()))
    };
    let path = target(dest).map_err(failed)?;
    let was_there = is_installed(&path).map_err(failed)?;
    if !was_there {
        copy(&path).map_err(failed)?;
    }
    console.print(&Answer { path, was_there });
    Ok(Exit::Done)
}

/// A directory gets it under its own name; one that ends with a slash is made.
fn target(dest: &Path) -> io::Result<PathBuf> {
    let is_folder = dest.as_os_str().as_encoded_bytes().ends_with(b"/");
    if is_folder {
        fs::create_dir_all(dest)?;
    }
    Ok(if dest.is_dir() { dest.join(NAME) } else { dest.to_owned() })
}

fn is_installed(path: &Path) -> io::Result<bool> {
    let there = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        there => there?,
    };
    let meta = there.metadata()?;
    let itself = File::open(ITSELF)?;
    let executable = meta.permissions().mode() & 0o555 == 0o555;
    let alike = meta.is_file() && executable && meta.len() == itself.metadata()?.len();
    Ok(alike && same(there, itself)?)
}

fn same(mut a: impl Read, mut b: impl Read) -> io::Result<bool> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        a.by_ref().take(1 << 20).read_to_end(&mut left)?;
        b.by_ref().take(1 << 20).read_to_end(&mut right)?;
        if left != right || left.is_empty() {
            return Ok(left == right);
        }
    }
}

fn copy(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temp = tempfile::Builder::new().prefix(".pitstop-install-").tempfile_in(dir)?;
    io::copy(&mut File::open(ITSELF)?, temp.as_file_mut())?;
    temp.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    temp.as_file().sync_all()?;
    temp.persist(path).map_err(|e| e.error)?;
    File::open(dir)?.sync_all()
}
