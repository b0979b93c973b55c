//! What an operator is told: what happens now, what does not, and until when. Whoever asks at night
//! must not have to guess.

use std::time::SystemTime;

use crate::{
    core::{Hold, Operator, Reason, Stage, View},
    handle::{Asked, Reply},
    revision::Revision,
};

/// The answer, by how things stood when it was asked.
pub(crate) fn told(operator: Operator, view: &View, draining: bool) -> Reply {
    match operator {
        Operator::Sync { retry } => Ok(sync(retry, view, draining)),
        Operator::Pause => Ok(pause(view)),
        Operator::Resume => Ok(resume(view, draining)),
        Operator::Revert => revert(view, draining),
    }
}

/// Since when deploys are held, and by whom: whoever finds the pod like that has to know whom to ask.
#[derive(Default)]
pub(crate) struct Held(Option<String>);

impl Held {
    /// What was asked is done.
    pub(crate) fn note(&mut self, operator: Operator, view: &View, asked: &Asked) {
        let again = matches!(
            (operator, &view.hold),
            (Operator::Pause, Some(_)) | (Operator::Revert, Some(Hold::Reverted(_)))
        );
        match operator {
            Operator::Resume => self.0 = None,
            Operator::Pause | Operator::Revert if !again => {
                let since = humantime::format_rfc3339_seconds(SystemTime::now());
                self.0 = Some(format!("since {since}{asked}"));
            }
            Operator::Sync { .. } | Operator::Pause | Operator::Revert => {}
        }
    }

    /// The same view, with it.
    pub(crate) fn told(&self, mut view: View) -> View {
        let ours = !matches!(view.hold, Some(Hold::FleetPaused(_) | Hold::SignatureExpired(_)));
        let held = view.problem.as_mut().filter(|problem| ours && problem.reason == Reason::Held);
        if let (Some(problem), Some(note)) = (held, &self.0) {
            problem.message = format!("{} ({note})", problem.message);
        }
        view
    }
}

/// The command that asks it.
pub(crate) fn name(operator: Operator) -> &'static str {
    match operator {
        Operator::Sync { retry: false } => "sync",
        Operator::Sync { retry: true } => "sync --retry",
        Operator::Pause => "pause",
        Operator::Resume => "resume",
        Operator::Revert => "revert",
    }
}

fn sync(retry: bool, view: &View, draining: bool) -> String {
    let rejected = view.desired.as_ref().and_then(|desired| Some((desired, reason(view, desired)?)));
    let first = match (retry, rejected) {
        (true, Some((desired, why))) => {
            format!("reading the pointer; retrying {desired}, which was rejected ({why})")
        }
        (true, None) => "reading the pointer; nothing to retry: the move it names was not rejected".into(),
        (false, Some((desired, why))) => {
            format!("reading the pointer; {desired} was rejected ({why}): `pitstop sync --retry` retries it")
        }
        (false, None) => "reading the pointer".into(),
    };
    first + barred(view, draining).unwrap_or_default()
}

fn reason(view: &View, revision: &Revision) -> Option<crate::core::Reason> {
    view.rejected.iter().find(|(rejected, _)| rejected == revision).map(|(_, why)| *why)
}

fn barred(view: &View, draining: bool) -> Option<&'static str> {
    match (draining, &view.hold) {
        (true, _) => Some("; but no deploy starts: the pod is terminating"),
        (false, Some(Hold::Paused)) => Some("; but no deploy starts: deploys are paused (`pitstop resume`)"),
        (false, Some(Hold::FleetPaused(_))) => {
            Some("; but no deploy starts: deploys are paused in all pods (`pitstop resume --fleet`)")
        }
        (false, Some(Hold::SignatureExpired(_))) => {
            Some("; but no deploy starts: the pointer's signature expired (`pitstop sign --pointer`)")
        }
        (false, Some(Hold::Reverted(_))) => {
            Some("; but no deploy starts: this pod was reverted (`pitstop resume`)")
        }
        (false, None) => None,
    }
}

