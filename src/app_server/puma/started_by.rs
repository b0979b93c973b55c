//! Who called Puma, and whether it got an app that was loaded already.
//!
//! `rails server` and `rackup` load the app first and hand it to Puma, also where nothing preloads. Puma then
//! offers phased restarts and carries them out: new workers in the new directory, forked from a master with the
//! old code.

use std::{fs, path::Path};

use serde::Deserialize;

/// Extensions in C that an app loads, and Puma without an app never does.
const OF_AN_APP: [&str; 5] = ["bootsnap.so", "nokogiri.so", "pg_ext.so", "mysql2.so", "sqlite3_native.so"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartedBy {
    /// `puma`, behind whatever wrapper.
    Puma,
    RailsServer,
    /// Something else that hands Puma an app: `rackup`, an app's own `run!`.
    RackHandler,
    /// Puma does not say.
    Unknown,
}

/// One thread of the master, as `GET /thread-backtraces` lists it.
#[derive(Debug, Deserialize)]
pub(super) struct Thread {
    #[serde(default)]
    backtrace: Option<Vec<String>>,
}

impl StartedBy {
    /// Its caller is still on the stack of the master's main thread.
    pub(crate) fn of(threads: &[Thread]) -> Self {
        let frames: Vec<_> =
            threads.iter().filter_map(|thread| thread.backtrace.as_ref()).flatten().collect();
        let through = |file: &str| frames.iter().any(|frame| frame.contains(file));
        if through("/rails/commands/server") {
            Self::RailsServer
        } else if through("/rack/handler/puma.rb") {
            Self::RackHandler
        } else if through("/puma/cli.rb") {
            Self::Puma
        } else {
            Self::Unknown
        }
    }

    /// Why the app is in the master already, in words; `None` when nothing says so.
    pub(crate) fn loads_first(self) -> Option<&'static str> {
        match self {
            Self::RailsServer => Some("`rails server` loads the app first and starts Puma then"),
            Self::RackHandler => Some("`rackup`, or the like, loads the app first and starts Puma then"),
            Self::Puma | Self::Unknown => None,
        }
    }
}

/// An extension of the app's that is mapped in this process.
pub(super) fn extension_of_an_app(pid: i32) -> Option<&'static str> {
    in_maps(&fs::read_to_string(format!("/proc/{pid}/maps")).ok()?)
}

fn in_maps(maps: &str) -> Option<&'static str> {
    let mut files = maps.lines().filter_map(|line| Path::new(line.get(line.find('/')?..)?).file_name());
    files.find_map(|file| OF_AN_APP.into_iter().find(|extension| file == *extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started_by(frames: &[&str]) -> StartedBy {
        let control = serde_json::json!({ "name": "puma ctl", "backtrace": null });
        let main = serde_json::json!({ "name": "Thread: TID-50k", "backtrace": frames });
        StartedBy::of(&serde_json::from_value::<Vec<Thread>>(serde_json::json!([control, main])).unwrap())
    }

    #[test]
    fn the_main_threads_stack_tells_who_called_puma() {
        let cluster = "/gems/puma-6.6.0/lib/puma/cluster.rb:459:in `run'";
        let handler = "/gems/puma-6.6.0/lib/rack/handler/puma.rb:79:in `run'";
        let rackup = "/gems/rackup-2.1.0/lib/rackup/server.rb:341:in `start'";
        let rails =
            "/gems/railties-7.2.2.2/lib/rails/commands/server/server_command.rb:38:in 'Rails::Server#start'";
        let cli = "/gems/puma-6.6.0/lib/puma/cli.rb:75:in `run'";
        for (frames, expected, loads_first) in [
            (&[cluster, handler, rackup, rails][..], StartedBy::RailsServer, true),
            (&[cluster, handler, rackup], StartedBy::RackHandler, true),
            (&[cluster, cli], StartedBy::Puma, false),
            (&[cluster], StartedBy::Unknown, false),
        ] {
            assert_eq!(started_by(frames), expected);
            assert_eq!(expected.loads_first().is_some(), loads_first, "{expected:?}");
        }
    }

    #[test]
    fn only_extensions_of_apps_count() {
        let map = |file: &str| {
            format!("7f1e00000000-7f1e00001000 r-xp 00000000 fe:00 1234   {file}\n7f1e 0 [heap]\n")
        };
        assert_eq!(in_maps(&map("/usr/lib/ruby/gems/nokogiri-1.18.2/lib/nokogiri.so")), Some("nokogiri.so"));
        for file in ["/usr/lib/puma/puma_http11.so", "/usr/lib/ruby/3.3.0/etc.so", "/usr/lib/libpg_ext.so"] {
            assert_eq!(in_maps(&map(file)), None, "{file}");
        }
    }
}
