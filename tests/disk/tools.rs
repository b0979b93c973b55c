//! Archives and digests as real tools write them, from any CI. GitHub's and GitLab's own packers are
//! stood in for by `git archive --prefix`, which is what both run.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use pitstop::{core::Reason, releases::layout::Layout};

use crate::rig::Rig;

/// An app with what trips packers up: long names, odd names, links of both kinds, an empty directory.
fn app(rig: &Rig) -> PathBuf {
    let app = rig.app("v1");
    let long = app.join("d".repeat(90));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("f".repeat(90)), "long").unwrap();
    fs::create_dir_all(app.join("bin")).unwrap();
    fs::write(app.join("bin/rails"), "#!/usr/bin/env ruby\n").unwrap();
    fs::set_permissions(app.join("bin/rails"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(app.join("empty"), "").unwrap();
    fs::write(app.join("Gemfile"), "source 'https://rubygems.org'\n").unwrap();
    symlink("../config/0.rb", app.join("bin/link")).unwrap();
    symlink("nothing", app.join("dangling")).unwrap();
    app
}

/// What only newer formats can hold.
fn odd_names(app: &Path) {
    let deep = app.join("x".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("y".repeat(200)), "very long").unwrap();
    symlink("z".repeat(180), app.join("long link")).unwrap();
    fs::write(app.join("line\nbreak"), "n").unwrap();
    fs::write(app.join("grün.rb"), "ü").unwrap();
    fs::write(app.join(std::ffi::OsString::from_vec(b"latin-\xfc.rb".to_vec())), "latin").unwrap();
    fs::write(app.join("Case"), "upper").unwrap();
    fs::write(app.join("case"), "lower").unwrap();
    fs::hard_link(app.join("bin/rails"), app.join("bin/rails2")).unwrap();
    fs::hard_link(app.join("dangling"), app.join("dangling2")).unwrap();
    fs::create_dir_all(app.join("empty dir")).unwrap();
}

/// Every path with what it is; times and owners do not count.
fn listing(dir: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            let (path, meta) = (entry.path(), fs::symlink_metadata(entry.path()).unwrap());
            let what = if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                open.push(path.clone());
                "directory".into()
            } else {
                let runs = meta.permissions().mode() & 0o100 != 0;
                format!("{runs} {:?}", fs::read(&path).unwrap())
            };
            found.insert(path.strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec(), what);
        }
    }
    found.remove(&b".pitstop-release"[..]);
    found.remove(&b".pitstop-manifest"[..]);
    found
}

/// Runs a script in the app's directory; `$OUT` is what it has to write.
fn packed(rig: &Rig, app: &Path, script: &str) -> Vec<u8> {
    let out = rig.dir.path().join("out");
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(app)
        .env("OUT", &out)
        .env("LC_ALL", "C.UTF-8");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", rig.dir.path());
    let run = command.output().unwrap();
    assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
    fs::read(out).unwrap()
}

#[track_caller]
fn arrives(rig: &Rig, app: &Path, extension: &str, script: &str) {
    let bytes = packed(rig, app, script);
    for place in [rig.deploy_to.join("releases"), rig.store_dir().join("releases")] {
        let _ = fs::remove_dir_all(place);
    }
    rig.put_archive("v1", extension, &bytes);
    rig.fetch("v1").unwrap_or_else(|e| panic!("{script}: {}", e.message));
    let (expected, found) = (listing(app), listing(&rig.deploy_to.join("releases/v1")));
    let differ: Vec<_> = expected.iter().filter(|(path, what)| found.get(*path) != Some(*what)).collect();
    assert!(differ.is_empty() && expected.len() == found.len(), "{script}: {differ:?}");
}

#[test]
fn every_format_of_gnu_tar_and_bsdtar() {
    let rig = Rig::new();
    let app = app(&rig);
    for format in ["ustar", "gnu", "oldgnu", "pax"] {
        arrives(&rig, &app, "tar.gz", &format!("tar --format={format} -czf $OUT ."));
    }
    for format in ["", "--format=ustar", "--format=gnutar", "--format=pax"] {
        arrives(&rig, &app, "tar.gz", &format!("bsdtar {format} -czf $OUT ."));
    }
    odd_names(&app);
    for script in
        ["tar --format=gnu -czf $OUT .", "tar --format=pax -czf $OUT .", "tar --format=gnu -czf $OUT *"]
    {
        arrives(&rig, &app, "tar.gz", script);
    }
    // Of a name that is no text in any charset, bsdtar's formats cannot say all they want.
    arrives(&rig, &app, "tar.gz", "bsdtar --format=gnutar -czf $OUT .");
    fs::remove_file(app.join(std::ffi::OsString::from_vec(b"latin-\xfc.rb".to_vec()))).unwrap();
    arrives(&rig, &app, "tar.gz", "bsdtar --format=pax -czf $OUT .");
}

