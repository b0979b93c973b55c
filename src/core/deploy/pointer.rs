//! What the pointer says.

use super::*;

impl Deploy {
    pub(super) fn read_pointer(&mut self, pointer: &Result<Pointer, Problem>) {
        match pointer {
            Ok(pointer) if self.is_older(pointer) => {
                self.pointer_problem = Some(replayed(pointer, self.releases.history.sequence));
                self.replayed = Some(pointer.clone());
            }
            Ok(pointer) => {
                (self.pointer_problem, self.replayed) = (None, None);
                // Of a canary that is taken back the number of its move must not look like a later one.
                self.releases.history.see(&pointer.revision);
                let pointer = self.followed(pointer);
                if self.held.as_ref().is_some_and(|(_, against)| against.as_ref() != Some(&pointer.revision))
                {
                    self.held = None;
                }
                if self.desired.as_ref().is_none_or(|d| d.revision != pointer.revision) {
                    self.releases
                        .history
                        .rejected
                        .retain(|(r, _)| r.sequence.is_some() || *r == pointer.revision);
                    (self.retry_at, self.denied) = (None, 0);
                    self.slots.forget_trouble();
                    self.forget_condemned();
                }
                self.desired = Some(pointer);
            }
            Err(problem) => self.pointer_problem = Some(problem.clone()),
        }
    }

    /// Somebody put an old pointer back, or the store is another one.
    fn is_older(&self, pointer: &Pointer) -> bool {
        pointer.latest().is_some_and(|latest| Some(latest) < self.releases.history.sequence)
    }

    /// What the pointer says to this pod. One that is among the canaries, or was, stays among them.
    fn followed(&self, pointer: &Pointer) -> Pointer {
        let mut pointer = pointer.clone();
        let revision = pointer.canary();
        if let (Some(revision), Some(canary)) = (revision, &mut pointer.canary) {
            let before = self.desired.as_ref().filter(|desired| desired.revision == revision);
            canary.chosen |=
                before.is_some_and(Pointer::is_canary) || self.releases.history.has_tried(&revision);
        }
        pointer.named()
    }

    /// What was found out about a release is no problem any more when another one is wanted.
    fn forget_condemned(&mut self) {
        if self.state == State::Steady {
            self.problem.take_if(|problem| problem.reason == Reason::HookFailed);
        }
    }
}

fn replayed(pointer: &Pointer, seen: Option<u64>) -> Problem {
    let seen = seen.unwrap_or_default();
    let message = format!(
        "the pointer names {}, and this pod has seen move {seen} before: an older pointer was put back, or the store \
         was built anew. Nothing is deployed. `pitstop promote` and `pitstop rollback` write a higher number; if the \
         store is new, `pitstop sync --retry` in each pod accepts it",
        pointer.revision
    );
    Problem::new(Reason::Replayed, message)
}
