//! The servers side by side, as the last look showed them.

use std::{collections::BTreeSet, sync::Mutex};

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

use super::build::Builder;
use crate::app_server::SlotDescription;

#[derive(Debug)]
pub(super) struct Slots {
    weight: IntGaugeVec,
    memory: IntGaugeVec,
    requests: IntCounterVec,
    errors: IntCounterVec,
    /// Whose requests are shown: slot and release.
    shown: Mutex<BTreeSet<[String; 2]>>,
}

impl Slots {
    pub(super) fn new(b: &Builder<'_>) -> Self {
        let requests =
            "Requests that the server in this slot has answered since its start, as far as they are counted.";
        let errors = "Those of them that failed (5xx or an exception): with `pitstop middleware` only.";
        Self {
            weight: b.gauges(
                "pitstop_slot_weight",
                "Of 1000 new connections: how many the server in this slot gets.",
                &["slot"],
            ),
            memory: b.gauges(
                "pitstop_slot_memory_bytes",
                "Memory of the server in this slot, what its processes share counted once.",
                &["slot"],
            ),
            requests: b.counters("pitstop_slot_requests_total", requests, &["slot", "release"]),
            errors: b.counters("pitstop_slot_errors_total", errors, &["slot", "release"]),
            shown: Mutex::default(),
        }
    }

    pub(super) fn observed(&self, slots: &[SlotDescription]) {
        self.weight.reset();
        self.memory.reset();
        let mut shown = BTreeSet::new();
        for one in slots {
            let slot = one.slot.name();
            self.weight.with_label_values(&[slot]).set(i64::from(one.weight));
            if let Some(bytes) = one.memory_bytes {
                self.memory.with_label_values(&[slot]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
            let labels = [slot.to_owned(), one.release.as_ref().map(ToString::to_string).unwrap_or_default()];
            for (counters, count) in [(&self.requests, one.requests), (&self.errors, one.errors)] {
                if let Some(count) = count {
                    come_to(&counters.with_label_values(&labels), count);
                }
            }
            shown.insert(labels);
        }
        let Ok(mut before) = self.shown.lock() else { return };
        for gone in before.difference(&shown) {
            // One that nobody counted is not there.
            let _ = self.requests.remove_label_values(gone);
            let _ = self.errors.remove_label_values(gone);
        }
        *before = shown;
    }
}

/// The server's own count, which starts anew with each server.
fn come_to(counter: &IntCounter, count: u64) {
    if count < counter.get() {
        counter.reset();
    }
    counter.inc_by(count - counter.get());
}
