//! Watching the release pointer: in a file (a mounted ConfigMap) or in the store.
//!
//! Only the newest value matters, so it is handed on by a watch channel. A change shows at once where
//! the file system reports it, and at the next poll where it does not. What cannot be read or understood is
//! reported as such and looked at again; it never ends the watch.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::watch, time::Instant};

use crate::{
    core::{Problem, Reason},
    lane::Lane,
    plain_file,
    revision::{Canary, Pointer, ReleaseId, Revision},
    store::{self, Found, Store, Version, archive},
    trust::Trust,
};

pub(crate) mod document;
mod kick;

pub use kick::Kick;

/// A pointer is some hundred bytes.
pub(crate) const LIMIT_BYTES: u64 = 64 << 10;
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// Pauses after failures grow to so many poll intervals at most,
const BACK_OFF_MAX: u32 = 4;
/// and not beyond this: the end of an outage is noticed soon by everybody, and not by all at once.
const BACK_OFF_LONGEST: Duration = Duration::from_secs(60);

/// What the newest look found; `None` before the first.
pub type Latest = Option<Result<Pointer, Problem>>;

/// Where the pointer is.
#[derive(Clone)]
pub enum Source {
    /// In this file.
    File(PathBuf),
    /// In the store, under this name.
    Store(Arc<dyn Store>, String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Store(_, name) => write!(f, "{}", store::pointer_key(name)),
        }
    }
}

/// The path of a `file:` pointer; `None` for a name in the store.
pub(crate) fn file_path(pointer: &str) -> Option<PathBuf> {
    pointer.strip_prefix("file:").map(PathBuf::from)
}

/// How one look at the pointer ended, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It says what it said.
    Unchanged,
    /// It says something new.
    Changed,
    /// It could not be read or understood.
    Failed(Reason),
}

/// How the pointer is watched.
#[derive(Clone)]
pub struct Settings {
    /// Where it is.
    pub source: Source,
    /// Whose signatures on it count.
    pub trust: Arc<Trust>,
    /// Pause between two looks, give or take a fifth.
    pub poll_interval: Duration,
    /// Hears of every look.
    pub on_check: Arc<dyn Fn(Check) + Send + Sync>,
}

/// Starts to watch, on the runtime that this is called from; ends when the receiver is dropped.
/// Equal values in a row wake nobody.
///
/// # Errors
/// When the system has no thread left.
pub fn watch(settings: Settings) -> io::Result<(watch::Receiver<Latest>, Kick)> {
    let kick = Kick::default();
    let (latest, receiver) = watch::channel(None);
    let looker = Looker::new(settings.source.clone(), settings.trust.clone())?;
    let watching = Watching { settings, looker, latest, kick: kick.clone(), watcher: None, failures: 0 };
    tokio::spawn(watching.run());
    Ok((receiver, kick))
}

/// Looks once.
///
/// # Errors
/// [`Problem`] when it cannot be read or understood, or is not signed where it has to be.
pub async fn read(source: &Source, trust: &Arc<Trust>) -> Result<Pointer, Problem> {
    let no_thread = |e| {
        Problem::new(Reason::Internal, format!("the thread that reads the pointer could not be started: {e}"))
    };
    Looker::new(source.clone(), trust.clone()).map_err(no_thread)?.look().await
}

/// What the bytes of a pointer mean: JSON, or the plain id of a release, also as a JSON string. A byte order mark in
/// front, which some editors and PowerShell write, means nothing.
///
/// # Errors
/// [`Reason::PointerInvalid`] with the shape of what was found instead, and none of its content: a link may have led
/// to any file.
pub fn parse(bytes: &[u8]) -> Result<Pointer, Problem> {
    if archive::is_utf16(bytes) {
        return Err(invalid(
            "is UTF-16: write it as UTF-8 (in PowerShell: Set-Content -Encoding ascii)".into(),
        ));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|_| invalid(format!("is not text ({} bytes)", bytes.len())))?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(invalid("is empty".into()));
    }
    if text.starts_with('{') {
        return of_json(text);
    }
    let quoted: Option<String> = serde_json::from_str(text).ok();
    let id = quoted.as_deref().map_or(text, str::trim);
    let release =
        id.parse().map_err(|_| invalid(format!("is neither JSON nor a release id: {}", shape(id))))?;
    Ok(Revision { release, sequence: None }.into())
}

