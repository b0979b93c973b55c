//! What the app server listens on, where nobody has said it: read from its files, or learnt from the one that runs,
//! for the container's next start.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{app_server::puma::binds, config::ListenAddress, plain_file};

/// In `state_dir`.
const FILE: &str = "listen.json";
const LARGEST_BYTES: u64 = 64 << 10;
/// A volume gets so long to give a file.
const READ_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize)]
struct Learnt {
    addresses: Vec<ListenAddress>,
}

/// What is opened before the first server starts. Where a server was seen to bind a port by another name than
/// configured, that name counts: it takes a socket only under its own.
pub(crate) fn choose(configured: &[ListenAddress], state_dir: &Path) -> Vec<ListenAddress> {
    let learnt = read(&path(state_dir)).unwrap_or_default();
    let keys = |addresses: &[ListenAddress]| {
        let mut keys: Vec<String> = addresses.iter().map(ListenAddress::key).collect();
        keys.sort_unstable();
        keys
    };
    let same = configured.is_empty() || keys(configured) == keys(&learnt);
    if same { learnt } else { configured.to_vec() }
}

/// What Puma's command line and configuration say plainly.
///
/// # Errors
/// Why no second server can be started beside it.
pub(crate) fn from_files(command: &[OsString], current: &Path) -> Result<Vec<ListenAddress>, String> {
    let unknown = || {
        "what the app server listens on is not known before it runs: set exec.listen to what Puma binds"
            .to_owned()
    };
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let command = words.join(" ");
    let file = current.join(binds::config_file(&command).ok_or_else(unknown)?);
    let text = read_text(file.clone()).ok_or_else(unknown)?;
    let binds = binds::expected(&command, &text, &|name| std::env::var(name).ok()).ok_or_else(unknown)?;
    tracing::info!(file = %file.display(), binds = binds.join(", "), "found what the app server is going to listen on");
    addresses(&binds)
}

/// A volume that hangs holds up a thread.
fn read_text(file: PathBuf) -> Option<String> {
    let (send, text) = mpsc::channel();
    let read = move || send.send(plain_file::read_to_string(&file, LARGEST_BYTES));
    thread::Builder::new().name("files".into()).spawn(read).ok()?;
    text.recv_timeout(READ_WITHIN).ok()?.ok()
}

/// A unix socket is taken only where exec.listen names it: then verify.url names it as well.
fn addresses(binds: &[String]) -> Result<Vec<ListenAddress>, String> {
    if let Some(socket) = binds.iter().find(|bind| bind.starts_with("unix://")) {
        return Err(format!(
            "the app server listens on {socket}: set exec.listen to all of its addresses, and verify.url to this socket"
        ));
    }
    let all: Result<Vec<ListenAddress>, String> = binds.iter().cloned().map(TryFrom::try_from).collect();
    all.map_err(|why| format!("the app server listens where two servers cannot: {why}"))
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
    let addresses = match addresses(binds) {
        Ok(addresses) => addresses,
        Err(why) => return why,
    };
    match write(&path(state_dir), &Learnt { addresses }) {
        Ok(()) => format!(
            "what the app server listens on ({all}) was not known before its start: a second one can be started beside \
             it from the next start of this container on; to have that at once, set exec.listen to {all}"
        ),
        Err(error) => {
            format!("what the app server listens on cannot be kept ({error}): set exec.listen to {all}")
        }
    }
}

fn write(path: &Path, learnt: &Learnt) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let fresh = tempfile::NamedTempFile::new_in(dir)?;
    fs::write(fresh.path(), serde_json::to_vec(learnt)?)?;
    fresh.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// What an earlier server was seen to bind.
    pub(crate) fn learnt(bytes: &[u8]) {
        let _ = serde_json::from_slice::<Learnt>(bytes);
        let binds: Vec<String> = String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
        for address in addresses(&binds).unwrap_or_default() {
            let _ = (address.key(), address.backlog(), address.names(), address.low_latency());
            assert_eq!(ListenAddress::try_from(address.text().to_owned()).as_ref(), Ok(&address));
        }
    }
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
    fn a_plain_configuration_is_read_before_the_first_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("config")).unwrap();
        let found = |config: &str, command: &[&str]| {
            fs::write(dir.path().join("config/puma.rb"), config).unwrap();
            let command: Vec<OsString> = command.iter().map(OsString::from).collect();
            from_files(&command, dir.path())
                .map(|found| found.iter().map(|a| a.text().to_owned()).collect::<Vec<_>>())
        };
        let shell = ["sh", "-c", "cd /srv/app/current && exec bundle exec puma -C config/puma.rb"];
        assert_eq!(found("port 3000", &shell), Ok(vec!["tcp://0.0.0.0:3000".into()]));
        let why = found("bind 'unix:///run/shop.sock'", &shell).unwrap_err();
        assert!(why.contains("unix:///run/shop.sock"), "{why}");
        assert!(found("port 3000 if x", &shell).unwrap_err().contains("exec.listen"));
        assert!(found("port 3000", &["unicorn"]).unwrap_err().contains("exec.listen"));
    }

    #[test]
    fn a_torn_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path()), r#"{"addresses":["tc"#).unwrap();
        assert_eq!(chosen(dir.path(), &["tcp://0.0.0.0:3000"]), ["tcp://0.0.0.0:3000"]);
    }
}