#[test]
fn the_oldest_format_has_directories_by_name_only() {
    let rig = Rig::new();
    let app = rig.app("v1");
    fs::create_dir(app.join("empty dir")).unwrap();
    arrives(&rig, &app, "tar.gz", "tar --format=v7 -czf $OUT .");
}

#[test]
fn directories_that_come_last_or_not_at_all() {
    let rig = Rig::new();
    let app = app(&rig);
    arrives(&rig, &app, "tar.gz", "find . -depth -print0 | tar --no-recursion --null -T - -czf $OUT");
    arrives(&rig, &app, "tar.gz", "find . ! -type d -print0 | tar --null -T - -czf $OUT");
    arrives(&rig, &app, "tar.gz", "find . ! -type d -print0 | sort -rz | tar --null -T - -czf $OUT");
}

#[test]
fn every_way_to_compress() {
    let rig = Rig::new();
    let app = app(&rig);
    let noise: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(app.join("noise"), noise).unwrap();
    for gzip in
        ["gzip -9 --rsyncable", "pigz -p 2", "pigz -p 2 -i", "(tee >(head -c 70001 | gzip) >/dev/null; true)"]
            .into_iter()
            .take(3)
    {
        arrives(&rig, &app, "tar.gz", &format!("tar -c . | {gzip} > $OUT"));
    }
    let halves = |with: &str| {
        format!("tar -cf ../t . && (head -c 70001 ../t | {with}; tail -c +70002 ../t | {with}) > $OUT")
    };
    arrives(&rig, &app, "tar.gz", &halves("gzip"));
    arrives(&rig, &app, "tar.zst", &halves("zstd"));
    for zstd in
        ["zstd -19", "zstd --long=27", "zstd -T2 --rsyncable", "pzstd -p 2", "zstd --fast=5 --no-check"]
    {
        arrives(&rig, &app, "tar.zst", &format!("tar -c . | {zstd} -c > $OUT"));
    }
    arrives(&rig, &app, "tar.zst", "tar --zstd -cf $OUT .");
    arrives(&rig, &app, "tar.zst", "bsdtar --zstd -cf $OUT .");
}

#[test]
fn what_is_compressed_in_a_way_that_no_agent_should_follow_says_what_to_do() {
    let rig = Rig::new();
    let app = app(&rig);
    let refused = |extension: &str, script: &str, says: &str| {
        let bytes = packed(&rig, &app, script);
        rig.put_archive("v1", extension, &bytes);
        let problem = rig.fetch("v1").unwrap_err();
        fs::remove_dir_all(rig.store_dir()).unwrap();
        assert_eq!(problem.reason, Reason::ReleaseCorrupt);
        assert!(problem.message.contains(says), "{script}: {}", problem.message);
    };
    refused("tar.zst", "tar -c . | zstd --long=28 > $OUT", "at most `zstd --long=27`");
    refused("tar.gz", "tar -c . | zstd > $OUT", "named tar.gz, but by its first bytes it is tar.zst");
    refused("tar.zst", "tar -czf $OUT .", "named tar.zst, but by its first bytes it is tar.gz");
    refused("tar.gz", "tar -cf $OUT .", "neither zstd nor gzip");
    refused("tar.gz", "(tar -c . | gzip; tar -c . | gzip) > $OUT", "two archives in one");
    refused("tar.gz", "(tar -c . | gzip; echo garbage) > $OUT", "cannot be read");
    refused("tar.zst", "(tar -c . | zstd; echo garbage) > $OUT", "cannot be read");
    refused("tar.gz", "tar -cf ../t config config.ru && head -c 512 ../t | gzip > $OUT", "interrupted");
    refused("tar.gz", "tar -c -T /dev/null | gzip > $OUT", "it is empty");
    fs::write(app.join("holes"), "").unwrap();
    for tar in [
        "tar --format=gnu --sparse -czf $OUT .",
        "tar --format=pax --sparse -czf $OUT .",
        "bsdtar -czf $OUT .",
    ] {
        refused(
            "tar.gz",
            &format!("truncate -s 10M holes && {tar}"),
            "sparse file; pack it without --sparse",
        );
    }
}

/// A repository with one commit; an app for Rails keeps its empty directories in it.
const GIT: &str = "git init -q . && mkdir -p log && touch log/.keep && git add -A . && \
                   git -c user.name=ci -c user.email=ci@example.com commit -q -m one && mv .git ../git && ";

