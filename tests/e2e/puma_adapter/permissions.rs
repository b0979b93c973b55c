use std::process::Command;

use super::*;

const EXPECTED: &str = "PITSTOP_TEST_EXPECTED";
const PORT: &str = "PITSTOP_TEST_PORT";
const DEPLOY_TO: &str = "PITSTOP_TEST_DEPLOY_TO";

/// The observing side, for the other tests to run as somebody else; does nothing by itself.
#[test]
fn observer() {
    let Ok(expected) = std::env::var(EXPECTED) else { return };
    let (port, deploy_to) = (std::env::var(PORT).unwrap(), std::env::var(DEPLOY_TO).unwrap());
    let section = config::Puma { r#match: Some(format!(":{port}")), ..config::Puma::default() };
    let eye = Eye::at(Path::new(&deploy_to), section, RestartMode::Auto);
    if expected == "not_permitted" {
        assert_eq!(eye.look().detection, Detection::NotPermitted);
        assert_eq!(eye.plan("v1", "v1").unwrap_err().reason, Reason::NotPermitted);
    } else {
        let before = eye.settled("v1");
        eye.perform(ServerCommand::Restart(Mode::Hot), before.key).unwrap();
        until("a new image", || {
            generation(&eye.look()).filter(|s| s.key != before.key && settled_in(s, "v1"))
        });
    }
}

/// Runs [`observer`] as this user, without any capability or a way to get one: as in a strict pod.
pub fn observes(uid: u32, rig: &PumaRig, expected: &str) {
    // A copy, because the directory of this test may be closed to other users.
    let copy = rig.scratch().join(format!("observer-{uid}"));
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
    command.args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
    command.arg(copy).args(["--exact", "permissions::observer"]).current_dir("/");
    command.env(EXPECTED, expected).env(PORT, rig.port().to_string()).env(DEPLOY_TO, rig.deploy_to());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_puma_of_another_user_is_not_permitted() {
    if pitstop_rig::is_root() {
        let rig = PumaRig::start(Setup { uid: Some(65533), ..Setup::single() });
        observes(65534, &rig, "not_permitted");
    }
}

#[test]
fn a_puma_of_the_same_user_needs_no_privilege() {
    if pitstop_rig::is_root() {
        let rig = PumaRig::start(Setup { uid: Some(65534), ..Setup::default() });
        observes(65534, &rig, "seen");
    }
}
