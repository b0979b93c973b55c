//! The IAM policies allow what the store's code calls and nothing else, each role in its own places. That they are
//! enough, an independent server shows (`tests/s3`).

use std::collections::BTreeSet;

use pitstop_rig::documents::{blocks, read, root};
use serde_json::Value;

/// What the code asks of S3, and the permission that it takes.
const CALLS: &[(&str, &str)] = &[
    (".get_object()", "s3:GetObject"),
    (".put_object()", "s3:PutObject"),
    (".list_objects_v2()", "s3:ListBucket"),
    (".delete_object()", "s3:DeleteObject"),
];

fn policy(role: &str) -> Vec<Value> {
    let all = blocks("docs/s3.md");
    let block = all.iter().find(|block| block.info() == format!("json {role}")).expect(role);
    let policy: Value = serde_json::from_str(&block.text).unwrap();
    assert_eq!(policy["Version"], "2012-10-17", "{role}");
    policy["Statement"].as_array().unwrap().clone()
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(all) => all.iter().flat_map(texts).collect(),
        one => vec![one.as_str().expect("text").to_owned()],
    }
}

/// Each permission with each place, for a role.
fn allowed(role: &str) -> BTreeSet<(String, String)> {
    let of = |one: &Value| {
        assert_eq!(one["Effect"], "Allow", "{role}");
        let places = texts(&one["Resource"]);
        let pairs = texts(&one["Action"]).into_iter().flat_map(|action| {
            places.iter().map(|place| (action.clone(), place.clone())).collect::<Vec<_>>()
        });
        pairs.collect::<Vec<_>>()
    };
    policy(role).iter().flat_map(of).collect()
}

fn code() -> String {
    let mut text = read("src/store/s3.rs");
    for entry in std::fs::read_dir(root().join("src/store/s3")).unwrap() {
        text += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    text
}

#[test]
fn the_roles_together_may_do_what_the_code_calls_and_no_more() {
    let code = code();
    let operations = ["get_", "put_", "list_", "head_", "delete_", "copy_", "create_", "upload_", "abort_"];
    let called: BTreeSet<_> = code
        .split('.')
        .filter(|word| operations.iter().any(|operation| word.starts_with(operation)))
        .filter_map(|word| word.split_once("()").map(|(name, _)| format!(".{name}()")))
        .filter(|call| call.bytes().all(|b| b.is_ascii_lowercase() || b"._()2".contains(&b)))
        .collect();
    let permission = |call: &String| {
        let found = CALLS.iter().find(|(name, _)| name == call);
        found.unwrap_or_else(|| panic!("the store calls {call}: which permission is that?")).1.to_owned()
    };
    let needed: BTreeSet<_> = called.iter().map(permission).collect();
    let roles = ["agent", "ci", "promoter", "pruner"].map(allowed);
    let granted: BTreeSet<_> = roles.iter().flatten().map(|(action, _)| action.clone()).collect();
    assert_eq!(granted, needed);
}

#[test]
fn each_role_writes_in_its_own_place_only() {
    for (role, places) in [
        ("agent", &["canary/POINTER/*", "fleet/POINTER/*", "moves/POINTER/*.end"][..]),
        ("ci", &["releases/*"]),
        ("promoter", &["moves/*", "pointers/*", "rollouts/*"]),
        ("pruner", &["releases/*.sha256"]),
    ] {
        let allowed = allowed(role);
        let writes = allowed.iter().filter(|(action, _)| action == "s3:PutObject");
        let writes: Vec<_> = writes.map(|(_, resource)| resource.clone()).collect();
        let expected: Vec<_> =
            places.iter().map(|place| format!("arn:aws:s3:::BUCKET/PREFIX/{place}")).collect();
        assert_eq!(writes, expected, "{role}");
        let deletes =
            allowed.iter().filter(|(action, _)| action == "s3:DeleteObject").map(|(_, place)| place);
        let own = if role == "pruner" { "/PREFIX/releases/*" } else { "/fleet/POINTER/*" };
        assert!(deletes.clone().all(|place| place.ends_with(own)), "{role}");
        assert!(allowed.iter().all(|(action, place)| !action.contains('*') && place.contains("BUCKET")));
    }
}

#[test]
fn with_a_key_of_kms_readers_decrypt_and_writers_make_data_keys() {
    let actions = |role| allowed(role).into_iter().map(|(action, _)| action).collect::<Vec<_>>();
    assert_eq!(actions("kms"), ["kms:Decrypt"]);
    assert_eq!(actions("kms-writer"), ["kms:Decrypt", "kms:GenerateDataKey"]);
}
