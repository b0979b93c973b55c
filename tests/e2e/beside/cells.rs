//! Each set-up of a Puma, with a second one beside it: what stands in front of it, how it is told where to listen, and
//! how many processes it is.

use std::fs;

use pitstop_rig::{Image, Setup, Wrapper, puma::children, side_by_side, until};

use super::container::{CLIENT, PROBE_SOURCE, Parent, plain};

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
    Cell { name, script, setup, listen: "tcp://0.0.0.0" }
}

const PUMA: &str = r#"cd "$CURRENT" && exec puma -C config/puma.rb"#;

fn cells() -> Vec<Cell> {
    let port = "port ENV.fetch('RIG_PORT')";
    let host = |host: &str| Setup { host: host.into(), ..plain() };
    vec![
        cell("port", PUMA, silent(port)),
        cell("-p", r#"cd "$CURRENT" && exec puma -C config/puma.rb -p "$RIG_PORT""#, silent("")),
        cell(
            "-b",
            r#"cd "$CURRENT" && exec puma -C config/puma.rb -b "tcp://0.0.0.0:$RIG_PORT""#,
            silent(""),
        ),
        Cell { listen: "tcp://127.0.0.1", ..cell("localhost", PUMA, host("localhost")) },
        Cell { listen: "tcp://[::]", ..cell("IPv6 and IPv4", PUMA, host("[::]")) },
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

/// What the scripts need besides.
fn furnish(parent: &Parent) {
    let run = parent.puma.run_dir();
    for init in ["tini", "dumb-init"] {
        fs::copy(format!("/usr/bin/{init}"), run.join(init)).expect("a copy of the init");
    }
    fs::write(run.join("puma-wild"), PUMA_WILD).expect("puma-wild");
    let own = parent.script.contains("/puma-wild");
    let path = if own { ", path: ENV.fetch('RIG_RUN') + '/puma'" } else { "" };
    for release in ["v1", "v2"] {
        let gemfile = parent.puma.releases().join(release).join("Gemfile");
        fs::write(gemfile, format!("gem 'puma'{path}\n")).expect("a Gemfile");
    }
}

/// A second server takes its own sockets and meets no client before the switch, all of them after it; then the first
/// ends, and nothing of it is left.
fn stands_beside(cell: Cell) {
    let mut parent = Parent::prepare(cell.setup);
    parent.script = cell.script.into();
    furnish(&parent);
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

fn all_stand_beside(image: Image) {
    let cells = cells().into_iter().map(|cell| Cell { setup: cell.setup.from(image), ..cell });
    let mut cells = cells.peekable();
    // No more at once than a machine with two cores boots in time.
    while cells.peek().is_some() {
        let some: Vec<_> = cells.by_ref().take(4).map(|cell| (cell.name.to_owned(), cell)).collect();
        side_by_side(some, stands_beside);
    }
}

#[test]
fn e2e_beside_each_set_up_takes_its_own_sockets_and_leaves_nothing_behind() {
    all_stand_beside(Image::of_this_run());
}

#[test]
fn e2e_beside_each_set_up_takes_its_own_sockets_and_leaves_nothing_behind_on_6_6() {
    all_stand_beside(Image::Trixie);
}
