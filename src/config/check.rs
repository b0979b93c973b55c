//! Step three: well-formed values that cannot work, alone or together. The disk is not read.

use std::{
    path::{Component, Path},
    time::Duration,
};

use super::{
    AppServerKind, Command, Config, HealthUrl, Place, RestartMode, S3Location, Verify, derived::KUBELET,
    headers, names::name, notify, parse_header, places, restart, trust, warmup,
};

/// What is wrong with a key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// Which key.
    pub(crate) key: &'static str,
    /// What is wrong, and what to do.
    pub(crate) message: String,
    /// The value is wrong whatever the others say.
    pub(crate) alone: bool,
}

/// Keeps sums of durations far from overflow.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A path in a release, at most.
const PATH_BYTES_MAX: usize = 512;

/// Every complaint.
pub(crate) fn check(config: &Config) -> Vec<Complaint> {
    let mut checks = Checks { complaints: Vec::new() };
    checks.durations(config);
    checks.counts(config);
    checks.names(config);
    checks.kind(config);
    checks.probes(config);
    checks.commands(config);
    checks.paths(config);
    checks.linked(config);
    checks.fallback(config);
    checks.addresses(config);
    checks.drain(config);
    let sections: [fn(&Config) -> Vec<Complaint>; 4] =
        [warmup::complaints, restart::complaints, notify::complaints, trust::complaints];
    checks.complaints.into_iter().chain(sections.into_iter().flat_map(|section| section(config))).collect()
}

struct Checks {
    complaints: Vec<Complaint>,
}

impl Checks {
    fn alone(&mut self, key: &'static str, result: Result<(), String>) {
        if let Err(message) = result {
            self.complaints.push(Complaint { key, message, alone: true });
        }
    }

    fn together(&mut self, key: &'static str, result: Result<(), String>) {
        if let Err(message) = result {
            self.complaints.push(Complaint { key, message, alone: false });
        }
    }

    fn durations(&mut self, config: &Config) {
        let zero = Duration::ZERO;
        let least = Duration::from_millis(1);
        for (key, value, least) in [
            ("poll_interval", Some(config.poll_interval), least),
            ("grace_period", Some(config.grace_period), least),
            ("puma.worker_shutdown_timeout", Some(config.puma.worker_shutdown_timeout), least),
            ("unicorn.timeout", Some(config.unicorn.timeout), least),
            ("command.timeout", Some(config.command.timeout), least),
            ("restart.timeout", config.restart.timeout, least),
            ("restart.wait_in_flight", config.restart.wait_in_flight, zero),
            ("restart.spread", config.restart.spread, zero),
            ("restart.bake", Some(config.restart.bake), zero),
            ("restart.shift_timeout", Some(config.restart.shift_timeout), least),
            ("hooks.check_timeout", Some(config.hooks.check_timeout), least),
            ("verify.soak", Some(config.verify.soak), zero),
            ("verify.timeout", Some(config.verify.timeout), least),
            ("drain.min", Some(config.drain.min), zero),
            ("drain.quiet", Some(config.drain.quiet), least),
            ("drain.reserve", Some(config.drain.reserve), zero),
            ("drain.max", config.drain.max, least),
        ] {
            self.alone(key, value.map_or(Ok(()), |value| duration(value, least)));
        }
    }

    fn counts(&mut self, config: &Config) {
        self.alone("keep_releases", at_least_one(config.keep_releases as u64));
        self.alone("verify.successes", at_least_one(u64::from(config.verify.successes)));
    }

    fn kind(&mut self, config: &Config) {
        let (able, what) = match (config.restart.mode, config.app_server) {
            (RestartMode::Phased, kind) => (kind == AppServerKind::Puma, "has no phased restart"),
            (RestartMode::Beside, kind) => (
                kind != AppServerKind::Passenger,
                "cannot take listening sockets over, so it has no deploys beside",
            ),
            (RestartMode::Auto | RestartMode::Hot, _) => return,
        };
        let message = || format!("{} {what}: remove this key", config.app_server.title());
        self.together("restart.mode", ensure(able, message));
    }

    /// A second server behind unix sockets alone is reached by no port.
    fn probes(&mut self, config: &Config) {
        let listen = &config.exec.listen;
        let named = listen.iter().all(|address| matches!(address.place(), Place::Unix(..)));
        let url = config.verify.url.as_deref().filter(|url| !url.starts_with("unix://"));
        let (Some(first), Some(_), true) = (listen.first(), url, named) else { return };
        let message = format!(
            "must be a unix socket of exec.listen ({}), since a second server answers there alone: write \
             unix:///PATH:/up",
            first.key()
        );
        self.together("verify.url", Err(message));
    }

