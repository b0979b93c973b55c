//! How each kind of server is given its listening sockets.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
};

use rustix::io::{DupFlags, FdFlags, dup2, dup3, fcntl_dupfd_cloexec, fcntl_setfd};

use super::Settings;
use crate::{
    config::{AppServerKind, SLOT_VARIABLE},
    slots::{Slot, listen::Group},
};

/// The descriptors that a Puma inherits begin here: one that restarts itself may close some of them by their
/// numbers once more, and Ruby's own are lower.
const FIRST_DESCRIPTOR: i32 = 200;
/// The first descriptor of systemd's protocol.
const FIRST_OF_SYSTEMD: i32 = 3;

#[derive(Debug)]
pub(crate) struct Handing {
    server: AppServerKind,
    /// The descriptors of systemd's protocol, where that is wanted: nobody else gets these numbers.
    kept: Vec<OwnedFd>,
}

impl Handing {
    /// Before anything else is opened.
    pub(crate) fn new(settings: &Settings) -> Self {
        let wanted = if settings.server == AppServerKind::Command { settings.listen.len() } else { 0 };
        let kept = (FIRST_OF_SYSTEMD..).take(wanted).map_while(|number| {
            let kept = fcntl_dupfd_cloexec(std::io::stderr(), FIRST_OF_SYSTEMD).ok()?;
            (kept.as_raw_fd() == number).then_some(kept)
        });
        Self { server: settings.server, kept: kept.collect() }
    }

    /// # Errors
    /// Why a server could not get so many sockets.
    pub(crate) fn can_be_given(&self, sockets: usize) -> Result<(), String> {
        if self.server == AppServerKind::Command && self.kept.len() < sockets {
            return Err("file descriptor 3, or one of those after it, is in use: the app server cannot get its sockets".into());
        }
        Ok(())
    }

    /// The sockets of a slot. What comes back is to stay open until the child has them.
    ///
    /// `PUMA_INHERIT_n=FD:URL`, for each name that a socket may have a descriptor of its own: Puma closes those that
    /// it has no use for. `UNICORN_FD=FD,FD`: Unicorn looks what each of them is bound to. `LISTEN_FDS=n`, systemd's
    /// protocol for any other server: descriptors from 3 on, in the order of `exec.listen`; `LISTEN_PID` is for the
    /// trampoline to say.
    pub(crate) fn give(
        &mut self,
        groups: &[Group],
        command: &mut Command,
        slot: Slot,
    ) -> rustix::io::Result<Vec<OwnedFd>> {
        let sockets = groups.iter().filter_map(|group| Some((group, group.socket(slot)?)));
        let mut given: Vec<OwnedFd> = Vec::new();
        for (at, (group, socket)) in sockets.enumerate() {
            command.env(SLOT_VARIABLE, slot.name());
            match self.server {
                AppServerKind::Command => {
                    if let Some(place) = self.kept.get_mut(at) {
                        dup2(socket, place)?;
                    }
                    command.env("LISTEN_FDS", (at + 1).to_string());
                }
                AppServerKind::Unicorn => {
                    given.push(copy(socket)?);
                    let numbers: Vec<String> =
                        given.iter().map(|copy| copy.as_raw_fd().to_string()).collect();
                    command.env("UNICORN_FD", numbers.join(","));
                }
                AppServerKind::Puma | AppServerKind::Passenger => {
                    for name in group.address().names() {
                        let copy = copy(socket)?;
                        let text = format!("{}:{name}", copy.as_raw_fd());
                        command.env(format!("PUMA_INHERIT_{}", given.len()), text);
                        given.push(copy);
                    }
                }
            }
        }
        Ok(given)
    }

    /// The child has them: the descriptors of systemd's protocol lead nowhere again.
    pub(crate) fn take_back(&mut self) {
        for place in &mut self.kept {
            if let Err(error) = dup3(std::io::stderr(), place, DupFlags::CLOEXEC) {
                tracing::error!(%error, "a socket that was given to the app server stays open here");
            }
        }
    }
}

/// Where so many may not be open, any number does.
fn copy(socket: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let copy = fcntl_dupfd_cloexec(socket, FIRST_DESCRIPTOR).or_else(|_| fcntl_dupfd_cloexec(socket, 3))?;
    fcntl_setfd(&copy, FdFlags::empty())?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn what_a_server_is_given_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("unix://{}", dir.path().join("app.sock").display()).try_into().unwrap();
        let groups = [Group::open(&address, Slot::A).unwrap()];
        let place = fcntl_dupfd_cloexec(std::io::stderr(), 3).unwrap();
        let mut handing = Handing { server: AppServerKind::Command, kept: vec![place] };
        let leads_to = |handing: &Handing| fstat(&handing.kept[0]).unwrap().st_ino;
        let before = leads_to(&handing);
        handing.give(&groups, &mut Command::new("true"), Slot::B).unwrap();
        assert_eq!(Some(leads_to(&handing)), groups[0].inode(Slot::B));
        handing.take_back();
        assert_eq!(leads_to(&handing), before);
    }
}
