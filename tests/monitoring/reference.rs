use std::{env, fmt::Write, fs};

use pitstop::metrics::Metrics;

use super::{path, promtool, read};

const PAGE: &str = "docs/metrics.md";
const BEGIN: &str =
    "<!-- from the code: UPDATE_DOCS=1 cargo nextest run --test monitoring -E 'test(reference)' -->\n";
const END: &str = "<!-- end -->";

fn table() -> String {
    let mut table = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for family in Metrics::new().families() {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(table, "| `{}` | {} | {} | {} |", family.name, family.kind, labels.join(", "), family.help)
            .unwrap();
    }
    table
}

#[test]
fn the_reference_lists_every_metric_as_the_code_describes_it() {
    let page = read(PAGE);
    let (before, rest) = page.split_once(BEGIN).expect("where the table begins");
    let (listed, after) = rest.split_once(END).expect("where it ends");
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path(PAGE), format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert_eq!(listed, table(), "run the command above the table");
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
