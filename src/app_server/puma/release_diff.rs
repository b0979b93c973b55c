//! What differs between two releases, as far as a restart matters.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    config_file::Settings,
    loads::{Loads, ending_in},
};
use crate::app_server::{
    files::{differ, text},
    ruby::release_named,
};

/// What a phased restart does not load anew: the bundle, the Ruby, Puma's own configuration.
const NOT_LOADED_BY_PHASED: [&str; 7] =
    ["Gemfile", "Gemfile.lock", "gems.rb", "gems.locked", ".bundle/config", ".ruby-version", CONFIGURATION];
const CONFIGURATION: &str = "config/puma.rb";
/// The same of every file in it.
const DIR_NOT_LOADED_BY_PHASED: &str = "config/puma";
const LOCKS: [&str; 2] = ["Gemfile.lock", "gems.locked"];
const GEMFILES: [&str; 2] = ["Gemfile", "gems.rb"];

/// Whether a phased restart would not load this file of a release anew, whatever Puma's configuration loads besides.
pub(crate) fn not_loaded_by_phased(file: &Path) -> bool {
    NOT_LOADED_BY_PHASED.iter().any(|name| file == Path::new(name))
        || file.starts_with(DIR_NOT_LOADED_BY_PHASED)
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ReleaseDiff {
    /// What a phased restart would not load, where there is something.
    pub(crate) not_by_phased: Option<String>,
    /// The bundle is another one.
    pub(crate) bundle: bool,
    /// The Ruby that the new release wants, where the old one wants another: `3.3.5`, or `3.3`.
    pub(crate) ruby: Option<String>,
    /// Puma's version in the bundle of the old release and in that of the new one, where they differ.
    pub(crate) puma: Option<(String, String)>,
    /// The new release's own configuration names the rackup file of this other one.
    pub(crate) rackup: Option<String>,
}

impl ReleaseDiff {
    /// Compares. `keeps_bundle`: a phased restart leaves the master with the bundle that it has; `also` is Puma's
    /// configuration, where it is another file, as the agent names it if it is none of the release's.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub(crate) fn between(
        old: &Path,
        new: &Path,
        keeps_bundle: bool,
        also: Option<&Path>,
    ) -> io::Result<Self> {
        let mut files: BTreeSet<PathBuf> = NOT_LOADED_BY_PHASED.iter().map(PathBuf::from).collect();
        let mut change = Self::default();
        for release in [old, new] {
            let mut configurations = vec![PathBuf::from(CONFIGURATION)];
            configurations.extend(listed(release)?);
            configurations.extend(also.map(|path| ending_in(release, path).unwrap_or(path.to_owned())));
            let loads = Loads::of(release, &configurations)?;
            files.extend(configurations.into_iter().filter(|path| path.is_relative()));
            files.extend(loads.files);
            let what = |unclear| format!("what Puma's configuration loads cannot be told ({unclear})");
            change.not_by_phased = change.not_by_phased.or(loads.unclear.map(what));
        }
        for file in files {
            if differ(&old.join(&file), &new.join(&file))? {
                change.bundle |= LOCKS.iter().any(|lock| file == Path::new(lock));
                change.not_by_phased = Some(format!("{} differs", file.display()));
            }
        }
        if keeps_bundle && change.not_by_phased.is_none() && has_gems_of_its_own(new)? {
            change.not_by_phased = Some("the release has gems of its own (PATH in Gemfile.lock)".into());
        }
        let wanted = ruby_of(new)?;
        change.ruby = wanted.filter(|wanted| ruby_of(old).ok().flatten().as_ref() != Some(wanted));
        change.puma = locked_puma(old)?.zip(locked_puma(new)?).filter(|(old, new)| old != new);
        change.rackup = rackup_of_another(new)?;
        Ok(change)
    }
}

