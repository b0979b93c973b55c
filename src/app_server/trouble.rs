//! What two servers side by side have to do with the failure of the second, from what it wrote last: its release is
//! not to blame, and is not rejected.

use crate::{
    app_server::raised,
    core::{Problem, Reason},
    slots::{Ended, Run},
};

/// SIGKILL, and what a shell makes of it.
const KILLED: [Ended; 2] = [Ended::Signal(9), Ended::Code(128 + 9)];
const CHARACTERS_MAX: usize = 200;

/// What stands in the way of a second server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Address,
    Socket,
    PidFile,
    Database,
    /// It takes no connections at all, so that no server could boot.
    Down,
    Memory,
}

/// Texts of Ruby, Puma, Unicorn, Rails and of databases, in small letters.
const SIGNS: [(&str, Trouble); 23] = [
    ("address already in use", Trouble::Address),
    ("errno::eaddrinuse", Trouble::Address),
    ("there is already a server bound to", Trouble::Socket),
    ("a server is already running", Trouble::PidFile),
    ("already running on pid", Trouble::PidFile),
    ("too many clients already", Trouble::Database),
    ("remaining connection slots are reserved", Trouble::Database),
    ("too many connections", Trouble::Database),
    ("max_user_connections", Trouble::Database),
    ("no more connections allowed", Trouble::Database),
    ("max client connections reached", Trouble::Database),
    ("max clients reached", Trouble::Database),
    ("max number of clients reached", Trouble::Database),
    ("connection limit exceeded", Trouble::Database),
    ("connection refused", Trouble::Down),
    ("errno::econnrefused", Trouble::Down),
    ("can't connect to mysql server", Trouble::Down),
    ("the database system is starting up", Trouble::Down),
    ("the database system is shutting down", Trouble::Down),
    ("the database system is in recovery mode", Trouble::Down),
    ("failed to allocate memory", Trouble::Memory),
    ("cannot allocate memory", Trouble::Memory),
    ("nomemoryerror", Trouble::Memory),
];

/// What kept this candidate from booting, if that is something which it shares with the server beside it. `addresses`
/// are those that the parent holds sockets for. As long as it runs, only an exception counts.
pub(crate) fn of(run: &Run, addresses: &[String]) -> Option<Problem> {
    let killed = run.ended.filter(|ended| KILLED.contains(ended) && !run.told_to_stop);
    match (found(run), killed) {
        (Some((trouble, line)), _) => Some(trouble.problem(line, addresses)),
        (None, Some(_)) => Some(Problem::new(
            Reason::NoMemory,
            "the second server was killed (SIGKILL), as the kernel does when the container's memory is used up: raise \
             the memory limit of the app's container",
        )),
        (None, None) => None,
    }
}

/// The same, if the next candidate would get into it as well: what the live server holds, it holds until it ends.
pub(crate) fn lasting(run: &Run, addresses: &[String]) -> Option<Problem> {
    let (trouble, line) = found(run)?;
    let lasts = matches!(trouble, Trouble::Address | Trouble::Socket | Trouble::PidFile);
    lasts.then(|| trouble.problem(line, addresses))
}

fn found(run: &Run) -> Option<(Trouble, &str)> {
    let lines: Vec<&str> = run.tail.iter().map(String::as_str).collect();
    let told = match (raised::last(&lines), &run.ended) {
        (Some((at, _)), _) => lines.get(with_what_it_caused(&lines, at)..).unwrap_or_default(),
        (None, Some(_)) => &lines[..],
        (None, None) => &[],
    };
    told.iter().rev().find_map(|line| Some((sign(line)?, *line)))
}

/// Ruby writes an exception before the one that caused it, each with the lines of where it came from.
fn with_what_it_caused(lines: &[&str], mut at: usize) -> usize {
    let came_from = |line: usize| lines.get(line).is_some_and(|line| line.trim_start().starts_with("from "));
    while at > 0 && came_from(at - 1) {
        while at > 0 && came_from(at - 1) {
            at -= 1;
        }
        at = at.saturating_sub(1);
    }
    at
}