fn pause(view: &View) -> String {
    let until = "no deploy starts until `pitstop resume`";
    let under_way = match (&view.hold, under_way(view)) {
        (Some(Hold::Paused), _) => return format!("already paused: {until}"),
        (Some(Hold::Reverted(release)), _) => {
            return format!("{until}; the requested revert to {release} continues");
        }
        (None | Some(Hold::FleetPaused(_) | Hold::SignatureExpired(_)), None) => return until.into(),
        (None | Some(Hold::FleetPaused(_) | Hold::SignatureExpired(_)), Some(under_way)) => under_way,
    };
    match view.stage {
        Stage::Fetching | Stage::Checking => {
            format!("{until}; {under_way} waits and has changed nothing yet")
        }
        _ => format!("{until}; {under_way} has already switched `current`; it will finish or be rolled back"),
    }
}

/// The move that is under way, in words.
fn under_way(view: &View) -> Option<String> {
    let stage = match view.stage {
        Stage::Steady | Stage::Stranded => return None,
        stage => stage.name(),
    };
    Some(match &view.desired {
        Some(desired) => format!("the deploy of {desired} ({stage})"),
        None => format!("the deploy in progress ({stage})"),
    })
}

fn resume(view: &View, draining: bool) -> String {
    let then = match (&view.hold, &view.desired) {
        (None, _) => "deploys were not paused; they follow the pointer".to_owned(),
        (Some(Hold::FleetPaused(note)), _) => {
            format!("deploys are paused in all pods ({note}), which only `pitstop resume --fleet` ends")
        }
        (Some(Hold::SignatureExpired(at)), _) => {
            format!(
                "the pointer's signature expired at {at}: only `pitstop sign --pointer` lets deploys start"
            )
        }
        (Some(_), Some(desired)) if !view.in_sync => match reason(view, desired) {
            Some(why) => format!(
                "deploys can start again; {desired} was rejected ({why}) and is not retried: run `pitstop sync --retry`"
            ),
            None => format!("deploys can start again, with {desired}"),
        },
        (Some(_), _) => "deploys can start again".to_owned(),
    };
    match draining {
        true => {
            then + "; but not while the pod is terminating (`pitstop undrain`, if the drain is a mistake)"
        }
        false => then,
    }
}

fn revert(view: &View, draining: bool) -> Reply {
    if draining {
        return Err(
            "the pod is terminating and cannot be reverted; run `pitstop undrain` first if the drain is a mistake".into(),
        );
    }
    if let Some(Hold::Reverted(release)) = &view.hold {
        return Ok(format!(
            "already reverted to {release}, held until the pointer moves or `pitstop resume`; see `pitstop status` \
             for progress"
        ));
    }
    let Some(back) = &view.back else {
        return Err("this pod has no earlier verified release to revert to: use `pitstop rollback` or \
                    `pitstop promote ID`, which move the pointer for all pods"
            .into());
    };
    let verb = if view.running.as_ref() == Some(back) { "staying on" } else { "reverting to" };
    Ok(format!(
        "{verb} {back}, held until the pointer moves or `pitstop resume`; see `pitstop status` for progress"
    ))
}

