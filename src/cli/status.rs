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
pub(crate) async fn run(state_dir: &Path, console: Console) -> Result<Exit, Failure> {
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
        write!(f, "{}: {in_sync}{}", self.text("pod"), lasting(&self.0["for_seconds"]["in_sync"]))?;
        let previous =
            self.0["previous"].as_str().map(|id| format!(" (before it: {id})")).unwrap_or_default();
        write!(f, "\n  running   {}{previous}", self.text("running"))?;
        if let (Some(proof), Some(words)) = (self.0["proof"].as_str(), self.0["proof_message"].as_str()) {
            write!(f, "\n  proof     {words} ({proof})")?;
        }
        write!(f, "\n  desired   {}", revision(&self.0["desired"]))?;
        self.why(f)?;
        if let Some(doing) = self.0["doing"].as_str() {
            let stage = lasting(&self.0["for_seconds"]["stage"]);
            write!(f, "\n  now       {doing} ({}{stage})", self.text("stage"))?;
        }
        if let Some(next) = self.0["next"].as_str() {
            write!(f, "\n  next      {next}")?;
        }
        app_server(f, &self.0["app_server"])?;
        for rejected in self.list("rejected") {
            let (reason, at) = (plain(&rejected["reason"]), plain(&rejected["at"]));
            write!(f, "\n  rejected  {}: {reason}, {at}", revision(rejected))?;
        }
        drain(f, &self.0["drain"])?;
        self.findings(f)
    }
}

impl Shown {
    fn why(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(reason) = self.0["reason"].as_str() else { return Ok(()) };
        let since = lasting(&self.0["for_seconds"]["reason"]);
        write!(f, "\n  because   {} ({reason}{since})", self.text("message"))
    }

    /// What is only good to know does not belong before the eyes of who looks for a fault.
    fn findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (notes, faults): (Vec<_>, Vec<_>) =
            self.list("findings").iter().partition(|finding| finding["severity"] == "note");
        for finding in faults {
            let (severity, code) = (plain(&finding["severity"]), plain(&finding["code"]));
            let (message, fix) = (plain(&finding["message"]), plain(&finding["fix"]));
            write!(f, "\n  {severity:<9} {code}: {message}\n            fix: {fix}")?;
        }
        let (events, notes): (Vec<_>, Vec<_>) = notes.into_iter().partition(|finding| is_event(finding));
        for event in events {
            write!(f, "\n  note      {}", plain(&event["message"]))?;
        }
        match notes.len() {
            0 => Ok(()),
            count => write!(f, "\n  notes     {count} more; run `pitstop doctor` to see them"),
        }
    }
}

/// What somebody else did to the app server: whoever asks what happened wants to see it here.
fn is_event(finding: &Value) -> bool {
    matches!(finding["code"].as_str(), Some("RESTARTED_BY_OTHERS" | "MASTER_ENDED"))
}

/// `, for 5m 3s`.
fn lasting(seconds: &Value) -> String {
    let Some(seconds) = seconds.as_f64() else { return String::new() };
    let whole = std::time::Duration::from_secs(seconds as u64);
    format!(", for {}", humantime::format_duration(whole))
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
    for slot in server["slots"].as_array().into_iter().flatten() {
        let (name, role, release) = (plain(&slot["slot"]), plain(&slot["role"]), plain(&slot["release"]));
        write!(f, "\n    slot {name}: {role}, {release}, process {}", slot["pid"])?;
        write!(f, ", {} of new connections", share(&slot["weight"]))?;
        if let Some(bytes) = slot["memory_bytes"].as_u64() {
            write!(f, ", {} MiB", bytes >> 20)?;
        }
        if let Some(requests) = slot["requests"].as_u64() {
            write!(f, ", {requests} requests")?;
        }
        if let Some(errors) = slot["errors"].as_u64() {
            write!(f, ", {errors} failed")?;
        }
    }
    Ok(())
}

/// Of 1000, in percent.
fn share(weight: &Value) -> String {
    let weight = weight.as_u64().unwrap_or_default();
    if weight.is_multiple_of(10) {
        format!("{} %", weight / 10)
    } else {
        format!("{}.{} %", weight / 10, weight % 10)
    }
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
            "proof": "cwd", "proof_message": "each of 2 works in the release's directory",
            "previous": "v41", "in_sync": false, "reason": "rejected", "message": "v43#7 is not tried again",
            "doing": "idle: following the pointer", "next": "nothing until the pointer moves",
            "for_seconds": {"stage": 301.2, "in_sync": 309.9, "reason": 300.0},
            "rejected": [{"release": "v43", "sequence": 7, "reason": "boot_loop", "at": "2026-11-21T10:00:00Z"}],
            "drain": {"result": null, "seconds": 2.5, "seconds_left": 15.5},
            "app_server": {"kind": "puma", "pid": 17, "mode": "cluster",
                           "workers": [{"pid": 21, "release": "v42", "booted": true}],
                           "slots": [{"slot": "a", "role": "live", "release": "v42", "pid": 17, "weight": 995,
                                      "memory_bytes": 314_572_800},
                                     {"slot": "b", "role": "candidate", "release": null, "pid": 31, "weight": 5,
                                      "memory_bytes": null}]},
            "findings": [{"code": "HOT_RESTART_UNAVAILABLE", "severity": "broken", "message": "it would end Puma",
                          "fix": "unset PUMA_SKIP_SIGUSR2"},
                         {"code": "HEALTH_PATH_UNSET", "severity": "note", "message": "m", "fix": "f"}],
        }));
        insta::assert_snapshot!(status, @r"
        web-0: not in sync, for 5m 9s
          running   v42 (before it: v41)
          proof     each of 2 works in the release's directory (cwd)
          desired   v43 (move 7)
          because   v43#7 is not tried again (rejected, for 5m)
          now       idle: following the pointer (steady, for 5m 1s)
          next      nothing until the pointer moves
          puma 17 (cluster)
            worker 21 on v42, booted
            slot a: live, v42, process 17, 99.5 % of new connections, 300 MiB
            slot b: candidate, unknown, process 31, 0.5 % of new connections
          rejected  v43 (move 7): boot_loop, 2026-11-21T10:00:00Z
          draining for 2.5s, 15.5s left
          broken    HOT_RESTART_UNAVAILABLE: it would end Puma
                    fix: unset PUMA_SKIP_SIGUSR2
          notes     1 more; run `pitstop doctor` to see them
        ");
    }

    #[test]
    fn an_older_agents_status_is_shown_as_far_as_it_goes() {
        let status = Shown(json!({
            "pod": "web-0", "stage": "steady", "desired": null, "running": "v1", "in_sync": true, "reason": null,
            "message": "runs v1, as desired", "app_server": {"kind": "puma", "pid": null},
        }));
        insta::assert_snapshot!(status, @r"
        web-0: in sync
          running   v1
          desired   none
          no app server
        ");
    }
}