fn sign(line: &str) -> Option<Trouble> {
    let line = line.to_ascii_lowercase();
    SIGNS.iter().find(|(text, _)| line.contains(text)).map(|(_, trouble)| *trouble)
}

impl Trouble {
    fn problem(self, line: &str, addresses: &[String]) -> Problem {
        let plain: String = line.trim().chars().filter(|c| !c.is_control()).take(CHARACTERS_MAX).collect();
        let own = |address: &String| address.rsplit_once(':').is_some_and(|(_, port)| names_port(line, port));
        let (reason, what) = match self {
            Self::Address if addresses.iter().any(own) => (
                Reason::NotInherited,
                "did not take the listening socket that it was given. Set exec.listen to the address as the \
                 server's log names it",
            ),
            Self::Address => (
                Reason::ConfigInvalid,
                "needs a port that the first server holds. In config/puma.rb or the app, take another port where the \
                 environment variable PITSTOP_SLOT is another, or go on without that port",
            ),
            Self::Socket => (
                Reason::ConfigInvalid,
                "needs a unix socket that the first server holds. Name it after the environment variable PITSTOP_SLOT, \
                 or bind a TCP address",
            ),
            Self::PidFile => (
                Reason::ConfigInvalid,
                "found the pid file of the first one. Start Puma by `bundle exec puma`, or name the file after the \
                 environment variable PITSTOP_SLOT",
            ),
            Self::Database => (
                Reason::ConfigInvalid,
                "got no connection to a database, since two servers need twice as many. Raise the database's limit, or \
                 lower the pool",
            ),
            Self::Down => (
                Reason::BootFailed,
                "could not connect to a database or another service, which refuses connections. The release is not \
                 rejected, and the deploy is retried. Check that service, and the address that the release has for it",
            ),
            Self::Memory => {
                (Reason::NoMemory, "ran out of memory. Raise the memory limit of the app's container")
            }
        };
        Problem::new(reason, format!("a second server beside the first {what} ({plain})"))
    }
}

