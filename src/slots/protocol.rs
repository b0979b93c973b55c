//! What the agent asks the parent, and what comes back: one JSON line each way over a unix socket in `state_dir`, one
//! connection per question. Both ends ignore fields that they do not know, since agent and parent may be of different
//! versions after the image of one container was changed.

use std::{net::Ipv4Addr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A reply with another number is not understood. Raised when a field changes its meaning, not when one is added.
pub(crate) const PROTOCOL: u32 = 1;
/// In `state_dir`, for its owner only.
pub(crate) const SOCKET_NAME: &str = "parent.sock";
/// Connections from here reach the candidate. Exactly this address: service meshes use others of 127/8.
pub(crate) const PROBE_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 97, 50, 1);
/// Connections from here reach the live server, also while the candidate has a share.
pub(crate) const LIVE_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 97, 50, 2);
/// All new connections, as a share.
pub(crate) const WHOLE: u32 = 1000;

/// A place for a server: a listening socket of its own for each address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Slot {
    A,
    B,
    C,
}

impl Slot {
    /// In the order in which their sockets were bound: the program's result is an index into this.
    pub(crate) const ALL: [Self; 3] = [Self::A, Self::B, Self::C];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    /// What is there?
    List,
    /// Start the command in this slot, which must be empty. It gets connections from [`PROBE_SOURCE`] and no others.
    Start {
        slot: Slot,
        /// What it is started for, for people: where `current` leads decides.
        release: String,
        /// Files that a second server would take from the first (control socket, state file, pid file). The parent
        /// renames them while both are there, so that each server keeps its own.
        aside: Vec<PathBuf>,
    },
    /// From now on all new connections go to this run.
    Steer { run: u64 },
    /// The candidate gets so many of 1000 new connections, and the live server the rest; 0 takes the share back.
    Share { run: u64, permille: u32 },
    /// SIGTERM to this run, which is not live, once its queues have stayed empty; SIGKILL with `kill`.
    Stop { run: u64, kill: bool },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// [`PROTOCOL`].
    pub(crate) v: u32,
    /// Why it was not done, in words; nothing was changed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// After what was done.
    pub(crate) list: List,
}

/// Everything that the parent knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct List {
    /// The parent's process.
    pub(crate) pid: i32,
    /// The parent's version of pitstop.
    pub(crate) version: String,
    /// What it holds sockets for, as Puma writes it: `tcp://0.0.0.0:3000`.
    pub(crate) addresses: Vec<String>,
    /// Why no server can be started beside the one that runs, in words; `None`: it can.
    #[serde(default)]
    pub(crate) unfit: Option<String>,
    /// SIGTERM was received: nothing is started any more.
    #[serde(default)]
    pub(crate) stopping: bool,
    /// It understands [`Request::Share`].
    #[serde(default)]
    pub(crate) shares: bool,
    pub(crate) slots: Vec<SlotState>,
}

impl List {
    /// Of a parent that nothing is known of but this.
    pub(crate) fn unfit(why: String) -> Self {
        Self {
            pid: 0,
            version: String::new(),
            addresses: Vec::new(),
            unfit: Some(why),
            stopping: false,
            shares: false,
            slots: Vec::new(),
        }
    }

    /// The servers that have not ended.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&SlotState, &Run)> {
        let runs = self.slots.iter().filter_map(|slot| Some((slot, slot.run.as_ref()?)));
        runs.filter(|(_, run)| run.ended.is_none())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotState {
    pub(crate) slot: Slot,
    /// Of 1000 new connections: how many this slot gets.
    pub(crate) weight: u32,
    /// For how long nobody has waited in its queues, in milliseconds; 0: somebody waits.
    pub(crate) queue_empty_ms: u64,
    /// The server that was started in it last; kept after its end, until the slot is used again.
    #[serde(default)]
    pub(crate) run: Option<Run>,
}

/// One server, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Counts the parent's starts, from 1.
    pub(crate) number: u64,
    /// The process that was started: the server, or a shell around it.
    pub(crate) pid: i32,
    /// Its start time in clock ticks since the boot, as in /proc/PID/stat.
    pub(crate) start_time: u64,
    pub(crate) release: String,
    pub(crate) role: Role,
    /// Milliseconds of CLOCK_BOOTTIME.
    pub(crate) started_ms: u64,
    /// It listens on the sockets that it was given; `None`: not known yet.
    #[serde(default)]
    pub(crate) inherited: Option<bool>,
    /// Where its own files are while another server has their names: name, place.
    #[serde(default)]
    pub(crate) aside: Vec<(PathBuf, PathBuf)>,
    #[serde(default)]
    pub(crate) ended: Option<Ended>,
    /// SIGTERM was sent to it.
    #[serde(default)]
    pub(crate) told_to_stop: bool,
    /// The last lines that it wrote.
    #[serde(default)]
    pub(crate) tail: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// New connections go to it.
    Live,
    /// It was started beside the live one and has never been live.
    Candidate,
    /// It was live before.
    Lingering,
}

/// How a server ended: an exit code, or the signal that ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_another_version_is_read_as_far_as_it_is_known() {
        let raw = r#"{"v":1,"new":1,"list":{"pid":7,"version":"9.0","addresses":["tcp://0.0.0.0:3000"],"slots":[
            {"slot":"a","weight":1000,"queue_empty_ms":5,"x":1,"run":{"number":1,"pid":8,"start_time":9,"release":"v1",
            "role":"live","started_ms":1}}]}}"#;
        let reply: Reply = serde_json::from_str(raw).unwrap();
        let run = reply.list.slots[0].run.as_ref().unwrap();
        assert_eq!((run.role, run.inherited, run.ended), (Role::Live, None, None));
        assert_eq!((reply.v, reply.error, reply.list.stopping), (PROTOCOL, None, false));
        assert!(!reply.list.shares, "an earlier version gives all or nothing");
    }

    #[test]
    fn requests_are_told_apart_by_what_they_do() {
        let start =
            Request::Start { slot: Slot::B, release: "v2".into(), aside: vec!["/tmp/puma.sock".into()] };
        let raw = serde_json::to_string(&start).unwrap();
        assert_eq!(raw, r#"{"do":"start","slot":"b","release":"v2","aside":["/tmp/puma.sock"]}"#);
        assert_eq!(serde_json::from_str::<Request>(&raw).unwrap(), start);
        let share = Request::Share { run: 2, permille: 100 };
        assert_eq!(serde_json::to_string(&share).unwrap(), r#"{"do":"share","run":2,"permille":100}"#);
        assert_eq!(serde_json::from_str::<Request>(r#"{"do":"list"}"#).unwrap(), Request::List);
    }
}
