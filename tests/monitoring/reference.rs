use std::{env, fs};

use pitstop::metrics::Metrics;

use super::{path, promtool, read};

const PAGE: &str = "docs/metrics.md";
const BEGIN: &str =
    "<!-- from the code: UPDATE_DOCS=1 cargo nextest run --test monitoring -E 'test(reference)' -->\n";
const END: &str = "<!-- end -->";

/// What comes behind the code's own words: what looks bad, and what to do then.
const BAD: &str = " **Bad:** ";

/// An entry for each metric, by the code.
fn entries() -> Vec<String> {
    let metrics = Metrics::new();
    let entries = metrics.families().iter().map(|family| {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!(": {}", labels.join(", ")) };
        format!("- `{}` ({}{labels}): {}", family.name, family.kind, family.help)
    });
    entries.collect()
}

#[test]
fn the_reference_lists_every_metric_as_the_code_describes_it_and_says_what_looks_bad() {
    let page = read(PAGE);
    let (before, rest) = page.split_once(BEGIN).expect("where the list begins");
    let (listed, after) = rest.split_once(END).expect("where it ends");
    let listed: Vec<_> = listed.lines().map(|line| line.split_once(BAD).unwrap_or((line, ""))).collect();
    if env::var_os("UPDATE_DOCS").is_some() {
        let bad = |entry: &String| {
            let name = entry.split('`').nth(1);
            listed.iter().find(|(old, _)| old.split('`').nth(1) == name).map_or("", |(_, bad)| bad)
        };
        let list: String = entries().iter().map(|entry| format!("{entry}{BAD}{}\n", bad(entry))).collect();
        fs::write(path(PAGE), format!("{before}{BEGIN}{list}{END}{after}")).unwrap();
        return;
    }
    let known: Vec<_> = listed.iter().map(|(entry, _)| *entry).collect();
    assert_eq!(known, entries(), "run the command above the list");
    let silent: Vec<_> = listed.iter().filter(|(_, bad)| bad.trim().is_empty()).collect();
    assert!(silent.is_empty(), "what looks bad? {silent:?}");
}

#[test]
fn prometheus_has_nothing_to_say_against_the_metrics() {
    let (fine, said) = promtool(&["check", "metrics"], &Metrics::new().render().unwrap());
    assert!(fine && said.trim().is_empty(), "{said}");
}

#[test]
fn prometheus_takes_the_configuration_that_the_page_shows() {
    let page = read(PAGE);
    let block = page.split("```yaml prometheus\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    // Debian's Prometheus is built without the discovery of pods; everything else of the block is checked.
    let discovery = "kubernetes_sd_configs: [{ role: pod }]";
    assert!(block.contains(discovery));
    // Every pod that the documents show has a token, without which /metrics answers 401.
    assert!(block.contains("authorization: { credentials: "), "{block}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prometheus.yml");
    fs::write(&file, block.replace(discovery, "static_configs: [{ targets: ['127.0.0.1:9750'] }]")).unwrap();
    let (fine, said) = promtool(&["check", "config", file.to_str().unwrap()], "");
    assert!(fine, "{said}");
}