fn of_json(text: &str) -> Result<Pointer, Problem> {
    let json: serde_json::Value =
        serde_json::from_str(text).map_err(|e| invalid(format!("is broken JSON: {e}")))?;
    // Anything else is some other file, of which nothing is repeated.
    let Some(release) = json.get("release") else {
        return Err(invalid("is JSON without a \"release\" field".into()));
    };
    let Some(release) = release.as_str() else {
        return Err(invalid("has a \"release\" field that is not a string".into()));
    };
    let no_id = || invalid(format!("has a \"release\" field that is not a release id: {}", shape(release)));
    if release.parse::<ReleaseId>().is_err() {
        return Err(no_id());
    }
    if let Some(canary) = json.get("canary").filter(|canary| !canary.is_null()) {
        let read = serde_json::from_value::<Canary>(canary.clone());
        read.map_err(|_| {
            invalid(
                "has a \"canary\" field that is not valid: it needs \"release\" and either \"pods\" or \"percent\""
                    .into(),
            )
        })?;
    }
    let mut pointer: Pointer = serde_json::from_value(json)
        .map_err(|_| invalid("has fields of the wrong type (docs/fleet.md lists them)".into()))?;
    if pointer.previous.iter().chain(&pointer.rolled_back).any(ReleaseId::is_fallback) {
        return Err(invalid("names no release".into()));
    }
    let canary = pointer.canary.as_mut().and_then(|canary| canary.sha256.as_mut());
    for sha256 in pointer.sha256.as_mut().into_iter().chain(canary) {
        sha256.make_ascii_lowercase();
        if !archive::is_sha256(sha256) {
            return Err(invalid(
                "has a \"sha256\" field that is not a digest (64 hexadecimal digits)".into(),
            ));
        }
    }
    Ok(pointer)
}

/// What a text looks like, without a word of it.
fn shape(text: &str) -> String {
    let (lines, bytes) = (text.lines().count(), text.len());
    match lines {
        0 | 1 if bytes > 128 => format!("a line of {bytes} bytes, too long for a release id"),
        0 | 1 => format!("a line of {bytes} bytes with characters that a release id cannot have"),
        _ => format!("{lines} lines, {bytes} bytes"),
    }
}

fn invalid(why: String) -> Problem {
    let message = format!("the pointer {why}; expected {{\"release\":\"v42\",\"sequence\":7}} or v42");
    Problem::new(Reason::PointerInvalid, message)
}

/// Reads the pointer, and remembers what it need not read again.
struct Looker {
    source: Source,
    trust: Arc<Trust>,
    lane: Lane,
    seen: Option<Version>,
    read: Option<Vec<u8>>,
}

impl Looker {
    fn new(source: Source, trust: Arc<Trust>) -> io::Result<Self> {
        Ok(Self { source, trust, lane: Lane::start("pointer")?, seen: None, read: None })
    }

    /// What the bytes mean. Also those that were read before: signatures expire, and keys are revoked.
    async fn understand(&self, bytes: Vec<u8>) -> Result<Pointer, Problem> {
        let trust = self.trust.clone();
        // It remembers the newest in a file.
        let understood = self.lane.run(LOOK_LIMIT, move || {
            let pointer = parse(&bytes)?;
            Ok(Pointer { expired: trust.admit(&bytes)?, ..pointer })
        });
        let hangs = |_| Err(Problem::new(Reason::PointerUnreadable, "state_dir does not answer".to_owned()));
        understood.await.unwrap_or_else(hangs).map_err(|problem| named(&self.source, problem))
    }

    async fn look(&mut self) -> Result<Pointer, Problem> {
        let found = match &self.source {
            Source::File(path) => return self.look_at_file(path.clone()).await,
            Source::Store(store, name) => {
                let key = store::pointer_key(name);
                let look = store.get(&key, self.seen.as_ref(), LIMIT_BYTES);
                let late =
                    |_| Problem::new(Reason::StoreUnreachable, format!("{key}: no answer in {LOOK_LIMIT:?}"));
                tokio::time::timeout(LOOK_LIMIT, look)
                    .await
                    .map_err(late)?
                    .map_err(|e| unreadable(&key, e))?
            }
        };
        match (found, &self.read) {
            (Found::NotModified, Some(read)) => self.understand(read.clone()).await,
            (Found::Object { version, bytes }, _) => {
                (self.seen, self.read) = (Some(version), Some(bytes.clone()));
                self.understand(bytes).await
            }
            (Found::Absent | Found::NotModified, _) => {
                (self.seen, self.read) = (None, None);
                let message =
                    format!("the store has no {}; `pitstop promote ID --create` creates it", self.source);
                Err(Problem::new(Reason::PointerUnreadable, message))
            }
        }
    }

