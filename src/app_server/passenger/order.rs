//! Commands to Passenger, over its core's socket, for exactly the generation that is meant.

use rustix::process::Signal;

use super::Passenger;
use crate::{
    app_server::{
        driver::Driver,
        signaller::{Target, gone},
    },
    core::{Detection, GenerationKey, Problem, Reason, ServerCommand},
};

pub(super) async fn carry_out(
    driver: &Driver<Passenger>,
    command: ServerCommand,
    on: GenerationKey,
) -> Result<(), Problem> {
    let snapshot = driver.see().await.map_err(|not_found| driver.nothing_sent(&not_found))?;
    let name = &snapshot.group.name;
    if snapshot.key() != on {
        return Err(gone(&format!("Passenger's app {name} was restarted meanwhile")));
    }
    if command == ServerCommand::Recover {
        // Its watchdog starts another core at once, which boots the app from `current`.
        let core = Target::Image(snapshot.core.image);
        return driver.send(move |_| Ok(vec![(core, Signal::KILL)])).await;
    }
    let Some(instance) = &snapshot.core.instance else {
        return Err(driver.nothing_sent(&Detection::Unclear.into()));
    };
    match driver.server.api.restart(instance, name).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(gone(&format!("Passenger no longer has an app {name}"))),
        Err(error) => {
            Err(Problem::new(Reason::Internal, format!("restarting Passenger's app {name} failed: {error}")))
        }
    }
}
