//! Each set-up of a Puma, with a second one beside it: what stands in front of it, how it is told where to listen, and
//! how many processes it is.

use std::{env, fs, path::Path, process::Command, time::Duration};

use pitstop_rig::{
    App, Directory, ExecPod, Image, Load, Setup, Wrapper, load::Plan, needs_root, pod::rejection,
    puma::children, side_by_side, until, until_within,
};
use serde_json::Value;

use super::container::{CLIENT, PROBE_SOURCE, Parent, plain};
use crate::PITSTOP;

/// How long a deploy may take on a busy machine.
const RECOVERY: Duration = Duration::from_secs(120);

/// A way to start Puma.
struct Cell {
    name: &'static str,
    script: &'static str,
    setup: Setup,
    /// How the address is written in `exec.listen`, up to the port.
    listen: &'static str,
}

/// Puma's configuration says nothing of where it listens.
fn silent(config: &str) -> Setup {
    Setup { wrapper: Wrapper::Rackup, config: config.into(), ..plain() }
}

fn cell(name: &'static str, script: &'static str, setup: Setup) -> Cell {
    let path = if script == PRUNED { ", path: ENV.fetch('RIG_RUN') + '/puma'" } else { "" };
    let files = vec![("Gemfile", format!("gem 'puma'{path}\n"))];
    Cell { name, script, setup: Setup { files, ..setup }, listen: "tcp://0.0.0.0" }
}

const PUMA: &str = r#"cd "$CURRENT" && exec puma -C config/puma.rb"#;

fn cells() -> Vec<Cell> {
    let mut all = ways_to_say_the_address();
    all.extend(ways_to_run());
    all
}

