//! Another make of S3, moto in auth mode: it checks signatures by code of its own, and the policies that
//! docs/s3.md gives to agents, CI and those who promote.

use std::process::Command;

struct Moto {
    server: pitstop_rig::s3::Moto,
    dir: tempfile::TempDir,
}

impl Moto {
    fn start() -> Option<Self> {
        Some(Self { server: pitstop_rig::s3::Moto::start()?, dir: tempfile::tempdir().unwrap() })
    }

    /// Runs the program as somebody; its exit code, and what it said.
    fn pitstop(&self, who: &str, args: &[&str]) -> (i32, String) {
        let mut pitstop = Command::new(env!("CARGO_BIN_EXE_pitstop"));
        pitstop.args(args).env_clear().envs(self.server.env(who));
        pitstop.env("PITSTOP_DEPLOY_TO", self.dir.path().join("srv"));
        let output = pitstop.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
    }

    #[track_caller]
    fn may(&self, who: &str, args: &[&str]) -> String {
        let (code, said) = self.pitstop(who, args);
        assert_eq!(code, 0, "{who} {args:?}: {said}");
        said
    }

    #[track_caller]
    fn may_not(&self, who: &str, args: &[&str]) {
        let (code, said) = self.pitstop(who, args);
        assert!(code == 1 && said.contains("store_denied"), "{who} {args:?}: {said}");
    }
}

#[test]
fn another_server_understands_all_of_it_and_the_documented_policies_are_enough() {
    let Some(moto) = Moto::start() else { return };
    let app = moto.dir.path().join("app");
    std::fs::create_dir(&app).unwrap();
    std::fs::write(app.join("config.ru"), "run App").unwrap();
    let app = app.to_str().unwrap();
    moto.may("ci", &["publish", app, "--release", "v1"]);
    assert!(moto.may("ci", &["publish", app, "--release", "v1"]).contains("already published"));
    moto.may("ci", &["publish", app, "--release", "v2"]);
    moto.may("promoter", &["promote", "v1"]);
    assert!(moto.may("promoter", &["promote", "v2"]).contains("(move 2), was v1"));
    assert!(moto.may("agent", &["fetch"]).contains("current is v2 (fetched"));
    moto.may("promoter", &["rollback"]);
    assert!(moto.may("agent", &["fetch"]).contains("current is v1 (fetched"));
    let (code, said) = moto.pitstop("promoter", &["promote", "v3"]);
    assert!(code == 1 && said.contains("the store has no release v3"), "{said}");

    assert!(moto.may("promoter", &["history"]).contains("rollback"));
    assert!(moto.may("promoter", &["pointers"]).contains("production"));
    moto.may("promoter", &["freeze", "production", "--why", "audit"]);
    let (code, said) = moto.pitstop("promoter", &["promote", "v2"]);
    assert!(code == 4 && said.contains("audit"), "{said}");
    moto.may("promoter", &["unfreeze", "production"]);
    moto.may("promoter", &["pause", "--fleet"]);
    moto.may("promoter", &["resume", "--fleet"]);

    // No pod is there, so that it takes itself back.
    let (code, said) = moto.pitstop("promoter", &["rollout", "v2", "--timeout", "1s"]);
    assert!(code == 2 && said.contains("taken back: step 1 made no progress for 1s"), "{said}");
    let (code, said) = moto.pitstop("agent", &["rollout", "v2"]);
    assert!(code == 1 && said.contains("give this role the right to read and write it"), "{said}");

    // Nobody else may delete a release, and what is needed stays.
    moto.may("ci", &["publish", app, "--release", "v0"]);
    let prune = ["prune", "--store", "--min-age", "0s", "--settle", "0s", "--yes"];
    let (code, said) = moto.pitstop("promoter", &prune);
    assert!(code == 1 && said.contains("could not be deleted: v0: the store refuses access"), "{said}");
    let said = moto.may("pruner", &prune);
    assert!(said.contains("deleted v0 (") && said.ends_with("1 of 3 releases gone, 0.0 MB\n"), "{said}");
    moto.may("ci", &["publish", app, "--release", "v0"]);

    moto.may_not("agent", &["freeze", "production", "--why", "audit"]);
    moto.may_not("ci", &["promote", "v2"]);
    moto.may_not("agent", &["promote", "v2"]);
    moto.may_not("promoter", &["publish", app, "--release", "v3"]);
    let (code, said) = moto.pitstop("nobody", &["releases"]);
    assert!(code == 1 && said.contains("does not accept these credentials"), "{said}");
}
