//! Whatever somebody without the key makes of a signed object is refused, and nothing of it harms.

use std::sync::OnceLock;

use minisign::{KeyPair, SecretKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::store::ArchiveKind;

struct Keys {
    trust: config::Trust,
    release: SecretKey,
    pointer: SecretKey,
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let [release, pointer] = [(); 2].map(|()| KeyPair::generate_unencrypted_keypair().unwrap());
        let trust = config::Trust {
            release_keys: vec![release.pk.to_base64()],
            pointer_keys: vec![pointer.pk.to_base64()],
            required: true,
            app: Some("shop".into()),
            ..config::Trust::default()
        };
        Keys { trust, release: release.sk, pointer: pointer.sk }
    })
}

fn signed(statement: &impl serde::Serialize, key: &SecretKey) -> Envelope {
    let statement = canonical(statement);
    let signature = minisign::sign(None, key, statement.as_bytes(), None, None).unwrap().into_string();
    Envelope { statement, signatures: vec![signature] }
}

fn release() -> Vec<u8> {
    let published =
        Published { kind: ArchiveKind::TarZst, sha256: "ab".repeat(32), requires: Vec::new(), bytes: None };
    let statement = ReleaseStatement::new("shop", &"v1".parse().unwrap(), &published, 7);
    serde_json::to_vec(&signed(&statement, &keys().release)).unwrap()
}

fn pointer(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut object = json!({"release": "v1", "sequence": 7, "sha256": "ab".repeat(32), "why": "because"});
    let holds = std::time::Duration::from_secs(86_400 * 30);
    let statement = PointerStatement::new(("shop", "production"), object.as_object().unwrap(), None, holds);
    object[SIGNED] = serde_json::to_value(signed(&statement, &keys().pointer)).unwrap();
    change(&mut object);
    object.to_string().into_bytes()
}

fn trust() -> Trust {
    Trust::new(&keys().trust, "production")
}

fn reason(bytes: &[u8]) -> Option<Reason> {
    trust().admit(bytes).err().map(|problem| problem.reason)
}

#[test]
fn the_text_of_a_statement_is_canonical() {
    let text = canonical(&json!({"b": [1, {"z": null, "a": "\u{e9}\n"}], "a": 7}));
    assert_eq!(text, "{\"a\":7,\"b\":[1,{\"a\":\"\u{e9}\\n\",\"z\":null}]}");
}

#[test]
fn what_is_signed_is_admitted_and_nothing_else() {
    let id = "v1".parse().unwrap();
    let published = trust().release(&id, Some(&release()), None).unwrap().unwrap();
    assert_eq!((published.sha256, published.bytes), ("ab".repeat(32), Some(7)));
    assert_eq!(reason(&pointer(|_| {})), None);
    assert_eq!(reason(&pointer(|object| object["why"] = json!("edited"))), None);
    assert_eq!(reason(&pointer(|object| object["canary"] = json!(null))), Some(Reason::SignatureInvalid));
    for unsigned in ["v1", "\"v1\"", "{\"release\":\"v1\"}", "", "{\"release\":\"v1\",\"signed\"", "[]"] {
        assert_eq!(reason(unsigned.as_bytes()), Some(Reason::SignatureMissing), "{unsigned}");
    }
    let other = trust().release(&id, Some(&release()), Some(&"cd".repeat(32))).unwrap_err();
    assert_eq!(other.reason, Reason::SignatureInvalid, "the tree is of another archive");
}

#[test]
fn the_newest_statement_is_kept_as_soon_as_its_place_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("state");
    // In the way of the directory, whoever asks.
    std::fs::write(&place, "").unwrap();
    let file = place.join("trust.json");
    let trust = Trust::new(&keys().trust, "production").remembering(file.clone());
    let signed = pointer(|_| {});
    trust.admit(&signed).expect("no place to remember is no reason to run nothing");
    std::fs::remove_file(&place).unwrap();
    trust.admit(&signed).unwrap();
    let floor = Floor::read(Some(&file), "production");
    assert_eq!(floor.sequence, 7, "the next look has written it");
    std::fs::remove_file(&file).unwrap();
    trust.admit(&signed).unwrap();
    assert!(!file.exists(), "what was written is not written at each look");
}

#[test]
fn when_the_signature_expires_is_known_while_it_holds() {
    let trust = trust();
    assert_eq!(trust.pointer_expires(), None);
    trust.admit(&pointer(|_| {})).unwrap();
    let expires = trust.pointer_expires().unwrap();
    assert!(expires > now() + 86_400 * 29 && expires <= now() + 86_400 * 30);
    trust.admit(b"v1").unwrap_err();
    assert_eq!(trust.pointer_expires(), Some(expires), "what is refused changes nothing");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_a_byte_is_admitted(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let good = release();
        let mut bytes = good.clone();
        bytes[at.index(good.len())] = byte;
        let changed = |bytes: &[u8]| serde_json::from_slice::<Envelope>(bytes).ok().map(|envelope| {
            let lines: Vec<_> = envelope.signatures[0].lines().skip(1).map(str::to_owned).collect();
            (envelope.statement, lines)
        });
        // The untrusted comment is all that may differ.
        let same = changed(&bytes).is_some() && changed(&bytes) == changed(&good);
        let taken = trust().release(&"v1".parse().unwrap(), Some(&bytes), None).is_ok();
        prop_assert!(!taken || same, "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_object_of_any_shape_is_admitted_or_panics(text in "\\PC{0,200}", lines in prop::collection::vec("[A-Za-z0-9+/= :]{0,110}", 0..6)) {
        prop_assert!(reason(text.as_bytes()).is_some());
        let signature = json!([lines.join("\n")]);
        let forged = pointer(|object| object[SIGNED]["signatures"] = signature.clone());
        prop_assert_eq!(reason(&forged), Some(Reason::SignatureInvalid));
    }
}