fn listed(release: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = Path::new(DIR_NOT_LOADED_BY_PHASED);
    match fs::read_dir(release.join(dir)) {
        Ok(entries) => entries.map(|entry| Ok(dir.join(entry?.file_name()))).collect(),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(io::Error::new(e.kind(), format!("reading {}: {e}", release.join(dir).display()))),
    }
}

fn first_of(release: &Path, names: &[&str]) -> io::Result<Option<String>> {
    for name in names {
        if let Some(found) = text(&release.join(name))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Gems by a path below the release (engines, vendored ones): their code is the release's own.
fn has_gems_of_its_own(release: &Path) -> io::Result<bool> {
    let lock = first_of(release, &LOCKS)?.unwrap_or_default();
    let mut in_path = false;
    let found = lock.lines().any(|line| {
        if !line.starts_with(' ') {
            in_path = line == "PATH";
        }
        let remote = line.trim_start().strip_prefix("remote:").map(str::trim);
        in_path && remote.is_some_and(|remote| !remote.starts_with('/'))
    });
    Ok(found)
}

/// `    puma (6.6.0)`, as Bundler writes what it has chosen; what others depend on is indented further.
pub(super) fn locked_puma(release: &Path) -> io::Result<Option<String>> {
    let lock = first_of(release, &LOCKS)?.unwrap_or_default();
    let version = |line: &str| Some(line.strip_prefix("    puma (")?.strip_suffix(')')?.to_owned());
    Ok(lock.lines().find_map(version))
}

/// What Bundler insists on, where that is plain; else the Ruby that the bundle was made with, as far as
/// native gems depend on it.
fn ruby_of(release: &Path) -> io::Result<Option<String>> {
    let gemfile = first_of(release, &GEMFILES)?.unwrap_or_default();
    let exact = gemfile.lines().find_map(|line| ruby_line(line.trim()));
    match exact {
        Some(Insists::Version(version)) => return Ok(Some(version)),
        Some(Insists::File) => {
            let version = text(&release.join(".ruby-version"))?.unwrap_or_default();
            let version = version.trim().trim_start_matches("ruby-").to_owned();
            return Ok(Some(version).filter(|version| is_version(version)));
        }
        None => {}
    }
    let lock = first_of(release, &LOCKS)?.unwrap_or_default();
    let mut lines = lock.lines().skip_while(|line| *line != "RUBY VERSION").skip(1);
    let locked = lines.next().and_then(|line| line.trim().strip_prefix("ruby "));
    let minor = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
    Ok(locked.map(minor).filter(|version| is_version(version)))
}

enum Insists {
    Version(String),
    File,
}

/// `ruby "3.3.5"`, `ruby file: ".ruby-version"`; a range is left to Bundler.
fn ruby_line(line: &str) -> Option<Insists> {
    let rest = line.strip_prefix("ruby")?.trim_start_matches([' ', '(']);
    if rest.starts_with("file:") && rest.contains(".ruby-version") {
        return Some(Insists::File);
    }
    let version = rest.trim_start_matches(['"', '\'']).split(['"', '\'']).next()?;
    (rest.starts_with(['"', '\'']) && is_version(version)).then(|| Insists::Version(version.to_owned()))
}

fn is_version(text: &str) -> bool {
    text.contains('.') && text.split('.').all(|part| part.parse::<u32>().is_ok())
}

/// A hot restart reads the new release's configuration; what that names is loaded.
fn rackup_of_another(release: &Path) -> io::Result<Option<String>> {
    let Some(text) = text(&release.join(CONFIGURATION))? else { return Ok(None) };
    let rackup = Settings::scan(Path::new(CONFIGURATION), &text).rackup.likely();
    let own = release.file_name().and_then(|name| name.to_str());
    Ok(rackup.filter(|path| release_named(Path::new(path)).is_some_and(|named| Some(named) != own)))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// The files of a bundle: `Gemfile` and `Gemfile.lock`.
    pub(crate) fn bundle(bytes: &[u8]) {
        let dir = tempfile::tempdir().expect("a directory");
        for file in ["Gemfile", "Gemfile.lock"] {
            fs::write(dir.path().join(file), bytes).expect("it is written");
        }
        let _ = (locked_puma(dir.path()), has_gems_of_its_own(dir.path()), ruby_of(dir.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Releases(tempfile::TempDir);

    impl Releases {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, release: &str, file: &str, text: &str) {
            let path = self.dir(release).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn both(&self, file: &str, text: &str) {
            for release in ["v1", "v2"] {
                self.write(release, file, text);
            }
        }

        fn dir(&self, release: &str) -> PathBuf {
            self.0.path().join("releases").join(release)
        }

        fn change(&self) -> ReleaseDiff {
            ReleaseDiff::between(&self.dir("v1"), &self.dir("v2"), true, Some(Path::new("deploy/puma.rb")))
                .unwrap()
        }
    }

    #[test]
    fn whatever_a_phased_restart_does_not_load_is_compared() {
        let files = ["Gemfile", "Gemfile.lock", ".ruby-version", ".bundle/config", "config/puma.rb"];
        for file in files.iter().chain(&["config/puma/production.rb", "deploy/puma.rb"]) {
            for (old, new) in [(Some("a"), Some("b")), (None, Some("b")), (Some("a"), None)] {
                let releases = Releases::new();
                releases.both("app/models/user.rb", "x");
                for (release, text) in [("v1", old), ("v2", new)] {
                    text.into_iter().for_each(|text| releases.write(release, file, text));
                }
                let change = releases.change();
                assert_eq!(change.not_by_phased, Some(format!("{file} differs")));
                assert_eq!(change.bundle, *file == "Gemfile.lock");
            }
        }
        let releases = Releases::new();
        releases.both("config/puma.rb", "workers 2");
        releases.write("v2", "app/models/user.rb", "new code");
        assert_eq!(releases.change(), ReleaseDiff::default());
    }

    #[test]
    fn what_the_configuration_loads_is_compared_and_what_cannot_be_told_is_said() {
        for (config, file) in [
            ("require_relative '../lib/settings'", "lib/settings.rb"),
            ("plugin :jobs", "lib/puma/plugin/jobs.rb"),
            ("eval File.read('config/shared.rb')", "config/shared.rb"),
        ] {
            let releases = Releases::new();
            releases.both("config/puma.rb", config);
            releases.both(file, "a = 1");
            assert_eq!(releases.change(), ReleaseDiff::default(), "{config}");
            releases.write("v2", file, "a = 2");
            assert_eq!(releases.change().not_by_phased, Some(format!("{file} differs")), "{config}");
        }
        let releases = Releases::new();
        releases.both("config/puma.rb", "workers 2\nload extra");
        let said = releases.change().not_by_phased.unwrap();
        assert!(said.contains("cannot be told (config/puma.rb, line 2, `load extra`)"), "{said}");
    }

    #[test]
    fn a_configuration_is_found_by_the_end_of_its_path_and_read_where_it_lies_outside() {
        let also = |releases: &Releases, path: &Path| {
            ReleaseDiff::between(&releases.dir("v1"), &releases.dir("v2"), true, Some(path))
                .unwrap()
                .not_by_phased
        };
        let releases = Releases::new();
        releases.write("v1", "deploy/web.rb", "workers 2");
        releases.write("v2", "deploy/web.rb", "workers 3");
        let said = also(&releases, Path::new("/srv/app/current/deploy/web.rb"));
        assert_eq!(said.as_deref(), Some("deploy/web.rb differs"));
        let outside = releases.0.path().join("puma.rb");
        fs::write(&outside, "load '/srv/app/current/config/web.rb'").unwrap();
        releases.write("v1", "config/web.rb", "workers 2");
        releases.write("v2", "config/web.rb", "workers 3");
        assert_eq!(also(&releases, &outside).as_deref(), Some("config/web.rb differs"));
    }

    /// An archive of a few kilobytes can bring a file of any size.
    #[test]
    fn a_huge_or_odd_file_differs_and_is_not_read() {
        let releases = Releases::new();
        releases.both("Gemfile.lock", "GEM\n");
        let lock = releases.dir("v2").join("Gemfile.lock");
        fs::File::create(&lock).unwrap().set_len(1 << 40).unwrap();
        assert!(releases.change().bundle);
        fs::remove_file(&lock).unwrap();
        nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(releases.change().bundle);
    }

    #[test]
    fn gems_of_the_release_itself_are_loaded_only_by_a_hot_restart_unless_the_bundle_is_left() {
        for (remote, own) in [("engines/shop", true), (".", true), ("/opt/gems/shop", false)] {
            let releases = Releases::new();
            releases.both(
                "Gemfile.lock",
                &format!("GEM\n  remote: https://x/\nPATH\n  remote: {remote}\n  specs:\n"),
            );
            assert_eq!(releases.change().not_by_phased.is_some(), own, "{remote}");
            let pruned = ReleaseDiff::between(&releases.dir("v1"), &releases.dir("v2"), false, None).unwrap();
            assert_eq!(pruned.not_by_phased, None, "{remote}");
        }
    }

    #[test]
    fn another_ruby_is_seen_in_the_gemfile_or_the_lock() {
        let lock = |version: &str| format!("PLATFORMS\n  ruby\n\nRUBY VERSION\n   ruby {version}\n");
        for (file, old, new, ruby) in [
            ("Gemfile.lock", lock("3.1.2p20"), lock("3.3.6p108"), Some("3.3")),
            ("Gemfile.lock", lock("3.3.5p100"), lock("3.3.6p108"), None),
            ("Gemfile", "ruby '3.3.5'".into(), "ruby \"3.3.6\"".into(), Some("3.3.6")),
            ("Gemfile", "ruby '3.1.2'".into(), "ruby '~> 3.3'".into(), None),
            (".ruby-version", "3.1.2".into(), "3.3.6".into(), None),
        ] {
            let releases = Releases::new();
            releases.write("v1", file, &old);
            releases.write("v2", file, &new);
            assert_eq!(releases.change().ruby.as_deref(), ruby, "{file}: {old} to {new}");
        }
        let releases = Releases::new();
        releases.both("Gemfile", "ruby file: '.ruby-version'");
        releases.write("v1", ".ruby-version", "3.1.2\n");
        releases.write("v2", ".ruby-version", "ruby-3.3.6\n");
        assert_eq!(releases.change().ruby.as_deref(), Some("3.3.6"));
    }

    #[test]
    fn another_puma_is_seen_in_the_lock() {
        let lock = |version: &str| {
            format!("GEM\n  specs:\n    capybara (3.0)\n      puma (>= 5.0)\n    puma ({version})\n")
        };
        let releases = Releases::new();
        releases.write("v1", "Gemfile.lock", &lock("5.6.5"));
        releases.write("v2", "Gemfile.lock", &lock("6.6.0"));
        assert_eq!(releases.change().puma, Some(("5.6.5".into(), "6.6.0".into())));
        releases.both("Gemfile.lock", &lock("6.6.0"));
        assert_eq!(releases.change().puma, None);
        releases.write("v1", "Gemfile.lock", "GEM\n");
        assert_eq!(releases.change().puma, None, "Puma is of the image, in one of them");
    }

    #[test]
    fn a_configuration_that_names_another_releases_rackup_file_is_seen() {
        let releases = Releases::new();
        for (path, another) in [
            ("/srv/app/releases/v1/config.ru", true),
            ("/srv/app/releases/v2/config.ru", false),
            ("/srv/app/current/config.ru", false),
        ] {
            releases.write("v2", "config/puma.rb", &format!("rackup '{path}'"));
            assert_eq!(releases.change().rackup.is_some(), another, "{path}");
        }
    }
}
