//! Which files of a release Puma's master loads with its configuration. A phased restart loads none of them anew: the
//! configuration itself, what it requires, loads or evaluates, its plugins, what those load in turn, and the data that
//! they read. Ruby is not run for it, so this follows plain texts, and says where it cannot.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::statements::{self, Statement};
use crate::app_server::files;

/// Have code loaded or evaluated.
const CODE: [&str; 11] = [
    "require",
    "require_relative",
    "load",
    "_load_from",
    "autoload",
    "import",
    "plugin",
    "eval",
    "instance_eval",
    "class_eval",
    "module_eval",
];
/// Read data.
const DATA: [&str; 6] = ["read", "readlines", "foreach", "load_file", "safe_load_file", "unsafe_load_file"];
/// Where Ruby looks in a release, unless it is told more.
const LOAD_PATH: [&str; 3] = ["lib", "", "config"];
/// What `dotenv/load` reads.
const DOTENV: [&str; 4] = [".env", ".env.local", ".env.production", ".env.production.local"];
/// More files than this are no configuration, but the app itself.
const MOST_FILES: usize = 300;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Loads {
    /// The files, by their names in the release.
    pub(crate) files: BTreeSet<PathBuf>,
    /// The first statement that loads what cannot be told.
    pub(crate) unclear: Option<String>,
}

impl Loads {
    /// What these configurations load that are there, by their names in the release, or absolute outside of it.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub(crate) fn of(release: &Path, configurations: &[PathBuf]) -> io::Result<Self> {
        let mut search =
            Search { release, load_path: LOAD_PATH.map(PathBuf::from).into(), found: Self::default() };
        for file in configurations {
            search.follow(file)?;
        }
        Ok(search.found)
    }
}

struct Search<'a> {
    release: &'a Path,
    load_path: Vec<PathBuf>,
    found: Loads,
}

