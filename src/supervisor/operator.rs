//! What an operator is told: what happens now, what does not, and until when. Whoever asks at night
//! must not have to guess.

use std::time::SystemTime;

use crate::{
    core::{Hold, Operator, Reason, Stage, View},
    handle::{Asked, Reply},
    revision::Revision,
};

/// The answer, by how things stood when it was asked.
pub fn told(operator: Operator, view: &View, draining: bool) -> Reply {
    match operator {
        Operator::Sync { retry } => Ok(sync(retry, view, draining)),
        Operator::Pause => Ok(pause(view)),
        Operator::Resume => Ok(resume(view, draining)),
        Operator::Revert => revert(view, draining),
    }
}

/// Since when deploys are held, and by whom: whoever finds the pod like that has to know whom to ask.
#[derive(Default)]
pub struct Held(Option<String>);

impl Held {
    /// What was asked is done.
    pub fn note(&mut self, operator: Operator, view: &View, asked: &Asked) {
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
    pub fn told(&self, mut view: View) -> View {
        let held = view.problem.as_mut().filter(|problem| problem.reason == Reason::Held);
        if let (Some(problem), Some(note)) = (held, &self.0) {
            problem.message = format!("{} ({note})", problem.message);
        }
        view
    }
}

/// The command that asks it.
pub fn name(operator: Operator) -> &'static str {
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
            format!("looking at the pointer; {desired}, which was rejected ({why}), is tried again")
        }
        (true, None) => {
            "looking at the pointer; what it names was not rejected, so there is nothing to try again".into()
        }
        (false, Some((desired, why))) => format!(
            "looking at the pointer; {desired} was rejected ({why}): `pitstop sync --retry` tries it again"
        ),
        (false, None) => "looking at the pointer".into(),
    };
    first + barred(view, draining).unwrap_or_default()
}

fn reason(view: &View, revision: &Revision) -> Option<crate::core::Reason> {
    view.rejected.iter().find(|(rejected, _)| rejected == revision).map(|(_, why)| *why)
}

/// Why nothing follows.
fn barred(view: &View, draining: bool) -> Option<&'static str> {
    match (draining, &view.hold) {
        (true, _) => Some("; no deploy begins all the same: the pod is about to end"),
        (false, Some(Hold::Paused)) => {
            Some("; no deploy begins all the same: they are paused (`pitstop resume`)")
        }
        (false, Some(Hold::Reverted(_))) => {
            Some("; no deploy begins all the same: this pod was sent back (`pitstop resume`)")
        }
        (false, None) => None,
    }
}

fn pause(view: &View) -> String {
    let until = "no deploy begins until `pitstop resume`";
    let under_way = match (&view.hold, under_way(view)) {
        (Some(Hold::Paused), _) => return format!("paused already: {until}"),
        (Some(Hold::Reverted(release)), _) => {
            return format!("{until}; the way back to {release}, which was asked for, goes on");
        }
        (None, None) => return until.into(),
        (None, Some(under_way)) => under_way,
    };
    match view.stage {
        Stage::Fetching | Stage::Checking => {
            format!("{until}; {under_way} waits, and has changed nothing yet")
        }
        _ => format!("{until}; {under_way} has moved `current` already and goes on to its end, or is undone"),
    }
}

/// The move that is under way, in words.
fn under_way(view: &View) -> Option<String> {
    let stage = match view.stage {
        Stage::Steady | Stage::Stranded => return None,
        stage => stage.name(),
    };
    Some(match &view.desired {
        Some(desired) => format!("the move to {desired} ({stage})"),
        None => format!("the move that is under way ({stage})"),
    })
}

fn resume(view: &View, draining: bool) -> String {
    let then = match (&view.hold, &view.desired) {
        (None, _) => "nothing was held: deploys begin as the pointer says".to_owned(),
        (Some(_), Some(desired)) if !view.in_sync => match reason(view, desired) {
            Some(why) => format!(
                "deploys may begin again; {desired} was rejected ({why}) and is not tried: `pitstop sync --retry` does"
            ),
            None => format!("deploys may begin again, with {desired}"),
        },
        (Some(_), _) => "deploys may begin again".to_owned(),
    };
    match draining {
        true => then + "; but not before the drain is undone, as the pod is about to end",
        false => then,
    }
}

