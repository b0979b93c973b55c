//! What a pointer's statement says: what its pods run, and which keys and releases nobody may trust any more.
//!
//! It lies in the pointer's own object, so one compare-and-swap writes both. The fields that it covers have to say the
//! same in the object; agents make nothing of any other, but for `paused`.

use std::{
    collections::BTreeSet,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Envelope, Floor, Trust, invalid, missing, now,
    release::{ReleaseStatement, shown},
};
use crate::{
    core::{Problem, Reason},
    finding::{Code, Finding},
    revision::ReleaseId,
};

/// The field of a pointer's object that holds the envelope.
pub(crate) const SIGNED: &str = "signed";
/// The field with the envelope of what was revoked.
pub(crate) const REVOKED: &str = "revoked";
/// The fields that decide what runs.
const SIGNED_FIELDS: [&str; 7] =
    ["release", "sequence", "sha256", "previous", "rolled_back", "canary", "aborted"];

const TYPE: &str = "pointer";
const REVOKED_TYPE: &str = "revoked";
const VERSION: u32 = 1;
/// A clock may be wrong by so much. What is issued later than that would make every later statement look old.
const FUTURE_SECONDS: u64 = 86_400;
/// No fleet makes so many moves between two looks of a pod.
const JUMP: u64 = 10_000;

/// What the pods of one pointer run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointerStatement {
    t: String,
    v: u32,
    pub(crate) app: String,
    pub(crate) pointer: String,
    /// When it was signed (RFC 3339). Each is later than the one before: an older one is a replay.
    pub(crate) issued_at: String,
    /// From then on no pod starts a deploy by it; pods that start still run what it names.
    pub(crate) expires: String,
    /// The number of the revocations that stand beside it; 0: none.
    #[serde(default)]
    pub(crate) revocations: u64,
    /// The fields of the object, those of [`SIGNED_FIELDS`] that it has.
    pub(crate) says: Map<String, Value>,
}

/// What nobody may trust any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocations {
    t: String,
    v: u32,
    pub(crate) app: String,
    /// Grows with each change.
    pub(crate) sequence: u64,
    /// Public keys.
    #[serde(default)]
    pub(crate) keys: BTreeSet<String>,
    /// Releases by the digest of their archives.
    #[serde(default)]
    pub(crate) sha256: BTreeSet<String>,
}

impl Revocations {
    /// The next list.
    pub(crate) fn after(app: &str, before: Option<Self>) -> Self {
        let before = before.unwrap_or_default();
        Self { t: REVOKED_TYPE.into(), v: VERSION, app: app.into(), sequence: before.sequence + 1, ..before }
    }

    pub(super) fn refuse(&self, id: &ReleaseId, statement: &ReleaseStatement) -> Result<(), Problem> {
        if self.sha256.contains(&statement.sha256) {
            return Err(invalid(format!("release {id} is revoked: promote another release")));
        }
        if statement.signers.iter().all(|key| self.keys.contains(key)) {
            return Err(invalid(format!(
                "release {id} is signed by a revoked key: sign it by another (`pitstop sign {id}`)"
            )));
        }
        Ok(())
    }
}

impl PointerStatement {
    /// For this object. Later than `before`, whatever the clock says.
    pub(crate) fn new(
        (app, pointer): (&str, &str),
        object: &Map<String, Value>,
        before: Option<&Self>,
        holds: Duration,
    ) -> Self {
        let after = before.and_then(|before| seconds(&before.issued_at)).map_or(0, |issued| issued + 1);
        // One from the future would stay in everybody's way.
        let issued = now().max(after.min(now() + FUTURE_SECONDS));
        let revocations: Option<Envelope> =
            object.get(REVOKED).and_then(|value| serde_json::from_value(value.clone()).ok());
        let revocations = revocations.and_then(|envelope| envelope.unverified::<Revocations>());
        Self {
            t: TYPE.into(),
            v: VERSION,
            app: app.into(),
            pointer: pointer.into(),
            issued_at: date(issued),
            expires: date(issued.saturating_add(holds.as_secs())),
            revocations: revocations.map_or(0, |revocations| revocations.sequence),
            says: said(object),
        }
    }
}

/// Those fields of an object that a statement covers.
pub(crate) fn said(object: &Map<String, Value>) -> Map<String, Value> {
    let has = |name: &&str| Some(((*name).to_owned(), object.get(*name)?.clone()));
    SIGNED_FIELDS.iter().filter_map(has).collect()
}

