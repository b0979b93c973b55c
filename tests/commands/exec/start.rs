//! The command starts when the first release is in place, and whatever is wrong with the configuration.

use super::container::Recipe;
use pitstop_rig::Signal;

const REVISION: &str = "cat $DIR/app/current/REVISION >$DIR/revision; exec sleep 60";

#[test]
fn the_command_waits_for_the_first_release() {
    let recipe = Recipe::new();
    let mut running = recipe.script(REVISION);
    running.wait_for_log("agent started");
    running.wait_for_log("the volume was read");
    assert!(!running.log().contains("command started"), "{}", running.log());
    running.recipe().release();
    assert_eq!(running.wait_for_file("revision"), "v1");
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(143));
}

#[test]
fn sigterm_ends_the_wait() {
    let mut running = Recipe::new().script("echo >$DIR/up");
    running.wait_for_log("the volume was read");
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(143));
    assert!(!running.file("up").exists());
}

#[test]
fn the_command_runs_whatever_is_wrong_with_the_configuration() {
    let wrong = [("PITSTOP_GRACE_PERIOD", "soon"), ("PITSTOP_NO_SUCH_KEY", "1"), ("PITSTOP_SOURCE", "s3://")];
    for (name, value) in wrong {
        let mut running = Recipe::new().env(name, value).script("exit 4");
        assert_eq!(running.code(), Some(4), "{name}");
        assert!(
            running.log().contains("the configuration is invalid and no deploy can start"),
            "{name}: {}",
            running.log()
        );
    }
    assert_eq!(Recipe::new().without("PITSTOP_SOURCE").script("exit 4").code(), Some(4));
}

#[test]
fn where_signatures_are_required_the_command_waits_for_a_signed_release() {
    let keys = [
        ("PITSTOP_TRUST_RELEASE_KEYS", "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"),
        ("PITSTOP_TRUST_POINTER_KEYS", "RWT9tj7dBB+tAAa7780uwcrckjXNgtvTbUoXeGKLwCIJlNkUTubkkPwJ"),
        ("PITSTOP_TRUST_APP", "shop"),
        ("PITSTOP_TRUST_REQUIRED", "true"),
    ];
    let unsigned = Recipe::with_release();
    let recipe = keys.iter().fold(unsigned, |recipe, (name, value)| recipe.env(name, value));
    let mut running = recipe.script("echo >$DIR/up");
    running.wait_for_log("signature_missing");
    running.kill(Signal::TERM);
    assert_eq!(running.code(), Some(143));
    assert!(!running.file("up").exists() && !running.log().contains("command started"), "{}", running.log());
}

#[test]
fn the_log_has_the_configured_form() {
    let mut running = Recipe::with_release().env("PITSTOP_LOG_FORMAT", "json").run(&["no-such-program"]);
    assert_eq!(running.code(), Some(127));
    let log = running.log();
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    assert!(log.contains("the command cannot be started"), "{log}");
}