impl Search<'_> {
    /// Takes in a file and what it loads in turn.
    fn follow(&mut self, file: &Path) -> io::Result<()> {
        let inside = file.is_relative();
        if inside && self.found.files.contains(file) {
            return Ok(());
        }
        let text = files::text(&self.release.join(file))?;
        if inside && (text.is_some() || self.is_file(file)) {
            self.found.files.insert(file.to_owned());
        }
        let Some(text) = text else { return Ok(()) };
        if self.found.files.len() > MOST_FILES {
            self.unclear(file, "it loads much of the app");
            return Ok(());
        }
        for statement in statements::of(&text) {
            self.take(file, &statement)?;
        }
        Ok(())
    }

    fn unclear(&mut self, file: &Path, what: &str) {
        let what: String = what.chars().take(80).collect();
        self.found.unclear.get_or_insert_with(|| format!("{}, {what}", file.display()));
    }

    fn take(&mut self, file: &Path, statement: &Statement) -> io::Result<()> {
        let bare = &statement.bare;
        let words: BTreeSet<&str> = bare.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let place = || format!("line {}, `{}`", statement.line, statement.text);
        if bare.contains("initialize!") {
            self.unclear(file, &place());
        }
        let literals = literals(&statement.text);
        if bare.contains("$LOAD_PATH") || bare.contains("$:") {
            let places = self.places(file, &literals).into_iter().map(|(place, _)| place);
            let added: Vec<PathBuf> = places.filter(|place| self.is_dir(place)).collect();
            self.load_path.extend(added);
        }
        let has_block = bare.contains('{') || bare.ends_with(" do");
        let code =
            CODE.into_iter().find(|word| words.contains(word) && !(has_block && word.ends_with("eval")));
        if code.is_none() && !DATA.iter().any(|word| words.contains(word)) {
            return Ok(());
        }
        let loaded = self.loaded(file, code, &literals);
        // A plain name that is not in the release is a gem's, or the image's.
        if code.is_some() && loaded.is_empty() && literals.iter().all(|literal| literal.computed) {
            self.unclear(file, &place());
        }
        for file in loaded {
            match code {
                Some(_) => self.follow(&file)?,
                None => drop(self.found.files.insert(file)),
            }
        }
        Ok(())
    }

    /// The files of the release that these texts may name.
    fn loaded(&self, file: &Path, code: Option<&str>, literals: &[Literal]) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        for (place, all) in self.places(file, literals) {
            if self.is_file(&place) {
                found.push(place);
            } else if all && place != Path::new("") {
                self.all_below(&place, &mut found);
            }
        }
        let names = literals.iter().filter(|literal| !literal.computed).map(|literal| literal.text.as_str());
        for name in names {
            let name = if code == Some("plugin") { format!("puma/plugin/{name}") } else { name.to_owned() };
            if matches!(code, Some("require" | "autoload" | "plugin" | "load")) {
                let there = self.load_path.iter().filter_map(|dir| self.either(&normal(&dir.join(&name))?));
                found.extend(there.filter(|place| self.is_file(place)));
            }
            if name.starts_with("dotenv") {
                found.extend(DOTENV.map(PathBuf::from));
            }
        }
        found
    }

    /// Where texts may lead that are paths: from the file's own directory, from the file, from the release, by the end of
    /// an absolute path; one by one, and as parts of one. And whether everything below is meant.
    fn places(&self, file: &Path, literals: &[Literal]) -> Vec<(PathBuf, bool)> {
        let joined = literals.iter().map(|literal| literal.text.as_str()).collect::<Vec<_>>().join("/");
        let joined = Literal { text: joined, computed: false };
        let here = if file.is_relative() { file } else { Path::new("") };
        let mut found = Vec::new();
        for literal in literals.iter().chain([&joined]).filter(|literal| !literal.text.is_empty()) {
            let until = literal.text.find(['*', '{', '[']);
            let dir = until.map(|at| literal.text[..at].rsplit_once('/').map_or("", |(dir, _)| dir));
            let (text, all) = (dir.unwrap_or(&literal.text), dir.is_some() || literal.computed);
            let there = if text.starts_with('/') {
                vec![
                    ending_in(self.release, Path::new(text)),
                    ending_in(self.release, &with_extension(text.as_ref())),
                ]
            } else {
                let bases = [here.parent().unwrap_or(Path::new("")), here, Path::new("")];
                let place = |base: &&Path| normal(&base.join(text));
                let whole = |place: PathBuf| {
                    if all && self.is_dir(&place) { Some(place) } else { self.either(&place) }
                };
                bases.iter().map(|base| place(base).and_then(whole)).collect()
            };
            found.extend(there.into_iter().flatten().map(|place| (place, all)));
        }
        found
    }

    /// It, or the Ruby file of that name.
    fn either(&self, place: &Path) -> Option<PathBuf> {
        let candidates = [place.to_owned(), with_extension(place)];
        let file = candidates.iter().find(|place| self.is_file(place)).cloned();
        file.or_else(|| self.is_dir(place).then(|| place.to_owned()))
    }

    fn is_file(&self, place: &Path) -> bool {
        self.release.join(place).is_file()
    }

    fn is_dir(&self, place: &Path) -> bool {
        self.release.join(place).is_dir()
    }

    fn all_below(&self, dir: &Path, found: &mut Vec<PathBuf>) {
        let entries = fs::read_dir(self.release.join(dir)).into_iter().flatten().flatten();
        for entry in entries {
            let place = dir.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && found.len() <= MOST_FILES => self.all_below(&place, found),
                Ok(kind) if kind.is_file() => found.push(place),
                _ => {}
            }
        }
    }
}

/// The name in the release of what an absolute path ends with, if that is there: `/srv/app/current/config/puma.rb` is
/// `config/puma.rb`.
pub(super) fn ending_in(release: &Path, path: &Path) -> Option<PathBuf> {
    let parts: Vec<_> = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let ends = (0..parts.len()).map(|from| parts[from..].iter().collect::<PathBuf>());
    ends.into_iter().find(|end| release.join(end).exists())
}

fn with_extension(path: &Path) -> PathBuf {
    let mut with = path.as_os_str().to_owned();
    with.push(".rb");
    with.into()
}

/// Without `.` and `..`; `None` where it leads out.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => found.push(name),
            Component::ParentDir => found.pop().then_some(())?,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(found)
}

/// A text in a statement.
struct Literal {
    text: String,
    /// Part of it is filled in when it is run.
    computed: bool,
}

/// Everything in quotes, and symbols.
fn literals(statement: &str) -> Vec<Literal> {
    let mut found = Vec::new();
    let mut rest = statement;
    while let Some(at) = rest.find(['"', '\'', ':']) {
        let mark = rest[at..].chars().next().unwrap_or(':');
        let (ahead, before) = (&rest[..at], rest[..at].chars().next_back());
        rest = &rest[at + 1..];
        if mark == ':' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            // `File::join` and `key: value` are no symbols.
            if end > 0 && before.is_none_or(|c| !c.is_alphanumeric() && c != ':') {
                found.push(Literal { text: rest[..end].to_owned(), computed: false });
            }
            continue;
        }
        let Some((inside, after)) = rest.split_once(mark) else { break };
        // The name of a variable is no path.
        if !ahead.ends_with("ENV[") && !ahead.ends_with("ENV.fetch(") {
            found.extend(parts(inside));
        }
        rest = after;
    }
    found
}

