//! Set-ups in which two servers side by side would not each keep to their own release: the second would boot from
//! another tree than the one that `current` leads to, or the first would meet the new one while both are there.

use std::path::Path;

use super::{Misfit, start::Start};
use crate::app_server::{
    puma::{
        config_file::Directory,
        evidence::Evidence,
        setup::{RestartDir, Setup, Tmp},
    },
    ruby::names_a_release,
};

/// What speaks against it in this set-up; `start` is known of a Puma that runs.
pub(super) fn of(setup: &Setup, cluster: bool, start: Option<&Start>) -> Option<Misfit> {
    start
        .and_then(|start| another_tree(setup, start))
        .or_else(|| pinned_directory(setup))
        .or_else(|| rackup(setup))
        .or_else(|| pruned_bundle(setup, cluster))
        .or_else(|| tmp_restart(setup))
        .or_else(|| control_port(setup))
}

/// The command is run again as it stands, where the container's first process stands.
fn another_tree(setup: &Setup, start: &Start) -> Option<Misfit> {
    if let Some(path) = start.names_release() {
        return Some(Misfit::new(
            format!("the container's command names one release ({path}), so a second server would boot that one"),
            "in the container's command, name the link (/srv/app/current/…) or use a relative path",
        ));
    }
    let moves_on = start.changes_directory() || setup.restart_dir == Some(RestartDir::Follows);
    start.stays_in.as_ref().filter(|_| !moves_on).map(|dir| {
        Misfit::new(
            format!(
                "a second server would start in {}, which is no path through the link `current`, so it would boot the \
                 same release again",
                dir.display()
            ),
            "in config/puma.rb: directory '/srv/app/current', with the path of your link, as a literal",
        )
    })
}

/// Puma goes there at each start, whoever starts it.
fn pinned_directory(setup: &Setup) -> Option<Misfit> {
    let pinned = |why: &str| {
        Misfit::new(
            format!("a second server would boot the same release again: {why}"),
            "in config/puma.rb: directory '/srv/app/current', with the path of your link, as a literal",
        )
    };
    match (&setup.settings.directory, &setup.restart_dir) {
        (Evidence::Known(Directory::Literal(_), _), Some(RestartDir::Never(why) | RestartDir::Fixed(why))) => {
            Some(pinned(why))
        }
        (Evidence::Known(Directory::Computed(_), _), Some(RestartDir::Never(why) | RestartDir::Fixed(why)))
            if setup.pinned_config().is_some() =>
        {
            Some(pinned(why))
        }
        _ => None,
    }
}

/// Each worker of the first server that is started anew reads it.
fn rackup(setup: &Setup) -> Option<Misfit> {
    let path = setup.settings.rackup.known().map(Path::new).filter(|path| through_a_link(path))?;
    Some(Misfit::new(
        format!(
            "the rackup file is {}: a worker of the first server that is started anew would load the new release \
             before it was checked",
            path.display()
        ),
        "name the rackup file by a relative path (config.ru)",
    ))
}

/// Without Bundler in the master, each worker looks for its bundle by itself.
fn pruned_bundle(setup: &Setup, cluster: bool) -> Option<Misfit> {
    let prunes = setup.settings.prune_bundler.known() == Some(&true);
    let preloads = setup.preloads().known() == Some(&true);
    let gemfile = setup.command_line.gemfile.as_deref().filter(|path| through_a_link(Path::new(path)))?;
    (cluster && prunes && !preloads).then(|| {
        Misfit::new(
            format!(
                "BUNDLE_GEMFILE is {gemfile}, and with prune_bundler a worker of the first server that is started anew \
                 would take the new release's bundle"
            ),
            "remove BUNDLE_GEMFILE from Puma's environment, or `prune_bundler` from config/puma.rb",
        )
    })
}

/// In a `tmp` of the pod's own only somebody in this pod restarts Puma by it, as they could by a signal.
fn tmp_restart(setup: &Setup) -> Option<Misfit> {
    let used = setup.settings.tmp_restart.known().is_some() && setup.tmp != Tmp::Own;
    used.then(|| {
        Misfit::new(
            "the plugin tmp_restart restarts Puma when tmp/restart.txt is touched, and other pods share that file: the \
             first server would boot the new release before it was checked",
            "remove `plugin :tmp_restart` from config/puma.rb, or give each pod its own tmp (pod_dirs: [tmp])",
        )
    })
}

fn control_port(setup: &Setup) -> Option<Misfit> {
    let url = setup.settings.control_app.known()?.as_deref()?;
    let (_, port) = url.strip_prefix("tcp://")?.rsplit_once(':')?;
    (port != "0").then(|| {
        Misfit::new(
            format!("Puma's control server listens on {url}, and a second server cannot open that port as well"),
            "in config/puma.rb: activate_control_app 'unix:///run/puma/control.sock'",
        )
    })
}

fn through_a_link(path: &Path) -> bool {
    path.is_absolute() && !names_a_release(path)
}
