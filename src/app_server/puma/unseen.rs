//! Why there is no Puma to look at: told from what anybody may see of processes.

use std::fmt::Write;

use super::census;
use crate::{
    core::Sight,
    finding::{Check, Code, Finding},
    procs::{self, Credentials, Entry},
};

const PUMA: &str = "Puma";

/// What a look that found no Puma means. Reads /proc, so it runs on a lane.
pub(super) fn of(sight: &Sight, narrow: Option<&str>) -> Check {
    let found = match sight {
        Sight::Missing => missing(narrow),
        Sight::Ambiguous => ambiguous(narrow),
        Sight::NotPermitted => not_permitted(narrow),
        Sight::Unclear | Sight::Seen(_) => {
            return Check::unknown(PUMA, "it is just starting, or changed under our eyes: look again");
        }
    };
    Check::found(PUMA, found)
}

fn missing(narrow: Option<&str>) -> Finding {
    if let Some(narrow) = narrow.filter(|_| !census::masters_of(None).is_empty()) {
        return Finding::broken(
            Code::AppServerMissing,
            format!("no Puma here has {narrow:?} in its title; there is {}", listed(None)),
            "set puma.match to a part of the right title, or leave it out",
        );
    }
    // A sandbox has an init of its own in front of all containers; else pid 1 is this container's own.
    if let Some(first) = Entry::read(1).ok().filter(|first| is_ours(&first.title)) {
        return Finding::broken(
            Code::ProcessNamespaceNotShared,
            format!(
                "no Puma is to be seen, and process 1 is `{}`: the containers of this pod do not see each \
                 other's processes, so nothing can be deployed and the end of the pod is not held",
                shortened(&first.title)
            ),
            "set shareProcessNamespace: true in the pod's spec (or run both in one container)",
        );
    }
    let dead = procs::zombies(|name| name.starts_with("puma") || name.starts_with("ruby"));
    let message = match dead.first() {
        Some(pid) => format!(
            "no Puma runs here; process {pid} was a Ruby that ended and that nobody has waited for, so its \
             container's first process does not reap"
        ),
        None => "no Puma runs here: a deploy only puts the release in place, and waits".to_owned(),
    };
    Finding::broken(
        Code::AppServerMissing,
        message,
        "see the app container's log, and that the pod's spec has shareProcessNamespace: true; before Puma starts, ask \
         `pitstop doctor --init`",
    )
}

/// Whether the first process is the sidecar itself. `exec` runs Puma in the same container.
fn is_ours(title: &str) -> bool {
    let mut words = title.split(' ');
    let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    if words.any(|word| word == "exec") {
        return false;
    }
    let own = std::env::current_exe().ok();
    let own = own.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    program == "pitstop" || Some(program) == own
}

fn ambiguous(narrow: Option<&str>) -> Finding {
    Finding::broken(
        Code::AppServerAmbiguous,
        format!("several Pumas could be meant, so that none is signalled: {}", listed(narrow)),
        "set puma.match to a text that only the right title contains (the tag in brackets is a good one)",
    )
}

fn not_permitted(narrow: Option<&str>) -> Finding {
    let why = census::masters_of(narrow).iter().find_map(|master| difference(master.id.pid));
    Finding::broken(
        Code::AppServerNotPermitted,
        format!(
            "{}: without that there are no deploys, and the drain knows the socket table only",
            why.unwrap_or_else(|| "the kernel does not let the agent look into Puma and signal it".into())
        ),
        "give both containers the same runAsUser and runAsGroup, and Puma's no more capabilities than the agent's",
    )
}

/// In which way a process is somebody else's, for us.
fn difference(pid: i32) -> Option<String> {
    let (puma, ours) = (Credentials::of(pid).ok()?, Credentials::of_this_process().ok()?);
    let mut text = format!("Puma {pid} runs as {puma}, and this process as {ours}");
    if (puma.uid, puma.gid) == (ours.uid, ours.gid) && puma.capabilities & !ours.capabilities != 0 {
        write!(text, "; Puma has capabilities ({:#x}) that this process has not", puma.capabilities).ok()?;
    }
    Some(text + "; so the kernel does not let one look into the other and signal it")
}

fn listed(narrow: Option<&str>) -> String {
    let masters = census::masters_of(narrow);
    let lines: Vec<_> =
        masters.iter().map(|master| format!("{} `{}`", master.id.pid, shortened(&master.title))).collect();
    lines.join(", ")
}

fn shortened(title: &str) -> String {
    title.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sidecar_of_ours_in_front_means_that_nothing_is_shared() {
        assert!(is_ours("/usr/local/bin/pitstop --config /etc/pitstop.yml run"));
        for title in
            ["/pause", "/catatonit -P", "sh -c pitstop run", "pitstop exec -- puma", "", "vi pitstop"]
        {
            assert!(!is_ours(title), "{title:?}");
        }
    }
}
