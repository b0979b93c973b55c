//! The commands that write into a store and end: what one has left, the next run of it finishes.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use pitstop_rig::{Fault, S3Rig, tried};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Ended, Trouble, at_each_request, run, served};
use crate::{moves::promoted, rig::Rig};

/// Everything that may go wrong.
const TROUBLES: [Trouble; 5] =
    [Trouble::KilledBefore, Trouble::KilledAfter, Trouble::AnswerLost, Trouble::Fails, Trouble::Hangs];

/// A command, and what it has done in the end.
struct Work<'a> {
    rig: Rig,
    args: &'a [&'a str],
}

impl<'a> Work<'a> {
    /// With these releases promoted one after another.
    fn new(promoted_before: &[&str], args: &'a [&'a str]) -> Self {
        Self { rig: promoted(promoted_before), args }
    }

    fn command(&self, s3: &S3Rig) -> Command {
        let app = self.rig.dir.path().join("apps/new").display().to_string();
        let args: Vec<_> = self.args.iter().map(|arg| if *arg == "APP" { &*app } else { arg }).collect();
        let mut command = self.rig.command(&args);
        command.envs(s3.env()).env("PITSTOP_TRUST_APP", "shop");
        command
    }

    /// `check` is what must hold after the second run, beside that all releases are whole. Answers how much was tried.
    fn survives(&self, at_least: u64, check: impl Fn(&S3Rig, &str) + Sync) -> u64 {
        let clean = served(&self.rig.store_dir());
        let output = self.command(&clean).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let asked = clean.seen().len() as u64;
        check(&clean, "without any trouble");
        let met = at_each_request(&TROUBLES, 1, |request, trouble| {
            let s3 = served(&self.rig.store_dir());
            let context = format!("{:?} {trouble:?} at request {request}", self.args);
            let ended = run(self.command(&s3), &s3, request, trouble);
            assert_said(&ended, trouble, &context);
            assert_whole(&s3, &context);
            let again = self.command(&s3).output().unwrap();
            let said = String::from_utf8_lossy(&again.stderr);
            assert!(again.status.success(), "{context}: first {}; then {said}", ended.said);
            assert_whole(&s3, &context);
            check(&s3, &context);
            ended.met
        });
        assert!(met >= at_least && met >= asked, "only {met} of {asked}");
        met
    }
}

/// Whoever is told of a failure is told of the store.
fn assert_said(ended: &Ended, trouble: Trouble, context: &str) {
    match ended.code {
        None if trouble.kills() => {}
        Some(0) => {}
        Some(1) if !trouble.kills() => {
            let named = ["the store", "cannot be read", "could not be deleted"];
            assert!(named.iter().any(|word| ended.said.contains(word)), "{context}: {}", ended.said);
        }
        code => panic!("{context}: {code:?} {}", ended.said),
    }
}

fn object(s3: &S3Rig, key: &str) -> Value {
    serde_json::from_slice(&s3.object(key).unwrap_or_default()).unwrap_or_default()
}

/// What can be promoted is there with all of its parts, and what pointers name can be fetched.
fn assert_whole(s3: &S3Rig, context: &str) {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let digests: BTreeMap<String, String> = names(&s3.objects().join("releases"))
        .iter()
        .filter_map(|name| name.strip_suffix(".tar.zst.sha256"))
        .map(|release| {
            let line = s3.object(&format!("releases/{release}.tar.zst.sha256")).unwrap();
            (release.to_owned(), String::from_utf8(line).unwrap().split(' ').next().unwrap().to_owned())
        })
        .collect();
    for (release, digest) in &digests {
        let archive = s3.object(&format!("releases/{release}.tar.zst"));
        let archive = archive.unwrap_or_else(|| panic!("{context}: {release} has no archive"));
        let hex: String = Sha256::digest(&archive).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, *digest, "{context}: {release}");
        assert!(s3.object(&format!("releases/{release}.manifest")).is_some(), "{context}: {release}");
    }
    for name in names(&s3.objects().join("pointers")) {
        let pointer = object(s3, &format!("pointers/{name}"));
        let release = pointer["release"].as_str().unwrap_or_else(|| panic!("{context}: {name}: {pointer}"));
        assert_eq!(pointer["sha256"].as_str(), digests.get(release).map(String::as_str), "{context}: {name}");
    }
}

fn names(s3: &S3Rig) -> (String, u64) {
    let pointer = object(s3, "pointers/production");
    (pointer["release"].as_str().unwrap().to_owned(), pointer["sequence"].as_u64().unwrap())
}

#[test]
fn publish_meets_trouble_at_each_request_and_is_repeated() {
    let test = "publish_meets_trouble_at_each_request_and_is_repeated";
    let work = Work::new(&["v1"], &["publish", "APP", "--release", "new"]);
    work.rig.app("new");
    let plain = work.survives(5, |s3, context| {
        assert!(s3.object("releases/new.tar.zst.sha256").is_some(), "{context}");
    });
    let mut work = Work::new(&["v1"], &[]);
    let key = work.rig.dir.path().join("release.key").display().to_string();
    work.rig.ok(&["keygen", "release", "--out", &key]);
    let args = ["publish", "APP", "--release", "new", "--key", &key];
    work.args = &args;
    work.rig.app("new");
    let signed = work.survives(6, |s3, context| {
        assert!(s3.object("releases/new.tar.zst.sha256").is_some(), "{context}");
        assert!(s3.object("releases/new.signed").is_some(), "{context}");
    });
    tried(test, "kill -9, errors, no or lost answers at each S3 request of `publish`", plain + signed, "");
}

