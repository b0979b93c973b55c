//! Small archives that would take the agent's memory, its time or the volume: refused, or done within bounds,
//! called off when something else is to be done, and deleted whatever they left.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use pitstop::{
    config::S3,
    core::Reason,
    releases::{Limits, layout::Layout},
    store::{self, Blocking},
};
use pitstop_rig::wait_until;
use tar::{EntryType, Header};
use tokio::runtime::Runtime;

use crate::rig::{Rig, at_once, id};

/// What an agent of the chart has, less than half of it.
const MEMORY_MAX_MIB: i64 = 96;

/// Writes an archive as it is made: nothing of it is in memory.
struct Stream(zstd::Encoder<'static, fs::File>);

impl Stream {
    fn put(rig: &Rig, make: impl FnOnce(&mut Self)) {
        let file = rig.dir.path().join("archive");
        let mut stream = Self(zstd::Encoder::new(fs::File::create(&file).unwrap(), 3).unwrap());
        make(&mut stream);
        stream.0.write_all(&[0; 1024]).unwrap();
        stream.0.finish().unwrap();
        rig.put_archive("v1", "tar.zst", &fs::read(file).unwrap());
    }

    fn entry(&mut self, path: &str, kind: EntryType, target: &str) {
        let mut header = Header::new_gnu();
        for (kind, text) in [(EntryType::GNULongName, path), (EntryType::GNULongLink, target)] {
            if text.len() > 100 {
                header.set_size(text.len() as u64);
                header.set_entry_type(kind);
                header.set_cksum();
                self.0.write_all(header.as_bytes()).unwrap();
                self.0.write_all(text.as_bytes()).unwrap();
                self.0.write_all(&vec![0; text.len().next_multiple_of(512) - text.len()]).unwrap();
            }
        }
        let short = |text: &str| text.as_bytes()[..text.len().min(100)].to_vec();
        let bytes = header.as_mut_bytes();
        bytes[..path.len().min(100)].copy_from_slice(&short(path));
        bytes[157..157 + target.len().min(100)].copy_from_slice(&short(target));
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_cksum();
        self.0.write_all(header.as_bytes()).unwrap();
    }

    fn link(&mut self, path: &str, target: &str) {
        self.entry(path, EntryType::Symlink, target);
    }

    fn file(&mut self, path: &str) {
        self.entry(path, EntryType::Regular, "");
    }

    /// A file with content.
    fn content(&mut self, path: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_path(path).unwrap();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        self.0.write_all(header.as_bytes()).unwrap();
        self.0.write_all(content).unwrap();
        self.0.write_all(&vec![0; content.len().next_multiple_of(512) - content.len()]).unwrap();
    }

    /// Links that each lead through so many others, with so many names in between.
    fn chains(&mut self, links: u32, long: u32, hop: &str) {
        self.file("a/f");
        for n in 0..long {
            self.link(
                &format!("c{n}"),
                &format!("{hop}{}", if n + 1 < long { format!("c{}", n + 1) } else { "a/f".into() }),
            );
        }
        for n in 0..links {
            self.link(&format!("l{n:06}"), &format!("{hop}c0"));
        }
    }
}

/// Fetches with the program: its exit code, what it said, and the most memory that it had.
fn fetch(rig: &Rig) -> (i32, String, i64) {
    rig.ok(&["promote", "v1"]);
    let (code, said) = rig.fails(&["fetch"]);
    (code, said, getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() >> 10)
}

#[track_caller]
fn refused(make: impl FnOnce(&mut Stream), why: &str) {
    let rig = Rig::new();
    Stream::put(&rig, make);
    let (code, said, mib) = fetch(&rig);
    assert!(code == 1 && said.contains(why), "{said}");
    assert!(mib < MEMORY_MAX_MIB, "{mib} MiB");
    assert_eq!(rig.leftovers(), Vec::<String>::new());
}

#[track_caller]
fn taken(make: impl FnOnce(&mut Stream)) -> Rig {
    let rig = Rig::new();
    Stream::put(&rig, make);
    let (code, said, mib) = fetch(&rig);
    assert!(code == 0, "{said}");
    assert!(mib < MEMORY_MAX_MIB, "{mib} MiB");
    rig
}

#[test]
fn links_below_deep_paths() {
    let links = |depth: usize, count: u32| {
        move |tar: &mut Stream| {
            let deep = "a/".repeat(depth);
            (0..count).for_each(|n| tar.link(&format!("{deep}{n:07}"), "b"));
        }
    };
    refused(links(480, 12_000), "more than 128 directories deep");
    taken(links(127, 3_000));
}

#[test]
fn links_through_chains_of_links() {
    let hop = "a/../".repeat(200);
    refused(|tar| tar.chains(20_000, 39, &hop), "more than 16777216 bytes of them, from \"l0");
    taken(|tar| tar.chains(2_000, 39, &hop));
    refused(|tar| tar.chains(10, 40, &hop), "leads through too many links");
}

#[test]
fn more_links_than_a_release_may_have() {
    let rig = Rig::new();
    let releases = rig.releases_with(Limits { links: 100, ..Limits::default() });
    Stream::put(&rig, |tar| (0..101).for_each(|n| tar.link(&format!("l{n}"), "x")));
    crate::unpack::refused_by(&rig, &releases, "more than 100 symbolic links");
    // The same one again and again is one.
    let rig = Rig::new();
    let releases = rig.releases_with(Limits { links: 100, ..Limits::default() });
    Stream::put(&rig, |tar| (0..1_000).for_each(|n| tar.link("l", &n.to_string())));
    rig.fetch_with(&releases, "v1").unwrap();
    assert_eq!(fs::read_link(rig.deploy_to.join("releases/v1/l")).unwrap(), Path::new("999"));
}

#[test]
fn links_that_lead_to_ever_longer_paths() {
    let far = format!("/{}", "x".repeat(200)).repeat(4);
    refused(
        |tar| {
            (0..30).for_each(|n| tar.link(&format!("c{n}"), &format!("c{}{far}", n + 1)));
            tar.link("c30", "d");
        },
        "paths are too long",
    );
}

#[test]
fn files_that_alternate_between_deep_directories() {
    let rig = taken(|tar| {
        let [left, right] = ["l/", "r/"].map(|name| name.repeat(127));
        (0..2_000).for_each(|n| tar.file(&format!("{}{n}", if n % 2 == 0 { &left } else { &right })));
    });
    let left = rig.deploy_to.join("releases/v1").join("l/".repeat(127));
    assert_eq!(fs::read_dir(left).unwrap().count(), 1_000);
}

#[test]
fn files_of_all_sizes() {
    let large = vec![7; 60 << 20];
    let rig = taken(|tar| {
        (0..20_000).for_each(|n| tar.content(&format!("{}/{n}", n % 300), &large[..n % 5_000]));
        (0..2).for_each(|n| tar.content(&format!("large/{n}"), &large));
        (0..40).for_each(|n| tar.content(&format!("middle/{n}"), &large[..(1 << 20) + n]));
    });
    let release = rig.deploy_to.join("releases/v1");
    for (name, bytes) in [("299/4799", 4_799), ("large/1", 60 << 20), ("middle/39", (1 << 20) + 39)] {
        assert_eq!(fs::metadata(release.join(name)).unwrap().len(), bytes, "{name}");
    }
}

#[test]
fn more_directories_than_there_are_descriptors() {
    let rig = Rig::new();
    Stream::put(&rig, |tar| {
        for round in 0..3 {
            (0..1_500).for_each(|n| tar.file(&format!("{}/{n}/{round}", n % 40)));
        }
        tar.file("config.ru");
    });
    setrlimit(Resource::RLIMIT_NOFILE, 128, 1024).unwrap();
    rig.fetch_with(&rig.releases().with_in_flight(48), "v1").unwrap();
    let release = rig.deploy_to.join("releases/v1");
    for n in 0..1_500 {
        assert_eq!(fs::read_dir(release.join(format!("{}/{n}", n % 40))).unwrap().count(), 3, "{n}");
    }
}

#[test]
fn what_comes_twice_stays_in_order_with_many_writers() {
    let rig = Rig::new();
    Stream::put(&rig, |tar| {
        tar.content("d/first", b"one");
        tar.entry("d/name", EntryType::Link, "d/first");
        for n in 0..300 {
            tar.content("d/again", format!("{n}").repeat(n % 50).as_bytes());
            tar.content(&format!("d/{n}"), b"x");
            tar.entry("d/kind", EntryType::Directory, "");
            tar.content("d/kind", b"a file");
        }
        tar.content("d/again", b"the last");
        tar.content("d/first", b"two");
        tar.entry("d/last", EntryType::Link, "d/first");
    });
    rig.fetch_with(&rig.releases().with_in_flight(48), "v1").unwrap();
    let read = |name: &str| fs::read_to_string(rig.deploy_to.join("releases/v1/d").join(name)).unwrap();
    assert_eq!((read("again"), read("kind")), ("the last".into(), "a file".into()));
    assert_eq!((read("name"), read("first"), read("last")), ("one".into(), "two".into(), "two".into()));
}

#[test]
fn directories_that_no_entry_is_for_count_as_entries() {
    let rig = Rig::new();
    let deep = "/d".repeat(120);
    Stream::put(&rig, |tar| (0..10).for_each(|n| tar.file(&format!("{n}{deep}"))));
    let few = Limits { entries: 500, ..Limits::default() };
    crate::unpack::refused_by(&rig, &rig.releases_with(few), "more than 500 entries");
}

#[test]
fn a_great_many_empty_directories_are_no_place_for_a_link() {
    let rig = Rig::new();
    Stream::put(&rig, |tar| {
        tar.file("config.ru");
        (0..1_000).for_each(|n| tar.entry(&format!("log/{n}/"), EntryType::Directory, ""));
    });
    let layout = Layout { linked_dirs: vec!["log".into()], ..Default::default() };
    crate::unpack::refused_by(&rig, &rig.releases().laid_out(layout), "makes \"log\" a link");
}

#[test]
fn what_is_called_off_ends_and_what_it_leaves_is_taken_away() {
    let rig = Rig::new();
    Stream::put(&rig, |tar| (0..150_000).for_each(|n| tar.file(&format!("{}/{n}", n % 100))));
    let runtime = Runtime::new().unwrap();
    let store = store::open(rig.store_dir().to_str(), &S3::default()).unwrap();
    let store = Blocking::new(Arc::clone(&store), runtime.handle().clone(), Duration::from_secs(30));
    let off = store.off().clone();
    let releases = rig.releases();
    let fetching = std::thread::spawn(move || releases.fetch(&store, &id("v1"), None));
    let staging = rig.deploy_to.join(".pitstop/staging");
    let begun = |dir: &Path| fs::read_dir(dir.join("release")).is_ok_and(|all| all.count() == 100);
    wait_until("files are unpacked", || {
        fs::read_dir(&staging).is_ok_and(|all| all.flatten().any(|entry| begun(&entry.path())))
    });
    off.now();
    let problem = fetching.join().unwrap().unwrap_err();
    assert!(problem.message.contains("cancelled"), "{}", problem.message);
    let names = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = names.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    let writers: Vec<_> = names.filter(|name| name.starts_with("fetch")).collect();
    assert_eq!(writers, Vec::<String>::new(), "nothing writes any more");
    assert!(!rig.deploy_to.join("releases/v1").exists());
    assert_eq!((rig.leftovers(), rig.abandoned().len()), (Vec::new(), 1));
    rig.releases().clean_leftovers(&at_once).unwrap();
    assert_eq!(rig.abandoned(), Vec::<String>::new());
}

#[test]
fn trees_deeper_than_there_are_descriptors_are_deleted() {
    let rig = Rig::new();
    let staging = rig.deploy_to.join(".pitstop/staging/web-0+x.dir");
    let deep = staging.join("d/".repeat(700));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "").unwrap();
    let mut at = staging;
    for _ in 0..700 {
        fs::write(at.join("f"), "").unwrap();
        at.push("d");
    }
    setrlimit(Resource::RLIMIT_NOFILE, 128, 1024).unwrap();
    assert_eq!(rig.releases().clean_leftovers(&at_once), Ok(1));
    assert_eq!((rig.leftovers(), rig.abandoned()), (Vec::new(), Vec::new()));
}

