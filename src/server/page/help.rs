//! The documents that the page leads to, as this version has them: at night the right one is at hand, also where the
//! pod reaches no other network.

use maud::{Markup, PreEscaped, html};
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html::push_html};

const PAGES: [(&str, &str, &str); 2] = [
    ("runbook", "Runbook", include_str!("../../../docs/runbook.md")),
    ("doctor", "Findings", include_str!("../../../docs/doctor.md")),
];

/// The title and the text of a document.
pub(super) fn page(name: &str) -> Option<(&'static str, Markup)> {
    let (_, title, text) = PAGES.iter().find(|(known, ..)| *known == name)?;
    let rendered = rendered(text);
    Some((title, html! { article { (PreEscaped(rendered)) } }))
}

fn rendered(text: &str) -> String {
    let mut events: Vec<_> = Parser::new_ext(text, Options::ENABLE_TABLES).map(here).collect();
    for at in 0..events.len() {
        let level = match &events[at] {
            Event::Start(Tag::Heading { level, .. }) => *level,
            _ => continue,
        };
        let heading = words(&events[at + 1..]);
        events[at] = start(level, &heading);
    }
    let mut html = String::new();
    push_html(&mut html, events.into_iter());
    html
}

fn start(level: HeadingLevel, heading: &str) -> Event<'static> {
    Event::Start(Tag::Heading {
        level,
        id: Some(anchor(heading).into()),
        classes: Vec::new(),
        attrs: Vec::new(),
    })
}

/// Up to the heading's end.
fn words(events: &[Event<'_>]) -> String {
    let inside = events.iter().take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))));
    inside
        .filter_map(|event| {
            if let Event::Text(text) | Event::Code(text) = event { Some(text.as_ref()) } else { None }
        })
        .collect()
}

/// As the links between the documents have it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Links to documents that are here lead here. Others have no address that is known: their text stays.
fn here(event: Event<'_>) -> Event<'_> {
    match event {
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            Event::Start(Tag::Link { link_type, dest_url: address(&dest_url).into(), title, id })
        }
        Event::Html(_) | Event::InlineHtml(_) => Event::Text(CowStr::Borrowed("")),
        other => other,
    }
}

fn address(link: &str) -> String {
    let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
    let known = PAGES.iter().find(|(name, ..)| file.strip_suffix(".md") == Some(name));
    match known {
        Some((name, ..)) if fragment.is_empty() => format!("/help/{name}"),
        Some((name, ..)) => format!("/help/{name}#{fragment}"),
        None if file.is_empty() || file.starts_with("https://") => link.into(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::Reason, finding::Code};

    #[test]
    fn every_reason_and_every_finding_has_its_anchor() {
        let (runbook, doctor) = (rendered(PAGES[0].2), rendered(PAGES[1].2));
        let missing = |page: &str, code: &str| !page.contains(&format!("id=\"{}\"", code.to_lowercase()));
        let reasons = Reason::ALL.iter().map(|reason| reason.code()).filter(|code| missing(&runbook, code));
        let findings = Code::ALL.iter().map(|code| code.code()).filter(|code| missing(&doctor, code));
        assert_eq!(reasons.chain(findings).collect::<Vec<_>>(), Vec::<&str>::new());
    }

    #[test]
    fn links_lead_to_what_is_here() {
        assert_eq!(address("doctor.md#volume_hangs"), "/help/doctor#volume_hangs");
        assert_eq!(address("runbook.md"), "/help/runbook");
        assert_eq!(address("#held"), "#held");
        assert_eq!(address("sizing.md#efs"), "");
    }
}
