//! Another make of S3, moto in auth mode: it checks signatures by code of its own, and holds each role to the policy
//! that docs/s3.md gives it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::documents;

/// The server, with a bucket and a user for each role. Ends when dropped.
pub struct Moto {
    process: Child,
    told: Value,
}

impl Moto {
    /// `None` where it is not installed, which only CI does not forgive.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Option<Self> {
        let root = documents::root();
        let python = root.join("target/moto/bin/python");
        if !python.exists() {
            assert!(std::env::var_os("CI").is_none(), "no {}: .ci/setup moto makes it", python.display());
            eprintln!("skipped: .ci/setup moto installs what this test needs");
            return None;
        }
        let mut command = Command::new(python);
        command
            .arg(root.join("tests/s3/moto_server.py"))
            .args(["agent", "ci", "promoter", "pruner"].map(policy));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("python starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let told = serde_json::from_str(&line).unwrap_or_else(|_| panic!("moto does not start: {line:?}"));
        Some(Self { process, told })
    }

    fn said(&self, pointer: &str) -> String {
        self.told.pointer(pointer).and_then(Value::as_str).expect("what it told").to_owned()
    }

    /// The URL of the server.
    ///
    /// # Panics
    /// When it has told nothing.
    pub fn endpoint(&self) -> String {
        self.said("/endpoint")
    }

    /// What `source` is.
    ///
    /// # Panics
    /// When it has told nothing.
    pub fn source(&self) -> String {
        self.said("/source")
    }

    /// The access key and the secret of `agent`, `ci`, `promoter`, `pruner` or `nobody`.
    ///
    /// # Panics
    /// When there is no such user.
    pub fn keys(&self, who: &str) -> (String, String) {
        (self.said(&format!("/keys/{who}/access")), self.said(&format!("/keys/{who}/secret")))
    }

    /// For a process of somebody.
    ///
    /// # Panics
    /// When there is no such user.
    pub fn env(&self, who: &str) -> Vec<(String, String)> {
        let (access, secret) = self.keys(who);
        let pairs = [
            ("PITSTOP_SOURCE", self.source()),
            ("PITSTOP_S3_ENDPOINT", self.endpoint()),
            ("PITSTOP_S3_PATH_STYLE", "true".into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("AWS_ACCESS_KEY_ID", access),
            ("AWS_SECRET_ACCESS_KEY", secret),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// As the document gives it.
fn policy(role: &str) -> String {
    let document = documents::read("docs/s3.md");
    let (_, rest) = document.split_once(&format!("```json {role}\n")).expect("the role's policy");
    rest.split_once("```").expect("its end").0.to_owned()
}
