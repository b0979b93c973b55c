//! Signed releases and pointers: who may have what run, with which keys and which rights.

mod attacks;
mod keys;
mod memory;
mod rights;
mod roles;
mod rollouts;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

use crate::rig::Rig;

/// A store, the keys of CI and of who promotes, and pods that require signatures.
struct Signed {
    rig: Rig,
    release_key: String,
    pointer_key: String,
    /// What else is set, by name.
    env: Vec<(&'static str, String)>,
}

impl Signed {
    fn new() -> Self {
        let rig = Rig::new();
        let release_key = keygen(&rig, "release");
        let pointer_key = keygen(&rig, "pointer");
        Self { rig, release_key, pointer_key, env: Vec::new() }
    }

    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.into()));
        self
    }

    fn secret(&self, role: &str) -> PathBuf {
        self.rig.dir.path().join(format!("{role}.key"))
    }

    /// A command without secret keys, as in a pod.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.rig.command(args);
        command.env("PITSTOP_STATE_DIR", self.rig.dir.path().join("state"));
        command.env("PITSTOP_TRUST_APP", "shop").env("PITSTOP_TRUST_REQUIRED", "true");
        command.env("PITSTOP_TRUST_RELEASE_KEYS", &self.release_key);
        command.env("PITSTOP_TRUST_POINTER_KEYS", &self.pointer_key);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it fails.
    #[track_caller]
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    /// As CI does.
    #[track_caller]
    fn publish(&self, release: &str) {
        let (app, key) = (self.rig.app(release), self.secret("release"));
        self.ok(&["publish", app.to_str().unwrap(), "--release", release, "--key", key.to_str().unwrap()]);
    }

    /// As people do.
    #[track_caller]
    fn promote(&self, release: &str) {
        self.ok(&["promote", release, "--key", self.secret("pointer").to_str().unwrap()]);
    }

    /// Both.
    #[track_caller]
    fn deploy(&self, release: &str) {
        self.publish(release);
        self.promote(release);
    }

    /// A pod that starts refuses for this reason, and has nothing to run then. Gives the whole message.
    #[track_caller]
    fn refuses(&self, reason: &str) -> String {
        let said = self.fails(&["fetch"]);
        assert!(said.contains(&format!("({reason})")), "{reason} expected: {said}");
        assert_eq!(self.rig.release_at_current(), None);
        said
    }

    /// A pod that starts runs this release.
    #[track_caller]
    fn runs(&self, release: &str) {
        self.ok(&["fetch"]);
        assert_eq!(self.rig.release_at_current().as_deref(), Some(release));
    }

    /// A path in the store.
    fn object(&self, key: &str) -> PathBuf {
        self.rig.store_dir().join(key)
    }

    fn pointer(&self) -> Value {
        serde_json::from_slice(&fs::read(self.object("pointers/production")).unwrap()).unwrap()
    }

    /// Writes the pointer past `promote`.
    fn put_pointer(&self, pointer: &Value) {
        fs::write(self.object("pointers/production"), pointer.to_string()).unwrap();
    }

    fn edit_pointer(&self, change: impl FnOnce(&mut Value)) {
        let mut pointer = self.pointer();
        change(&mut pointer);
        self.put_pointer(&pointer);
    }

    /// A pod without a past: nothing on its volume, nothing in its state_dir.
    fn new_pod(&self) {
        for dir in [self.rig.deploy_to.clone(), self.rig.dir.path().join("state")] {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Makes a pair of keys; gives the public one.
fn keygen(rig: &Rig, name: &str) -> String {
    let out = rig.dir.path().join(format!("{name}.key"));
    let role = if name.contains("pointer") { "pointer" } else { "release" };
    let printed = rig.ok(&["--json", "keygen", role, "--out", out.to_str().unwrap()]);
    serde_json::from_str::<Value>(&printed).unwrap()["public_key"].as_str().unwrap().to_owned()
}

#[test]
fn a_signed_release_that_was_promoted_with_a_signature_runs() {
    let signed = Signed::new();
    signed.deploy("v1");
    signed.runs("v1");
    signed.deploy("v2");
    signed.runs("v2");
    signed.ok(&["rollback", "--key", signed.secret("pointer").to_str().unwrap()]);
    signed.runs("v1");
    assert!(signed.ok(&["verify", "v1"]).contains("the signature of release v1 holds"));
    assert!(signed.ok(&["verify", "--pointer"]).contains("the signature of the pointer production holds"));
}

#[test]
fn what_is_not_signed_does_not_run_and_a_warning_is_all_until_signatures_are_required() {
    let signed = Signed::new();
    signed.rig.promote("v1");
    let said = signed.refuses("signature_missing");
    assert!(said.contains("the pointer production is not signed"), "{said}");
    // The pointer alone does not do.
    signed.ok(&["sign", "--pointer", "--key", signed.secret("pointer").to_str().unwrap()]);
    let said = signed.refuses("signature_missing");
    assert!(said.contains("releases/v1.signed is not in the store"), "{said}");
    let lenient = signed.set("PITSTOP_TRUST_REQUIRED", "false");
    lenient.runs("v1");
    let required = lenient.set("PITSTOP_TRUST_REQUIRED", "true");
    // Nor does what is on the volume since.
    fs::remove_file(required.rig.current()).unwrap();
    required.refuses("signature_missing");
    required.ok(&["sign", "v1", "--key", required.secret("release").to_str().unwrap()]);
    required.runs("v1");
}
