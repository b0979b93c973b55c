use super::*;
use crate::config::ListenAddress;

fn with(change: impl FnOnce(&mut Config)) -> Vec<(&'static str, String)> {
    let mut config = Config::default();
    change(&mut config);
    check(&config).into_iter().map(|complaint| (complaint.key, complaint.message)).collect()
}

#[track_caller]
fn refused(key: &str, part: &str, change: impl FnOnce(&mut Config)) {
    let complaints = with(change);
    let found = complaints.iter().any(|(k, message)| *k == key && message.contains(part));
    assert!(found, "{key}: {part} not in {complaints:?}");
}

#[test]
fn the_defaults_work() {
    assert_eq!(with(|_| ()), []);
}

#[test]
fn restart_mode_phased_is_for_puma_alone_and_beside_for_all_but_passenger() {
    let with_mode = |kind, mode| move |c: &mut Config| (c.app_server, c.restart.mode) = (kind, mode);
    refused("restart.mode", "has no phased restart", with_mode(AppServerKind::Unicorn, RestartMode::Phased));
    refused("restart.mode", "no deploys beside", with_mode(AppServerKind::Passenger, RestartMode::Beside));
    for (kind, mode) in [
        (AppServerKind::Puma, RestartMode::Phased),
        (AppServerKind::Puma, RestartMode::Beside),
        (AppServerKind::Unicorn, RestartMode::Beside),
    ] {
        assert_eq!(with(with_mode(kind, mode)), []);
    }
}

#[test]
fn behind_a_unix_socket_alone_a_second_server_is_asked_there() {
    let listen = |texts: &[&str], url: &str| {
        let listen: Vec<ListenAddress> =
            texts.iter().map(|text| ListenAddress::try_from((*text).to_owned()).unwrap()).collect();
        let url = Some(url.to_owned());
        move |c: &mut Config| (c.exec.listen, c.verify.url) = (listen, url)
    };
    let (socket, port) = ("unix:///run/puma.sock", "http://127.0.0.1:8080/up");
    refused("verify.url", "/run/puma.sock", listen(&[socket], port));
    assert_eq!(with(listen(&[socket], "unix:///run/puma.sock:/up")), []);
    assert_eq!(with(listen(&[socket, "tcp://0.0.0.0:8080"], port)), []);
    assert_eq!(with(listen(&[], port)), []);
}

#[test]
fn a_duration_that_must_pass_is_not_zero_and_none_is_endless() {
    refused("poll_interval", "longer than 0s", |c| c.poll_interval = Duration::ZERO);
    refused("restart.timeout", "longer than 0s", |c| c.restart.timeout = Some(Duration::ZERO));
    refused("drain.min", "too long: at most 7days", |c| c.drain.min = Duration::MAX);
    assert_eq!(with(|c| c.verify.soak = Duration::ZERO), []);
}

#[test]
fn counts_begin_at_one() {
    refused("keep_releases", "at least 1", |c| c.keep_releases = 0);
    refused("verify.successes", "at least 1", |c| c.verify.successes = 0);
}

#[test]
fn a_pointer_is_a_name_or_an_absolute_file() {
    assert_eq!(with(|c| c.pointer = "production-eu.1".into()), []);
    assert_eq!(with(|c| c.pointer = "file:/etc/pitstop/release".into()), []);
    refused("pointer", "absolute path", |c| c.pointer = "file:release".into());
    refused("pointer", "neither file:/path nor a pointer name", |c| c.pointer = "a/b".into());
    refused("pointer", "neither", |c| c.pointer = "..".into());
}

#[test]
fn a_source_is_a_bucket_or_a_directory() {
    for source in ["/srv/store", "s3://bucket", "s3://bucket/apps/shop/"] {
        assert_eq!(with(|c| c.source = Some(source.into())), []);
    }
    refused("source", "not a bucket name", |c| c.source = Some("s3://".into()));
    refused("source", "neither s3://", |c| c.source = Some("store".into()));
    refused("source", "neither s3://", |c| c.source = Some("gs://bucket".into()));
}

#[test]
fn an_endpoint_is_the_address_of_a_server() {
    for url in ["http://127.0.0.1:9000", "https://minio.storage.svc:9000/"] {
        assert_eq!(with(|c| c.s3.endpoint = Some(url.into())), []);
    }
    for url in ["minio:9000", "ftp://minio", "http://", "https://minio/bucket"] {
        refused("s3.endpoint", "put bucket and prefix", |c| c.s3.endpoint = Some(url.into()));
    }
    refused("s3.region", "not a region", |c| c.s3.region = Some("eu central".into()));
}

#[test]
fn paths_are_absolute() {
    refused("deploy_to", "absolute", |c| c.deploy_to = "app".into());
    refused("current", "absolute", |c| c.current = Some("current".into()));
    refused("pod", "must consist of letters", |c| c.pod = Some("a/b".into()));
}

