//! Building a metric and registering it, in one line each.

use std::cell::RefCell;

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector,
};

/// How long a deploy takes: from a flip to a long wait for requests.
pub(crate) const DEPLOY_SECONDS: &[f64] = &[2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 320.0];
/// How long a restart takes: few, for each pod has them three times.
pub(crate) const RESTART_SECONDS: &[f64] = &[30.0, 120.0];
/// Stages: their sum and count say where the time goes. One bucket, since a histogram has one.
pub(crate) const STAGE_SECONDS: &[f64] = &[60.0];
/// How long a drain holds: up to the longest grace periods in use.
pub(crate) const DRAIN_SECONDS: &[f64] = &[2.5, 5.0, 10.0, 20.0, 60.0, 300.0];

/// A metric as documents describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// `pitstop_…`, with its unit.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels, in their order.
    pub labels: Vec<String>,
    /// What it counts or measures.
    pub help: String,
}

/// Makes metrics in one registry. Panics only on a malformed or doubled name, which tests catch.
pub(crate) struct Builder<'a> {
    pub(crate) registry: &'a Registry,
    /// What was made so far.
    pub(crate) families: RefCell<Vec<Family>>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(registry: &'a Registry) -> Self {
        Self { registry, families: RefCell::default() }
    }

    fn keep<M: Collector + Clone + 'static>(&self, kind: &'static str, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("names and labels are constants and well-formed");
        self.registry.register(Box::new(metric.clone())).expect("each name is registered once");
        self.families.borrow_mut().extend(metric.desc().into_iter().map(|desc| Family {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        }));
        metric
    }

    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.keep("counter", IntCounter::new(name, help))
    }

    pub(crate) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep("counter", IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.keep("gauge", IntGauge::new(name, help))
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep("gauge", IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn float_gauges(&self, name: &str, help: &str) -> GaugeVec {
        self.keep("gauge", GaugeVec::new(Opts::new(name, help), &[]))
    }

    pub(crate) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.keep("histogram", Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    pub(crate) fn histograms(&self, name: &str, help: &str, label: &str, buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.keep("histogram", HistogramVec::new(opts, &[label]))
    }
}
