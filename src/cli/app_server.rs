//! Which kind of app server this pod has: the one place that chooses.

use std::{io, sync::Arc};

use crate::{
    app_server::{
        AppServer, Location, command::CommandServer, passenger::Passenger, puma::Puma, unicorn::Unicorn,
    },
    config::{AppServerKind, Config},
};

/// The server of the key `app_server`, with its own section.
///
/// # Errors
/// When its threads cannot be started, or this kind cannot be worked with.
pub fn of(config: &Config) -> io::Result<Arc<dyn AppServer>> {
    let place = || Location {
        deploy_to: config.deploy_to.clone(),
        fallback: config.fallback_dir.clone(),
        ports: config.ports(),
    };
    Ok(match config.app_server {
        AppServerKind::Puma => {
            let puma = Puma::new(config.puma.clone(), config.restart.mode, config.deploy_to.clone())?;
            Arc::new(puma.with_fallback(config.fallback_dir.clone()).watching(config.ports()))
        }
        AppServerKind::Passenger => Arc::new(Passenger::new(&config.passenger, place(), config.current())?),
        AppServerKind::Unicorn => Arc::new(Unicorn::new(&config.unicorn, place())?),
        AppServerKind::Command => Arc::new(CommandServer::new(&config.command, place(), config.current())?),
    })
}
