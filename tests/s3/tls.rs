//! S3 behind TLS: a server whose authority is the user's own.

use std::process::{Command, Output};

use pitstop_rig::S3Rig;

fn releases(rig: &S3Rig, trusted: Option<&str>) -> (bool, String) {
    let mut pitstop = Command::new(env!("CARGO_BIN_EXE_pitstop"));
    pitstop.args(["releases", "--json"]).env_clear().envs(rig.env());
    pitstop.env("PITSTOP_DEPLOY_TO", "/nowhere");
    pitstop.envs(trusted.map(|file| ("SSL_CERT_FILE", file)));
    let Output { status, stdout, stderr } = pitstop.output().unwrap();
    let said = [stdout, stderr].concat();
    (status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_server_is_trusted_if_its_authority_is() {
    let rig = S3Rig::start_tls();
    rig.put("releases/v1.tar.zst.sha256", b"digest".to_vec());
    let (listed, said) = releases(&rig, rig.ca().unwrap().to_str());
    assert!(listed && said.contains(r#""release":"v1","in_store":true"#), "{said}");
}

#[test]
fn a_stranger_is_refused_with_the_way_to_trust_it() {
    let rig = S3Rig::start_tls();
    let stranger = S3Rig::start_tls();
    let (listed, said) = releases(&rig, stranger.ca().unwrap().to_str());
    assert!(!listed && said.contains("the store cannot be reached"), "{said}");
    assert!(said.contains("certificate") && said.contains("SSL_CERT_FILE"), "{said}");
    assert_eq!(rig.seen(), [], "nothing was said to a stranger");
}