fn ways_to_say_the_address() -> Vec<Cell> {
    let host = |host: &str| Setup { host: host.into(), ..plain() };
    vec![
        cell("port", PUMA, silent("port ENV.fetch('RIG_PORT')")),
        cell("-p", r#"cd "$CURRENT" && exec puma -C config/puma.rb -p "$RIG_PORT""#, silent("")),
        cell(
            "-b",
            r#"cd "$CURRENT" && exec puma -C config/puma.rb -b "tcp://0.0.0.0:$RIG_PORT""#,
            silent(""),
        ),
        Cell { listen: "tcp://127.0.0.1", ..cell("localhost", PUMA, host("localhost")) },
        Cell { listen: "tcp://[::]", ..cell("IPv6 and IPv4", PUMA, host("[::]")) },
    ]
}

fn ways_to_run() -> Vec<Cell> {
    vec![
        // The directory of a restart is of no consequence.
        cell(
            "pinned",
            PUMA,
            Setup {
                directory: Directory::Pwd,
                config: "directory File.expand_path('..', __dir__)".into(),
                ..plain()
            },
        ),
        cell("a shell in front", r#"cd "$CURRENT" && puma -C config/puma.rb; exit $?"#, plain()),
        cell("tini", r#"cd "$CURRENT" && exec "$RIG_RUN/tini" -- puma -C config/puma.rb"#, plain()),
        cell("dumb-init", r#"cd "$CURRENT" && exec "$RIG_RUN/dumb-init" puma -C config/puma.rb"#, plain()),
        cell("bundle exec", r#"cd "$CURRENT" && exec bundle exec puma -C config/puma.rb"#, plain()),
        cell("prune_bundler", PRUNED, Setup { config: "prune_bundler".into(), ..plain() }),
        cell("single", PUMA, Setup { workers: 0, ..plain() }),
        cell("preload_app!", PUMA, Setup { preload: Some(true), ..plain() }),
        cell("fork_worker", PUMA, Setup { config: "fork_worker".into(), ..plain() }),
    ]
}

/// Debian's Puma lacks the program that `prune_bundler` goes on with: the bundle has a copy with it.
const PRUNED: &str = r#"
if [ ! -d "$RIG_RUN/puma" ]; then
  ruby -e '
    puma, copy = Gem::Specification.find_by_name("puma"), ENV.fetch("RIG_RUN") + "/puma"
    system("cp", "-RL", puma.gem_dir, copy) && system("cp", "-RL", puma.extension_dir + "/.", copy + "/lib") &&
      system("cp", puma.loaded_from, copy + "/puma.gemspec") &&
      system("cp", ENV.fetch("RIG_RUN") + "/puma-wild", copy + "/bin") or abort "no copy"'
fi
cd "$CURRENT" && exec bundle exec puma -C config/puma.rb"#;

/// As the gem has it.
const PUMA_WILD: &str = r#"require 'rubygems'
cli_arg = ARGV.shift
inc = ""
if cli_arg == "-I"
  inc = ARGV.shift
  $LOAD_PATH.concat inc.split(":")
end
module Puma; end
Puma.const_set(:WILD_ARGS, ["-I", inc])
require 'puma/cli'
Puma::CLI.new(ARGV).run
"#;

/// What the scripts need besides. All releases have a Gemfile.
fn furnish(run: &Path) {
    for init in ["tini", "dumb-init"] {
        fs::copy(format!("/usr/bin/{init}"), run.join(init)).expect("a copy of the init");
    }
    fs::write(run.join("puma-wild"), PUMA_WILD).expect("puma-wild");
}

/// A second server takes its own sockets and meets no client before the switch, all of them after it; then the first
/// ends, and nothing of it is left.
fn stands_beside(cell: Cell) {
    let mut parent = Parent::prepare(cell.setup);
    parent.script = cell.script.into();
    furnish(&parent.puma.run_dir());
    let port = parent.puma.port();
    parent.set("RIG_PORT", &port.to_string());
    parent.set("PITSTOP_EXEC_LISTEN", &format!("{}:{port}", cell.listen));
    parent.start();
    parent.puma.wait_for_release("v1");
    until("slot a is known to listen", || (parent.run("a")["inherited"] == true).then_some(()));
    let run = parent.candidate_in("b");
    parent.assert_answers(CLIENT, "v1");
    parent.assert_answers(PROBE_SOURCE, "v2");
    parent.steer(run);
    parent.assert_answers(CLIENT, "v2");
    parent.stop(1);
    parent.wait_until_ended("a");
    parent.assert_answers(CLIENT, "v2");
    let live = i32::try_from(parent.run("b")["pid"].as_i64().expect("a pid")).expect("a pid");
    until("nothing of the first is left", || (children(parent.first()).len() == 1).then_some(()));
    assert!(live > 1, "{live}");
    parent.term();
    parent.wait_for_end();
    assert!(parent.get(CLIENT).is_none(), "nobody listens any more");
}

/// With the agent: a good release goes beside and is met by clients after its check, one that raises by nobody.
fn is_deployed_beside(cell: Cell) {
    let pod = served(&cell);
    let port = pod.puma.port();
    let load = Load::start(Plan::modest(port), "deploys");
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync_within(RECOVERY, "v2");
    assert_eq!(mode(&pod, "v2"), "beside", "{}", pod.status());
    pod.deploy(App::RaisesOnBoot, "v3");
    until_within(RECOVERY, "v3 is rejected", || rejection(&pod.agent.status()?, "v3"));
    until_within(RECOVERY, "v2 is steady", || (pod.agent.status()?["stage"] == "steady").then_some(()));
    pod.assert_runs("v2");
    let records = load.finish();
    records.assert_nothing_lost();
    let strange = |release: Option<&str>| !matches!(release, Some("v1" | "v2"));
    assert!(!records.requests().iter().any(|one| strange(one.release.as_deref())), "nobody has met v3");
    assert_eq!(pod.starts(), 1);
}

/// `v1` is served by the first server of `pitstop exec`.
fn served(cell: &Cell) -> ExecPod {
    let mut pod =
        ExecPod::prepare(Path::new(PITSTOP), cell.setup.clone()).with("PITSTOP_RESTART_TIMEOUT", "20s");
    pod.script = cell.script.into();
    furnish(&pod.puma.run_dir());
    let listen = format!("{}:{}", cell.listen, pod.puma.port());
    let pod = pod.with("PITSTOP_EXEC_LISTEN", listen).in_sync();
    until("the live server is known", || {
        let status = pod.agent.status()?;
        let slots = status["app_server"]["slots"].as_array()?;
        slots.iter().any(|slot| slot["role"] == "live").then_some(())
    });
    pod
}

/// By the journal.
fn mode(pod: &ExecPod, release: &str) -> String {
    let log = pod.revisions_log();
    let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut signalled =
        records.filter(|record| record["release"] == release && record["event"] == "signalled");
    let mode = signalled.find_map(|record| record["baseline"]["mode"].as_str().map(str::to_owned));
    mode.unwrap_or_else(|| panic!("no mode of {release}: {log}"))
}

/// What `rails server` needs, and nothing more.
const APPLICATION: &str = r#"require 'rails'
class Shop < Rails::Application
  config.eager_load = false
  config.secret_key_base = 'x' * 64
  config.hosts = []
end
"#;
const RAILS: &str = "APP_PATH = File.expand_path('application', __dir__)\nrequire 'rails/commands'\n";

/// It refuses to start while its pid file names a process that lives.
fn rails_server() -> Cell {
    let script = r#"cd "$CURRENT" && PIDFILE="$RIG_RUN/server.pid" exec ruby config/rails.rb server -e production -b 0.0.0.0 -p "$RIG_PORT""#;
    let cell = cell("rails server", script, silent(""));
    let files = vec![("config/application.rb", APPLICATION.into()), ("config/rails.rb", RAILS.into())];
    Cell { setup: Setup { files, image: Image::Rails, control: true, ..cell.setup }, ..cell }
}

/// Set-ups in which a second server cannot stand: deployed as without one, and a finding says why.
fn set_ups_that_cannot() -> Vec<Cell> {
    let with = |config: &str| Setup { config: config.into(), ..plain() };
    vec![
        Cell { listen: "tcp://127.0.0.9", ..cell("an address that Puma does not bind", PUMA, plain()) },
        cell("a unix socket besides", PUMA, with("bind 'unix://{run}/app.sock'")),
        cell(
            "a control server with a port",
            PUMA,
            Setup {
                control: false,
                ..with(
                    "activate_control_app 'tcp://127.0.0.1:'.concat((ENV.fetch('RIG_PORT').to_i + 1).to_s), { auth_token: 'x' }",
                )
            },
        ),
        cell("an absolute rackup file", PUMA, with("rackup '{current}/config.ru'")),
    ]
}

fn is_deployed_otherwise(cell: Cell) {
    let pod = served(&cell);
    until("the finding", || pod.found("BESIDE_UNAVAILABLE").then_some(()));
    pod.deploy(App::Good, "v2");
    pod.agent.wait_in_sync_within(RECOVERY, "v2");
    assert_ne!(mode(&pod, "v2"), "beside");
}

fn rows(cells: Vec<Cell>, image: Image, test: fn(Cell)) {
    let cells = cells.into_iter().map(|cell| Cell { setup: cell.setup.from(image), ..cell });
    let mut cells = cells.peekable();
    // No more at once than a machine with two cores boots in time.
    while cells.peek().is_some() {
        let some: Vec<_> = cells.by_ref().take(4).map(|cell| (cell.name.to_owned(), cell)).collect();
        side_by_side(some, test);
    }
}

#[test]
fn e2e_beside_each_set_up_takes_its_own_sockets_and_leaves_nothing_behind() {
    rows(cells(), Image::of_this_run(), stands_beside);
}

#[test]
fn e2e_beside_each_set_up_takes_its_own_sockets_and_leaves_nothing_behind_on_6_6() {
    rows(cells(), Image::Trixie, stands_beside);
}

/// What the address is called makes no difference to the agent: `make test-edge` deploys those as well.
#[test]
fn e2e_beside_each_set_up_is_deployed() {
    let image = Image::of_this_run();
    let cells = if image == Image::Machine { ways_to_run() } else { cells() };
    rows(cells, image, is_deployed_beside);
}

#[test]
fn e2e_beside_a_pod_that_has_ipv6_only_is_deployed() {
    needs_root!();
    if env::var_os(IPV6_ONLY).is_none() {
        return in_a_network_without_ipv4("beside::cells::e2e_beside_a_pod_that_has_ipv6_only_is_deployed");
    }
    let setup = Setup { host: "[::]".into(), ..plain() }.from(Image::of_this_run());
    is_deployed_beside(Cell { listen: "tcp://[::]", ..cell("IPv6", PUMA, setup) });
}

/// Set in such a network.
const IPV6_ONLY: &str = "RIG_IPV6_ONLY";

/// Runs this test anew, with ::1 and one address as pods have them.
fn in_a_network_without_ipv4(test: &str) {
    let script = "ip link set lo up && ip address delete 127.0.0.1/8 dev lo &&
        ip address add fd00::2/128 dev lo nodad && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, "sh"]).arg(env::current_exe().expect("this test"));
    let status = command.args(["--exact", test, "--nocapture"]).env(IPV6_ONLY, "1").status();
    assert!(status.expect("unshare is there").success(), "see above");
}

#[test]
fn e2e_beside_rails_server_is_deployed_on_6_6() {
    is_deployed_beside(rails_server());
}

#[test]
fn e2e_beside_where_it_cannot_be_a_finding_says_so_and_the_deploy_is_another() {
    rows(set_ups_that_cannot(), Image::of_this_run(), is_deployed_otherwise);
}
