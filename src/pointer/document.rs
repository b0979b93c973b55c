//! A pointer's object as it is written: with all that agents make nothing of, and with what this version does not know.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::parse;
use crate::revision::{Aborted, Canary, Note, Pointer, note};

/// In this order they are easy to read.
const ORDER: [&str; 12] = [
    "release",
    "sequence",
    "sha256",
    "previous",
    "moved_by",
    "moved_at",
    "why",
    "rolled_back",
    FROZEN,
    PAUSED,
    CANARY,
    ABORTED,
];
/// Nobody moves the pointer.
pub(crate) const FROZEN: &str = "frozen";
/// No pod starts a deploy.
pub(crate) const PAUSED: &str = "paused";
/// Some pods are to run another release already: a [`Canary`].
pub(crate) const CANARY: &str = "canary";
/// The last canary that was taken back: an [`Aborted`].
pub(crate) const ABORTED: &str = "aborted";

/// The object of a pointer. Fields that nobody sets stay as they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document {
    fields: Map<String, Value>,
    /// What it says to agents; `None` when it is no valid pointer.
    pub(crate) pointer: Option<Pointer>,
}

impl Document {
    /// Of a plain id the object that says the same; of garbage the fields that can be read.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let pointer = parse(bytes).ok();
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let object = serde_json::from_str(text.trim_start_matches('\u{feff}').trim());
        let mut document = Self { fields: object.unwrap_or_default(), pointer: None };
        if let Some(release) = pointer.as_ref().map(|pointer| pointer.revision.release.clone()) {
            document.set("release", Some(release));
        }
        Self { pointer, ..document }
    }

    /// A field, if it is there and means something.
    pub(crate) fn get<T: DeserializeOwned>(&self, field: &str) -> Option<T> {
        serde_json::from_value(self.fields.get(field)?.clone()).ok()
    }

    /// The note in a field, also one that was written by hand.
    pub(crate) fn note(&self, field: &str) -> Option<Note> {
        note(self.fields.get(field)?.clone()).ok().flatten()
    }

    /// The number that the next move gets: one more than every number that it knows, so that none is used twice. For
    /// garbage whatever can be saved.
    pub(crate) fn next_sequence(&self) -> u64 {
        let own = self.get::<u64>("sequence");
        let canary = self.get::<Canary>(CANARY).and_then(|canary| canary.revision(own).sequence);
        let aborted = self.get::<Aborted>(ABORTED).and_then(|aborted| aborted.sequence);
        own.max(canary).max(aborted).unwrap_or(0).saturating_add(1)
    }

    /// Writes a field, or takes it away.
    pub(crate) fn set(&mut self, field: &str, value: Option<impl Serialize>) {
        match value.and_then(|value| serde_json::to_value(value).ok()) {
            Some(value) => drop(self.fields.insert(field.into(), value)),
            None => drop(self.fields.remove(field)),
        }
    }

    /// All of its fields.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// What is put into the store: a line of JSON.
    pub(crate) fn text(&self) -> String {
        let known = ORDER.iter().filter_map(|name| self.fields.get_key_value(*name));
        let others = self.fields.iter().filter(|(name, _)| !ORDER.contains(&name.as_str()));
        let fields =
            known.chain(others).map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())));
        format!("{{{}}}\n", fields.collect::<Vec<_>>().join(","))
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A pointer that was read says the same when it is written.
    pub(crate) fn pointer(bytes: &[u8]) {
        let document = Document::of(bytes);
        let Some(pointer) = &document.pointer else { return };
        assert_eq!(Document::of(document.text().as_bytes()).pointer.as_ref(), Some(pointer));
        let sequence = pointer.revision.sequence.unwrap_or_default();
        assert!(document.next_sequence() > sequence.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> String {
        Document::of(text.as_bytes()).text()
    }

    #[test]
    fn what_is_not_known_stays_as_it_is() {
        let text =
            "{\"release\":\"v2\",\"sequence\":7,\"canary\":{\"pods\":2},\"a\\\"b\":[1,null],\"z\":0.5}\n";
        assert_eq!(rewritten(text), text);
        let mut document = Document::of(text.as_bytes());
        document.set(FROZEN, Some(Note { why: Some("audit".into()), ..Note::default() }));
        document.set("sequence", Some(8));
        document.set("z", None::<u8>);
        assert_eq!(
            document.text(),
            "{\"release\":\"v2\",\"sequence\":8,\"frozen\":{\"why\":\"audit\"},\"canary\":{\"pods\":2},\"a\\\"b\":[1,null]}\n"
        );
    }

    #[test]
    fn the_number_of_a_move_always_grows() {
        let next = |text: &str| Document::of(text.as_bytes()).next_sequence();
        assert_eq!(next(r#"{"release":"v1","sequence":7}"#), 8);
        assert_eq!(next("v1"), 1);
        assert_eq!(next(r#"{"release":"no id","sequence":7}"#), 8);
        assert_eq!(next(""), 1);
        assert_eq!(
            next(r#"{"release":"v1","sequence":7,"canary":{"release":"v2","sequence":9,"pods":1}}"#),
            10
        );
        assert_eq!(next(r#"{"release":"v1","sequence":7,"canary":{"release":"v2","pods":1}}"#), 9);
        assert_eq!(next(r#"{"release":"v1","sequence":7,"aborted":{"release":"v2","sequence":8}}"#), 9);
    }

    #[test]
    fn pointers_of_earlier_versions_and_of_other_tools_are_read() {
        for text in
            ["v2\n", "\"v2\"", "\u{feff}v2\r\n", "{\"release\":\"v2\"}", "\u{feff}{\"release\":\"v2\"}"]
        {
            assert_eq!(rewritten(text), "{\"release\":\"v2\"}\n", "{text:?}");
        }
        let before = r#"{"release":"v2","sequence":7,"previous":"v1","rolled_back":["v3"],"sha256":""#
            .to_owned()
            + &"ab".repeat(32)
            + "\"}\n";
        let pointer = Document::of(before.as_bytes()).pointer.unwrap();
        assert_eq!((pointer.revision.to_string(), pointer.paused), ("v2#7".into(), None));
        let again = Document::of(rewritten(&before).as_bytes()).pointer.unwrap();
        assert_eq!(Some(again), Document::of(before.as_bytes()).pointer);
    }

    #[test]
    fn of_garbage_the_fields_that_can_be_read_are_kept() {
        let document = Document::of(br#"{"release":"no id","sequence":7,"frozen":"audit"}"#);
        assert_eq!(document.pointer, None);
        assert_eq!(document.get::<u64>("sequence"), Some(7));
        assert_eq!(document.note(FROZEN).unwrap().to_string(), "audit");
        assert_eq!(Document::of(b"\xff\xfe").text(), "{}\n");
    }

    #[test]
    fn a_note_may_be_written_by_hand() {
        let note = |value: &str| {
            let text = format!("{{\"release\":\"v1\",\"paused\":{value}}}");
            let document = Document::of(text.as_bytes());
            assert_eq!(
                document.note(PAUSED),
                document.pointer.clone().unwrap().paused,
                "agents read the same"
            );
            document.note(PAUSED).map(|note| note.to_string())
        };
        assert_eq!([note("null"), note("false")], [None, None]);
        for odd in ["true", "7", "{}", "[1]"] {
            assert_eq!(note(odd).unwrap(), "nobody says by whom or why", "{odd}");
        }
        assert_eq!(note("\"audit\"").unwrap(), "audit");
        let whole = r#"{"why":"audit","by":"ann","at":"2026-11-30T10:00:00Z","ticket":7}"#;
        assert_eq!(note(whole).unwrap(), "since 2026-11-30T10:00:00Z by ann: audit");
    }
}
