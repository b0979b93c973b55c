//! Whose files have which names, from start to end.

use super::*;

const FIRST: InSlot = (1, Slot::A);
const SECOND: InSlot = (2, Slot::B);
const THIRD: InSlot = (3, Slot::C);

struct Dir {
    dir: tempfile::TempDir,
    files: Files,
}

impl Dir {
    /// The first server has made its file, and a second one was started beside.
    fn beside() -> Self {
        let mut dir = Self { dir: tempfile::tempdir().unwrap(), files: Files::default() };
        dir.files.settle(vec![FIRST]);
        dir.write("first");
        dir.start(FIRST, vec![FIRST, SECOND]);
        dir
    }

    fn name(&self) -> PathBuf {
        self.dir.path().join("puma.state")
    }

    fn write(&self, text: &str) {
        fs::write(self.name(), text).unwrap();
    }

    fn start(&mut self, live: InSlot, alive: Vec<InSlot>) {
        let name = self.name();
        self.files.move_aside(&name, live);
        self.files.settle(alive);
        self.files.link();
    }

    fn make(&mut self, text: &str) {
        self.write(text);
        self.files.link();
    }

    fn left(&mut self, alive: &[InSlot]) {
        self.files.settle(alive.to_vec());
        self.files.link();
    }

    /// What each run's file says, as the agent is told.
    fn told(&self) -> Vec<(u64, String)> {
        let read = |(run, places): (u64, Places)| {
            let place = places.first().map_or_else(|| self.name(), |(_, place)| place.clone());
            (run, fs::read_to_string(place).unwrap_or_default())
        };
        self.files.places().into_iter().map(read).collect()
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn says(run: u64, text: &str) -> (u64, String) {
    (run, text.to_owned())
}

#[test]
fn each_server_keeps_its_own_and_the_one_that_is_left_has_the_name() {
    let mut dir = Dir::beside();
    assert_eq!(dir.told(), [says(1, "first"), says(2, "")], "the second has made none yet");
    dir.make("second");
    assert_eq!(dir.told(), [says(1, "first"), says(2, "second")]);
    // As a Puma does at its end, whoever's it is.
    fs::remove_file(dir.name()).unwrap();
    dir.left(&[SECOND]);
    assert_eq!((dir.told(), dir.entries()), (vec![says(2, "second")], vec!["puma.state".to_owned()]));
}

#[test]
fn a_server_that_ends_between_the_move_and_the_start_leaves_the_name_to_the_one_that_starts() {
    for refused in [false, true] {
        let mut dir = Dir::beside();
        dir.make("second");
        let name = dir.name();
        dir.files.starts = true;
        dir.files.move_aside(&name, SECOND);
        dir.left(&[SECOND]);
        assert!(!name.exists(), "the third one would find the second one's");
        dir.files.starts = false;
        if refused {
            dir.left(&[SECOND]);
            assert_eq!((dir.told(), dir.entries()), (vec![says(2, "second")], vec!["puma.state".to_owned()]));
            continue;
        }
        dir.left(&[SECOND, THIRD]);
        dir.make("third");
        assert_eq!(dir.told(), [says(2, "second"), says(3, "third")]);
    }
}

#[test]
fn after_an_abort_the_first_one_has_its_name_again() {
    for made in [false, true] {
        let mut dir = Dir::beside();
        if made {
            dir.make("second");
        }
        dir.left(&[FIRST]);
        assert_eq!((dir.told(), dir.entries()), (vec![says(1, "first")], vec!["puma.state".to_owned()]));
    }
}

#[test]
fn of_three_servers_each_has_its_own() {
    let mut dir = Dir::beside();
    dir.make("second");
    dir.start(SECOND, vec![FIRST, SECOND, THIRD]);
    assert_eq!(dir.told(), [says(1, "first"), says(2, "second"), says(3, "")]);
    dir.make("third");
    assert_eq!(dir.told(), [says(1, "first"), says(2, "second"), says(3, "third")]);
    dir.left(&[SECOND, THIRD]);
    assert_eq!(dir.told(), [says(2, "second"), says(3, "third")]);
    dir.left(&[THIRD]);
    assert_eq!((dir.told(), dir.entries()), (vec![says(3, "third")], vec!["puma.state".to_owned()]));
}

#[test]
fn what_a_server_makes_anew_is_followed() {
    let mut dir = Dir::beside();
    dir.make("second");
    fs::remove_file(dir.name()).unwrap();
    dir.make("second again");
    assert_eq!(dir.told(), [says(1, "first"), says(2, "second again")]);
}

#[test]
fn a_slot_that_is_used_again_inherits_nothing() {
    let mut dir = Dir::beside();
    dir.make("second");
    dir.left(&[FIRST]);
    dir.start(FIRST, vec![FIRST, (3, Slot::B)]);
    assert_eq!(dir.told(), [says(1, "first"), says(3, "")]);
}

#[test]
fn what_a_server_makes_gets_its_second_name() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("control.sock");
    fs::write(&name, "first").unwrap();
    let (send, events) = mpsc::channel();
    let mut aside = Aside::new(send);
    aside.alive(vec![FIRST]);
    let (answer, _answers) = mpsc::channel();
    let asked = Asked { request: crate::slots::Request::List, answer };
    aside.before(asked, vec![name.clone()], FIRST).unwrap();
    while !matches!(events.recv().unwrap(), Event::Prepared(_)) {}
    aside.alive(vec![FIRST, SECOND]);
    for made in ["second", "second again"] {
        fs::write(&name, made).unwrap();
        let linked = || fs::read_to_string(dir.path().join("control.sock.pitstop-b")).ok();
        while linked().is_none_or(|linked| linked != made) {
            thread::yield_now();
        }
        fs::remove_file(&name).unwrap();
    }
}

#[test]
fn a_name_that_nobody_has_is_no_error() {
    let mut dir = Dir::beside();
    let other = dir.dir.path().join("none");
    dir.files.move_aside(&other, FIRST);
    assert_eq!(dir.told().len(), 2);
}
