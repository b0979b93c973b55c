//! Set-ups in which two servers side by side would not each keep to their own release: the second would boot from
//! another tree than the one that `current` leads to, or the first would meet the new one while both are there.

use std::path::Path;

use super::start::Start;
use crate::app_server::{
    fit::Misfit,
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
            format!(
                "the container's command names one release ({path}), so a second server would boot that one"
            ),
            "in the container's command, name the link (/srv/app/current/…) or use a relative path",
        ));
    }
    // PWD counts only where it names the place in which Puma starts.
    let literal = matches!(setup.settings.directory, Evidence::Known(Directory::Literal(_), _));
    let moves_on = start.changes_directory() || literal && setup.restart_dir == Some(RestartDir::Follows);
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
        (
            Evidence::Known(Directory::Literal(_), _),
            Some(RestartDir::Never(why) | RestartDir::Fixed(why)),
        ) => Some(pinned(why)),
        (
            Evidence::Known(Directory::Computed(_), _),
            Some(RestartDir::Never(why) | RestartDir::Fixed(why)),
        ) if setup.pinned_config().is_some() => Some(pinned(why)),
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
            format!(
                "Puma's control server listens on {url}, and a second server cannot open that port as well"
            ),
            "in config/puma.rb: activate_control_app 'unix:///run/puma/control.sock'",
        )
    })
}

fn through_a_link(path: &Path) -> bool {
    path.is_absolute() && !names_a_release(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_server::puma::{
        command_line::{Arguments, CommandLine},
        config_file::Settings,
    };

    fn setup(text: &str) -> Setup {
        let settings = Settings::scan(Path::new("config/puma.rb"), text).started_with(Arguments::default());
        let files = Setup::of_files(Some(6), settings, Path::new("/srv/app/current"), &["tmp".into()]);
        Setup { web_concurrency: Evidence::Default, ..files }
    }

    #[track_caller]
    fn found(setup: &Setup, start: &Start) -> Option<String> {
        of(setup, true, Some(start)).map(|misfit| {
            assert!(!misfit.fix.contains('\n') && !misfit.why.ends_with('.'), "{misfit:?}");
            misfit.why
        })
    }

    #[track_caller]
    fn in_file(text: &str) -> Option<String> {
        found(&setup(text), &Start::given(&["bundle", "exec", "puma"], None))
    }

    #[test]
    fn what_rails_generates_is_safe() {
        let rails = "threads 3, 3\nport ENV.fetch('PORT', 3000)\nplugin :tmp_restart\npidfile ENV['PIDFILE'] if ENV['PIDFILE']";
        assert_eq!(in_file(rails), None, "each pod has its own tmp");
        let heroku = "workers 2\npreload_app!\nrackup DefaultRackup if defined?(DefaultRackup)";
        assert_eq!(in_file(heroku), None);
        let tutorial =
            "app_dir = File.expand_path('../..', __FILE__)\ndirectory app_dir\nbind 'tcp://0.0.0.0:3000'";
        assert_eq!(in_file(tutorial), None, "a fresh start computes it anew");
    }

    #[test]
    fn the_second_server_would_boot_the_first_ones_release() {
        let plain = setup("");
        let pinned = |command: &[&str]| found(&plain, &Start::given(command, None));
        for command in [
            &["/srv/app/releases/v1/bin/puma"][..],
            &["sh", "-c", "cd /srv/app/releases/v1 && exec puma"],
            &["env", "BUNDLE_GEMFILE=/srv/app/releases/v1/Gemfile", "puma"],
        ] {
            assert!(pinned(command).unwrap().contains("/srv/app/releases/v1"), "{command:?}");
        }
        assert_eq!(pinned(&["puma", "-C", "/srv/app/releases/v1/config/puma.rb"]), None, "it is Puma's own");
        assert_eq!(pinned(&["sh", "-c", "cd /srv/app/current && exec puma -C config/puma.rb"]), None);
        let stays =
            |command: &[&str], text: &str| found(&setup(text), &Start::given(command, Some("/app".into())));
        assert!(stays(&["puma"], "").unwrap().contains("would start in /app"));
        assert_eq!(stays(&["sh", "-c", "cd /srv/app/current; exec puma"], ""), None);
        assert_eq!(stays(&["puma"], "directory '/srv/app/current'"), None);
        let by_pwd = Setup { restart_dir: Some(RestartDir::Follows), ..setup("") };
        assert!(
            found(&by_pwd, &Start::given(&["puma"], Some("/app".into()))).is_some(),
            "it is another place by then"
        );
        assert!(in_file("directory '/srv/app/releases/v1'").unwrap().contains("names one release"));
    }

    #[test]
    fn a_computed_directory_is_computed_anew_unless_the_configuration_is_of_one_release() {
        let with = |config: &str| {
            let arguments = Arguments { config: Some(config.into()), ..Arguments::default() };
            let command_line = CommandLine { arguments: Some(arguments), ..CommandLine::default() };
            let restart_dir = Some(RestartDir::Never("it is the release of its configuration".into()));
            let computed = setup("directory File.expand_path('..', __dir__)");
            found(&Setup { command_line, restart_dir, ..computed }, &Start::given(&["puma"], None))
        };
        assert_eq!((with("config/puma.rb"), with("/srv/app/current/config/puma.rb")), (None, None));
        assert!(with("/srv/app/releases/v1/config/puma.rb").is_some());
    }

    #[test]
    fn the_first_server_would_meet_the_new_release() {
        assert!(
            in_file("rackup '/srv/app/current/config.ru'").unwrap().contains("/srv/app/current/config.ru")
        );
        assert_eq!(in_file("rackup 'config.ru'"), None);
        let bundled = |text: &str, gemfile: &str| {
            let mut setup = setup(text);
            setup.command_line.gemfile = Some(gemfile.into());
            found(&setup, &Start::given(&["puma"], None))
        };
        let through_link = "/srv/app/current/Gemfile";
        assert!(bundled("workers 2\nprune_bundler", through_link).unwrap().contains("prune_bundler"));
        assert_eq!(bundled("workers 2", through_link), None, "the master has its bundle");
        assert_eq!(bundled("workers 2\nprune_bundler", "Gemfile"), None);
        assert_eq!(bundled("workers 2\nprune_bundler\npreload_app!", through_link), None, "it is ignored");
    }

    #[test]
    fn a_file_that_other_pods_touch_restarts_the_first_server_onto_the_new_release() {
        for (tmp, safe) in [(Tmp::Own, true), (Tmp::OnVolume, false), (Tmp::OnNetwork, false)] {
            let used = Setup { tmp, ..setup("plugin :tmp_restart") };
            assert_eq!(found(&used, &Start::given(&["puma"], None)).is_none(), safe, "{tmp:?}");
            let unused = Setup { tmp, ..setup("") };
            assert_eq!(found(&unused, &Start::given(&["puma"], None)), None, "{tmp:?}");
        }
    }

    #[test]
    fn a_control_server_on_a_port_of_its_own() {
        assert!(
            in_file("activate_control_app 'tcp://127.0.0.1:9293', { auth_token: 'x' }")
                .unwrap()
                .contains("9293")
        );
        for text in [
            "activate_control_app",
            "activate_control_app 'unix:///run/puma/control.sock'",
            "activate_control_app 'tcp://127.0.0.1:0'",
            "activate_control_app ENV['CONTROL_URL']",
        ] {
            assert_eq!(in_file(text), None, "{text}");
        }
    }
}
