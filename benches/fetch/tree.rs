//! Two releases as large as a Rails app's, always the same ones: gems, node modules, an app with its assets; then the
//! next release, of which few files differ.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use pitstop_rig::Dice;

/// Files of a whole one.
pub const FILES: usize = 33_240;
const CHANGED: usize = 40;
const ADDED: usize = 5;
const REMOVED: usize = 3;
/// So many files differ.
pub const DELTA: usize = CHANGED + ADDED + REMOVED;

/// Of all files.
const NODE_MODULES: f64 = 0.56;
const GEMS: f64 = 0.382;
const APP: f64 = 0.048;
/// So many of each at full size.
const PACKAGES: f64 = 849.0;
const GEM_COUNT: f64 = 150.0;
const ASSET_BYTES: f64 = 165.0 * 1_048_576.0;
const LARGEST: f64 = 9.0 * 1_048_576.0;
/// A path below this is long enough.
const PATH_BYTES: usize = 700;
/// Files of the largest directory.
const CROWD: f64 = 640.0;

/// Makes `v1` and `v2` in `home`, with so many files each.
pub fn make(home: &Path, files: usize) -> io::Result<()> {
    let v1 = home.join("v1");
    let mut maker = Maker { dice: Dice(1), scale: files as f64 / FILES as f64 };
    maker.packages(&v1.join("node_modules"), PACKAGES, NODE_MODULES * files as f64, "js")?;
    maker.packages(&v1.join("vendor/bundle/ruby/3.3.0/gems"), GEM_COUNT, GEMS * files as f64, "rb")?;
    maker.files_below(&v1.join("app"), (APP * files as f64) as usize, "rb")?;
    maker.assets(&v1.join("public/assets"), files)?;
    for name in ["Gemfile", "Gemfile.lock", "config.ru", "config/puma.rb", "config/environment.rb"] {
        maker.file(&v1.join(name), 900)?;
    }
    maker.next(home)
}

struct Maker {
    dice: Dice,
    scale: f64,
}

impl Maker {
    fn scaled(&self, count: f64) -> usize {
        ((count * self.scale) as usize).max(1)
    }

    /// Half of all are small, a tenth larger than 7.7 kB, as they are in gems and node modules.
    fn size(&mut self) -> usize {
        let normal = (-2.0 * self.dice.unit().ln()).sqrt() * (std::f64::consts::TAU * self.dice.unit()).cos();
        (850.0 * (1.72 * normal).exp()).min(1e6) as usize
    }

    fn packages(&mut self, home: &Path, count: f64, files: f64, kind: &str) -> io::Result<()> {
        let (count, crowd) = (self.scaled(count), self.scaled(CROWD));
        let mut left = files as usize;
        for number in 0..crowd.min(left / 4) {
            let size = self.size();
            self.file(&home.join(format!("crowd/{number}.{kind}")), size)?;
            left -= 1;
        }
        for number in 0..count {
            let share = left / (count - number);
            let own = if number + 1 == count {
                left
            } else {
                share / 2 + self.dice.below(share as u64 + 1) as usize
            };
            self.files_below(&home.join(format!("package-{number}-1.{}", number % 7)), own, kind)?;
            left -= own;
        }
        Ok(())
    }

    /// In directories of six files or so, some in others.
    fn files_below(&mut self, home: &Path, files: usize, kind: &str) -> io::Result<()> {
        let mut places = vec![home.to_owned()];
        for number in 0..files {
            if number % 7 == 6 {
                let above = self.dice.below(places.len().min(5) as u64) as usize;
                let place = &places[places.len() - 1 - above];
                let deep = place.as_os_str().len() > home.as_os_str().len() + PATH_BYTES;
                places.push(if deep { home } else { place }.join(format!("part_{number}")));
            }
            let at = places.last().expect("there is one").join(format!("file_{number}.{kind}"));
            let size = self.size();
            self.file(&at, size)?;
        }
        Ok(())
    }

    /// Images and fonts do not compress; scripts and styles do.
    fn assets(&mut self, home: &Path, files: usize) -> io::Result<()> {
        let count = self.scaled(330.0).min(files);
        let mean = ASSET_BYTES * self.scale / count as f64;
        for number in 0..count {
            let size = (mean * 0.35 * self.dice.between(0.1, 40.0).powf(0.8)).min(LARGEST) as usize;
            let name = format!("asset-{number:04}-{:016x}", self.dice.number());
            if self.dice.percent(35) {
                let bytes: Vec<u8> =
                    (0..size.div_ceil(8)).flat_map(|_| self.dice.number().to_le_bytes()).collect();
                write(&home.join(name + ".png"), &bytes)?;
            } else {
                self.file(&home.join(name + ".js"), size)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, size: usize) -> io::Result<()> {
        const WORDS: [&str; 10] = [
            "user", "order", "invoice", "payment", "session", "event", "report", "account", "team", "message",
        ];
        let mut text = String::with_capacity(size + 128);
        while text.len() < size.max(30) {
            let mut word = || WORDS[self.dice.below(10) as usize];
            let (a, b, c) = (word(), word(), word());
            let (n, limit) = (self.dice.below(999), self.dice.below(99));
            text +=
                &format!("  def {a}_{b}_{n}({c})\n    {a}.{b}s.where({c}: {c}.id).limit({limit})\n  end\n\n");
        }
        write(path, text.as_bytes())
    }

    fn next(&mut self, home: &Path) -> io::Result<()> {
        let v2 = home.join("v2");
        let copied = Command::new("cp").arg("-al").arg(home.join("v1")).arg(&v2).status()?;
        assert!(copied.success(), "cp -al");
        let mut ours = Vec::new();
        list(&v2.join("app"), &mut ours)?;
        list(&v2.join("public"), &mut ours)?;
        let gems = ours.len();
        list(&v2.join("vendor"), &mut ours)?;
        for number in 0..CHANGED + REMOVED {
            // Most of them the app's own.
            let (from, until) = if number % 8 == 7 { (gems, ours.len()) } else { (0, gems.min(ours.len())) };
            let path = ours.swap_remove(from + self.dice.below((until - from) as u64) as usize);
            let mut bytes = fs::read(&path)?;
            // Both releases share the file until here.
            fs::remove_file(&path)?;
            if number < CHANGED {
                bytes.extend_from_slice(b"\n# changed\n");
                fs::write(&path, bytes)?;
            }
        }
        (0..ADDED).try_for_each(|number| self.file(&v2.join(format!("app/new/added_{number}.rb")), 2000))
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().expect("it is in a directory"))?;
    fs::write(path, bytes)
}

/// All files below a directory, sorted.
pub fn list(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            list(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}
