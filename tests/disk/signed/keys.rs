//! Where secret keys come from, and Debian's minisign on both sides.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use super::Signed;

fn minisign(args: &[&str]) -> String {
    let output = Command::new("minisign").args(args).output().expect("minisign is there");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn minisign_verifies_what_pitstop_signed() {
    let signed = Signed::new();
    signed.deploy("v1");
    let out = signed.rig.dir.path().join("out");
    signed.ok(&["verify", "v1", "--export", out.to_str().unwrap()]);
    signed.ok(&["verify", "--pointer", "--export", out.to_str().unwrap()]);
    for (statement, key) in [("v1", &signed.release_key), ("production", &signed.pointer_key)] {
        let statement = out.join(format!("{statement}.statement"));
        let said = minisign(&["-V", "-P", key, "-m", statement.to_str().unwrap()]);
        assert!(said.contains("Signature and comment signature verified"), "{said}");
    }
}

#[test]
fn minisign_signs_for_pitstop_by_a_key_that_never_leaves_its_place() {
    let signed = Signed::new();
    let dir = signed.rig.dir.path();
    let (public, secret) = (dir.join("m.pub"), dir.join("m.key"));
    minisign(&["-G", "-W", "-p", public.to_str().unwrap(), "-s", secret.to_str().unwrap()]);
    let key = fs::read_to_string(public).unwrap().lines().nth(1).unwrap().to_owned();
    let command = format!("minisign -S -s {} -m /dev/stdin -x /dev/stdout", secret.display());
    let signed = signed.set("PITSTOP_TRUST_RELEASE_KEYS", &key).set("PITSTOP_RELEASE_KEY_COMMAND", &command);
    let app = signed.rig.app("v1");
    signed.ok(&["publish", app.to_str().unwrap(), "--release", "v1", "--sign"]);
    signed.promote("v1");
    signed.runs("v1");
}

#[test]
fn the_secret_key_comes_from_a_file_the_environment_or_a_command() {
    let signed = Signed::new();
    let file = signed.secret("release");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    let publish = |signed: &Signed, release: &str, args: &[&str]| {
        let app = signed.rig.app(release);
        signed.run(&[&["publish", app.to_str().unwrap(), "--release", release][..], args].concat())
    };
    let none = publish(&signed, "v0", &["--sign"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(none.status.code() == Some(64) && said.contains("set PITSTOP_RELEASE_KEY"), "{said}");
    let cat = format!("cat {}", file.display());
    assert!(publish(&signed, "v1", &["--key-command", &cat]).status.success());
    let failing = publish(&signed, "v2", &["--key-command", "false"]);
    assert!(
        String::from_utf8_lossy(&failing.stderr).contains("the command for the key failed"),
        "{failing:?}"
    );
    // Two lines, or the second alone; nobody has to say --sign.
    for (release, key) in [("v3", text.as_str()), ("v4", text.lines().nth(1).unwrap())] {
        let mut command =
            signed.rig.command(&["publish", signed.rig.app(release).to_str().unwrap(), "--release", release]);
        let output =
            command.env("PITSTOP_RELEASE_KEY", key).env("PITSTOP_TRUST_APP", "shop").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!String::from_utf8_lossy(&output.stdout).contains(text.lines().nth(1).unwrap()));
    }
    for release in ["v1", "v3", "v4"] {
        signed.ok(&["verify", release]);
    }
}

#[test]
fn a_key_with_a_password_is_opened_by_it_and_else_refused() {
    let signed = Signed::new();
    let out = signed.rig.dir.path().join("locked.key");
    let mut keygen = signed.rig.command(&["keygen", "release", "--out", out.to_str().unwrap()]);
    assert!(keygen.env("PITSTOP_KEY_PASSWORD", "hush").status().unwrap().success());
    let again = signed.rig.command(&["keygen", "release", "--out", out.to_str().unwrap()]).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("no key was replaced"), "{again:?}");
    let app = signed.rig.app("v1");
    let publish = |password: Option<&str>| {
        let args = ["publish", app.to_str().unwrap(), "--release", "v1", "--key", out.to_str().unwrap()];
        let mut command = signed.rig.command(&args);
        command
            .env("PITSTOP_TRUST_APP", "shop")
            .envs(password.map(|password| ("PITSTOP_KEY_PASSWORD", password)));
        command.output().unwrap()
    };
    for (password, why) in [(None, "Then set PITSTOP_KEY_PASSWORD"), (Some("wrong"), "cannot be read with")] {
        let refused = publish(password);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(why), "{said}");
    }
    assert!(publish(Some("hush")).status.success());
}