/// A port that stands alone: 300 is not in 3000.
fn names_port(line: &str, port: &str) -> bool {
    !port.is_empty() && line.split(|c: char| !c.is_ascii_digit()).any(|number| number == port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tail: &str, ended: Option<Ended>) -> Run {
        let raw = r#"{"number":2,"pid":8,"start_time":9,"release":"v2","role":"candidate","started_ms":1}"#;
        let tail = tail.lines().map(str::to_owned).collect();
        Run { tail, ended, ..serde_json::from_str(raw).unwrap() }
    }

    fn found(tail: &str, ended: Option<Ended>) -> Option<(Reason, String)> {
        of(&run(tail, ended), &["tcp://0.0.0.0:3000".into()]).map(|problem| (problem.reason, problem.message))
    }

    const FAILED: Option<Ended> = Some(Ended::Code(1));

    #[track_caller]
    fn is(tail: &str, reason: Reason, words: &str) {
        let (found, message) = found(tail, FAILED).unwrap_or_else(|| panic!("nothing is found: {tail}"));
        assert!(found == reason && message.contains(words), "{tail}: {found}: {message}");
    }

    #[test]
    fn an_address_of_the_apps_own_is_no_fault_of_the_release() {
        let preloading = "\
[71] ! Unable to load application: Errno::EADDRINUSE: Address already in use - bind(2) for \"0.0.0.0\" port 9394
/usr/lib/ruby/3.1.0/socket.rb:201:in `bind': Address already in use - bind(2) for 0.0.0.0:9394 (Errno::EADDRINUSE)
\tfrom /usr/lib/ruby/3.1.0/socket.rb:201:in `listen'
\tfrom config.ru:2:in `block in <main>'
\tfrom /usr/bin/puma:25:in `<main>'";
        is(preloading, Reason::ConfigInvalid, "needs a port that the first server holds");
        let exporter = "bundler: failed to load command: puma (/usr/local/bundle/bin/puma)
/usr/local/lib/ruby/3.3.0/socket.rb:46:in 'TCPServer#initialize': Address already in use - bind(2) for \"0.0.0.0\" port 9394 (Errno::EADDRINUSE)";
        is(exporter, Reason::ConfigInvalid, "port 9394");
        // In workers, where it is tried again and again, nothing ends.
        let workers =
            "[9] ! Unable to start worker\n[9] Address already in use - bind(2) for \"::\" port 9394";
        assert!(found(workers, None).is_some());
    }

    #[test]
    fn pumas_own_address_was_not_inherited() {
        let puma = "puma/binder.rb:240:in `initialize': Address already in use - bind(2) for \"0.0.0.0\" port 3000 (Errno::EADDRINUSE)";
        is(puma, Reason::NotInherited, "exec.listen");
        assert_eq!(found(&puma.replace("3000", "30001"), FAILED).unwrap().0, Reason::ConfigInvalid);
    }

    #[test]
    fn sockets_and_pid_files_of_the_first_server() {
        let control = "\
/usr/lib/ruby/vendor_ruby/puma/binder.rb:416:in `add_unix_listener': There is already a server bound to: /run/puma/control.sock (RuntimeError)
\tfrom /usr/lib/ruby/vendor_ruby/puma/runner.rb:78:in `start_control'";
        is(control, Reason::ConfigInvalid, "/run/puma/control.sock");
        let caused = format!(
            "{control}\nconfig/rails.rb:2:in `require': cannot load such file -- rails/commands (LoadError)\n\tfrom config/rails.rb:2:in `<main>'"
        );
        is(&caused, Reason::ConfigInvalid, "/run/puma/control.sock");
        let rails = "=> Booting Puma\nA server is already running. Check /app/tmp/pids/server.pid.\nExiting";
        is(rails, Reason::ConfigInvalid, "the pid file of the first one");
        let unicorn = "unicorn/http_server.rb:205:in `pid=': Already running on PID:45 (or pid=/run/u.pid is stale) (ArgumentError)";
        is(unicorn, Reason::ConfigInvalid, "the pid file of the first one");
        is(
            "A server is already running (pid: 7, file: /rails/tmp/pids/server.pid).",
            Reason::ConfigInvalid,
            "pid file",
        );
    }

    #[test]
    fn databases_that_take_no_more_connections() {
        for line in [
            "connection to server at \"10.0.0.5\", port 5432 failed: FATAL:  sorry, too many clients already (PG::ConnectionBad)",
            "connection to server at \"10.0.0.5\", port 5432 failed: FATAL:  remaining connection slots are reserved for non-replication superuser connections (PG::ConnectionBad)",
            "connection to server at \"10.0.0.5\", port 5432 failed: FATAL:  too many connections for role \"shop\" (ActiveRecord::DatabaseConnectionError)",
            "connection to server at \"10.0.0.5\", port 6432 failed: FATAL:  no more connections allowed (max_client_conn) (PG::ConnectionBad)",
            "Too many connections (Mysql2::Error::ConnectionError)",
            "User 'shop' has exceeded the 'max_user_connections' resource (current value: 10) (Mysql2::Error)",
            "ERR max number of clients reached (Redis::CommandError)",
        ] {
            is(
                &format!("/app/config/environment.rb:5:in `<main>': {line}"),
                Reason::ConfigInvalid,
                "a database",
            );
        }
        // The first line names another address of the same host.
        let two = "\
pg/connection.rb:828:in `connect_start': connection to server at \"db\" (::1), port 5432 failed: Connection refused (PG::ConnectionBad)
connection to server at \"db\" (10.0.0.5), port 5432 failed: FATAL:  sorry, too many clients already
\tfrom pg/connection.rb:828:in `new'";
        is(two, Reason::ConfigInvalid, "too many clients");
    }

    #[test]
    fn databases_that_are_down() {
        for line in [
            "could not connect to server: Connection refused (PG::ConnectionBad)",
            "connection to server at \"10.0.0.5\", port 5432 failed: FATAL:  the database system is starting up (PG::ConnectionBad)",
            "Can't connect to MySQL server on 'db:3306' (111) (Mysql2::Error::ConnectionError)",
            "Connection refused - trilogy_connect - unable to connect to db:3306 (Trilogy::SyscallError::ECONNREFUSED)",
            "Error connecting to Redis on db:6379 (Errno::ECONNREFUSED) (Redis::CannotConnectError)",
            "Connection refused - connect(2) for 127.0.0.1:6379 (redis://127.0.0.1:6379) (RedisClient::CannotConnectError)",
        ] {
            let tail = format!("/app/config/environment.rb:5:in `<main>': {line}");
            is(&tail, Reason::BootFailed, "refuses connections");
            assert_eq!(lasting(&run(&tail, FAILED), &[]), None, "it comes back");
        }
        let refused = "connection to server at \"10.0.0.5\", port 5432 failed: Connection refused";
        let two_lines = format!(
            "pg.rb:9:in `new': {refused} (ActiveRecord::ConnectionNotEstablished)\n\tIs the server running on that host?\n\tfrom a.rb:1:in `x'"
        );
        is(&two_lines, Reason::BootFailed, "port 5432 failed");
    }

    #[test]
    fn what_the_first_server_holds_the_next_candidate_will_find_as_well() {
        for tail in [
            "a.rb:1:in `bind': Address already in use - bind(2) for 0.0.0.0:9394 (Errno::EADDRINUSE)",
            "b.rb:4:in `x': There is already a server bound to: /run/puma/control.sock (RuntimeError)",
            "A server is already running. Check /app/tmp/pids/server.pid.",
        ] {
            assert!(lasting(&run(tail, FAILED), &[]).is_some(), "{tail}");
        }
        for tail in ["a.rb:1:in `x': too many connections (Mysql2::Error)", "a.rb:1: x (KeyError)"] {
            assert_eq!(lasting(&run(tail, FAILED), &[]), None, "{tail}");
        }
    }

    #[test]
    fn memory_that_is_used_up() {
        is("a.rb:1:in `x': failed to allocate memory (NoMemoryError)", Reason::NoMemory, "memory limit");
        is(
            "a.rb:1:in `fork': Cannot allocate memory - fork(2) (Errno::ENOMEM)",
            Reason::NoMemory,
            "memory limit",
        );
        for killed in KILLED {
            assert_eq!(found("* Preloading application", Some(killed)).unwrap().0, Reason::NoMemory);
        }
        let by_us = Run { told_to_stop: true, ..run("", Some(Ended::Signal(9))) };
        assert_eq!(of(&by_us, &[]), None);
    }

    #[test]
    fn what_a_release_does_by_itself_is_its_own_fault() {
        for tail in [
            "",
            "[7] ! Unable to load application: LoadError: cannot load such file -- a_gem",
            "config.ru:1:in `<main>': this release is broken on purpose (RuntimeError)",
            // It went on without that port, and failed later.
            "W, exporter: Address already in use - bind(2) for 0.0.0.0:9394\nconfig.ru:9:in `<main>': x (KeyError)",
        ] {
            assert_eq!(found(tail, FAILED), None, "{tail}");
        }
        assert_eq!(found("", Some(Ended::Signal(15))), None);
        let only_logged = "W, exporter: Address already in use - bind(2) for 0.0.0.0:9394";
        assert_eq!(found(only_logged, None), None, "it boots on");
    }

    #[test]
    fn its_words_are_one_short_line() {
        let long = format!("a.rb:1: {} too many connections (Mysql2::Error)", "é".repeat(1000));
        let (_, message) = found(&long, FAILED).unwrap();
        assert!(message.chars().count() < 450 && !message.contains('\n'), "{message}");
    }
}