    fn commands(&mut self, config: &Config) {
        if config.app_server != AppServerKind::Command {
            return;
        }
        let Command { restart, r#match, pid_file, .. } = &config.command;
        let needed = |what: &str| format!("app_server: command requires {what}");
        self.together("command.restart", ensure(restart.is_some(), || needed("a command that restarts it")));
        let named = r#match.is_some() || pid_file.is_some();
        self.together(
            "command.match",
            ensure(named, || needed("command.match or command.pid_file, to find the server's processes")),
        );
    }

    fn names(&mut self, config: &Config) {
        self.alone("pointer", pointer(&config.pointer));
        if let Some(pod) = &config.pod {
            self.alone("pod", name(pod).map_err(|what| format!("{pod:?} {what}")));
        }
    }

    fn paths(&mut self, config: &Config) {
        if let Some(source) = &config.source {
            self.alone("source", self::source(source));
        }
        for (key, path) in [
            ("deploy_to", Some(&config.deploy_to)),
            ("current", config.current.as_ref()),
            ("fallback_dir", config.fallback_dir.as_ref()),
            ("state_dir", Some(&config.state_dir)),
            ("pod_dir", Some(&config.pod_dir)),
            ("token_file", config.token_file.as_ref()),
            ("command.pid_file", config.command.pid_file.as_ref()),
            ("puma.state_file", config.puma.state_file.as_ref()),
        ] {
            self.alone(key, path.map_or(Ok(()), |path| absolute(path)));
        }
        for (key, message) in places::check(config) {
            self.together(key, Err(message));
        }
    }

    /// A path can be one link only, and nothing can be linked inside of what is a link already.
    fn linked(&mut self, config: &Config) {
        let keys = [
            ("linked_dirs", &config.linked_dirs),
            ("linked_files", &config.linked_files),
            ("pod_dirs", &config.pod_dirs),
        ];
        let mut seen: Vec<(&'static str, &Path)> = Vec::new();
        for (key, paths) in keys {
            for path in paths {
                if let Err(message) = inside_of_release(path) {
                    self.alone(key, Err(message));
                    continue;
                }
                let other = seen.iter().find(|(_, o)| path.starts_with(o) || o.starts_with(path));
                self.together(key, other.map_or(Ok(()), |(k, other)| Err(overlap(key, path, k, other))));
                seen.push((key, path));
            }
        }
    }

    /// A link to itself would serve nobody.
    fn fallback(&mut self, config: &Config) {
        let Some(fallback) = &config.fallback_dir else { return };
        let apart = !fallback.starts_with(&config.deploy_to) && *fallback != config.current();
        let message = || "must be in the image, outside deploy_to and current".to_owned();
        self.together("fallback_dir", ensure(apart, message));
    }

    fn addresses(&mut self, config: &Config) {
        if let Some(url) = &config.s3.endpoint {
            self.alone("s3.endpoint", endpoint(url));
        }
        if let Some(region) = &config.s3.region {
            self.alone("s3.region", self::region(region));
        }
        if let Some(url) = &config.puma.control_url {
            self.alone("puma.control_url", control_url(url));
        }
        if let Some(url) = &config.verify.url {
            self.alone("verify.url", HealthUrl::parse(url).map(drop));
        }
        for header in &config.verify.headers {
            self.alone("verify.headers", parse_header(header).map(drop));
        }
        self.release(&config.verify);
    }

    fn release(&mut self, verify: &Verify) {
        if let Some(header) = &verify.release_header {
            self.alone("verify.release_header", headers::name(header).map(drop));
        }
        for (key, given) in [
            ("verify.headers", !verify.headers.is_empty()),
            ("verify.release_header", verify.release_header.is_some()),
            ("verify.release_field", verify.release_field.is_some()),
            ("verify.pid_field", verify.pid_field.is_some()),
        ] {
            let heard = !given || verify.url.is_some();
            self.together(key, ensure(heard, || "has no effect without verify.url".into()));
        }
        for (key, field) in
            [("verify.release_field", &verify.release_field), ("verify.pid_field", &verify.pid_field)]
        {
            let named = field.as_ref().is_none_or(|field| field.split('.').all(|part| !part.is_empty()));
            self.alone(
                key,
                ensure(named, || "must be field names separated by dots, like build.release".into()),
            );
        }
        let once = verify.release_header.is_none() || verify.release_field.is_none();
        self.together(
            "verify.release_field",
            ensure(once, || "is set together with verify.release_header: set only one of them".into()),
        );
    }

    fn drain(&mut self, config: &Config) {
        let (drain, grace_period) = (&config.drain, config.grace_period);
        let needed = drain.min.saturating_add(drain.reserve).saturating_add(KUBELET);
        self.together("drain.min", ensure(needed <= grace_period, || {
            format!(
                "drain.min {} + drain.reserve {} + {} for the kubelet is more than grace_period {}: raise \
                 grace_period (and the pod's terminationGracePeriodSeconds), or lower one of the others",
                show(drain.min), show(drain.reserve), show(KUBELET), show(grace_period),
            )
        }));
        let Some(max) = drain.max else { return };
        let left = grace_period.saturating_sub(drain.reserve).saturating_sub(KUBELET);
        self.together("drain.max", ensure(max <= left, || {
            format!(
                "{} is more than grace_period {} leaves after drain.reserve {} and {} for the kubelet: at most {}",
                show(max), show(grace_period), show(drain.reserve), show(KUBELET), show(left),
            )
        }));
        self.together(
            "drain.max",
            ensure(drain.min <= max, || format!("{} is less than drain.min {}", show(max), show(drain.min))),
        );
    }
}

pub(super) fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

fn show(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn duration(value: Duration, least: Duration) -> Result<(), String> {
    ensure(value >= least, || "must be longer than 0s".into())?;
    ensure(value <= LONGEST, || format!("{} is too long: at most {}", show(value), show(LONGEST)))
}

fn at_least_one(count: u64) -> Result<(), String> {
    ensure(count >= 1, || "must be at least 1".into())
}

fn pointer(text: &str) -> Result<(), String> {
    match text.strip_prefix("file:") {
        Some(path) => absolute(Path::new(path)),
        None => name(text)
            .map_err(|what| format!("\"{text}\" is neither file:/path nor a pointer name; a name {what}")),
    }
}

fn source(text: &str) -> Result<(), String> {
    let bare = text.starts_with('/') || !text.contains('@');
    ensure(bare, || "must not contain a user or password: give credentials by the environment".into())?;
    match S3Location::parse(text) {
        Some(parsed) => parsed.map(drop),
        None => ensure(text.starts_with('/'), || {
            format!("\"{text}\" is neither s3://bucket/prefix nor an absolute directory path")
        }),
    }
}

fn endpoint(url: &str) -> Result<(), String> {
    ensure(!url.contains('@'), || {
        "must not contain a user or password: give credentials by the environment".into()
    })?;
    let parsed = url.parse::<hyper::Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    let good = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.path() == "/" && uri.query().is_none()
    });
    ensure(good, || format!("\"{url}\" is not http(s)://host:port; put bucket and prefix into `source`"))
}

fn region(text: &str) -> Result<(), String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    ensure(plain, || format!("\"{text}\" is not a region like eu-central-1"))
}

