//! Shifting a deploy in time, and its attempts' numbers, so that the walk's states recur.

use super::*;

impl Deploy {
    /// Calls the attempt under way the first one. False while an older one may still report.
    pub(in crate::core) fn renumber(&mut self) -> bool {
        let alone = self.stuck.is_empty();
        if alone {
            self.attempt = Attempt(1);
        }
        alone
    }

    /// Moves every moment back by `by`.
    pub(in crate::core) fn rebase(&mut self, shift: &dyn Fn(Moment) -> Moment) {
        let optional = |moment: &mut Option<Moment>| *moment = moment.map(shift);
        optional(&mut self.retry_at);
        optional(&mut self.write_again);
        optional(&mut self.drift_since);
        self.fresh_after = shift(self.fresh_after);
        if let Some(baseline) = &mut self.restart_in_flight {
            baseline.at = shift(baseline.at);
        }
        if let Some(proven) = &mut self.releases.proven {
            proven.rebase(shift);
        }
        if let Some(watch) = &mut self.proving {
            watch.rebase(shift);
        }
        if let State::Moving(m) = &mut self.state {
            optional(&mut m.until);
            match &mut m.step {
                MoveStep::Spread(spread) => {
                    (spread.place, spread.last) = (shift(spread.place), shift(spread.last));
                }
                MoveStep::TakenUp { signalled: Some(baseline), .. }
                | MoveStep::RecordSignal(baseline)
                | MoveStep::Signal(baseline) => baseline.at = shift(baseline.at),
                MoveStep::Verify(verify) => {
                    verify.watch.rebase(shift);
                    optional(&mut verify.ask_again);
                    optional(&mut verify.unwell_until);
                }
                MoveStep::Settle { settle_by } => *settle_by = shift(*settle_by),
                _ => {}
            }
        }
    }
}