/// Lets the kernel answer a call with an error: a volume without further names for a file, or without locks.
const REFUSE: &str = "
import ctypes, os, platform, struct, sys
calls = {'linkat': {'x86_64': 265, 'aarch64': 37}, 'flock': {'x86_64': 73, 'aarch64': 32},
         'mkdirat': {'x86_64': 258, 'aarch64': 34}, 'symlinkat': {'x86_64': 266, 'aarch64': 36},
         'create': {'x86_64': 257, 'aarch64': 56}}
name = sys.argv.pop(1)
call = calls[name][platform.machine()]
load, equals, give, allow = (0x20, 0, 0, 0), (0x15, 0, 1, call), (6, 0, 0, 0x50000 | int(sys.argv[1])), (6, 0, 0, 0x7fff0000)
steps = [load, equals, give, allow]
if name == 'create':
    # openat of a new file that follows no link: what the writers of a tree do.
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    steps = [load, (0x15, 0, 4, call), (0x20, 0, 0, 32), (0x54, 0, 0, new), (0x15, 0, 1, new), give, allow]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
libc = ctypes.CDLL(None, use_errno=True)
filter = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(steps), ctypes.addressof(code)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter) == 0, ctypes.get_errno()
os.execv(sys.argv[2], sys.argv[2:])
";