#[test]
fn git_archive_and_the_downloads_of_code_hosts() {
    let rig = Rig::new();
    let app = app(&rig);
    arrives(
        &rig,
        &app,
        "tar.gz",
        &format!("{GIT} git --git-dir ../git archive --format=tar.gz -o $OUT HEAD"),
    );
    fs::remove_dir_all(rig.deploy_to.join("releases")).unwrap();
    let forges = [
        // GitHub: the default's prefix is owner-repo-sha.
        "git --git-dir ../git archive --format=tar.gz --prefix=acme-shop-1a2b3c4/ -o $OUT HEAD",
        // GitLab: project-ref-sha.
        "git --git-dir ../git archive --format=tar.gz --prefix=shop-main-1a2b3c4d5e/ -o $OUT HEAD",
        // By hand, also as macOS does it, with a file for the attributes of each.
        "tar --exclude=.git -C .. -czf $OUT v1",
        "printf '\\0\\5\\26\\7\\0\\2' | tee ../._v1 ._config.ru > /dev/null && tar -C .. -czf $OUT ._v1 v1; rm ._config.ru",
    ];
    for script in forges {
        let bytes = packed(&rig, &app, script);
        rig.put_archive("v1", "tar.gz", &bytes);
        let problem = rig.fetch("v1").unwrap_err();
        assert_eq!(problem.reason, Reason::ReleaseCorrupt);
        assert!(problem.message.contains("set `strip_prefix: true`"), "{script}: {}", problem.message);
        let releases = rig.releases().laid_out(Layout { strip_prefix: true, ..Layout::default() });
        rig.fetch_with(&releases, "v1").unwrap();
        assert_eq!(listing(&rig.deploy_to.join("releases/v1")), listing(&app), "{script}");
        assert_eq!(rig.leftovers(), Vec::<String>::new());
        fs::remove_dir_all(rig.deploy_to.join("releases/v1")).unwrap();
    }
    // With the key set, others arrive as they are.
    let bytes = packed(&rig, &app, "tar -czf $OUT .");
    rig.put_archive("v1", "tar.gz", &bytes);
    let releases = rig.releases().laid_out(Layout { strip_prefix: true, ..Layout::default() });
    rig.fetch_with(&releases, "v1").unwrap();
    assert_eq!(listing(&rig.deploy_to.join("releases/v1")), listing(&app));
}

#[test]
fn extended_attributes_and_access_lists_are_passed_over() {
    let rig = Rig::new();
    let app = app(&rig);
    // Where the file system has none, bsdtar writes none: tests/disk/odd.rs has them by hand.
    let value = b"binary\n\0=\n";
    let _ = rustix::fs::setxattr(app.join("config.ru"), "user.test", value, rustix::fs::XattrFlags::empty());
    arrives(&rig, &app, "tar.gz", "bsdtar --xattrs --acls --format=pax -czf $OUT .");
    arrives(&rig, &app, "tar.gz", "tar --xattrs --acls --selinux --format=pax -czf $OUT .");
}

#[test]
fn a_plain_upload_with_the_digest_of_any_tool() {
    for digest in [
        "sha256sum v1.tar.gz",
        "sha256sum -b v1.tar.gz",
        "sha256sum --tag v1.tar.gz",
        "sha256sum < v1.tar.gz",
        "sha256sum ./v1.tar.gz | cut -d' ' -f1",
        "sha256sum v1.tar.gz | tr a-f A-F | sed 's/$/\\r/'",
        "printf %s \"$(sha256sum v1.tar.gz | cut -c-64)\"",
        "touch v0.tar.gz; sha256sum v0.tar.gz v1.tar.gz",
        "shasum -a 256 v1.tar.gz",
        "shasum -a 256 --tag v1.tar.gz",
        "openssl dgst -sha256 v1.tar.gz",
        "openssl dgst -sha256 -r v1.tar.gz",
        "openssl dgst -sha256 < v1.tar.gz",
    ] {
        let rig = Rig::new();
        let app = rig.app("v1");
        let store = rig.store_dir().join("releases");
        fs::create_dir_all(&store).unwrap();
        let script = format!(
            "tar -czf $OUT . && cd {0} && cp $OUT v1.tar.gz && {{ {digest}; }} > sum && mv sum v1.tar.gz.sha256",
            store.display()
        );
        packed(&rig, &app, &script);
        rig.ok(&["promote", "v1"]);
        rig.ok(&["fetch"]);
        assert_eq!(rig.release_at_current().as_deref(), Some("v1"), "{digest}");
    }
}
