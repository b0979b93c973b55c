//! The agent beside: is it there, does it answer, and what has it found itself?

use std::net::SocketAddr;

use hyper::Method;
use serde_json::Value;

use crate::{
    cli::agent_socket::{self, Unreachable, Why},
    config::Config,
    finding::{Check, Code, Finding, Severity},
    server,
};

const ABOUT: &str = "agent";

/// What came of asking.
pub struct Answer {
    /// Of the agent.
    pub(crate) own: Vec<Check>,
    /// What it has found; some of it we may have found as well.
    pub(crate) told: Vec<Check>,
}

/// Asks for its /status. Without an agent the port is tried in its place.
pub(crate) async fn checks(config: &Config) -> Answer {
    let status = match agent_socket::ask(&config.state_dir, Method::GET, "/status").await {
        Ok(answer) => serde_json::from_slice::<Value>(answer.body()).unwrap_or_default(),
        Err(unreachable) => {
            let own = vec![absent(&unreachable), port(config.listen)];
            return Answer { own, told: Vec::new() };
        }
    };
    let own = vec![whose(&status, &config.pod()), in_sync(&status)];
    Answer { own, told: told(&status) }
}

fn absent(unreachable: &Unreachable) -> Check {
    let make = |code| {
        let message = format!("{unreachable}: there are no deploys, and preStop hooks are not answered");
        Finding::broken(code, message, unreachable.remedy())
    };
    let found = match unreachable.why() {
        Why::NoSocket | Why::NobodyListens => make(Code::AgentNotRunning),
        Why::Silent(_) | Why::Failed(_) => make(Code::AgentSilent),
        Why::NotPermitted { .. } => {
            return Check::unknown(ABOUT, format!("{unreachable}; {}", unreachable.remedy()));
        }
    };
    Check::found(ABOUT, found)
}

/// As the agent itself would find it.
fn port(listen: SocketAddr) -> Check {
    match server::listen_on(listen) {
        Ok(_) => Check::fine(ABOUT, format!("{listen} is free for it")),
        Err(error) => Check::found(ABOUT, server::cannot_listen(listen, &error)),
    }
}

fn whose(status: &Value, pod: &str) -> Check {
    match status["pod"].as_str() {
        Some(its) if its == pod => Check::fine(ABOUT, format!("answers, for {pod}")),
        its => Check::found(
            ABOUT,
            Finding::broken(
                Code::AgentOfAnotherPod,
                format!(
                    "the agent that answers here belongs to pod {}, but this is {pod}: several pods share the \
                     admin socket, or this command uses another configuration than the agent",
                    its.unwrap_or("somebody")
                ),
                "use an emptyDir per pod for state_dir, and run this command with the agent's --config",
            ),
        ),
    }
}

fn in_sync(status: &Value) -> Check {
    let message = status["message"].as_str().unwrap_or_default();
    if status["in_sync"] == true && status["reason"].is_null() {
        return Check::fine(ABOUT, message);
    }
    let reason = status["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let remedy = "run `pitstop status` for details; docs/runbook.md says what to do for each reason";
    Check::found(ABOUT, Finding::note(Code::NotInSync, format!("{message}{reason}"), remedy))
}

/// Findings of a newer agent may have codes that are unknown here; /status has them.
fn told(status: &Value) -> Vec<Check> {
    let findings = status["findings"].as_array().into_iter().flatten();
    findings.filter_map(finding).map(|finding| Check::found(ABOUT, finding)).collect()
}

fn finding(value: &Value) -> Option<Finding> {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    let code = Code::ALL.iter().copied().find(|code| value["code"] == code.code())?;
    let severity = match value["severity"].as_str()? {
        "broken" => Severity::Broken,
        "risky" => Severity::Risky,
        _ => Severity::Note,
    };
    Some(Finding { code, severity, message: text("message")?, fix: text("fix")? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn code(check: &Check) -> Option<&'static str> {
        check.finding().map(|finding| finding.code.code())
    }

    #[test]
    fn an_agent_of_another_pod_is_not_taken_for_ours() {
        let status =
            json!({"pod": "web-0", "in_sync": true, "reason": null, "message": "runs v1, as desired"});
        assert_eq!(code(&whose(&status, "web-1")), Some("AGENT_OF_ANOTHER_POD"));
        assert_eq!(code(&whose(&status, "web-0")), None);
    }

    #[test]
    fn what_the_agent_has_found_is_passed_on_and_what_it_waits_for_is_noted() {
        let status = json!({
            "pod": "web-0", "in_sync": false, "reason": "held", "message": "deploys are held",
            "findings": [
                {"code": "PORT_TAKEN", "severity": "broken", "message": "m", "fix": "f"},
                {"code": "FROM_THE_FUTURE", "severity": "broken", "message": "m", "fix": "f"},
            ],
        });
        assert_eq!(told(&status).iter().map(code).collect::<Vec<_>>(), [Some("PORT_TAKEN")]);
        let note = in_sync(&status);
        assert_eq!(code(&note), Some("NOT_IN_SYNC"));
        assert_eq!(note.finding().unwrap().message, "deploys are held (held)");
    }
}
