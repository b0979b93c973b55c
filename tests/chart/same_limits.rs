//! The chart knows two rules of the agent's by itself, since it has to refuse before there is an agent. Here both are
//! asked the same questions, so that they cannot drift apart.

use pitstop::{cli, config};
use serde_json::{Value, json};

use super::{
    cases::with,
    rig::{Questions, chart},
};

/// Grace period, and `drain.min`, `drain.reserve`, `drain.max`: around every limit.
fn budgets() -> Vec<(u32, [Option<&'static str>; 3])> {
    let mut all = Vec::new();
    for grace in [12, 36, 37, 52] {
        for min in [None, Some("20s")] {
            for reserve in [Some("1500ms"), Some("5s"), Some("30s")] {
                for max in [None, Some("4s"), Some("20s")] {
                    all.push((grace, [min, reserve, max]));
                }
            }
        }
    }
    all
}

const KEYS: [&str; 3] = ["min", "reserve", "max"];

#[test]
fn the_chart_refuses_a_budget_exactly_where_the_agent_does() {
    let budgets = budgets();
    let values = budgets.iter().map(|(grace, keys)| {
        let drain: Value = KEYS
            .iter()
            .zip(keys)
            .filter_map(|(key, value)| Some((key.to_string(), json!((*value)?))))
            .collect();
        with(json!({ "gracePeriodSeconds": grace, "config": { "drain": drain } }))
    });
    let questions =
        values.fold(Questions::default().without_judging(), |all, values| all.render(&chart(), &values));
    let Some(answers) = questions.ask() else { return };
    let mut refused = 0;
    for ((grace, keys), rendered) in budgets.iter().zip(&answers.renders) {
        let name = |key: &str| format!("PITSTOP_DRAIN_{}", key.to_uppercase());
        let set =
            KEYS.iter().zip(keys).filter_map(|(key, value)| Some((name(key), value.as_ref()?.to_string())));
        let told: Vec<_> = set.chain([("PITSTOP_GRACE_PERIOD".to_owned(), format!("{grace}s"))]).collect();
        let refusal = config::load(None, told.iter().cloned()).err();
        assert_eq!(
            refusal.is_some(),
            rendered.error.is_some(),
            "{told:?}\n{refusal:?}\n{:?}",
            rendered.error
        );
        refused += usize::from(refusal.is_some());
    }
    assert!(refused > 10 && budgets.len() - refused > 10, "{refused} of {}", budgets.len());
}

#[test]
fn the_chart_expects_a_restart_to_take_as_long_as_the_agent_does() {
    let timeouts = ["1s", "30s", "31s", "2m", "1m 30s"];
    let values = timeouts.map(|timeout| {
        with(json!({
            "gracePeriodSeconds": 600,
            "app": { "liveness": { "periodSeconds": 1, "failureThreshold": 1 } },
            "config": { "puma": { "worker_shutdown_timeout": timeout } },
        }))
    });
    let questions = values.iter().fold(Questions::default(), |all, values| all.render(&chart(), values));
    let Some(answers) = questions.ask() else { return };
    for (timeout, rendered) in timeouts.iter().zip(&answers.renders) {
        let told = [("PITSTOP_PUMA_WORKER_SHUTDOWN_TIMEOUT".to_owned(), (*timeout).to_owned())];
        let agent = config::load(None, told.into_iter()).unwrap().config;
        let seconds = agent.policy(&cli::app_server::facts(&agent)).hot_timeout_ms / 1000;
        let error = rendered.error.as_deref().expect("a probe that gives up after a second");
        assert!(error.contains(&format!("a restart may take {seconds}s")), "{timeout}: {seconds} s\n{error}");
    }
}
