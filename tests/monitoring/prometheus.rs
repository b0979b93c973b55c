use std::{fs, path::Path, process::Command};

use pitstop_rig::{AgentRig, App, Container, Pod, Setup, http, ports::free_port, until};
use serde_json::Value;

use super::{dashboard, path};

const PITSTOP: &str = env!("CARGO_BIN_EXE_pitstop");
const OUT_OF_SYNC: &str = "Pods out of sync, and why";
/// What a Prometheus of many apps can bear.
const SERIES_AT_MOST: usize = 120;
/// Nothing to be seen in a pod that is well, and was never drained.
const EMPTY: [&str; 7] = [
    OUT_OF_SYNC,
    "Why pods wait or stopped",
    "Requests left when a drain was answered",
    "New connections by slot, in pods",
    "Requests per second by slot and release",
    "Requests that failed, by release",
    "Memory of a server in a slot, largest",
];

/// A real Prometheus that scrapes one agent each second.
struct Prometheus {
    port: u16,
    _process: Container,
}

impl Prometheus {
    fn of(agent: &AgentRig, dir: &Path) -> Self {
        let port = free_port();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{rules}']\n\
             scrape_configs:\n\
             - job_name: pitstop\n  static_configs: [{{ targets: ['127.0.0.1:{agent}'], labels: {{ pod: rig, app: shop, pointer: production }} }}]\n",
            rules = path("charts/pitstop/rules/*.yml").display(),
            agent = agent.port(),
        );
        let file = dir.join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let data = dir.join("prometheus");
        let recipe = move || {
            let mut command = Command::new("prometheus");
            command.arg(format!("--config.file={}", file.display()));
            command.arg(format!("--storage.tsdb.path={}", data.display()));
            command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
            command
        };
        let process = Container::start(Box::new(recipe), dir.join("prometheus.log"), false);
        let prometheus = Self { port, _process: process };
        until("Prometheus answers", || {
            http::get(port, "/-/ready").ok().filter(|answer| answer.status == 200)
        });
        prometheus
    }

    /// The samples of an expression.
    fn ask(&self, expr: &str) -> Vec<Value> {
        let escaped: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = http::get(self.port, &format!("/api/v1/query?query={escaped}")).unwrap();
        assert_eq!(answer.status, 200, "{expr}: {}", answer.body);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        body["data"]["result"].as_array().unwrap().clone()
    }

    fn wait_for(&self, expr: &str) {
        until(expr, || (!self.ask(expr).is_empty()).then_some(()));
    }
}

#[test]
fn puma_real_prometheus_scrapes_the_agent_draws_the_dashboard_and_alerts_on_a_release_undone() {
    let pod = Pod::prepare(Path::new(PITSTOP), Setup::default()).in_sync();
    let series = pod.agent.get("/metrics").unwrap().body;
    let series: Vec<_> = series.lines().filter(|line| !line.starts_with('#')).collect();
    println!("{} series", series.len());
    assert!(series.len() < SERIES_AT_MOST, "{}: {series:#?}", series.len());
    let prometheus = Prometheus::of(&pod.agent, pod.puma.scratch());
    prometheus.wait_for("pitstop_release_info{role='running', release='v1'} == 1");
    pod.deploy(App::Good, "v2");
    prometheus.wait_for("pitstop_release_info{role='running', release='v2'} == 1");
    let marks = prometheus.ask(&dashboard::marks());
    assert!(marks.iter().any(|mark| mark["metric"]["release"] == "v2"), "the move is marked: {marks:?}");
    prometheus.wait_for("pitstop_deploys_total{result='verified'} > 0 and on () pitstop_in_sync == 1");

    for (title, expressions) in dashboard::drawn() {
        for expr in expressions {
            assert_eq!(prometheus.ask(&expr).is_empty(), EMPTY.contains(&title.as_str()), "{title}: {expr}");
        }
    }
    assert_eq!(prometheus.ask("ALERTS{alertstate='firing'}"), Vec::<Value>::new());

    pod.deploy(App::RaisesOnBoot, "v3");
    prometheus.wait_for("ALERTS{alertname='PitstopReverted', alertstate='firing', pod='rig'}");
    prometheus.wait_for("pitstop_reason{reason='rejected'} == 1 and on () pitstop_in_sync == 0");
    prometheus.wait_for("pitstop_release_info{role='running', release='v2'} == 1");
    prometheus.wait_for("ALERTS{alertname='PitstopMostPodsRejected', app='shop', pointer='production'}");
    let (_, columns) = dashboard::drawn().into_iter().find(|(title, _)| title == OUT_OF_SYNC).unwrap();
    let told: String =
        columns.iter().flat_map(|expr| prometheus.ask(expr)).map(|row| row.to_string()).collect();
    for cell in [
        r#""app":"shop""#,
        r#""running":"v2""#,
        r#""desired":"v3""#,
        r#""reason":"rejected""#,
        r#""stage":""#,
    ] {
        assert!(told.contains(cell), "{cell}: {told}");
    }
}
