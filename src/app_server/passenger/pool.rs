//! What the core says of its apps: the document behind `passenger-status --show=xml`.

use serde::Deserialize;

/// Everything that the core runs.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pool {
    pub(crate) passenger_version: String,
    /// How many processes there may be, of all apps.
    #[serde(default)]
    pub(crate) max: usize,
    supergroups: Supergroups,
}

#[derive(Debug, Clone, Deserialize)]
struct Supergroups {
    #[serde(default)]
    supergroup: Vec<Supergroup>,
}

#[derive(Debug, Clone, Deserialize)]
struct Supergroup {
    #[serde(default)]
    group: Vec<Group>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Group {
    /// As orders name it.
    pub(crate) name: String,
    /// Where each boot begins, as Passenger sees it.
    pub(crate) app_root: String,
    /// Another one after each restart.
    pub(crate) uuid: String,
    /// Requests that wait for a process.
    #[serde(default)]
    pub(crate) get_wait_list_size: u32,
    #[serde(default)]
    processes_being_spawned: u32,
    /// Empty elements, there or not.
    restarting: Option<String>,
    spawning: Option<String>,
    options: Options,
    processes: Processes,
}

#[derive(Debug, Clone, Deserialize)]
struct Options {
    #[serde(default)]
    min_processes: usize,
}

#[derive(Debug, Clone, Deserialize)]
struct Processes {
    #[serde(default)]
    process: Vec<AppProcess>,
}

/// One process of an app.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct AppProcess {
    pub(crate) pid: i32,
    /// Requests that it works on.
    #[serde(default)]
    pub(crate) sessions: u32,
    /// Requests since its start.
    #[serde(default)]
    pub(crate) processed: u64,
    enabled: String,
}

impl AppProcess {
    /// It gets no more requests: a restart has put it aside, and it ends with the last it has.
    pub(crate) fn is_detached(&self) -> bool {
        self.enabled == "DETACHED"
    }
}

impl Pool {
    /// Reads the document.
    ///
    /// # Errors
    /// When it is none, or of another structure.
    pub(crate) fn parse(xml: &[u8]) -> Result<Self, quick_xml::DeError> {
        // It says ISO-8859-1, and has the bytes of whatever the paths are in.
        quick_xml::de::from_str(&String::from_utf8_lossy(xml))
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.supergroups.supergroup.iter().flat_map(|supergroup| &supergroup.group)
    }
}

impl Group {
    /// The processes that get requests.
    pub(crate) fn serving(&self) -> impl Iterator<Item = &AppProcess> {
        self.all().filter(|process| !process.is_detached())
    }

    /// Those that only end their last requests too.
    pub(crate) fn all(&self) -> impl Iterator<Item = &AppProcess> {
        self.processes.process.iter()
    }

    /// A boot is under way, or is about to be.
    pub(crate) fn is_booting(&self) -> bool {
        self.restarting.is_some() || self.spawning.is_some() || self.processes_being_spawned > 0
    }

    /// How many processes it keeps without any request.
    pub(crate) fn least(&self) -> usize {
        self.options.min_processes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As 6.0.17 writes it, in parts that are left out shortened.
    pub(crate) fn document(state: &str, processes: &str) -> String {
        format!(
            r#"<?xml version="1.0" encoding="iso-8859-1" ?>
            <info version="3"><passenger_version>6.0.17</passenger_version><group_count>1</group_count>
            <max>6</max><get_wait_list_size>0</get_wait_list_size><supergroups><supergroup>
            <name>/srv/app/current</name><state>READY</state><group default="true"><name>/srv/app/current</name>
            <app_root>/srv/app/current</app_root><uuid>TcBxmj9L28Fr0KJIUhFU</uuid>
            <get_wait_list_size>8</get_wait_list_size>{state}<life_status>ALIVE</life_status>
            <options><min_processes>2</min_processes><spawn_method>smart</spawn_method></options>
            <processes>{processes}</processes></group></supergroup></supergroups></info>"#
        )
    }

    pub(crate) fn process(pid: i32, sessions: u32, enabled: &str) -> String {
        format!(
            "<process><pid>{pid}</pid><concurrency>1</concurrency><sessions>{sessions}</sessions>\
             <processed>7</processed><life_status>ALIVE</life_status><enabled>{enabled}</enabled></process>"
        )
    }

    #[test]
    fn a_restart_puts_old_processes_aside_until_their_requests_have_ended() {
        let processes = process(81, 1, "DETACHED") + &process(334, 0, "ENABLED");
        let xml = document("<processes_being_spawned>0</processes_being_spawned>", &processes);
        let pool = Pool::parse(xml.as_bytes()).unwrap();
        assert_eq!((pool.passenger_version.as_str(), pool.max), ("6.0.17", 6));
        let group = pool.groups().next().unwrap();
        assert_eq!((group.get_wait_list_size, group.least(), group.is_booting()), (8, 2, false));
        assert_eq!(group.serving().map(|process| process.pid).collect::<Vec<_>>(), [334]);
        assert_eq!(group.all().map(|process| process.sessions).sum::<u32>(), 1);
    }

    #[test]
    fn a_boot_is_told_by_a_number_or_by_an_empty_element() {
        for state in ["<processes_being_spawned>1</processes_being_spawned>", "<restarting/>", "<spawning/>"]
        {
            let pool = Pool::parse(document(state, "").as_bytes()).unwrap();
            let group = pool.groups().next().unwrap();
            assert!(group.is_booting(), "{state}");
            assert_eq!(group.all().count(), 0);
        }
    }

    #[test]
    fn a_core_without_an_app_has_no_group() {
        let xml = "<info version=\"3\"><passenger_version>6.0.17</passenger_version><max>6</max>\
                   <supergroups></supergroups></info>";
        assert_eq!(Pool::parse(xml.as_bytes()).unwrap().groups().count(), 0);
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// What Passenger says of its pool.
    pub(crate) fn pool(bytes: &[u8]) {
        let Ok(pool) = Pool::parse(bytes) else { return };
        for group in pool.groups() {
            let _ = (group.is_booting(), group.least(), group.serving().count(), group.all().count());
        }
    }
}