#[test]
fn linked_paths_lie_inside_of_the_release_and_apart_from_each_other() {
    let dirs =
        |paths: &'static [&str]| move |c: &mut Config| c.linked_dirs = paths.iter().map(Into::into).collect();
    assert_eq!(with(dirs(&["storage", "public/uploads", "public/system/", "tmp/pids"])), []);
    for bad in [&["/var/log"], &["../log"], &["log/../.."], &["."], &[""], &["./log"], &["a\0b"]] {
        refused("linked_dirs", "must be a relative path inside the release", dirs(bad));
    }
    refused("linked_dirs", "\"log/\" is listed twice", dirs(&["log", "log/"]));
    refused("linked_dirs", "\"tmp/pids\" and \"tmp\" of linked_dirs", dirs(&["tmp", "tmp/pids"]));
    refused("pod_dirs", "is also listed in linked_dirs", |c| {
        (c.linked_dirs, c.pod_dirs) = (vec!["log".into()], vec!["log".into()]);
    });
    refused("pod_dirs", "\"log/x\" and \"log\" of linked_dirs", |c| {
        (c.linked_dirs, c.pod_dirs) = (vec!["log".into()], vec!["log/x".into()]);
    });
    refused("linked_files", "\"config\" and \"config/master.key\"", |c| {
        (c.linked_dirs, c.linked_files) = (vec!["config/master.key".into()], vec!["config".into()]);
    });
    refused("pod_dir", "absolute", |c| c.pod_dir = "pod".into());
    assert_eq!(with(|c| (c.linked_dirs, c.pod_dirs) = (vec!["log".into()], vec!["logs".into()])), []);
}

#[test]
fn addresses_have_the_form_that_is_dialled() {
    for url in ["unix:///run/puma.sock", "tcp://127.0.0.1:9293", "tcp://[::1]:9293"] {
        assert_eq!(with(|c| c.puma.control_url = Some(url.into())), []);
    }
    for url in ["unix://run/puma.sock", "tcp://9293", "http://127.0.0.1:1", "tcp://a:b"] {
        refused("puma.control_url", "neither", |c| c.puma.control_url = Some(url.into()));
    }
    assert_eq!(with(|c| c.verify.url = Some("http://127.0.0.1:3000/up".into())), []);
    refused("verify.url", "user or password", |c| c.verify.url = Some("http://me:hush@app/up".into()));
    refused("verify.url", "only for the app in this pod", |c| c.verify.url = Some("https://a/up".into()));
    refused("s3.endpoint", "user or password", |c| c.s3.endpoint = Some("https://me:hush@minio".into()));
    refused("source", "user or password", |c| c.source = Some("s3://me:hush@bucket/x".into()));
    refused("verify.headers", "Name: value", |c| c.verify.headers = vec!["Host".into()]);
    refused("verify.headers", "without verify.url", |c| c.verify.headers = vec!["Host: a".into()]);
    refused("current", "every deploy replaces", |c| c.current = Some("/srv/app".into()));
    refused("verify.release_header", "without verify.url", |c| {
        c.verify.release_header = Some("X-Release".into());
    });
    refused("verify.release_header", "not a valid header name", |c| {
        c.verify.release_header = Some("a b".into())
    });
    refused("verify.release_field", "without verify.url", |c| {
        c.verify.release_field = Some("release".into());
    });
    refused("verify.pid_field", "names separated by dots", |c| c.verify.pid_field = Some("a..b".into()));
    refused("verify.release_field", "set only one of them", |c| {
        (c.verify.release_header, c.verify.release_field) =
            (Some("X-Release".into()), Some("release".into()));
    });
}

#[test]
fn a_drain_fits_into_the_grace_period() {
    let grace = |seconds| move |c: &mut Config| c.grace_period = Duration::from_secs(seconds);
    assert_eq!(with(grace(17)), []);
    refused("drain.min", "raise grace_period", grace(16));
    refused("drain.max", "at most 18s", |c| c.drain.max = Some(Duration::from_secs(19)));
    refused("drain.max", "less than drain.min", |c| c.drain.max = Some(Duration::from_secs(4)));
}

#[test]
fn a_kind_of_server_has_what_it_needs_and_nothing_it_cannot_do() {
    assert_eq!(with(|c| c.app_server = AppServerKind::Unicorn), []);
    let command = |c: &mut Config| c.app_server = AppServerKind::Command;
    refused("command.restart", "requires a command that restarts it", command);
    refused("command.match", "to find the server's processes", command);
    let given =
        Command { restart: Some("x".into()), pid_file: Some("/run/pid".into()), ..Command::default() };
    assert_eq!(with(|c| (c.app_server, c.command) = (AppServerKind::Command, given)), []);
}
