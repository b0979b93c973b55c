use super::*;

#[test]
fn of_two_the_one_that_runs_our_releases() {
    let (ours, theirs) = (PumaRig::start(Setup::default()), PumaRig::start(Setup::single()));
    let eye = Eye::on(&ours);
    eye.settled("v1");
    assert_eq!(eye.look().description.pid, ours.master());
    drop(ours);
    until("ours is missing, theirs no substitute", || {
        assert_ne!(eye.look().description.pid, theirs.master());
        matches!(eye.look().detection, Detection::Missing).then_some(())
    });
}

#[test]
fn two_on_our_releases_are_ambiguous_unless_one_is_named() {
    let rig = PumaRig::start(Setup::default());
    let mut second = PumaRig::prepare_on(&rig, Setup::single());
    second.run();
    until("the second Puma", || second.get("/").ok());
    assert_eq!(Eye::on(&rig).look().detection, Detection::Ambiguous);
    assert_eq!(Eye::on(&rig).plan("v1", "v1").unwrap_err().reason, Reason::AppServerAmbiguous);
    let named = config::Puma { r#match: Some(format!(":{})", second.port())), ..told(&second) };
    let eye = Eye::with(&rig, named, RestartMode::Auto);
    eye.settled("v1");
    assert_eq!(eye.look().description.pid, second.master());
}

#[test]
fn none_is_missing_and_a_stranger_is_never_restarted() {
    let rig = PumaRig::start(Setup::single());
    let nowhere = config::Puma { r#match: Some("no such title".into()), ..config::Puma::default() };
    let eye = Eye::with(&rig, nowhere, RestartMode::Auto);
    assert_eq!(eye.look().detection, Detection::Missing);
    assert_eq!(eye.plan("v1", "v1").unwrap_err().reason, Reason::AppServerMissing);
}
