//! What The Update Framework lists as attacks on an updater.

use std::fs;

use serde_json::{Value, json};

use super::{Signed, keygen};

#[test]
fn arbitrary_code_other_bytes_under_a_signed_id_are_refused() {
    let signed = Signed::new();
    signed.deploy("v1");
    let other = signed.rig.app("evil");
    signed.rig.ok(&["publish", other.to_str().unwrap(), "--release", "evil"]);
    let evil = fs::read(signed.object("releases/evil.tar.zst")).unwrap();
    fs::write(signed.object("releases/v1.tar.zst"), &evil).unwrap();
    fs::copy(signed.object("releases/evil.tar.zst.sha256"), signed.object("releases/v1.tar.zst.sha256"))
        .unwrap();
    signed.refuses("release_corrupt");
    // A statement of another release's is one of another id.
    signed.publish("v2");
    fs::copy(signed.object("releases/v2.signed"), signed.object("releases/v1.signed")).unwrap();
    let said = signed.refuses("signature_invalid");
    assert!(said.contains("is for release v2"), "{said}");
    assert!(!signed.rig.deploy_to.join("releases").exists() || signed.rig.leftovers().is_empty());
}

#[test]
fn mix_and_match_a_pointer_of_another_name_or_app_is_refused() {
    let signed = Signed::new();
    signed.deploy("v1");
    let key = signed.secret("pointer");
    let key = key.to_str().unwrap();
    let staging = signed.set("PITSTOP_POINTER", "staging");
    staging.ok(&["promote", "v1", "--create", "--key", key]);
    fs::copy(staging.object("pointers/staging"), staging.object("pointers/production")).unwrap();
    let production = staging.set("PITSTOP_POINTER", "production");
    let said = production.refuses("signature_invalid");
    assert!(said.contains("is for the pointer staging"), "{said}");
    // Another app's releases and pointers, by the same keys.
    let other = production.set("PITSTOP_TRUST_APP", "blog");
    other.ok(&["sign", "--pointer", "--key", key]);
    let shop = other.set("PITSTOP_TRUST_APP", "shop");
    assert!(shop.refuses("signature_invalid").contains("is for the app blog"));
}

#[test]
fn rollback_an_older_pointer_is_a_replay_also_after_a_restart() {
    let signed = Signed::new();
    signed.deploy("v1");
    let old = signed.pointer();
    signed.deploy("v2");
    signed.runs("v2");
    signed.put_pointer(&old);
    let said = signed.ok(&["fetch"]);
    assert!(said.contains("current is v2") && said.contains("an older pointer was put back"), "{said}");
    // A pod without a past knows no better, but for the number in its spec.
    signed.new_pod();
    signed.runs("v1");
    let floor = signed.set("PITSTOP_TRUST_MIN_SEQUENCE", "2");
    floor.new_pod();
    let said = floor.refuses("replayed");
    assert!(said.contains("names move 1, and trust.min_sequence is 2"), "{said}");
}

#[test]
fn fast_forward_no_number_and_no_date_from_the_future_gets_in_the_way_of_later_ones() {
    let signed = Signed::new();
    signed.deploy("v1");
    signed.runs("v1");
    signed.edit_pointer(|pointer| pointer["sequence"] = json!(20_000));
    signed.ok(&["sign", "--pointer", "--key", signed.secret("pointer").to_str().unwrap()]);
    let said = signed.ok(&["fetch"]);
    assert!(said.contains("jumps from move 1 to move 20000"), "{said}");
    signed.edit_pointer(|pointer| pointer["sequence"] = json!(2));
    signed.ok(&["sign", "--pointer", "--key", signed.secret("pointer").to_str().unwrap()]);
    assert!(!signed.ok(&["fetch"]).contains("jumps"));
}

#[test]
fn freeze_an_expired_pointer_starts_pods_and_is_told() {
    let signed = Signed::new();
    signed.deploy("v1");
    signed.ok(&["sign", "--pointer", "--expires", "0s", "--key", signed.secret("pointer").to_str().unwrap()]);
    let expired = || {
        let said = signed.run(&["verify", "--pointer"]).stderr;
        String::from_utf8_lossy(&said).contains("expired at").then_some(())
    };
    pitstop_rig::until("the signature has expired", expired);
    signed.runs("v1");
}

#[test]
fn endless_data_another_size_is_refused_before_it_is_read() {
    let signed = Signed::new();
    signed.deploy("v1");
    let archive = signed.object("releases/v1.tar.zst");
    fs::File::options().write(true).open(archive).unwrap().set_len(4 << 30).unwrap();
    let said = signed.refuses("release_corrupt");
    assert!(said.contains("its archive has 4294967296 bytes, signed were"), "{said}");
}

