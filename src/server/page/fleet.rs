//! The pods that follow the same pointer, and its last moves: what they say of themselves.

use std::time::SystemTime;

use maud::{Markup, html};

use super::{code, lasting, release, short, table};
use crate::{
    core::Reason,
    fleet::{Overview, Report, moves::Entry},
    revision::Revision,
    status::Status,
};

pub(super) fn show(overview: &Overview, status: &Status) -> Markup {
    let named = status.desired.as_ref();
    let there: Vec<_> = overview.pods.iter().filter(|pod| !pod.leaving).collect();
    let well = there.iter().filter(|pod| named.is_some_and(|named| pod.has_arrived(named))).count();
    html! {
        section {
            h2 #fleet { "The fleet: " (short(&overview.pointer)) }
            @if let Some(trouble) = &overview.trouble {
                p { strong { "Not all of it could be read: " } (short(trouble)) }
            }
            p { (well) " of " (there.len()) " pods run what this pod's pointer names" @if overview.more > 0 { "; " (overview.more) " more pods are not shown" } "." }
            @if !overview.pods.is_empty() { (pods(overview, named)) }
        }
        @if !overview.moves.is_empty() { (moves(&overview.moves)) }
    }
}

fn pods(overview: &Overview, named: Option<&Revision>) -> Markup {
    let now = overview.at.unwrap_or_else(SystemTime::now);
    let rows = html! {
        @for pod in &overview.pods {
            tr {
                th scope="row" { (short(&pod.pod)) }
                td { @match &pod.running { Some(running) => (release(running.as_str())), None => "none" } }
                td { (word(pod, named)) }
                td {
                    @if let Some(reason) = &pod.reason {
                        @match Reason::ALL.iter().find(|known| known.code() == reason) {
                            Some(known) => (code("runbook", known.code())),
                            None => (short(reason)),
                        }
                        " "
                    }
                    @if !pod.in_sync { (short(&pod.message)) }
                }
                td { @if let Some(last) = &pod.last_deploy { (short(&last.result)) " in " (lasting(last.seconds)) } }
                td { (short(pod.about.node.as_deref().unwrap_or(""))) }
                td { (lasting(pod.age(now).as_secs_f64())) " ago" }
            }
        }
    };
    table("Pods", &["Pod", "Runs", "State", "Why", "Last deploy", "Node", "Heard"], &rows)
}

fn word<'a>(pod: &'a Report, named: Option<&Revision>) -> &'a str {
    match named {
        _ if pod.leaving => "leaving",
        Some(named) if pod.has_arrived(named) => "in sync",
        Some(named) if pod.rejection(named).is_some() => "rejected",
        _ if pod.stage == "steady" => "behind",
        _ => &pod.stage,
    }
}

fn moves(moves: &[Entry]) -> Markup {
    let rows = html! {
        @for Entry { made, end } in moves {
            tr {
                th scope="row" { (made.sequence) }
                td { (release(made.release.as_str())) }
                td { (short(made.moved_at.as_deref().unwrap_or("unknown"))) }
                td { (short(made.moved_by.as_deref().unwrap_or("unknown"))) }
                td { @match end { Some(end) => { (end.result.word()) " " (short(&end.message)) }, None => "not known yet" } }
                td { (short(made.why.as_deref().unwrap_or(""))) }
            }
        }
    };
    html! {
        section {
            h2 #moves { "The last moves" }
            (table("The last moves", &["Move", "Release", "At", "By", "Ended", "Why"], &rows))
        }
    }
}
