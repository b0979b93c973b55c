//! nginx before Puma, with connections to it that are kept: it answers no client with an error of its own.

use std::{
    fs,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use pitstop_rig::{
    App, ExecPod, Load, Setup, http,
    load::Plan,
    ports::{free_port, loopback},
    until, until_within,
};

use super::{RECOVERY, assert_unnoticed, slot, wait_until_no_server_is};
use crate::PITSTOP;

/// One process in the foreground. Few connections are kept, and each for few requests, so that some are always new.
const CONFIG: &str = r#"
daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log {dir}/error.log info;
events { worker_connections 512; }
http {
  log_format kept '$status $upstream_status';
  access_log {dir}/access.log kept;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  upstream app {
    server {app};
    keepalive 4;
    keepalive_requests 50;
  }
  server {
    listen {listen};
    location / {
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
    }
  }
}
"#;

/// Debian's nginx. Ended when dropped.
pub(super) struct Nginx {
    process: Child,
    pub(super) port: u16,
    dir: tempfile::TempDir,
}

impl Nginx {
    /// In front of this, as nginx calls a server: `unix:/a/socket` or an address.
    pub(super) fn start(app: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let listen = std::net::SocketAddr::new(loopback(), port);
        let config = CONFIG
            .replace("{dir}", dir.path().to_str().unwrap())
            .replace("{app}", app)
            .replace("{listen}", &listen.to_string());
        let path = dir.path().join("nginx.conf");
        fs::write(&path, config).unwrap();
        let mut nginx = Command::new("setpriv");
        nginx.args(["--pdeathsig", "KILL", "--", "/usr/sbin/nginx", "-p"]).arg(dir.path());
        nginx.arg("-e").arg(dir.path().join("start.log")).arg("-c").arg(&path);
        let process = nginx.stdin(Stdio::null()).spawn().expect("nginx: .ci/setup nginx installs it");
        let nginx = Self { process, port, dir };
        until("nginx", || TcpStream::connect(listen).ok());
        nginx
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    /// All of its clients got the app's answers.
    #[track_caller]
    pub(super) fn assert_answered(&self) {
        let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap();
        let failed: Vec<_> = log.lines().filter(|line| !line.starts_with("200 ")).collect();
        assert!(log.lines().count() > 20 && failed.is_empty(), "{failed:?}\n{}", self.said());
        let again = log.lines().filter(|line| *line != "200 200").count();
        println!("nginx: {} answers, {again} of them at the second try", log.lines().count());
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How many connections a server that listens here has.
fn connections(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let established = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|address| address.ends_with(&local)) && words.nth(1) == Some("01")
    };
    table.lines().filter(established).count()
}

/// `v1` serves behind nginx; a release gets its clients at once or in these steps.
fn pod(steps: &str) -> (ExecPod, Nginx) {
    let mut pod = ExecPod::prepare(Path::new(PITSTOP), Setup::preloading())
        .with("PITSTOP_RESTART_MODE", "beside")
        .with("PITSTOP_RESTART_SHIFT", steps)
        .with("PITSTOP_RESTART_SHIFT_REQUESTS", "20");
    let app = format!("127.0.0.1:{}", pod.puma.port());
    pod.set("PITSTOP_EXEC_LISTEN", format!("tcp://{app}"));
    let pod = pod.in_sync();
    until("Puma took the sockets", || slot(&pod, "live"));
    (pod, Nginx::start(&app))
}

#[test]
fn e2e_beside_behind_nginx_no_client_gets_an_error_while_its_kept_connections_change_servers() {
    let (pod, nginx) = pod("20%,100%");
    assert_eq!(http::get(nginx.port, "/").unwrap().status, 200);
    assert!(connections(pod.puma.port()) > 0, "nginx keeps its connection");
    let load = Load::start(Plan::modest(nginx.port), "deploys");
    pod.deploy(App::RaisesOnBoot, "bad");
    assert_eq!(pod.wait_for_rejection("bad"), "boot_failed");
    wait_until_no_server_is(&pod, "candidate");
    for (id, app) in [("v2", App::Good), ("v3", App::SlowBoot)] {
        pod.deploy(app, id);
        until_within(RECOVERY, "the switch", || (pod.agent.status()?["running"] == id).then_some(()));
        // /status may show the roles from before the switch.
        until_within(RECOVERY, "the end of the earlier one", || (pod.servers().len() == 1).then_some(()));
    }
    assert_eq!(pod.said().matches("gets a share of new connections").count(), 2, "{}", pod.said());
    assert_unnoticed(load, &["v1", "v2", "v3"]);
    nginx.assert_answered();
    assert_eq!(pod.starts(), 1);
}
