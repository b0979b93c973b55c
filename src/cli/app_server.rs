//! Which kind of app server this pod has: the one place that chooses.

use std::{io, sync::Arc};

use crate::{
    app_server::{AppServer, command::CommandServer, passenger::Passenger, puma::Puma, unicorn::Unicorn},
    config::{AppServerKind, Config},
};

/// The server of the key `app_server`, with its own section.
///
/// # Errors
/// When its threads cannot be started, or this kind cannot be worked with.
pub fn of(config: &Config) -> io::Result<Arc<dyn AppServer>> {
    match config.app_server {
        AppServerKind::Puma => {
            let puma = Puma::new(config.puma.clone(), config.restart.mode, config.deploy_to.clone())?;
            Ok(Arc::new(puma.with_fallback(config.fallback_dir.clone()).watching(config.ports())))
        }
        AppServerKind::Passenger => {
            let (ports, current) = (config.ports(), config.current());
            let passenger = Passenger::new(&config.passenger, ports, &config.deploy_to, current)?;
            Ok(Arc::new(passenger.with_fallback(config.fallback_dir.clone())))
        }
        AppServerKind::Unicorn => {
            let unicorn = Unicorn::new(&config.unicorn, config.ports(), &config.deploy_to)?;
            Ok(Arc::new(unicorn.with_fallback(config.fallback_dir.clone())))
        }
        AppServerKind::Command => {
            let (ports, current) = (config.ports(), config.current());
            let server = CommandServer::new(&config.command, ports, &config.deploy_to, current)?;
            Ok(Arc::new(server.with_fallback(config.fallback_dir.clone())))
        }
    }
}