/// What stands still around what is filled in: the directory before it, and what comes after it.
fn parts(inside: &str) -> Vec<Literal> {
    let Some((before, _)) = inside.split_once("#{") else {
        return vec![Literal { text: inside.to_owned(), computed: false }];
    };
    let after = inside.rsplit_once('}').map_or("", |(_, after)| after);
    let dir = before.rsplit_once('/').map_or("", |(dir, _)| dir);
    [dir, after.trim_start_matches('/')].map(|text| Literal { text: text.to_owned(), computed: true }).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(config: &str, files: &[(&str, &str)]) -> (Vec<String>, bool) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files.iter().chain(&[("config/puma.rb", config)]) {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = Loads::of(dir.path(), &["config/puma.rb".into()]).unwrap();
        let others = found.files.iter().filter(|file| *file != Path::new("config/puma.rb"));
        (others.map(|file| file.display().to_string()).collect(), found.unclear.is_some())
    }

    const FILES: [(&str, &str); 7] = [
        (".env", "A=1"),
        ("config/shared.rb", "require_relative '../lib/deep'"),
        ("lib/deep.rb", "X = 1"),
        ("lib/puma/plugin/jobs.rb", "require 'deep'"),
        ("config/puma/production.rb", "workers 3"),
        ("config/puma.yml", "workers: 2"),
        ("config.ru", "run App"),
    ];

    #[test]
    fn whatever_a_configuration_loads_is_followed() {
        for (config, loaded) in [
            ("require_relative 'shared'", &["config/shared.rb", "lib/deep.rb"][..]),
            ("require File.expand_path('../lib/deep', __dir__)", &["lib/deep.rb"]),
            ("require File.join(__dir__, '..', 'lib', 'deep')", &["lib/deep.rb"]),
            ("require \"#{__dir__}/../lib/deep\"", &["lib/deep.rb"]),
            ("$LOAD_PATH.unshift File.expand_path('../lib', __dir__)\nrequire 'deep'", &["lib/deep.rb"]),
            ("require 'deep'", &["lib/deep.rb"]),
            ("load 'config/shared.rb'", &["config/shared.rb", "lib/deep.rb"]),
            ("load('/srv/app/current/config/shared.rb') if ENV['X']", &["config/shared.rb", "lib/deep.rb"]),
            ("eval File.read('config/shared.rb')", &["config/shared.rb", "lib/deep.rb"]),
            ("instance_eval(IO.read(\"#{Dir.pwd}/config/shared.rb\"))", &["config/shared.rb", "lib/deep.rb"]),
            ("import 'config/shared.rb'", &["config/shared.rb", "lib/deep.rb"]),
            ("load \"config/puma/#{ENV['RAILS_ENV']}.rb\"", &["config/puma/production.rb"]),
            ("Dir['config/puma/*.rb'].each { |file| load file }", &["config/puma/production.rb"]),
            ("plugin :jobs", &["lib/deep.rb", "lib/puma/plugin/jobs.rb"]),
            ("plugin 'jobs' if ENV['JOBS']", &["lib/deep.rb", "lib/puma/plugin/jobs.rb"]),
            ("workers YAML.load_file('config/puma.yml')['workers']", &["config/puma.yml"]),
            ("require 'dotenv/load'", &[".env"]),
            ("require 'barnes'\nplugin :tmp_restart\nworkers 2", &[]),
            ("rackup 'config.ru'\ndirectory '/srv/app/current'", &[]),
            ("on_worker_boot { App.class_eval { x } }\nApp.instance_eval do\n  x\nend", &[]),
            ("File.read('/sys/fs/cgroup/cpu.max')\n# require_relative 'shared'", &[]),
        ] {
            assert_eq!(
                loads(config, &FILES),
                (loaded.iter().map(|f| (*f).to_owned()).collect(), false),
                "{config}"
            );
        }
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        for config in [
            "load path",
            "eval ENV['PUMA_CONFIG']",
            "extra = ENV['X']\nrequire extra",
            "instance_eval(File.read(extra))",
            "load \"#{ENV['HOME']}/extra.rb\"",
            "plugin name",
            "require_relative 'environment'",
        ] {
            let files = [("config/environment.rb", "Rails.application.initialize!")];
            assert!(loads(config, &files).1, "{config}");
        }
    }
}