#[test]
fn a_second_archive_of_another_kind_neither_runs_nor_blocks() {
    let signed = Signed::new();
    signed.deploy("v1");
    signed.rig.put_archive("v1", "tar.gz", b"evil");
    signed.runs("v1");
}

#[test]
fn a_pointer_that_was_edited_afterwards_does_not_hold() {
    let signed = Signed::new();
    signed.deploy("v1");
    signed.deploy("v2");
    let good = signed.pointer();
    let edits: [(&str, Value); 6] = [
        ("release", json!("v1")),
        ("sequence", json!(3)),
        ("previous", json!("v0")),
        ("rolled_back", json!(["v1"])),
        ("canary", json!({"release": "v1", "sequence": 3, "pods": 1})),
        ("sha256", json!("ab".repeat(32))),
    ];
    for (field, value) in edits {
        signed.edit_pointer(|pointer| pointer[field] = value);
        let said = signed.refuses("signature_invalid");
        assert!(said.contains("does not hold for what the pointer says now"), "{field}: {said}");
        signed.put_pointer(&good);
    }
    // What people read, and what holds deploys up, is not covered.
    signed.edit_pointer(|pointer| pointer["why"] = json!("edited"));
    signed.runs("v2");
}

#[test]
fn a_signature_holds_for_the_very_bytes_only() {
    let signed = Signed::new();
    signed.deploy("v1");
    let good = signed.pointer();
    let statement = good["signed"]["statement"].as_str().unwrap().to_owned();
    let signature = good["signed"]["signatures"][0].as_str().unwrap().to_owned();
    let lines: Vec<_> = signature.lines().collect();
    let with = |n: usize, line: &str| {
        let mut changed = lines.clone();
        changed[n] = line;
        changed.join("\n") + "\n"
    };
    let (short, legacy) = (&lines[3][..20], lines[1].replacen("RU", "RW", 1));
    let edits = [
        ("statement", json!(format!("{statement} "))),
        ("statement", json!(statement.replacen("{", "{\"t\":\"release\",", 1))),
        ("signatures", json!([])),
        ("signatures", json!([with(2, "trusted comment: file:v9")])),
        ("signatures", json!([with(1, lines[3])])),
        ("signatures", json!([with(3, short)])),
        ("signatures", json!([format!("{signature}evil\n")])),
        ("signatures", json!(["", "\n\n\n\n", with(1, &legacy)])),
        ("signatures", json!(vec![signature.clone(); 17])),
        ("extra", json!(1)),
    ];
    for (field, value) in edits {
        signed.edit_pointer(|pointer| pointer["signed"][field] = value.clone());
        signed.refuses("signature_invalid");
        signed.put_pointer(&good);
    }
    // What minisign itself calls untrusted is nobody's business.
    signed.edit_pointer(|pointer| {
        let comment = with(0, "untrusted comment: signed by the \u{1b}[2J CEO");
        pointer["signed"]["signatures"] = json!(["garbage", comment]);
    });
    signed.runs("v1");
    assert!(!signed.ok(&["verify", "--pointer"]).contains("CEO"));
}

#[test]
fn a_stolen_key_is_revoked_at_once_and_the_list_cannot_be_left_out() {
    let signed = Signed::new();
    let stolen = keygen(&signed.rig, "stolen-release");
    let both = format!("{},{stolen}", signed.release_key);
    let signed = signed.set("PITSTOP_TRUST_RELEASE_KEYS", &both);
    signed.publish("v1");
    let (app, key) = (signed.rig.app("v2"), signed.secret("stolen-release"));
    signed.ok(&["publish", app.to_str().unwrap(), "--release", "v2", "--key", key.to_str().unwrap()]);
    signed.promote("v2");
    let before = signed.pointer();
    let key = signed.secret("pointer");
    signed.ok(&["revoke", "--public-key", &stolen, "--key", key.to_str().unwrap()]);
    let said = signed.refuses("signature_invalid");
    assert!(said.contains("release v2 is signed by a revoked key"), "{said}");
    // Without the list, and with the pointer of before.
    let listed = signed.pointer();
    signed.edit_pointer(|pointer| drop(pointer.as_object_mut().unwrap().remove("revoked")));
    assert!(signed.refuses("signature_invalid").contains("revocations in the pointer production is missing"));
    signed.put_pointer(&before);
    signed.refuses("replayed");
    signed.put_pointer(&listed);
    // A good key signs it, too.
    signed.ok(&["sign", "v2", "--key", signed.secret("release").to_str().unwrap()]);
    signed.runs("v2");
    signed.ok(&["revoke", "--release", "v2", "--key", key.to_str().unwrap()]);
    signed.new_pod();
    assert!(signed.refuses("signature_invalid").contains("release v2 is revoked"));
    signed.promote("v1");
    signed.runs("v1");
}
