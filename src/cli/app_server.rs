//! Which kind of app server this pod has: the one place that chooses.

use std::{io, sync::Arc};

use crate::{
    app_server::{AppServer, Location, command, passenger, puma, unicorn},
    config::{AppServerKind, Config, ServerFacts},
};

/// The server of the key `app_server`, with its own section.
///
/// # Errors
/// When its threads cannot be started, or this kind cannot be worked with.
pub(crate) fn of(config: &Config) -> io::Result<Arc<dyn AppServer>> {
    let location = Location {
        deploy_to: config.deploy_to.clone(),
        fallback: config.fallback_dir.clone(),
        ports: config.ports(),
        current: config.current(),
        state_dir: config.state_dir.clone(),
    };
    let mode = config.restart.mode;
    let shifts = !config.restart.steps().steps.is_empty();
    match config.app_server {
        AppServerKind::Puma => puma::start(config.puma.clone(), mode, shifts, location),
        AppServerKind::Passenger => passenger::start(&config.passenger, location, config.current()),
        AppServerKind::Unicorn => unicorn::start(&config.unicorn, mode, shifts, location),
        AppServerKind::Command => command::start(&config.command, (mode, shifts), location),
    }
}

/// What that kind of server can do.
pub fn facts(config: &Config) -> ServerFacts {
    match config.app_server {
        AppServerKind::Puma => puma::facts(&config.puma),
        AppServerKind::Passenger => passenger::facts(&config.passenger),
        AppServerKind::Unicorn => unicorn::facts(&config.unicorn),
        AppServerKind::Command => command::facts(&config.command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn restart_mode_phased_is_accepted_for_those_servers_that_can() {
        for kind in AppServerKind::ALL {
            let mut keys = vec![("APP_SERVER", kind.name()), ("RESTART_MODE", "phased")];
            if kind == AppServerKind::Command {
                keys.extend([("COMMAND_RESTART", "true"), ("COMMAND_MATCH", "web")]);
            }
            let variables = keys.into_iter().map(|(key, value)| (format!("PITSTOP_{key}"), value.to_owned()));
            let accepted = config::load(None, variables).is_ok();
            let config = Config { app_server: kind, ..Config::default() };
            assert_eq!(accepted, facts(&config).phased, "{kind:?}");
        }
    }

    #[test]
    fn only_puma_cuts_requests_and_only_unicorn_starts_a_second_master() {
        let of = |app_server| facts(&Config { app_server, ..Config::default() });
        let flags = AppServerKind::ALL.map(|kind| {
            let facts = of(kind);
            (facts.cuts_requests, facts.second_master, facts.in_place)
        });
        let [puma, passenger, unicorn, command] = flags;
        assert_eq!((puma, passenger), ((true, false, true), (false, false, true)));
        assert_eq!((unicorn, command), ((false, true, false), (false, false, false)));
    }
}
