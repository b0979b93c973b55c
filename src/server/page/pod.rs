//! This pod.

use maud::{Markup, html};

use super::{code, lasting, release, short, table};
use crate::{
    core::Stage,
    slots::Role,
    status::{DrainStatus, Status},
};

/// In a word or two.
pub(super) fn state(status: &Status) -> &'static str {
    match (&status.drain, status.stage) {
        (Some(drain), _) if drain.holds_deploys => "draining",
        (_, Stage::Steady) if status.in_sync => "in sync",
        (_, Stage::Steady) => "not in sync",
        (_, stage) => stage.name(),
    }
}

pub(super) fn show(status: &Status) -> Markup {
    let well = status.in_sync && status.drain.is_none();
    html! {
        section {
            h1 #pod { (status.pod) " " span class=(if well { "state good" } else { "state busy" }) { (state(status)) } }
            p .message { (short(&status.message)) }
            dl {
                div { dt { "Running" } dd { (named(status.running.as_ref().map(ToString::to_string))) } }
                div { dt { "Desired" } dd { (named(status.desired.as_ref().map(|desired| desired.release.to_string()))) @if let Some(number) = status.desired.as_ref().and_then(|desired| desired.sequence) { " (move " (number) ")" } } }
                div { dt { "Previous" } dd { (named(status.previous.as_ref().map(ToString::to_string))) } }
                div { dt { "Stage" } dd { (status.stage.name()) " for " (lasting(status.for_seconds.stage)) } }
                @if let Some(reason) = status.reason {
                    div { dt { "Reason" } dd { (code("runbook", reason.code())) } }
                }
                div { dt { "Doing" } dd { (short(&status.doing)) } }
                div { dt { "Next" } dd { (short(&status.next)) } }
                @if let Some(id) = &status.deploy_id { div { dt { "Deploy" } dd { code { (id) } } } }
            }
        }
        @if let Some(drain) = &status.drain { (draining(drain)) }
        @if !status.app_server.slots.is_empty() { (slots(status)) }
        @if !status.app_server.workers.is_empty() { (workers(status)) }
        @if !status.rejected.is_empty() { (rejected(status)) }
        @if !status.findings.is_empty() { (findings(status)) }
    }
}

fn named(id: Option<String>) -> Markup {
    match id {
        Some(id) => release(&id),
        None => html! { "none" },
    }
}

fn draining(drain: &DrainStatus) -> Markup {
    let requests = html! {
        @for request in &drain.requests {
            tr { th scope="row" { (request.peer) } td { (lasting(request.seconds)) } }
        }
    };
    html! {
        section {
            h2 #drain { "The end of this pod" }
            p {
                @match drain.result {
                    Some(result) => { "Ended: " (result.name()) " after " (lasting(drain.seconds)) }
                    None => { "For " (lasting(drain.seconds)) ", at most " (lasting(drain.seconds_left)) " more" }
                }
                @if !drain.holds_deploys { "; the caller was neither the kubelet nor had the token, so deploys go on" }
            }
            p { "Requests in flight: " (drain.requests_in_flight.map_or("unknown".into(), |left| left.to_string())) }
            @if !drain.requests.is_empty() { (table("Requests in flight", &["From", "Age"], &requests)) }
        }
    }
}

fn slots(status: &Status) -> Markup {
    let role = |role: Role| match role {
        Role::Live => "serves",
        Role::Candidate => "is checked",
        Role::Lingering => "finishes its requests",
    };
    let rows = html! {
        @for slot in &status.app_server.slots {
            tr {
                th scope="row" { (slot.slot.name()) }
                td { (role(slot.role)) }
                td { (named(slot.release.as_ref().map(ToString::to_string))) }
                td {
                    meter min="0" max="1000" value=(slot.weight) aria-label=(format!("Share of slot {}", slot.slot.name())) {}
                    " " (f64::from(slot.weight) / 10.0) " %"
                }
                td { (slot.memory_bytes.map_or("unknown".into(), |bytes| format!("{} MiB", bytes >> 20))) }
            }
        }
    };
    html! {
        section {
            h2 #servers { "Servers" }
            (table("Servers", &["Slot", "Role", "Release", "New connections", "Memory"], &rows))
        }
    }
}

fn workers(status: &Status) -> Markup {
    let rows = html! {
        @for worker in &status.app_server.workers {
            tr {
                th scope="row" { (worker.pid) }
                td { (named(worker.release.as_ref().map(ToString::to_string))) }
                td { (if worker.booted { "booted" } else { "booting" }) }
            }
        }
    };
    html! {
        section {
            h2 #workers { "Workers" }
            (table("Workers", &["PID", "Release", "State"], &rows))
        }
    }
}

fn rejected(status: &Status) -> Markup {
    let rows = html! {
        @for one in &status.rejected {
            tr {
                th scope="row" { (release(one.release.as_str())) }
                td { (one.sequence.map_or("none".into(), |number| number.to_string())) }
                td { (code("runbook", one.reason.code())) }
                td { (one.at.as_deref().unwrap_or("unknown")) }
            }
        }
    };
    html! {
        section {
            h2 #rejected { "Rejected in this pod" }
            (table("Rejected in this pod", &["Release", "Move", "Reason", "At"], &rows))
        }
    }
}

fn findings(status: &Status) -> Markup {
    html! {
        section {
            h2 #findings { "Findings" }
            ul {
                @for finding in &status.findings {
                    li {
                        strong { (finding.severity.word()) } " " (code("doctor", finding.code.code())) ": "
                        (short(&finding.message)) ". Fix: " (short(&finding.fix))
                    }
                }
            }
        }
    }
}