fn absolute(path: &Path) -> Result<(), String> {
    ensure(path.is_absolute(), || format!("{:?} must be an absolute path", path.display().to_string()))
}

fn inside_of_release(path: &Path) -> Result<(), String> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let text = path.display().to_string();
    ensure(plain && !text.is_empty() && !text.contains('\0'), || {
        format!(
            "\"{text}\" must be a relative path inside the release, like log or public/uploads, without \
                 `..`"
        )
    })?;
    ensure(text.len() <= PATH_BYTES_MAX, || format!("the path is longer than {PATH_BYTES_MAX} bytes"))
}

fn overlap(key: &str, path: &Path, other_key: &str, other: &Path) -> String {
    let same = path == other;
    let (path, other) = (path.display().to_string(), other.display().to_string());
    match (same, key == other_key) {
        (true, true) => format!("\"{path}\" is listed twice"),
        (true, false) => format!("\"{path}\" is also listed in {other_key}; list each path once"),
        (false, _) => {
            format!("\"{path}\" and \"{other}\" of {other_key} contain each other; list only one of them")
        }
    }
}

fn control_url(url: &str) -> Result<(), String> {
    let unix = url.strip_prefix("unix://").is_some_and(|path| path.starts_with('/'));
    let tcp = url.strip_prefix("tcp://").and_then(|address| address.rsplit_once(':'));
    let tcp = tcp
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains('@') && port.parse::<u16>().is_ok());
    ensure(unix || tcp, || format!("\"{url}\" is neither unix:///path nor tcp://host:port"))
}

#[cfg(test)]
mod tests;