#[test]
fn a_pointers_commands_meet_trouble_at_each_request_and_are_repeated() {
    let test = "a_pointers_commands_meet_trouble_at_each_request_and_are_repeated";
    let work = Work::new(&["v1"], &["promote", "new"]);
    work.rig.publish("new");
    let promoted = work.survives(8, |s3, context| {
        let (release, sequence) = names(s3);
        assert!(release == "new" && matches!(sequence, 2 | 3), "{context}: {release}#{sequence}");
        assert_eq!(object(s3, "pointers/production")["previous"], "v1", "{context}");
        assert_eq!(object(s3, &format!("moves/production/{sequence}"))["release"], "new", "{context}");
    });
    let work = Work::new(&["v1", "v2"], &["rollback", "--to", "v1"]);
    let back = work.survives(8, |s3, context| assert_eq!(names(s3).0, "v1", "{context}"));
    let work = Work::new(&["v1"], &["pause", "--fleet", "--why", "audit"]);
    let paused = work.survives(2, |s3, context| {
        assert_eq!(object(s3, "pointers/production")["paused"]["why"], "audit", "{context}");
    });
    let work = Work::new(&["v1"], &["freeze", "production", "--why", "audit"]);
    let frozen = work.survives(2, |s3, context| {
        assert_eq!(object(s3, "pointers/production")["frozen"]["why"], "audit", "{context}");
    });
    tried(test, "of `promote`, `rollback`, `pause`, `freeze`", promoted + back + paused + frozen, "");
}

#[test]
fn prune_meets_trouble_at_each_request_and_is_repeated() {
    let test = "prune_meets_trouble_at_each_request_and_is_repeated";
    let args = ["prune", "--store", "--yes", "--min-age", "0s", "--moves", "1", "--settle", "0s"];
    let work = Work::new(&["v1", "v2", "v3", "v4"], &args);
    work.rig.publish("left");
    fs::remove_file(work.rig.store_dir().join("releases/left.tar.zst.sha256")).unwrap();
    let met = work.survives(20, |s3, context| {
        let there = |release: &str| s3.object(&format!("releases/{release}.tar.zst")).is_some();
        let all = ["v1", "v2", "v3", "v4", "left"].map(there);
        assert_eq!(all, [false, false, true, true, false], "{context}");
        assert_eq!(names(s3), ("v4".into(), 4), "{context}");
    });
    tried(test, "of `prune --store`", met, "");
}

/// The worst that can happen to it: what it has taken away cannot be put back, and it may not even look any more.
#[test]
fn a_digest_that_prune_can_neither_delete_nor_put_back_is_said_with_the_way_to_write_it() {
    let args = ["prune", "--store", "--yes", "--min-age", "0s", "--moves", "1", "--settle", "0s"];
    let work = Work::new(&["v1", "v2", "v3", "v4"], &args);
    let s3 = served(&work.rig.store_dir());
    let digest = "releases/v1.tar.zst.sha256";
    let line = String::from_utf8(s3.object(digest).unwrap()).unwrap();
    s3.fault(Fault::AnswerLost.of("DELETE").at(digest));
    s3.fault(Fault::Answer(503, "SlowDown").of("PUT").at(digest));
    s3.fault(Fault::Answer(403, "AccessDenied").of("GET").at("pointers/production").after(2));
    let output = work.command(&s3).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "could not be deleted: v1: the store cannot be reached",
        "; then its digest could not be put back: the store cannot be reached",
        "v1 cannot be promoted now: its archive is in the store, its digest is not. Publish v1 again, or write `",
        &format!("write `{}` into {digest}\n", line.trim()),
        "could not be deleted: v2: the pointer production cannot be read",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("nothing was deleted") && s3.object(digest).is_none(), "{said}");
    s3.heal();
    s3.put(digest, line.into_bytes());
    assert_whole(&s3, &said);
}

/// Somebody may have published it again.
#[test]
fn a_release_that_prune_cannot_look_at_once_more_stays_whole() {
    let args = ["prune", "--store", "--yes", "--min-age", "0s", "--moves", "1", "--settle", "0s"];
    let work = Work::new(&["v1", "v2", "v3", "v4"], &args);
    let s3 = served(&work.rig.store_dir());
    // The first look is for what the digest says.
    s3.fault(Fault::Answer(403, "AccessDenied").of("GET").at("releases/v1.tar.zst.sha256").after(1));
    let output = work.command(&s3).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("could not be deleted: v1: "), "{said}");
    s3.heal();
    assert!(s3.object("releases/v1.tar.zst").is_some() && s3.object("releases/v1.tar.zst.sha256").is_some());
    assert!(s3.object("releases/v2.tar.zst").is_none(), "{said}");
}