fn revert(view: &View, draining: bool) -> Reply {
    if draining {
        return Err(
            "no way back while the pod is about to end; `pitstop undrain` first, if that is a mistake".into(),
        );
    }
    if let Some(Hold::Reverted(release)) = &view.hold {
        return Ok(format!(
            "sent back to {release} already, held until the pointer moves or `pitstop resume`; `pitstop status` \
             shows how far it is"
        ));
    }
    let Some(back) = &view.back else {
        return Err("this pod knows no release that was proved to run here before: `pitstop rollback` or \
                    `pitstop promote ID` moves the pointer, for all pods"
            .into());
    };
    let verb = if view.running.as_ref() == Some(back) { "staying on" } else { "back to" };
    Ok(format!(
        "{verb} {back}, held until the pointer moves or `pitstop resume`; `pitstop status` shows how far it is"
    ))
}

/// What an operator is told who ends a drain, `answered` or not.
pub fn undrained(answered: bool) -> String {
    let told = "the drain is undone; deploys may begin again";
    match answered {
        false => format!("{told}, and who waits on /prestop is told so"),
        true => format!(
            "{told}. /prestop was answered before: if the kubelet meant it, SIGTERM comes all the same"
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
        says(retry, &view(rejected), false, &["v3#3, which was rejected (boot_loop), is tried again"]);
        says(sync, &view(rejected), false, &["sync --retry"]);
        says(retry, &view(|_| ()), false, &["nothing to try again"]);
        says(sync, &view(|view| view.hold = Some(Hold::Paused)), false, &["no deploy begins", "resume"]);
        says(sync, &view(|_| ()), true, &["about to end"]);
        assert_eq!(told(sync, &view(|_| ()), false), Ok("looking at the pointer".into()));
    }

    #[test]
    fn pause_says_what_becomes_of_the_deploy_under_way() {
        let at = |stage| view(|view| view.stage = stage);
        says(Operator::Pause, &at(Stage::Fetching), false, &["v3#3 (fetching) waits", "changed nothing"]);
        says(Operator::Pause, &at(Stage::Verifying), false, &["v3#3 (verifying)", "goes on to its end"]);
        says(Operator::Pause, &view(|view| view.hold = Some(Hold::Paused)), false, &["paused already"]);
        assert_eq!(
            told(Operator::Pause, &at(Stage::Steady), false),
            Ok("no deploy begins until `pitstop resume`".into())
        );
    }

    #[test]
    fn resume_says_what_begins() {
        let paused = |view: &mut View| view.hold = Some(Hold::Paused);
        says(Operator::Resume, &view(|_| ()), false, &["nothing was held"]);
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
        says(Operator::Resume, &view(paused), true, &["not before the drain is undone"]);
    }

    #[test]
    fn revert_names_the_release_or_why_there_is_none() {
        let release = || Some("v1".parse().unwrap());
        says(
            Operator::Revert,
            &view(|view| view.back = release()),
            false,
            &["back to v1", "until the pointer moves"],
        );
        let stays = view(|view| (view.back, view.running) = (release(), release()));
        says(Operator::Revert, &stays, false, &["staying on v1"]);
        let again = view(|view| view.hold = release().map(Hold::Reverted));
        says(Operator::Revert, &again, false, &["sent back to v1 already"]);
        let nowhere = told(Operator::Revert, &view(|_| ()), false).unwrap_err();
        assert!(nowhere.contains("proved to run here before") && nowhere.contains("rollback"), "{nowhere}");
        let draining = told(Operator::Revert, &view(|view| view.back = release()), true).unwrap_err();
        assert!(draining.contains("undrain"), "{draining}");
    }
}
