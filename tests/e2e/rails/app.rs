//! The app and its releases.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use pitstop_rig::PumaRig;

/// As a user would begin, but with nothing that needs Node or another server.
const RAILS_NEW: &str = "ruby -S rails new shop --minimal --skip-bundle --skip-git --skip-test \
                         --skip-asset-pipeline --no-skip-bootsnap";

/// What a release changes besides its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Code,
    /// Another gem of Debian's is in the bundle.
    Gem,
    /// A column is added to the database.
    Migration,
    /// An initializer raises.
    BrokenInitializer,
}

/// A checkout of the app, as a CI has it.
pub struct Shop {
    dir: PathBuf,
}

impl Shop {
    /// `rails new`, our few files, and what docs/rails.md says. The key goes where linked files are.
    pub fn new(puma: &PumaRig) -> Self {
        puma.run_inside(&puma.run_dir(), RAILS_NEW);
        let shop = Self { dir: puma.run_dir().join("shop") };
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/rails/shop/."), &shop.dir);
        let key = puma.deploy_to().join("shared/config/master.key");
        fs::create_dir_all(key.parent().unwrap()).unwrap();
        fs::rename(shop.dir.join("config/master.key"), key).unwrap();
        shop.edit("config/database.yml", |text| {
            text.replace("# database: path/to/persistent/storage/", "database: storage/")
        });
        // What is for developers is not in Debian's archive.
        shop.edit("Gemfile", |text| text.split("group :development").next().unwrap().to_owned());
        shop.edit("config/puma.rb", |text| text + &from_docs("config/puma.rb"));
        shop.edit("config/environments/production.rb", |text| {
            text.replace("# config.assume_ssl = true", "config.assume_ssl = true")
        });
        let pod_dir = puma.scratch().join("pod");
        shop.edit("config/boot.rb", |text| {
            let line = from_docs("config/boot.rb, above: require \"bootsnap/setup\"");
            let line = line.replace("/srv/pod", &pod_dir.to_string_lossy());
            text.replace("require \"bootsnap/setup\"", &format!("{line}require \"bootsnap/setup\""))
        });
        for initializer in ["release", "assets_of_other_releases"] {
            let path = format!("config/initializers/{initializer}.rb");
            fs::write(shop.dir.join(&path), from_docs(&path)).unwrap();
        }
        shop
    }

    /// Changes the checkout, resolves the bundle with the image's gems, and builds a release of it.
    pub fn build(&self, puma: &PumaRig, change: Change, id: &str) -> PathBuf {
        fs::write(self.dir.join("app/models/code.rb"), format!("module Code\n  RELEASE = \"{id}\"\nend\n"))
            .unwrap();
        match change {
            Change::Code | Change::BrokenInitializer => {}
            Change::Gem => self.edit("Gemfile", |text| text + "gem \"xmlrpc\"\n"),
            Change::Migration => fs::write(
                self.dir.join("db/migrate/20260102000000_add_note_to_visits.rb"),
                "class AddNoteToVisits < ActiveRecord::Migration[7.2]\n  def change = add_column(:visits, :note, :string)\nend\n",
            )
            .unwrap(),
        }
        puma.run_inside(&self.dir, "bundle lock --local");
        let release = self.dir.with_file_name(id);
        copy(&self.dir.join("."), &release);
        let assets = release.join("public/assets");
        fs::create_dir_all(&assets).unwrap();
        fs::write(assets.join(format!("shop-{id}.css")), format!("/* {id} */\n")).unwrap();
        if change == Change::BrokenInitializer {
            let broken = "raise \"this initializer is broken on purpose\"\n";
            fs::write(release.join("config/initializers/broken.rb"), broken).unwrap();
        }
        release
    }

    /// Changes a file of the checkout.
    pub fn edit(&self, file: &str, change: impl FnOnce(String) -> String) {
        let path = self.dir.join(file);
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(text.clone());
        assert_ne!(text, changed, "{file} is not as it was expected");
        fs::write(path, changed).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("--archive").args([from, to]).status().unwrap();
    assert!(status.success(), "cp {} {}", from.display(), to.display());
}

/// The block of docs/rails.md that begins with the file's name.
fn from_docs(file: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rails.md")).unwrap();
    let blocks = page.split("```ruby\n").skip(1).filter_map(|rest| rest.split("```").next());
    let named = |block: &&str| block.lines().next() == Some(&format!("# {file}"));
    blocks
        .into_iter()
        .find(named)
        .unwrap_or_else(|| panic!("docs/rails.md has no block for {file}"))
        .to_owned()
}