    async fn look_at_file(&self, path: PathBuf) -> Result<Pointer, Problem> {
        let hangs = || Problem::new(Reason::PointerUnreadable, format!("{} does not answer", path.display()));
        let file = path.clone();
        let read = self.lane.run(LOOK_LIMIT, move || read_file(&file)).await;
        self.understand(read.unwrap_or_else(|_| Err(hangs()))?).await
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Problem> {
    // A ConfigMap's file is a link.
    plain_file::read(path, LIMIT_BYTES).map_err(|e| {
        let reason = match e.kind() {
            io::ErrorKind::FileTooLarge => Reason::PointerInvalid,
            _ => Reason::PointerUnreadable,
        };
        Problem::new(reason, format!("{}: {e}", path.display()))
    })
}

fn unreadable(key: &str, error: store::StoreError) -> Problem {
    match error {
        store::StoreError::TooLarge { .. } => Problem::new(Reason::PointerInvalid, error.to_string()),
        store::StoreError::InvalidKey(_) => {
            Problem::new(Reason::ConfigInvalid, format!("{key}: {error}; check `pointer`"))
        }
        error => error.into(),
    }
}

fn named(source: &Source, problem: Problem) -> Problem {
    Problem::new(problem.reason, format!("{source}: {}", problem.message))
}

struct Watching {
    settings: Settings,
    looker: Looker,
    latest: watch::Sender<Latest>,
    kick: Kick,
    watcher: Option<RecommendedWatcher>,
    failures: u32,
}

impl Watching {
    async fn run(mut self) {
        let mut kicked = None;
        loop {
            // Before the look: what changes after it is not missed.
            self.watch_directory().await;
            let look = self.looker.look().await;
            self.report(look);
            let pause = jittered(pause(self.settings.poll_interval, self.failures));
            tokio::select! {
                () = self.latest.closed() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.kick.wait(kicked) => kicked = Some(Instant::now()),
            }
        }
    }

    fn report(&mut self, look: Result<Pointer, Problem>) {
        let failed = look.as_ref().err().cloned();
        self.tell(failed.as_ref());
        self.failures = if failed.is_none() { 0 } else { self.failures.saturating_add(1) };
        let look = Some(look);
        let changed = self.latest.send_if_modified(|latest| {
            let changed = *latest != look;
            *latest = look;
            changed
        });
        (self.settings.on_check)(match (failed, changed) {
            (Some(problem), _) => Check::Failed(problem.reason),
            (None, true) => Check::Changed,
            (None, false) => Check::Unchanged,
        });
    }

    /// One line when it begins and one when it is over, however long an outage takes.
    fn tell(&self, failed: Option<&Problem>) {
        let pointer = &self.settings.source;
        let before = self.latest.borrow().as_ref().and_then(|look| look.as_ref().err().map(|t| t.reason));
        match failed {
            Some(problem) if before != Some(problem.reason) => {
                let (reason, detail) = (problem.reason.code(), &problem.message);
                tracing::warn!(reason, "the pointer cannot be read, so no deploy starts: {detail}");
            }
            None if before.is_some() => {
                tracing::info!(failed_looks = self.failures, "the pointer {pointer} is readable again");
            }
            Some(_) | None => {}
        }
    }

    /// Watches the directory, never the file: a ConfigMap's file is a link whose target is swapped.
    /// Made anew for each look, as the directory itself may have been replaced.
    async fn watch_directory(&mut self) {
        let dir = match &self.settings.source {
            Source::File(path) => path.parent().map(Path::to_owned),
            Source::Store(store, name) => store.watch_dir(&store::pointer_key(name)),
        };
        let Some(dir) = dir else { return };
        let kick = self.kick.clone();
        let made = self.looker.lane.run(LOOK_LIMIT, move || watcher(&dir, kick)).await;
        // Without one, polling is all there is.
        self.watcher = made.ok().and_then(Result::ok);
    }
}

fn watcher(dir: &Path, kick: Kick) -> notify::Result<RecommendedWatcher> {
    let hear = move |event: notify::Result<notify::Event>| {
        kick.hear(event.ok().map(|event| event.kind));
    };
    let mut watcher = notify::recommended_watcher(hear)?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Until the next look, after so many failures in a row.
fn pause(poll_interval: Duration, failures: u32) -> Duration {
    let grown = poll_interval * failures.clamp(1, BACK_OFF_MAX);
    grown.min(BACK_OFF_LONGEST).max(poll_interval)
}

/// Give or take a fifth, so that a fleet does not ask all at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_json_or_a_plain_id() {
        let json =
            parse(br#"{"release":"v42","sequence":7,"previous":"v41","canary":{"release":"v43","pods":1}}"#)
                .unwrap();
        assert_eq!(json.revision.to_string(), "v42#7");
        assert_eq!(json.previous.unwrap().as_str(), "v41");
        let plain = parse(b"v42\n").unwrap();
        assert_eq!((plain.revision.to_string().as_str(), plain.previous), ("v42", None));
        assert_eq!(parse(br#"{"release":"v42"}"#).unwrap().revision.sequence, None);
    }

    #[test]
    fn a_canary_is_whole_or_the_pointer_is_not_followed() {
        let parsed = |canary: &str| parse(format!(r#"{{"release":"v1","sequence":7,{canary}}}"#).as_bytes());
        let pointer = parsed(r#""canary":{"release":"v2","percent":25}"#).unwrap();
        assert_eq!(pointer.canary().unwrap().to_string(), "v2#8");
        assert_eq!((pointer.latest(), pointer.revision.sequence), (Some(8), Some(7)));
        let aborted = parsed(r#""aborted":{"release":"v2","sequence":9,"why":"p95"}"#).unwrap();
        assert_eq!((aborted.latest(), aborted.canary), (Some(9), None));
        for none in [r#""canary":null"#, r#""aborted":7"#, r#""aborted":{"sequence":9}"#] {
            let pointer = parsed(none).unwrap();
            assert_eq!((pointer.canary.is_none(), pointer.latest()), (true, Some(7)), "{none}");
        }
        for wrong in [r#"{"release":"v2"}"#, "7", r#"{"release":"a secret","pods":1}"#] {
            let problem = parsed(&format!("\"canary\":{wrong}")).unwrap_err();
            let named = problem.message.contains("\"canary\" field") && !problem.message.contains("secret");
            assert!(named, "{}", problem.message);
        }
    }

    #[test]
    fn a_pointer_may_be_written_as_tools_write_text() {
        let bare = |text: &str| parse(text.as_bytes()).unwrap().revision.to_string();
        for text in ["\u{feff}v42", "v42\r\n", "\"v42\"\n", "\u{feff}\"v42\"\r\n", "\u{a0}v42 "] {
            assert_eq!(bare(text), "v42", "{text:?}");
        }
        assert_eq!(bare("\u{feff}{\"release\":\"v42\",\r\n\"sequence\":7}\r\n"), "v42#7");
        for little in [true, false] {
            let unit = |c: u16| if little { c.to_le_bytes() } else { c.to_be_bytes() };
            let marked: Vec<u8> = "\u{feff}v42".encode_utf16().flat_map(unit).collect();
            for bytes in [&marked[..], &marked[2..]] {
                let problem = parse(bytes).unwrap_err();
                assert!(problem.message.contains("UTF-16"), "{}", problem.message);
            }
        }
    }

    #[test]
    fn the_digest_of_the_archive_may_stand_in_it() {
        let of = |sha256: &str| parse(format!(r#"{{"release":"v1","sha256":{sha256}}}"#).as_bytes());
        let hex = "ab".repeat(32);
        assert_eq!(of(&format!("\"{}\"", hex.to_uppercase())).unwrap().sha256, Some(hex));
        assert_eq!(of("null").unwrap().sha256, None);
        for wrong in ["\"\"", "\"abc\"", "7"] {
            assert_eq!(of(wrong).unwrap_err().reason, Reason::PointerInvalid, "{wrong}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_none_of_it_is_repeated() {
        let bad: [&[u8]; 14] = [
            br#"{"release":"(fallback_dir)"}"#,
            br#"{"release":"v1","previous":"(fallback_dir)"}"#,
            b"",
            b" \n",
            b"\xff\xfe",
            b"secret\nsecret",
            b"../secret",
            b"{}",
            br#"{"password":"secret"}"#,
            br#"{"release":"a secret"}"#,
            br#"{"release":{"a":"secret"}}"#,
            br#"{"release":"v1","sequence":"secret"}"#,
            b"\"secret\nsecret\"",
            &[b's'; 200],
        ];
        for bytes in bad {
            let problem = parse(bytes).unwrap_err();
            assert_eq!(problem.reason, Reason::PointerInvalid);
            assert!(!problem.message.contains("secret"), "{}", problem.message);
        }
        let shape = parse(b"two\nlines").unwrap_err().message;
        assert!(shape.contains("neither JSON nor a release id: 2 lines, 9 bytes"), "{shape}");
    }

    #[test]
    fn pauses_grow_with_failures_and_never_beyond_what_people_wait_for() {
        let seconds = |poll: u64| [0, 1, 2, 3, 4, 100].map(|n| pause(Duration::from_secs(poll), n).as_secs());
        assert_eq!(seconds(5), [5, 5, 10, 15, 20, 20]);
        assert_eq!(seconds(30), [30, 30, 60, 60, 60, 60]);
        assert_eq!(seconds(300), [300; 6]);
    }

    #[test]
    fn pauses_vary_by_a_fifth_at_most() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(10));
            assert!((8..=12).contains(&pause.as_secs()), "{pause:?}");
        }
    }
}
