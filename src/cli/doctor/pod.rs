//! What belongs to this pod alone: `state_dir`, the token, and that nobody shares its `current`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::volume::nearest;
use crate::{
    cli::Failure,
    config::Config,
    finding::{Check, Code, Finding},
    hook::Hook,
    lane::Lane,
    procs,
    releases::Releases,
};

const ABOUT: &str = "pod";

/// As for the volume, on which one of these questions is asked.
const LIMIT: Duration = Duration::from_secs(10);

/// Everything about the pod's own places.
///
/// # Errors
/// When there is no thread for it.
pub(crate) async fn checks(config: &Config) -> Result<Vec<Check>, Failure> {
    let lane = Lane::start("doctor-pod")?;
    let (state_dir, deploy_to) = (config.state_dir.clone(), config.deploy_to.clone());
    let token = config.token_file.clone();
    let pod_dir = (!config.pod_dirs.is_empty()).then(|| config.pod_dir.clone());
    let own = move || {
        let mut checks = vec![writable(&state_dir), apart(&state_dir, &deploy_to)];
        checks.extend(pod_dir.map(|pod_dir| per_pod(&pod_dir, &deploy_to)));
        checks.extend(token.as_deref().map(readable));
        checks.extend(mesh());
        checks
    };
    let neighbours = Neighbours {
        releases: crate::cli::on_volume(config),
        deploy_to: config.deploy_to.clone(),
        current: config.current(),
        pod: config.pod(),
    };
    let late = || Check::unknown(ABOUT, format!("no answer within {LIMIT:?}"));
    let mut checks = lane.run(LIMIT, own).await.unwrap_or_else(|_| vec![late()]);
    // Second: these are the ones that may hang with the volume.
    if let Some(hook) = Hook::new(&config.hooks) {
        let current = config.current();
        let check = move || hook.check(current.exists().then_some(current.as_path()));
        checks.push(lane.run(LIMIT, check).await.unwrap_or_else(|_| late()));
    }
    checks.push(lane.run(LIMIT, move || neighbours.check()).await.unwrap_or_else(|_| late()));
    Ok(checks)
}

/// The proxies of Istio and Linkerd, and what starts them.
const MESHES: [&str; 4] = ["pilot-agent", "envoy", "linkerd2-proxy", "linkerd-proxy"];

fn mesh() -> Option<Check> {
    let found = procs::list(|title| mesh_of(title).is_some()).ok()?;
    Some(mesh_proxy(mesh_of(&found.first()?.title)?))
}

/// A mesh that demands its own TLS refuses the kubelet's plain request, so that SIGTERM comes at once.
fn mesh_proxy(name: &str) -> Check {
    let message = format!(
        "a service mesh proxy ({name}) runs in this pod: with strict mutual TLS it refuses the kubelet's \
         /prestop call, and SIGTERM comes without a drain"
    );
    let remedy = "use `pitstop drain` as the hook (lifecycle.preStop.exec), and keep the proxy running until \
                  Puma has ended";
    Check::found(ABOUT, Finding::risky(Code::MeshProxy, message, remedy))
}

fn mesh_of(title: &str) -> Option<&'static str> {
    let program = title.split(' ').next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    MESHES.into_iter().find(|mesh| *mesh == name)
}

fn writable(state_dir: &Path) -> Check {
    let dir = nearest(state_dir);
    let made = tempfile::Builder::new().prefix(".pitstop-doctor").tempfile_in(&dir);
    match made {
        Ok(_) => Check::fine(ABOUT, format!("state_dir {} is writable", state_dir.display())),
        Err(error) => Check::found(
            ABOUT,
            Finding::broken(
                Code::StateDirNotWritable,
                format!(
                    "{} is not writable ({error}): there is no admin socket for commands, and a drain does not \
                     survive an agent restart",
                    dir.display()
                ),
                "mount an emptyDir at state_dir that the agent's user can write",
            ),
        ),
    }
}

