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
        if let Some(proven) = &mut self.proven {
            proven.rebase(shift);
        }
        if let Some(watch) = &mut self.proving {
            watch.rebase(shift);
        }
        match &mut self.state {
            State::Checking(_, Checking::Look { missing_until }) => optional(missing_until),
            State::Checking(_, Checking::Requests { until, .. } | Checking::Lacking { again: until, .. })
            | State::Publishing(_, _, Publishing::Flip { until })
            | State::Restarting(_, _, Restarting::Look { until })
            | State::Committing(_, Committing::Watch { until } | Committing::TakenUp { until }) => {
                *until = shift(*until)
            }
            State::Checking(_, Checking::Spread(turn)) => {
                (turn.place, turn.last) = (shift(turn.place), shift(turn.last));
            }
            State::Checking(_, Checking::TakenUp { signalled: Some(baseline), .. })
            | State::Restarting(_, _, Restarting::Record(baseline) | Restarting::Signal(baseline)) => {
                baseline.at = shift(baseline.at);
            }
            State::Verifying(_, verifying) => {
                verifying.watch.rebase(shift);
                optional(&mut verifying.ask_again);
                optional(&mut verifying.unwell_until);
            }
            State::Reverting(_, revert) => revert.rebase(shift),
            _ => {}
        }
    }
}

impl Revert {
    fn rebase(&mut self, shift: &dyn Fn(Moment) -> Moment) {
        match &mut self.step {
            RevertStep::Look { until }
            | RevertStep::Intend { until }
            | RevertStep::Flip { until }
            | RevertStep::Assess { until } => *until = shift(*until),
            RevertStep::Watch { until, settle_by } => {
                (*until, *settle_by) = (shift(*until), shift(*settle_by))
            }
            RevertStep::Try(watch) => watch.rebase(shift),
            RevertStep::RecordSignal(baseline) | RevertStep::Signal(baseline) => {
                baseline.at = shift(baseline.at)
            }
            RevertStep::Reject
            | RevertStep::Fetch
            | RevertStep::Recover(_)
            | RevertStep::EndFailed(_)
            | RevertStep::RecordReverted => {}
        }
    }
}