/// What an operator is told who ends a drain, `answered` or not.
pub(crate) fn undrained(answered: bool) -> String {
    let told = "the drain is undone; deploys can start again";
    match answered {
        false => format!("{told}, and callers of /prestop get this answer"),
        true => format!(
            "{told}. /prestop was already answered: if the pod is really being deleted, SIGTERM still comes"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{Moment, Problem, Reason},
        status::Snapshot,
    };

    fn view(change: impl FnOnce(&mut View)) -> View {
        let mut view = Snapshot::unknown(Moment(0), Problem::new(Reason::Internal, "")).view;
        view.problem = None;
        view.desired = Some(revision());
        change(&mut view);
        view
    }

    fn revision() -> Revision {
        Revision { release: "v3".parse().unwrap(), sequence: Some(3) }
    }

    fn rejected(view: &mut View) {
        view.rejected = vec![(revision(), Reason::BootLoop)];
    }

    #[track_caller]
    fn says(operator: Operator, view: &View, draining: bool, parts: &[&str]) {
        let reply = told(operator, view, draining).unwrap_or_else(|error| panic!("refused: {error}"));
        for part in parts {
            assert!(reply.contains(part), "{part:?} is missing in {reply:?}");
        }
    }

    #[test]
    fn a_hold_says_since_when_and_by_whom_until_it_ends() {
        let asked = Asked { by: Some("deploy@host".into()), why: Some("a long import".into()) };
        let problem = |view: &mut View| view.problem = Some(Problem::new(Reason::Held, "paused"));
        let mut held = Held::default();
        held.note(Operator::Pause, &view(|_| ()), &asked);
        let said = held.told(view(problem)).problem.unwrap().message;
        assert!(
            said.starts_with("paused (since 20") && said.ends_with("Z by deploy@host: a long import)"),
            "{said}"
        );
        // Who asks again has not begun it.
        held.note(Operator::Pause, &view(|view| view.hold = Some(Hold::Paused)), &Asked::default());
        assert_eq!(held.told(view(problem)).problem.unwrap().message, said);
        held.note(Operator::Resume, &view(|_| ()), &asked);
        assert_eq!(held.told(view(problem)).problem.unwrap().message, "paused");
    }

    #[test]
    fn sync_says_whether_anything_will_come_of_it() {
        let (sync, retry) = (Operator::Sync { retry: false }, Operator::Sync { retry: true });
        says(retry, &view(rejected), false, &["retrying v3#3, which was rejected (boot_loop)"]);
        says(sync, &view(rejected), false, &["sync --retry"]);
        says(retry, &view(|_| ()), false, &["nothing to retry"]);
        says(sync, &view(|view| view.hold = Some(Hold::Paused)), false, &["no deploy starts", "resume"]);
        says(sync, &view(|_| ()), true, &["terminating"]);
        assert_eq!(told(sync, &view(|_| ()), false), Ok("reading the pointer".into()));
    }

    #[test]
    fn pause_says_what_becomes_of_the_deploy_under_way() {
        let at = |stage| view(|view| view.stage = stage);
        says(Operator::Pause, &at(Stage::Fetching), false, &["v3#3 (fetching) waits", "changed nothing"]);
        says(Operator::Pause, &at(Stage::Verifying), false, &["v3#3 (verifying)", "it will finish"]);
        says(Operator::Pause, &view(|view| view.hold = Some(Hold::Paused)), false, &["already paused"]);
        assert_eq!(
            told(Operator::Pause, &at(Stage::Steady), false),
            Ok("no deploy starts until `pitstop resume`".into())
        );
    }

    #[test]
    fn resume_says_what_begins() {
        let paused = |view: &mut View| view.hold = Some(Hold::Paused);
        says(Operator::Resume, &view(|_| ()), false, &["were not paused"]);
        says(Operator::Resume, &view(paused), false, &["with v3#3"]);
        says(
            Operator::Resume,
            &view(|view| {
                paused(view);
                rejected(view)
            }),
            false,
            &["rejected (boot_loop)", "--retry"],
        );
        says(Operator::Resume, &view(paused), true, &["not while the pod is terminating"]);
    }

    #[test]
    fn revert_names_the_release_or_why_there_is_none() {
        let release = || Some("v1".parse().unwrap());
        says(
            Operator::Revert,
            &view(|view| view.back = release()),
            false,
            &["reverting to v1", "until the pointer moves"],
        );
        let stays = view(|view| (view.back, view.running) = (release(), release()));
        says(Operator::Revert, &stays, false, &["staying on v1"]);
        let again = view(|view| view.hold = release().map(Hold::Reverted));
        says(Operator::Revert, &again, false, &["already reverted to v1"]);
        let nowhere = told(Operator::Revert, &view(|_| ()), false).unwrap_err();
        assert!(nowhere.contains("no earlier verified release") && nowhere.contains("rollback"), "{nowhere}");
        let draining = told(Operator::Revert, &view(|view| view.back = release()), true).unwrap_err();
        assert!(draining.contains("undrain"), "{draining}");
    }
}
