//! The program itself: publish, promote, rollback, releases, fetch.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use pitstop_rig::{Fault, S3Rig};

/// A pod's volume, and a bucket.
pub struct Pod {
    pub rig: S3Rig,
    dir: tempfile::TempDir,
}

impl Pod {
    pub fn new() -> Self {
        Self { rig: S3Rig::start(), dir: tempfile::tempdir().unwrap() }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitstop"));
        command.args(args).env_clear().envs(self.rig.env());
        command.env("PITSTOP_DEPLOY_TO", self.deploy_to()).env("PITSTOP_POD", "web-0");
        command
    }

    fn deploy_to(&self) -> PathBuf {
        self.dir.path().join("srv")
    }

    pub fn app(&self, release: &str) -> PathBuf {
        let app = self.dir.path().join("apps").join(release);
        std::fs::create_dir_all(&app).unwrap();
        std::fs::write(app.join("config.ru"), release).unwrap();
        app
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        ended(&self.command(args).output().unwrap())
    }

    pub fn publish(&self, release: &str) -> String {
        let app = self.app(release);
        self.ok(&["publish", app.to_str().unwrap(), "--release", release])
    }
}

/// The exit code and what it said.
pub fn ended(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn release_at(current: &Path) -> String {
    std::fs::read_to_string(current.join("config.ru")).unwrap()
}

#[test]
fn a_release_goes_out_and_back() {
    let pod = Pod::new();
    let current = pod.deploy_to().join("current");
    assert!(pod.publish("v1").contains("published v1 as releases/v1.tar.zst"));
    pod.ok(&["promote", "v1"]);
    assert!(pod.ok(&["fetch"]).contains("current is v1 (fetched"));
    assert_eq!(release_at(&current), "v1");
    pod.publish("v2");
    assert!(pod.ok(&["promote", "v2"]).contains("production now points to v2 (move 2), was v1"));
    pod.ok(&["fetch"]);
    assert_eq!(release_at(&current), "v2");
    pod.ok(&["rollback"]);
    assert!(pod.ok(&["fetch"]).contains("current is v1 (was on the volume"));
    let releases = pod.ok(&["releases", "--json"]);
    let releases: serde_json::Value = serde_json::from_str(&releases).unwrap();
    let listed = releases["releases"].as_array().unwrap().iter().filter(|one| one["in_store"] == true);
    let mut listed: Vec<_> = listed.map(|one| one["release"].as_str().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(listed, ["v1", "v2"]);
    assert_eq!(releases["current"], "v1");
}

/// Two promotes whose writes meet at the store: each release with what became of its promote.
fn promoted_at_once(pod: &Pod) -> [(&'static str, Output); 2] {
    pod.rig.fault(Fault::together(2).of("PUT").at("pointers/production"));
    ["v2", "v3"]
        .map(|release| {
            let mut command = pod.command(&["promote", release]);
            (release, std::thread::spawn(move || command.output().unwrap()))
        })
        .map(|(release, running)| (release, running.join().unwrap()))
}

#[test]
fn of_two_promotes_at_once_one_wins_and_the_other_says_that_it_lost() {
    let pod = Pod::new();
    for release in ["v1", "v2", "v3"] {
        pod.publish(release);
    }
    pod.ok(&["promote", "v1"]);
    let outcomes = promoted_at_once(&pod);
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.iter().partition(|(_, output)| output.status.success());
    let ([(winner, _)], [(_, loser)]) = (&won[..], &lost[..]) else { panic!("{outcomes:?}") };
    let (code, said) = ended(loser);
    assert_eq!(code, 4);
    assert!(said.contains("somebody else moved production at the same time"), "{said}");
    let pointer = text(&pod.rig.object("pointers/production").unwrap());
    let pointer: serde_json::Value = serde_json::from_str(&pointer).unwrap();
    assert_eq!(
        (&pointer["release"], &pointer["sequence"], &pointer["previous"]),
        (&(*winner).into(), &2.into(), &"v1".into())
    );
}

#[test]
fn a_freeze_that_meets_a_promote_is_written_beside_it_or_refuses_it() {
    let pod = Pod::new();
    ["v1", "v2"].iter().for_each(|release| drop(pod.publish(release)));
    pod.ok(&["promote", "v1"]);
    pod.rig.fault(Fault::together(2).of("PUT").at("pointers/production").times(2));
    let begin = |args: &'static [&str]| {
        let mut command = pod.command(args);
        std::thread::spawn(move || command.output().unwrap())
    };
    let both = [begin(&["promote", "v2"]), begin(&["freeze", "production", "--why", "audit"])];
    let [promote, freeze] = both.map(|running| running.join().unwrap());
    assert!(freeze.status.success(), "{freeze:?}");
    let pointer: serde_json::Value =
        serde_json::from_str(&text(&pod.rig.object("pointers/production").unwrap())).unwrap();
    assert_eq!(pointer["frozen"]["why"], "audit");
    let (code, said) = ended(&promote);
    let moved = pointer["release"] == "v2";
    assert_eq!(code, if moved { 0 } else { 4 }, "{said}");
    assert_eq!(pod.rig.object("moves/production/2").is_some(), moved, "who lost writes no history");
    assert_eq!(pod.fails(&["promote", "v2"]).0, 4);
}

#[test]
fn a_move_is_written_down_once_though_answers_are_lost() {
    let pod = Pod::new();
    ["v1", "v2"].iter().for_each(|release| drop(pod.publish(release)));
    pod.ok(&["promote", "v1", "--by", "ann"]);
    pod.rig.fault(Fault::AnswerLost.of("PUT").at("moves/production/2").times(1));
    pod.ok(&["promote", "v2", "--by", "bob"]);
    let history: serde_json::Value = serde_json::from_str(&pod.ok(&["history", "--json"])).unwrap();
    let moves = history["moves"].as_array().unwrap().iter();
    let moves: Vec<_> =
        moves.map(|one| (one["release"].as_str().unwrap(), one["moved_by"].as_str().unwrap())).collect();
    assert_eq!(moves, [("v2", "bob"), ("v1", "ann")]);
    let puts =
        pod.rig.seen().into_iter().filter(|seen| seen.method == "PUT" && seen.key.starts_with("moves/"));
    assert!(puts.into_iter().all(|seen| seen.condition.as_deref() == Some("*")), "nothing is written twice");
}

#[test]
fn where_conditions_are_ignored_who_promoted_in_vain_is_told() {
    let pod = Pod::new();
    for release in ["v1", "v2", "v3"] {
        pod.publish(release);
    }
    pod.ok(&["promote", "v1"]);
    pod.rig.ignore_conditions();
    let outcomes = promoted_at_once(&pod);
    let pointer = text(&pod.rig.object("pointers/production").unwrap());
    let pointer: serde_json::Value = serde_json::from_str(&pointer).unwrap();
    for (release, output) in outcomes {
        let (code, said) = ended(&output);
        let won = pointer["release"] == release;
        assert_eq!(code, if won { 0 } else { 4 }, "{release}: {said}");
        assert!(won || said.contains("The store ignores conditional writes"), "{said}");
    }
}

#[test]
fn a_release_never_changes_its_bytes_and_its_digest_comes_last() {
    let pod = Pod::new();
    pod.publish("v1");
    let puts = pod.rig.seen().into_iter().filter(|seen| seen.method == "PUT");
    let puts: Vec<_> = puts.map(|seen| (seen.key, seen.condition.unwrap())).collect();
    let keys = ["releases/v1.tar.zst", "releases/v1.manifest", "releases/v1.tar.zst.sha256"];
    assert_eq!(puts, keys.map(|key| (key.to_owned(), "*".to_owned())));
    assert!(pod.publish("v1").contains("already published v1"));
    std::fs::write(pod.app("v1").join("more.rb"), "other bytes").unwrap();
    let app = pod.dir.path().join("apps/v1");
    let (code, said) = pod.fails(&["publish", app.to_str().unwrap(), "--release", "v1"]);
    assert_eq!(code, 1);
    assert!(said.contains("v1 is in the store with different content; a release never changes"), "{said}");
}

#[test]
fn a_publish_over_a_bad_line_is_done_once() {
    let pod = Pod::new();
    pod.rig.fault(Fault::Answer(503, "SlowDown").of("PUT").at("releases/v1.tar.zst").times(1));
    pod.publish("v1");
    // The archive is there though nobody said so: the digest tells whose it is.
    pod.rig.fault(Fault::AnswerLost.of("PUT").at("releases/v2.tar.zst").times(1));
    pod.rig.fault(Fault::AnswerLost.of("PUT").at("releases/v2.tar.zst.sha256").times(1));
    pod.publish("v2");
    pod.ok(&["promote", "v2"]);
    assert!(pod.ok(&["fetch"]).contains("current is v2 (fetched"));
}

#[test]
fn a_terminal_sees_what_a_fetch_does_and_a_pipe_sees_the_answer_alone() {
    let pod = Pod::new();
    pod.publish("v1");
    pod.ok(&["promote", "v1"]);
    pod.rig.fault(Fault::Slow(Duration::from_secs(1)).of("GET").at("releases/v1.tar.zst"));
    let on_terminal = |no_color: &str| {
        std::fs::remove_dir_all(pod.deploy_to()).ok();
        let fetch = pod.command(&["fetch"]);
        let mut script = Command::new("script");
        script.args(["-qec", &format!("{} fetch", env!("CARGO_BIN_EXE_pitstop")), "/dev/null"]);
        script.env_clear().envs(fetch.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let (code, said) = ended(&script.env("NO_COLOR", no_color).output().unwrap());
        assert!(code == 0 && said.contains("downloading releases/v1.tar.zst: 0 of 0 MB"), "{said:?}");
        assert!(said.trim_end().ends_with("bytes downloaded)"), "{said:?}");
        said
    };
    let said = on_terminal("");
    assert!(said.contains("\u{1b}[K\rcurrent is v1"), "the last line is cleared: {said:?}");
    assert!(!on_terminal("1").contains('\u{1b}'));
    std::fs::remove_dir_all(pod.deploy_to()).unwrap();
    let piped = pod.command(&["fetch"]).output().unwrap();
    assert!(piped.status.success() && piped.stderr.is_empty(), "{}", text(&piped.stderr));
}

#[test]
fn commands_fail_with_the_reason_while_the_store_is_away() {
    let pod = Pod::new();
    pod.publish("v1");
    pod.rig.outage();
    for args in [
        &["promote", "v1"][..],
        &["rollback"],
        &["releases"],
        &["fetch"],
        &["history"],
        &["pointers"],
        &["freeze", "production", "--why", "x"],
        &["pause", "--fleet"],
    ] {
        let (code, said) = pod.fails(args);
        assert!(code == 1 && said.contains("the store cannot be reached"), "{args:?}: {said}");
    }
}

/// Any pod may write there: an object that is archived, or encrypted with a key of its own, is its own trouble.
#[test]
fn a_report_that_cannot_be_read_hides_no_other_one() {
    let pod = Pod::new();
    pod.publish("v1");
    pod.ok(&["promote", "v1", "--create"]);
    let report = |pod: &str| {
        let at = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        format!(
            r#"{{"v":1,"pod":"{pod}","running":"v1","desired":{{"release":"v1","sequence":1}},"in_sync":true,"stage":"steady","at":"{at}"}}"#
        )
    };
    ["web-0", "web-1"]
        .iter()
        .for_each(|name| pod.rig.put(&format!("fleet/production/{name}"), report(name).into()));
    for (status, code) in [(403, "InvalidObjectState"), (403, "AccessDenied"), (400, "InvalidRequest")] {
        pod.rig.fault(Fault::Answer(status, code).of("GET").at("fleet/production/web-1"));
        let said = pod.ok(&["fleet", "production"]);
        assert!(said.contains("1 of 1 pods in sync") && said.contains("web-0"), "{code}: {said}");
        pod.rig.heal();
    }
    // Without the right to read any of them, that is what it says.
    pod.rig.fault(Fault::Answer(403, "AccessDenied").of("GET").at("fleet/production/"));
    let (code, said) = pod.fails(&["fleet", "production"]);
    assert!(code == 1 && said.contains("s3:GetObject"), "{said}");
}
