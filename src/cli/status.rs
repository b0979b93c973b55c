//! `pitstop status`: this pod, over the admin socket.

use std::{fmt, path::Path};

use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::{
    Console, Exit, Failure,
    agent_socket::{self, parsed},
};

/// What the agent says of itself. Printed as it came with `--json`, so that a newer agent's fields
/// are not lost on the way.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Shown(Value);

/// Asks the agent; [`Exit::Failed`] when the pod is not in sync.
///
/// # Errors
/// [`Failure`] with the message for the user.
pub async fn run(state_dir: &Path, console: Console) -> Result<Exit, Failure> {
    let answer = agent_socket::ask(state_dir, Method::GET, "/status").await?;
    let status = Shown(parsed(answer.body())?);
    console.print(&status);
    Ok(if status.0["in_sync"] == true { Exit::Done } else { Exit::Failed })
}

impl Shown {
    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or("none")
    }

    fn list(&self, key: &str) -> &[Value] {
        self.0[key].as_array().map_or(&[], Vec::as_slice)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_sync = if self.0["in_sync"] == true { "in sync" } else { "not in sync" };
        writeln!(f, "{}: {in_sync}, {}", self.text("pod"), self.text("stage"))?;
        writeln!(f, "  running   {}", self.text("running"))?;
        writeln!(f, "  desired   {}", revision(&self.0["desired"]))?;
        writeln!(f, "  previous  {}", self.text("previous"))?;
        let reason = self.0["reason"].as_str().map_or(String::new(), |reason| format!(" ({reason})"));
        write!(f, "  {}{reason}", self.text("message"))?;
        app_server(f, &self.0["app_server"])?;
        for rejected in self.list("rejected") {
            let (reason, at) = (plain(&rejected["reason"]), plain(&rejected["at"]));
            write!(f, "\n  rejected  {}: {reason}, {at}", revision(rejected))?;
        }
        drain(f, &self.0["drain"])?;
        for finding in self.list("findings") {
            let (severity, message) = (plain(&finding["severity"]), plain(&finding["message"]));
            write!(f, "\n  {severity}: {message}\n    {}", plain(&finding["remedy"]))?;
        }
        Ok(())
    }
}

fn app_server(f: &mut fmt::Formatter<'_>, server: &Value) -> fmt::Result {
    if server["pid"].is_null() {
        return f.write_str("\n  no app server");
    }
    write!(f, "\n  {} {} ({})", plain(&server["kind"]), server["pid"], plain(&server["mode"]))?;
    for worker in server["workers"].as_array().into_iter().flatten() {
        let state = if worker["booted"] == true { "booted" } else { "booting" };
        write!(f, "\n    worker {} on {}, {state}", worker["pid"], plain(&worker["release"]))?;
    }
    Ok(())
}

fn drain(f: &mut fmt::Formatter<'_>, drain: &Value) -> fmt::Result {
    match drain {
        Value::Null => Ok(()),
        drain if drain["result"].is_null() => {
            let left = drain["seconds_left"].as_f64().unwrap_or_default();
            write!(
                f,
                "\n  draining for {:.1}s, {left:.1}s left",
                drain["seconds"].as_f64().unwrap_or_default()
            )
        }
        drain => write!(f, "\n  drain answered: {}", plain(&drain["result"])),
    }
}

fn revision(value: &Value) -> String {
    match (value["release"].as_str(), value["sequence"].as_u64()) {
        (Some(release), Some(sequence)) => format!("{release} (move {sequence})"),
        (Some(release), None) => release.to_owned(),
        (None, _) => "none".to_owned(),
    }
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_for_people() {
        let status = Shown(json!({
            "pod": "web-0", "stage": "steady", "desired": {"release": "v43", "sequence": 7}, "running": "v42",
            "previous": null, "in_sync": false, "reason": "rejected", "message": "v43#7 is not tried again",
            "rejected": [{"release": "v43", "sequence": 7, "reason": "boot_loop", "at": "2026-11-21T10:00:00Z"}],
            "drain": {"result": null, "seconds": 2.5, "seconds_left": 15.5},
            "app_server": {"kind": "puma", "pid": 17, "mode": "cluster",
                           "workers": [{"pid": 21, "release": "v42", "booted": true}]},
            "findings": [{"severity": "broken", "message": "no restart moves this Puma", "remedy": "set PWD"}],
        }));
        insta::assert_snapshot!(status, @r"
        web-0: not in sync, steady
          running   v42
          desired   v43 (move 7)
          previous  none
          v43#7 is not tried again (rejected)
          puma 17 (cluster)
            worker 21 on v42, booted
          rejected  v43 (move 7): boot_loop, 2026-11-21T10:00:00Z
          draining for 2.5s, 15.5s left
          broken: no restart moves this Puma
            set PWD
        ");
    }
}