impl Trust {
    /// Whether the pointer's object may be followed. Answers since when it has expired, if it has: then nobody starts
    /// a deploy by it.
    ///
    /// # Errors
    /// [`Reason::SignatureMissing`], [`Reason::SignatureInvalid`] or [`Reason::Replayed`], where signatures are
    /// required.
    pub(crate) fn admit(&self, bytes: &[u8]) -> Result<Option<String>, Problem> {
        if !self.checks_pointers() {
            return Ok(None);
        }
        match self.check(bytes) {
            Ok(expires) => {
                self.forget(Code::PointerNotSigned);
                Ok(self.expired(expires))
            }
            Err(problem) => {
                self.judge(Code::PointerNotSigned, problem)?;
                self.expires.store(0, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    fn check(&self, bytes: &[u8]) -> Result<String, Problem> {
        let name = &self.pointer;
        let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let signed = object.get(SIGNED).ok_or_else(|| {
            missing(format!(
                "the pointer {name} is not signed: `pitstop promote --sign` and `pitstop sign --pointer` sign it"
            ))
        })?;
        let what = format!("the signature of the pointer {name}");
        let bad = |why: String| invalid(format!("{what} {why}"));
        let envelope: Envelope = serde_json::from_value(signed.clone())
            .map_err(|_| bad("is not what `pitstop promote --sign` writes".into()))?;
        let mut keys = self.keys.pointer_keys.clone();
        keys.retain(|key| !self.seen().revocations.keys.contains(key));
        let threshold = usize::try_from(self.keys.threshold).unwrap_or(usize::MAX);
        let (statement, _): (PointerStatement, _) = envelope.open(&what, &keys, threshold)?;
        if statement.t != TYPE || statement.v != VERSION {
            return Err(bad("is not on a pointer".into()));
        }
        if Some(&statement.app) != self.keys.app.as_ref() {
            return Err(bad(format!("is for the app {}", shown(&statement.app))));
        }
        if statement.pointer != *name {
            return Err(bad(format!("is for the pointer {}", shown(&statement.pointer))));
        }
        if statement.says != object.as_object().map(said).unwrap_or_default() {
            return Err(bad("does not hold for what the pointer says now: it was changed afterwards".into()));
        }
        let canary = statement.says.get("canary").is_none_or(|canary| canary.get("sha256").is_some());
        if !canary || !statement.says.contains_key("sha256") || !statement.says.contains_key("sequence") {
            return Err(bad("leaves open which archive and which move it is for".into()));
        }
        let revocations = self.revocations(&object, &statement)?;
        self.refuse_replays(&statement)?;
        if let Some(revocations) = revocations {
            self.seen().revocations = revocations;
        }
        Ok(statement.expires)
    }

    /// The list beside the statement, which names its number: without the list the statement does not hold.
    fn revocations(
        &self,
        object: &Value,
        statement: &PointerStatement,
    ) -> Result<Option<Revocations>, Problem> {
        let known = self.seen().revocations.sequence;
        if statement.revocations < known {
            return Err(invalid(format!(
                "the revocations beside the pointer {} are older than those known",
                self.pointer
            )));
        }
        if statement.revocations == 0 {
            return Ok(None);
        }
        let what = format!("the list of revocations in the pointer {}", self.pointer);
        let bad = |why: &str| invalid(format!("{what} {why}"));
        let envelope = object.get(REVOKED).ok_or_else(|| bad("is missing"))?;
        let envelope: Envelope = serde_json::from_value(envelope.clone())
            .map_err(|_| bad("is not what `pitstop revoke` writes"))?;
        let threshold = usize::try_from(self.keys.threshold).unwrap_or(usize::MAX);
        let (list, _): (Revocations, _) = envelope.open(&what, &self.keys.pointer_keys, threshold)?;
        let fits = list.t == REVOKED_TYPE
            && list.v == VERSION
            && Some(&list.app) == self.keys.app.as_ref()
            && list.sequence == statement.revocations;
        fits.then_some(Some(list)).ok_or_else(|| bad("does not belong to it"))
    }

    fn refuse_replays(&self, statement: &PointerStatement) -> Result<(), Problem> {
        let name = &self.pointer;
        let replayed = |why: String| Problem::new(Reason::Replayed, format!("the pointer {name} {why}"));
        let issued = seconds(&statement.issued_at)
            .ok_or_else(|| invalid(format!("the signature of the pointer {name} has no valid date")))?;
        let sequence = statement.says.get("sequence").and_then(Value::as_u64).unwrap_or(0);
        if issued > now() + FUTURE_SECONDS {
            return Err(invalid(format!(
                "the signature of the pointer {name} is dated {}, in the future: check the clock of this node and of \
                 the machine that signed it",
                statement.issued_at
            )));
        }
        if sequence < self.keys.min_sequence {
            return Err(replayed(format!(
                "names move {sequence}, and trust.min_sequence is {}: an older pointer was put back",
                self.keys.min_sequence
            )));
        }
        let mut seen = self.seen();
        let floor = seen.floor.clone().unwrap_or_else(|| Floor::read(self.memory.as_deref(), name));
        let next = Floor { pointer: name.clone(), issued, sequence: sequence.max(floor.sequence) };
        let verdict = match floor {
            Floor { issued: known, .. } if issued < known => Err(replayed(format!(
                "was signed at {}, and this pod has seen a later signature ({}): an older pointer was put back. Sign it \
                 again (`pitstop sign --pointer`) if it is the right one",
                statement.issued_at,
                date(known)
            ))),
            Floor { sequence: known, .. } if known > 0 && sequence > known.saturating_add(JUMP) => {
                Err(invalid(format!(
                    "the pointer {name} jumps from move {known} to move {sequence}: its number was not counted by pitstop"
                )))
            }
            _ => Ok(()),
        };
        if verdict.is_ok() {
            // What a file says is kept, and what could not be written is tried again at each look.
            let was_kept = seen.floor.is_none() || seen.kept;
            seen.kept = (was_kept && next == floor) || self.keep(&next, was_kept);
            seen.floor = Some(next);
        }
        verdict
    }

    /// Whether the floor outlives this process. Said once when it does not.
    fn keep(&self, floor: &Floor, say: bool) -> bool {
        let Some(path) = &self.memory else { return true };
        let written = floor.write(path);
        if let Some(error) = written.as_ref().err().filter(|_| say) {
            let path = path.display();
            tracing::warn!(%error, "{path} cannot be written: after a restart of the agent, older signatures of the pointer would be accepted");
        }
        written.is_ok()
    }

    /// Tells in time that a signature is about to expire.
    fn expired(&self, expires: String) -> Option<String> {
        let (name, at) = (&self.pointer, seconds(&expires).unwrap_or(0));
        self.expires.store(at, Ordering::Relaxed);
        let soon = Duration::from_secs(3 * 86_400).as_secs();
        if at > now() + soon {
            self.forget(Code::SignatureExpires);
            return None;
        }
        let fix = "sign the pointer again: `pitstop sign --pointer`, from a job that runs each day";
        if at > now() {
            let message =
                format!("the signature of the pointer {name} expires at {expires}; then no deploy starts");
            self.note(Finding::note(Code::SignatureExpires, message, fix));
            return None;
        }
        let message = format!("the signature of the pointer {name} expired at {expires}: no deploy starts");
        self.note(Finding::broken(Code::SignatureExpires, message, fix));
        Some(expires)
    }
}

fn seconds(date: &str) -> Option<u64> {
    let at = humantime::parse_rfc3339(date).ok()?;
    Some(at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

fn date(seconds: u64) -> String {
    // As far as the format goes.
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    use super::super::keys;

    /// Nobody has the secret key of these.
    fn trust() -> Trust {
        let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        let keys = crate::config::Trust {
            release_keys: vec![key.into()],
            pointer_keys: vec![key.into()],
            required: true,
            app: Some("shop".into()),
            ..crate::config::Trust::default()
        };
        Trust::new(&keys, "production")
    }

    /// Signed objects, and what would be read of them if their signatures held.
    pub(crate) fn statement(bytes: &[u8]) {
        let trust = trust();
        let id: ReleaseId = "v1".parse().expect("an id");
        assert!(trust.admit(bytes).is_err() && trust.release(&id, Some(bytes), None).is_err());
        let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let envelopes = [&object, &object[SIGNED], &object[REVOKED]];
        let texts = envelopes.map(|value| value["statement"].as_str().unwrap_or_default().to_owned());
        for statement in texts.into_iter().chain([String::from_utf8_lossy(bytes).into_owned()]) {
            let envelope = Envelope { statement, signatures: Vec::new() };
            if let Some(statement) = envelope.unverified::<PointerStatement>() {
                let _ = (trust.refuse_replays(&statement), trust.expired(statement.expires.clone()));
                let holds = Duration::from_secs(86_400);
                PointerStatement::new(("shop", "production"), &Map::new(), Some(&statement), holds);
            }
            if let Some(statement) = envelope.unverified::<ReleaseStatement>() {
                let _ = statement.published();
            }
            let _ = envelope.unverified::<Revocations>().map(|list| list.refuse(&id, &release_of(&id)));
        }
    }

    fn release_of(id: &ReleaseId) -> ReleaseStatement {
        let published = crate::store::archive::Published {
            kind: crate::store::ArchiveKind::TarZst,
            sha256: "ab".repeat(32),
            requires: Vec::new(),
            bytes: None,
        };
        ReleaseStatement::new("shop", id, &published, 7)
    }

    /// Keys and signatures of minisign: one over `signed` never holds for anything else.
    pub(crate) fn minisign(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines() {
            let _ = (keys::is_key(line), keys::id_of_key(line));
        }
        let trusted: Vec<String> = text.lines().map(str::to_owned).collect();
        assert!(!keys::signed_by("not signed", &text, &trusted));
        let known = ["RWT9tj7dBB+tAAa7780uwcrckjXNgtvTbUoXeGKLwCIJlNkUTubkkPwJ".to_owned()];
        assert!(!keys::signed_by("not signed", &text, &known));
        let _ = keys::signed_by("signed", &text, &known);
    }
}
