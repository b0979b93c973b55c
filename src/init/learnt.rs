//! What the app server listens on, where nobody has said it: learnt from the one that runs, for the container's next
//! start.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{config::ListenAddress, plain_file};

/// In `state_dir`.
const FILE: &str = "listen.json";
const LARGEST_BYTES: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Learnt {
    addresses: Vec<ListenAddress>,
}

/// What is opened before the first server starts. Where a server was seen to bind a port by another name than
/// configured, that name counts: it takes a socket only under its own.
pub(crate) fn choose(configured: &[ListenAddress], state_dir: &Path) -> Vec<ListenAddress> {
    let learnt = read(&path(state_dir)).unwrap_or_default();
    let ports = |addresses: &[ListenAddress]| {
        let mut ports: Vec<u16> = addresses.iter().map(|address| address.socket().port()).collect();
        ports.sort_unstable();
        ports
    };
    let same = configured.is_empty() || ports(configured) == ports(&learnt);
    if same { learnt } else { configured.to_vec() }
}

fn read(path: &Path) -> Option<Vec<ListenAddress>> {
    let text = plain_file::read_to_string(path, LARGEST_BYTES).ok()?;
    serde_json::from_str::<Learnt>(&text).ok().map(|learnt| learnt.addresses)
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// Keeps what a server binds. Returns why no second server can be started beside this one.
pub(crate) fn keep(binds: &[String], state_dir: &Path) -> String {
    let all = binds.join(", ");
    let parsed: Result<Vec<ListenAddress>, String> = binds.iter().cloned().map(TryFrom::try_from).collect();
    match parsed.map(|addresses| write(&path(state_dir), &Learnt { addresses })) {
        Ok(Ok(())) => format!(
            "what the app server listens on ({all}) was not known before its start: a second one can be started beside \
             it from the next start of this container on; to have that at once, set exec.listen to {all}"
        ),
        Ok(Err(error)) => {
            format!("what the app server listens on cannot be kept ({error}): set exec.listen to {all}")
        }
        Err(why) => format!("the app server listens where two servers cannot: {why}"),
    }
}

fn write(path: &Path, learnt: &Learnt) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let fresh = tempfile::NamedTempFile::new_in(dir)?;
    fs::write(fresh.path(), serde_json::to_vec(learnt)?)?;
    fresh.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(dir: &Path, configured: &[&str]) -> Vec<String> {
        let configured: Vec<ListenAddress> =
            configured.iter().map(|text| ListenAddress::try_from((*text).to_owned()).unwrap()).collect();
        choose(&configured, dir).iter().map(|address| address.text().to_owned()).collect()
    }

    fn kept(dir: &Path, binds: &[&str]) -> String {
        keep(&binds.iter().map(|bind| (*bind).to_owned()).collect::<Vec<_>>(), dir)
    }

    #[test]
    fn what_was_learnt_is_known_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        assert!(chosen(dir.path(), &[]).is_empty());
        assert!(kept(dir.path(), &["tcp://[::]:3000"]).contains("next start"));
        assert_eq!(chosen(dir.path(), &[]), ["tcp://[::]:3000"]);
        assert_eq!(chosen(dir.path(), &["tcp://0.0.0.0:3000"]), ["tcp://[::]:3000"], "the server's own name");
        assert_eq!(chosen(dir.path(), &["tcp://0.0.0.0:4000"]), ["tcp://0.0.0.0:4000"], "what is configured");
    }

    #[test]
    fn what_two_servers_cannot_share_is_named_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let why = kept(dir.path(), &["tcp://0.0.0.0:3000", "unix:///run/puma.sock"]);
        assert!(why.contains("unix:///run/puma.sock"), "{why}");
        assert!(chosen(dir.path(), &[]).is_empty());
    }

    #[test]
    fn a_torn_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path()), r#"{"addresses":["tc"#).unwrap();
        assert_eq!(chosen(dir.path(), &["tcp://0.0.0.0:3000"]), ["tcp://0.0.0.0:3000"]);
    }
}
