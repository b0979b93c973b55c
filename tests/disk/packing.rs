//! `publish DIR` and `publish --archive`: what real directories hold, and what no pod would take.

use std::{
    fs,
    os::unix::{
        ffi::OsStringExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    rig::Rig,
    unpack::{Evil, gzip},
};

fn publish<'a>(app: &'a Path, release: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["publish", app.to_str().unwrap(), "--release", release], more].concat()
}

#[track_caller]
fn refused(rig: &Rig, args: &[&str], parts: &[&str]) {
    let (code, message) = rig.fails(args);
    assert_eq!(code, 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    assert!(!rig.store_dir().join("releases").exists(), "nothing was uploaded");
}

fn in_release(rig: &Rig, path: &str) -> std::path::PathBuf {
    rig.deploy_to.join("releases/v1").join(path)
}

#[test]
fn a_checkout_is_published_without_its_repository_and_what_is_left_out() {
    let rig = Rig::new();
    let app = rig.app("v1");
    for dir in [".git/objects", "node_modules/left-pad", "tmp/cache", "tmp/pids", "vendor/gem/.git"] {
        fs::create_dir_all(app.join(dir)).unwrap();
        fs::write(app.join(dir).join("file"), dir).unwrap();
    }
    let _socket = UnixListener::bind(app.join("tmp/pids/puma.sock")).unwrap();
    refused(&rig, &publish(&app, "v1", &[]), &["tmp/pids/puma.sock is a socket", "--exclude"]);
    let left_out = ["--exclude", "node_modules", "--exclude", "./tmp/pids/", "--exclude", "not/there"];
    rig.ok(&publish(&app, "v1", &left_out));
    rig.fetch("v1").unwrap();
    for (path, there) in [
        (".git", false),
        ("node_modules", false),
        ("tmp/pids", false),
        ("tmp/cache/file", true),
        ("vendor/gem/.git/file", true),
    ] {
        assert_eq!(in_release(&rig, path).exists(), there, "{path}");
    }
}

#[test]
fn what_cannot_be_left_out_by_its_name_is_told() {
    let rig = Rig::new();
    let app = rig.app("v1");
    refused(&rig, &publish(&app, "v1", &["--exclude", "*.log"]), &["--exclude *.log", "no wildcards"]);
    refused(&rig, &publish(&app, "v1", &["--exclude", "../x"]), &["is no path in the directory"]);
    refused(&rig, &publish(&app, "v1", &["--exclude", "/etc"]), &["is no path in the directory"]);
}

#[test]
fn the_same_tree_is_the_same_archive_wherever_and_whenever() {
    let rig = Rig::new();
    let sha256 = |app: &Path, release: &str| {
        let text = rig.ok(&publish(app, release, &["--json"]));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["sha256"].as_str().unwrap().to_owned()
    };
    let app = rig.app("v1");
    fs::create_dir(app.join("empty")).unwrap();
    let copy = rig.dir.path().join("copy");
    let copied = Command::new("cp").args(["-r", "--no-preserve=all"]).arg(&app).arg(&copy).status().unwrap();
    assert!(copied.success());
    // As a checkout under another umask has it.
    fs::set_permissions(copy.join("config/0.rb"), fs::Permissions::from_mode(0o664)).unwrap();
    fs::set_permissions(copy.join("config"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::File::open(copy.join("config.ru")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(sha256(&app, "v1"), sha256(&copy, "v1-again"));
    fs::set_permissions(copy.join("config/0.rb"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(sha256(&app, "v1"), sha256(&copy, "v2"), "what can be run is another thing");
}

#[test]
fn names_and_links_of_all_kinds_arrive() {
    let rig = Rig::new();
    let app = rig.app("v1");
    let latin = std::ffi::OsString::from_vec(b"latin-\xfc".to_vec());
    fs::write(app.join(&latin), "latin").unwrap();
    fs::write(app.join("line\nbreak"), "line").unwrap();
    fs::hard_link(app.join("config.ru"), app.join("second")).unwrap();
    symlink("nowhere/yet", app.join("dangling")).unwrap();
    symlink("x".repeat(300), app.join("long")).unwrap();
    fs::create_dir(app.join("empty")).unwrap();
    rig.ok(&publish(&app, "v1", &[]));
    rig.fetch("v1").unwrap();
    let release = in_release(&rig, "");
    assert_eq!(fs::read_to_string(release.join(latin)).unwrap(), "latin");
    assert_eq!(fs::read_to_string(release.join("line\nbreak")).unwrap(), "line");
    assert_eq!(fs::read_to_string(release.join("second")).unwrap(), "v1");
    assert_eq!(fs::read_link(release.join("dangling")).unwrap(), Path::new("nowhere/yet"));
    assert_eq!(fs::read_link(release.join("long")).unwrap().as_os_str().len(), 300);
    assert!(release.join("empty").is_dir());
}

#[test]
fn a_link_to_the_machine_it_was_packed_on_is_named() {
    let rig = Rig::new();
    let app = rig.app("v1");
    symlink("/usr/bin/python3", app.join("python")).unwrap();
    refused(&rig, &publish(&app, "v1", &[]), &["\"python\" is a link to \"/usr/bin/python3\"", "--exclude"]);
    rig.ok(&publish(&app, "v1", &["--exclude", "python"]));
}

#[test]
fn a_file_that_somebody_writes_to_is_no_part_of_a_release() {
    let rig = Rig::new();
    let app = rig.app("v1");
    let noise: Vec<u8> =
        (0..4_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::create_dir(app.join("log")).unwrap();
    fs::write(app.join("log/development.log"), noise).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = fs::File::options().append(true).open(app.join("log/development.log")).unwrap();
            while !over.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut log, b"line\n").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let (code, message) = rig.fails(&publish(&app, "v1", &[]));
        over.store(true, Ordering::Relaxed);
        assert_eq!(code, 1);
        assert!(message.contains("development.log changed while it was packed"), "{message}");
    });
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let rig = Rig::new();
    let app = rig.app("v1");
    fs::set_permissions(app.join("config/0.rb"), fs::Permissions::from_mode(0o000)).unwrap();
    let root = rustix::process::geteuid().is_root();
    let mut command = rig.command(&publish(&app, "v1", &[]));
    if root {
        // Root reads everything, others cannot run what lies in its home.
        let copy = rig.dir.path().join("pitstop");
        fs::copy(env!("CARGO_BIN_EXE_pitstop"), &copy).unwrap();
        fs::set_permissions(rig.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", "--"]).arg(copy).args(args);
        command.env("PITSTOP_SOURCE", rig.store_dir());
    }
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("config/0.rb: Permission denied") && message.contains("--exclude"), "{message}");
}

#[test]
fn what_every_pod_would_refuse_is_refused_before_it_is_uploaded() {
    let rig = Rig::new();
    let archive = rig.dir.path().join("app.tgz");
    let args = ["publish", "--archive", archive.to_str().unwrap(), "--release", "v1"];
    fs::write(&archive, gzip(&Evil::new().file("/etc/evil").0.into_inner().unwrap())).unwrap();
    refused(&rig, &args, &["app.tgz", "is an absolute path"]);
    let whole = gzip(&Evil::new().file("config.ru").0.into_inner().unwrap());
    fs::write(&archive, &whole[..whole.len() - 10]).unwrap();
    refused(&rig, &args, &["app.tgz", "cannot be read"]);
    fs::write(&archive, gzip(&Evil::new().file("app-1a2b3c/config.ru").0.into_inner().unwrap())).unwrap();
    refused(&rig, &args, &["\"app-1a2b3c\"", "strip_prefix: true"]);
    let stripped = rig.command(&args).env("PITSTOP_STRIP_PREFIX", "true").output().unwrap();
    assert!(stripped.status.success(), "{}", String::from_utf8_lossy(&stripped.stderr));
}

#[test]
fn a_directory_that_linked_directories_are_kept_for_is_named_at_publish() {
    let rig = Rig::new();
    let app = rig.app("v1");
    let args = publish(&app, "v1", &[]);
    let output = rig.command(&args).env("PITSTOP_LINKED_DIRS", "storage,config").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("\"config/0.rb\"") && message.contains("`linked_dirs`"), "{message}");
}

#[test]
fn a_terminal_is_told_what_goes_on_and_a_pipe_is_not() {
    let rig = Rig::new();
    let app = rig.app("v1");
    let on_terminal = |release: &str, no_color: &str| {
        let command = format!("{} {}", env!("CARGO_BIN_EXE_pitstop"), publish(&app, release, &[]).join(" "));
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env("NO_COLOR", no_color);
        let output = script.env("PITSTOP_SOURCE", rig.store_dir()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let said = on_terminal("v1", "");
    assert!(said.contains("uploading") && said.contains('\u{1b}'), "{said:?}");
    let plain = on_terminal("v2", "1");
    assert!(plain.contains("uploading") && !plain.contains('\u{1b}'), "{plain:?}");
    let piped = rig.run(&publish(&app, "v3", &[]));
    assert!(piped.status.success() && piped.stderr.is_empty());
}

#[test]
fn a_level_makes_another_archive_of_the_same_tree() {
    let rig = Rig::new();
    let app = rig.app("v1");
    fs::write(app.join("words"), (0..20_000).map(|n| format!("{} ", n * n)).collect::<String>()).unwrap();
    for (release, level) in [("quick", "1"), ("small", "19")] {
        rig.ok(&publish(&app, release, &["--level", level]));
    }
    let bytes = |release: &str| {
        fs::metadata(rig.store_dir().join(format!("releases/{release}.tar.zst"))).unwrap().len()
    };
    assert!(bytes("small") < bytes("quick"));
    assert!(rig.ok(&["diff", "quick", "small"]).contains("0 added, 0 changed, 0 removed"));
    assert_eq!(rig.fails(&publish(&app, "v3", &["--level", "20"])).0, 64);
}
