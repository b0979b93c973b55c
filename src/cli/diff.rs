//! `pitstop diff A B`: what would change from one release to another, and which restart that means.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::runtime::Handle;

use super::{Console, Exit, Failure, publish};
use crate::{
    app_server::puma::not_loaded_by_phased,
    config::{AppServerKind, Config, RestartMode},
    releases::manifest::{Entry, Manifest},
    revision::ReleaseId,
    store::{self, Blocking, Found, Store, archive},
};

/// How long the store may be silent.
const IDLE: Duration = Duration::from_secs(30);

/// A manifest of a million entries is not larger.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;
const LOCKS: [&str; 2] = ["Gemfile.lock", "gems.locked"];
const PUMA_CONFIG: &str = "config/puma.rb";

/// What would change.
#[derive(Debug, Serialize)]
struct Answer {
    from: ReleaseId,
    to: ReleaseId,
    added: Names,
    changed: Names,
    removed: Names,
    /// The bundle is another one.
    gemfile_lock: bool,
    /// `config/puma.rb` is another one.
    puma_config: bool,
    restart: Restart,
}

/// Files and links.
#[derive(Debug, Default, Serialize)]
struct Names {
    count: usize,
    /// The first of them.
    names: Vec<String>,
}

/// How Puma would be restarted, as far as the files tell.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Restart {
    /// `beside`, `phased`, `hot`, or none where the app server is no Puma.
    mode: Option<&'static str>,
    /// It is a second server beside the first wherever Puma was started by `pitstop exec` and that is possible.
    beside: bool,
    why: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, added, changed, removed, .. } = self;
        writeln!(
            f,
            "{from} to {to}: {} added, {} changed, {} removed (files and links)",
            added.count, changed.count, removed.count
        )?;
        for (sign, names) in [("+", added), ("~", changed), ("-", removed)] {
            for name in &names.names {
                writeln!(f, "  {sign} {name}")?;
            }
            let more = names.count - names.names.len();
            if more > 0 && !names.names.is_empty() {
                writeln!(f, "  {sign} and {more} more (--limit)")?;
            }
        }
        let changes = |changes| if changes { "changes" } else { "unchanged" };
        writeln!(f, "bundle (Gemfile.lock): {}", changes(self.gemfile_lock))?;
        writeln!(f, "{PUMA_CONFIG}: {}", changes(self.puma_config))?;
        let Restart { mode, beside, why } = &self.restart;
        let mode = mode.unwrap_or("-");
        match beside {
            true => write!(f, "restart: beside where Puma runs under `pitstop exec`, else {mode} ({why})"),
            false => write!(f, "restart: {mode} ({why})"),
        }
    }
}

/// Compares them; of each list at most `limit` names are printed.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub(crate) async fn run(
    config: &Config,
    (from, to): (ReleaseId, ReleaseId),
    limit: usize,
    console: Console,
) -> Result<Exit, Failure> {
    let store = store::open(config.source.as_deref(), &config.s3).map_err(publish::usage)?;
    let (old, new) = (manifest(config, &store, &from).await?, manifest(config, &store, &to).await?);
    let changes = Changes::between(&old, &new);
    let listed =
        |names: &[String]| Names { count: names.len(), names: names.iter().take(limit).cloned().collect() };
    let differs = |files: &[&str]| changes.all().any(|name| files.contains(&name));
    console.print(&Answer {
        added: listed(&changes.added),
        changed: listed(&changes.changed),
        removed: listed(&changes.removed),
        gemfile_lock: differs(&LOCKS),
        puma_config: differs(&[PUMA_CONFIG]),
        restart: restart(config, &changes),
        from,
        to,
    });
    Ok(Exit::Done)
}

/// What a published release holds: by its manifest, or, where there is none, by its archive.
async fn manifest(config: &Config, store: &Arc<dyn Store>, id: &ReleaseId) -> Result<Manifest, Failure> {
    archive::require(store.as_ref(), id).await?;
    let key = archive::manifest_key(id);
    match store.get(&key, None, MANIFEST_BYTES_MAX).await.map_err(publish::failure)? {
        Found::Object { bytes, .. } => Manifest::read(&bytes[..]).map_err(|e| {
            Failure::failed(format!("{key}: {e}; delete it, and {id} is compared by its archive"))
        }),
        Found::Absent | Found::NotModified => {
            let store = Blocking::new(store.clone(), Handle::current(), IDLE);
            let (releases, id) = (super::on_volume(config), id.clone());
            let read = tokio::task::spawn_blocking(move || releases.archive_manifest(&store, &id));
            Ok(read.await.map_err(|e| Failure::failed(e.to_string()))??)
        }
    }
}

