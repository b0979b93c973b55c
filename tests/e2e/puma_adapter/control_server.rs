use super::*;

/// Whether the numbers came, and what was found fault with.
fn asked(rig: &PumaRig, section: config::Puma) -> (bool, Vec<String>) {
    let eye = Eye::with(rig, section, RestartMode::Auto);
    eye.settled("v1");
    let look = eye.look();
    let codes = look.findings.into_iter().map(|finding| finding.code.code().to_owned()).collect();
    (look.traffic.workers.is_some(), codes)
}

fn by_state_file(path: &Path) -> config::Puma {
    config::Puma { state_file: Some(path.to_owned()), ..silent() }
}

#[test]
fn is_found_by_the_state_file() {
    let rig = PumaRig::start(Setup::default());
    assert_eq!(asked(&rig, by_state_file(&rig.state_file())), (true, vec![]));
}

#[test]
fn is_found_where_rails_keeps_the_state_file() {
    let config = "state_path 'tmp/puma.state'".into();
    let mut rig = PumaRig::prepare(Setup { state_file: false, config, ..Setup::default() });
    std::fs::create_dir(rig.releases().join("v1/tmp")).unwrap();
    rig.run();
    assert_eq!(asked(&rig, silent()), (true, vec![]));
}

#[test]
fn is_reached_in_another_mount_namespace() {
    pitstop_rig::needs_root!();
    let rig = PumaRig::start(Setup { wrapper: Wrapper::MountNamespace, ..Setup::default() });
    assert!(!rig.state_file().exists(), "the rig shows the socket to everybody");
    assert_eq!(asked(&rig, told(&rig)), (true, vec![]));
    assert_eq!(asked(&rig, by_state_file(&rig.state_file())), (true, vec![]));
}

#[test]
fn with_another_token_denies_and_the_rest_is_still_seen() {
    let rig = PumaRig::start(Setup::default());
    let section = config::Puma { control_token: Some("wrong".into()), ..told(&rig) };
    assert_eq!(asked(&rig, section), (false, vec!["CONTROL_SERVER_DENIED".to_owned()]));
}

#[test]
fn of_a_process_that_is_gone_is_not_asked() {
    let rig = PumaRig::start(Setup::default());
    let master = rig.master().unwrap().to_string();
    let stale = std::fs::read_to_string(rig.run_dir().join("puma.state")).unwrap().replace(&master, "4711");
    let path = rig.scratch().join("stale.state");
    std::fs::write(&path, stale).unwrap();
    assert_eq!(asked(&rig, by_state_file(&path)), (false, vec!["STATE_FILE_STALE".to_owned()]));
}

#[test]
fn that_does_not_answer_is_said() {
    let rig = PumaRig::start(Setup::default());
    let url = format!("unix://{}", rig.scratch().join("nobody.sock").display());
    let section = config::Puma { control_url: Some(url), ..told(&rig) };
    assert_eq!(asked(&rig, section), (false, vec!["CONTROL_SERVER_SILENT".to_owned()]));
}

#[test]
fn over_tcp_is_asked_and_its_port_is_no_port_of_the_app() {
    let port = pitstop_rig::ports::free_port();
    let config = format!("activate_control_app 'tcp://127.0.0.1:{port}', {{ auth_token: '{TOKEN}' }}");
    let rig = PumaRig::start(Setup { control: false, config, ..Setup::single() });
    let eye = Eye::with(&rig, by_state_file(&rig.state_file()), RestartMode::Auto);
    eye.settled("v1");
    assert!(eye.look().traffic.workers.is_some());
    let kept = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(
        eye.look().traffic.sockets.unwrap().connections,
        [],
        "connections to the control server are none"
    );
    drop(kept);
}
