//! Two roles whose keys cannot be exchanged, and several people who have to agree.

use std::fs;

use super::{Signed, keygen};

#[test]
fn who_publishes_cannot_promote_and_who_promotes_cannot_publish() {
    let signed = Signed::new();
    // Whoever has a key has no configuration that would stop them.
    let free = |args: &[&str]| {
        let mut command = signed.rig.command(args);
        let output = command.env("PITSTOP_TRUST_APP", "shop").output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (release, pointer) = (signed.secret("release"), signed.secret("pointer"));
    let (release, pointer) = (release.to_str().unwrap(), pointer.to_str().unwrap());
    signed.publish("v1");
    free(&["promote", "v1", "--key", release]);
    let said = signed.refuses("signature_invalid");
    assert!(said.contains("has no signature by a key that is trusted for it"), "{said}");
    let app = signed.rig.app("v2");
    free(&["publish", app.to_str().unwrap(), "--release", "v2", "--key", pointer]);
    signed.promote("v2");
    // What was signed as it should be stands in for it.
    let said = signed.ok(&["fetch"]);
    assert!(said.contains("current is v1") && said.contains("the signature of release v2"), "{said}");
    // Nor is a statement of one kind one of the other, by whichever key.
    let stolen = signed.pointer()["signed"].to_string();
    fs::write(signed.object("releases/v2.signed"), stolen).unwrap();
    assert!(signed.ok(&["fetch"]).contains("current is v1"));
}

#[test]
fn the_commands_refuse_a_key_that_agents_would_refuse() {
    let signed = Signed::new();
    signed.publish("v1");
    let said = signed.fails(&["promote", "v1", "--key", signed.secret("release").to_str().unwrap()]);
    assert!(said.contains("does not hold by any of trust.pointer_keys"), "{said}");
    assert!(!signed.object("pointers/production").exists());
}

#[test]
fn a_signed_pointer_is_not_moved_without_a_key_but_may_be_frozen() {
    let signed = Signed::new();
    signed.deploy("v1");
    signed.publish("v2");
    let said = signed.fails(&["promote", "v2"]);
    assert!(
        said.contains("production is signed, and this command has no key")
            && said.contains("PITSTOP_POINTER_KEY"),
        "{said}"
    );
    signed.ok(&["freeze", "production", "--why", "audit"]);
    signed.runs("v1");
}

#[test]
fn several_people_have_to_sign_where_the_threshold_says_so() {
    let signed = Signed::new();
    let second = keygen(&signed.rig, "second-pointer");
    let both = format!("{},{second}", signed.pointer_key);
    let signed = signed.set("PITSTOP_TRUST_POINTER_KEYS", &both).set("PITSTOP_TRUST_THRESHOLD", "2");
    signed.deploy("v1");
    let said = signed.refuses("signature_invalid");
    assert!(said.contains("has 1 of 2 signatures that are needed"), "{said}");
    // The same key twice is one.
    let add = |role: &str| {
        signed.ok(&["sign", "--pointer", "--add", "--key", signed.secret(role).to_str().unwrap()]);
    };
    add("pointer");
    signed.refuses("signature_invalid");
    add("second-pointer");
    signed.runs("v1");
}