/// Files and links by their paths; directories come and go with them.
#[derive(Debug, Default)]
struct Changes {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

impl Changes {
    fn between(old: &Manifest, new: &Manifest) -> Self {
        let mut changes = Self::default();
        for (path, entry) in new.iter().filter(|(_, entry)| !is_directory(entry)) {
            let name = || path.path().display().to_string();
            match old.get(path.as_bytes()).filter(|entry| !is_directory(entry)) {
                None => changes.added.push(name()),
                Some(before) if !same(before, entry) => changes.changed.push(name()),
                Some(_) => {}
            }
        }
        for (path, _) in old.iter().filter(|(_, entry)| !is_directory(entry)) {
            if new.get(path.as_bytes()).is_none_or(is_directory) {
                changes.removed.push(path.path().display().to_string());
            }
        }
        changes
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        [&self.added, &self.changed, &self.removed].into_iter().flatten().map(String::as_str)
    }
}

fn is_directory(entry: &Entry) -> bool {
    matches!(entry, Entry::Directory { .. })
}

/// Whether they hold the same, and may be executed alike: of the other permissions the umask decides.
fn same(old: &Entry, new: &Entry) -> bool {
    match (old, new) {
        (Entry::File(old), Entry::File(new)) => {
            (old.bytes, old.sha256, old.mode & 0o100) == (new.bytes, new.sha256, new.mode & 0o100)
        }
        (Entry::Link { target: old }, Entry::Link { target: new }) => old == new,
        _ => false,
    }
}

/// By the files alone: what the master was started with and how its workers behave, only the agent sees.
fn restart(config: &Config, changes: &Changes) -> Restart {
    let beside = config.restart.mode == RestartMode::Auto && config.app_server == AppServerKind::Puma;
    let mode = |mode, why: &str| Restart { mode, beside, why: why.to_owned() };
    if config.app_server != AppServerKind::Puma {
        return mode(None, "only of Puma the files say more");
    }
    match (config.restart.mode, changes.all().find(|name| not_loaded_by_phased(name.as_ref()))) {
        (RestartMode::Beside, _) => mode(Some("beside"), "restart.mode is beside"),
        (RestartMode::Hot, _) => mode(Some("hot"), "restart.mode is hot"),
        (RestartMode::Phased, Some(file)) => {
            mode(Some("phased"), &format!("restart.mode is phased, which does not load the new {file}"))
        }
        (RestartMode::Phased, None) => mode(Some("phased"), "restart.mode is phased"),
        (RestartMode::Auto, Some(file)) => {
            mode(Some("hot"), &format!("{file} differs, which a phased restart does not load"))
        }
        (RestartMode::Auto, None) => mode(
            Some("phased"),
            "nothing differs that it would not load, if this Puma can be restarted so at all",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_restart_follows_from_the_files_and_the_configuration() {
        let mut config = Config::default();
        let mode = |config: &Config, changed: &str| {
            restart(config, &Changes { changed: vec![changed.into()], ..Changes::default() }).mode
        };
        assert_eq!(mode(&config, "app/models/user.rb"), Some("phased"));
        for file in ["Gemfile.lock", "config/puma.rb", "config/puma/production.rb", ".ruby-version"] {
            assert_eq!(mode(&config, file), Some("hot"), "{file}");
        }
        assert!(restart(&config, &Changes::default()).beside);
        config.restart.mode = RestartMode::Beside;
        assert_eq!(mode(&config, "Gemfile.lock"), Some("beside"));
        config.restart.mode = RestartMode::Phased;
        assert_eq!(mode(&config, "Gemfile.lock"), Some("phased"));
        assert!(!restart(&config, &Changes::default()).beside);
        config.app_server = AppServerKind::Unicorn;
        assert_eq!(mode(&config, "Gemfile.lock"), None);
    }
}