fn without_links(rig: &Rig, errno: rustix::io::Errno) -> (i32, String) {
    without("linkat", rig, errno)
}

/// `pitstop fetch` where the kernel answers this call with the error.
pub fn without(call: &str, rig: &Rig, errno: rustix::io::Errno) -> (i32, String) {
    let pitstop = rig.command(&["fetch"]);
    let mut python = Command::new("python3");
    python.args(["-c", REFUSE, call, &errno.raw_os_error().to_string()]).arg(pitstop.get_program());
    python.args(pitstop.get_args()).stdin(Stdio::null());
    python.envs(pitstop.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = python.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn hard_links(rig: &Rig, names: u32, content: &[u8], to: &str) {
    let mut tar = crate::unpack::Evil::new().entry("bin/0", EntryType::Regular, "", 0o755, content);
    for n in 1..=names {
        tar = tar.entry(&format!("bin/{n}"), EntryType::Link, to, 0o644, b"");
    }
    rig.put_archive("v1", "tar.zst", &tar.zst());
    rig.ok(&["promote", "v1"]);
}

#[test]
fn where_a_volume_refuses_hard_links_the_file_is_copied() {
    use std::os::unix::fs::MetadataExt;

    use rustix::io::Errno;
    for errno in [Errno::MLINK, Errno::PERM, Errno::OPNOTSUPP, Errno::XDEV] {
        let rig = Rig::new();
        hard_links(&rig, 200, b"#!/usr/bin/env ruby\n", "bin/0");
        let (code, said) = without_links(&rig, errno);
        assert_eq!(code, 0, "{errno}: {said}");
        for n in 0..=200 {
            let file = rig.deploy_to.join(format!("releases/v1/bin/{n}"));
            let meta = fs::metadata(&file).unwrap();
            assert_eq!((meta.nlink(), meta.mode() & 0o777), (1, 0o755), "{errno}, {n}");
            assert_eq!(fs::read_to_string(file).unwrap(), "#!/usr/bin/env ruby\n");
        }
        assert!(
            rig.ok(&["verify-tree", "v1"]).contains("matches what was published"),
            "compared with real links"
        );
    }
    let rig = Rig::new();
    hard_links(&rig, 1, b"x", "bin/0");
    let (code, said) = without_links(&rig, Errno::NOSPC);
    assert!(code != 0 && said.contains("No space left"), "{said}");
}

#[test]
fn what_a_volume_says_of_links_to_directories_is_no_reason_to_copy_them() {
    let rig = Rig::new();
    hard_links(&rig, 1, b"x", "bin");
    let (code, said) = without_links(&rig, rustix::io::Errno::PERM);
    assert!(
        code == 1 && said.contains("\"bin/1\" is a link to \"bin\", which is no file before it"),
        "{said}"
    );
}

#[test]
fn copies_count_as_what_they_take() {
    let rig = Rig::new();
    hard_links(&rig, 20, &vec![0; 32 << 20], "bin/0");
    let (code, said) = without_links(&rig, rustix::io::Errno::MLINK);
    assert!(
        code == 1 && said.contains(Reason::ReleaseCorrupt.code()) && said.contains("unpacks to more than"),
        "{said}"
    );
}

#[test]
fn what_the_volume_says_to_a_writer_is_what_the_fetch_says() {
    use rustix::io::Errno;
    let rig = Rig::new();
    let app = rig.app("v1");
    (0..100).for_each(|n| fs::create_dir(app.join(n.to_string())).unwrap());
    rig.promote("v1");
    rig.ok(&["fetch"]);
    // The places are there, the release is not.
    fs::remove_file(rig.current()).unwrap();
    fs::remove_dir_all(rig.deploy_to.join("releases/v1")).unwrap();
    for (call, errno, reason, words) in [
        ("mkdirat", Errno::STALE, Reason::VolumeUnavailable, "Stale file handle"),
        ("mkdirat", Errno::NOSPC, Reason::NoSpace, "No space left"),
        ("mkdirat", Errno::ROFS, Reason::VolumeUnavailable, "the volume is read-only"),
        ("create", Errno::STALE, Reason::VolumeUnavailable, "Stale file handle"),
        (
            "create",
            Errno::DQUOT,
            Reason::NoSpace,
            "is used up: raise the quota, free space, or lower keep_releases",
        ),
        ("symlinkat", Errno::IO, Reason::VolumeUnavailable, "link.ru"),
    ] {
        let (code, said) = without(call, &rig, errno);
        assert!(code == 1 && said.contains(reason.code()) && said.contains(words), "{call} {errno}: {said}");
        rig.releases().clean_leftovers(&at_once).unwrap();
        assert_eq!(rig.leftovers(), Vec::<String>::new());
    }
    rig.ok(&["fetch"]);
    assert_eq!(rig.release_at_current().as_deref(), Some("v1"));
}