fn lies_below(path: &Path, deploy_to: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(path).starts_with(real(deploy_to))
}

fn per_pod(pod_dir: &Path, deploy_to: &Path) -> Check {
    if !lies_below(pod_dir, deploy_to) {
        return Check::fine(ABOUT, "pod_dir is outside deploy_to");
    }
    Check::found(
        ABOUT,
        Finding::risky(
            Code::PodDirOnVolume,
            format!(
                "pod_dir {} is on the releases' volume: pods that share the volume overwrite each other's pid \
                 files, sockets and logs",
                pod_dir.display()
            ),
            "set pod_dir to an emptyDir",
        ),
    )
}

fn apart(state_dir: &Path, deploy_to: &Path) -> Check {
    if !lies_below(state_dir, deploy_to) {
        return Check::fine(ABOUT, "state_dir is outside deploy_to");
    }
    Check::found(
        ABOUT,
        Finding::risky(
            Code::StateDirOnVolume,
            format!(
                "state_dir {} is on the releases' volume: pods that share the volume overwrite each other's \
                 admin socket and drain, and both hang when the volume hangs",
                state_dir.display()
            ),
            "set state_dir to an emptyDir",
        ),
    )
}

/// A token that cannot be read refuses everybody, the kubelet too.
fn readable(file: &Path) -> Check {
    let wrong = match fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => {
            return Check::fine(ABOUT, format!("token_file {} is readable", file.display()));
        }
        Ok(_) => "is empty".to_owned(),
        Err(error) => format!("cannot be read: {error}"),
    };
    let message = format!(
        "token_file {} {wrong}: /prestop refuses every call, so SIGTERM comes without a drain",
        file.display()
    );
    let remedy = "mount the secret so that the agent's user can read it, with the token as its content";
    Check::found(ABOUT, Finding::broken(Code::TokenUnreadable, message, remedy))
}

struct Neighbours {
    releases: Releases,
    deploy_to: PathBuf,
    current: PathBuf,
    pod: String,
}

impl Neighbours {
    fn check(&self) -> Check {
        let own = !self.current.starts_with(&self.deploy_to)
            || self.current.components().any(|part| part.as_os_str() == self.pod.as_str());
        if own {
            return Check::fine(ABOUT, format!("{} has its own `current`", self.pod));
        }
        let others = match self.releases.leases() {
            Ok(leases) => leases.live,
            Err(problem) => {
                return Check::unknown(ABOUT, format!("other users of the volume: {}", problem.message));
            }
        };
        // Who ended in order needs its `current` no more; who did not is remembered for a day.
        let others = others.into_iter().filter(|lease| !lease.ended && lease.pod != self.pod);
        let others: Vec<_> = others.map(|lease| lease.pod).collect();
        if others.is_empty() {
            return Check::fine(ABOUT, format!("{} does not share `current`", self.pod));
        }
        Check::found(
            ABOUT,
            Finding::risky(
                Code::CurrentShared,
                format!(
                    "{} used this volume within a day and shares `current` ({}): a deploy or rollback of one \
                     pod changes it for the others, whose Pumas then boot a release that they were not told to \
                     run",
                    others.join(", "),
                    self.current.display()
                ),
                "set `current` (and Puma's `directory`) to a path of its own in each pod, for example in an \
                 emptyDir",
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    #[test]
    fn the_proxies_of_meshes_are_known_by_their_program() {
        assert_eq!(mesh_of("/usr/local/bin/pilot-agent proxy sidecar"), Some("pilot-agent"));
        assert_eq!(mesh_of("linkerd2-proxy"), Some("linkerd2-proxy"));
        assert_eq!(mesh_of("puma 6.6.0 (tcp://0.0.0.0:3000) [envoy]"), None);
        let Outcome::Found(finding) = mesh_proxy("envoy").outcome else { panic!("nothing is found") };
        assert_eq!(finding.code.code(), "MESH_PROXY");
        assert!(finding.fix.contains("pitstop drain"), "{}", finding.fix);
    }
}
