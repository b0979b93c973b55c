//! What a release ships beside the program: completions, man pages, and the list of what is in it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::CommandFactory;
use pitstop::cli::Cli;
use serde_json::Value;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn pitstop(args: &[&str]) -> String {
    said(Command::new(env!("CARGO_BIN_EXE_pitstop")).args(args))
}

/// What bash offers after `words`, of which the last one is to be completed.
fn completed(words: &[&str]) -> Vec<String> {
    let script = pitstop(&["completions", "bash"]);
    let last = words.len() - 1;
    let ask = format!(
        "{script}\nCOMP_WORDS=({})\nCOMP_CWORD={last}\n_pitstop pitstop '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words[last],
        words[last - 1],
    );
    said(Command::new("bash").args(["-c", &ask])).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_their_options() {
    assert_eq!(completed(&["pitstop", "pro"]), ["promote"]);
    assert_eq!(completed(&["pitstop", "rollback", "--if"]), ["--if-current"]);
    assert_eq!(completed(&["pitstop", "keygen", "rel"]), ["release"]);
}

#[test]
fn each_shell_has_a_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(pitstop(&["completions", shell]).contains("promote"), "{shell}");
    }
}

/// `make release` has them written to PITSTOP_MAN.
#[test]
fn every_command_has_a_man_page_that_groff_understands() {
    let own = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("PITSTOP_MAN").map_or(own.path().to_owned(), PathBuf::from);
    fs::create_dir_all(&dir).unwrap();
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &dir).unwrap();
    for command in Cli::command().get_subcommands() {
        let page = dir.join(format!("pitstop-{}.1", command.get_name()));
        assert_eq!(page.is_file(), !command.is_hide_set(), "{}", page.display());
    }
    for page in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
        let output =
            Command::new("groff").args(["-Kutf8", "-man", "-Tutf8", "-ww"]).arg(&page).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", page.display());
    }
    let page = said(Command::new("man").env("MANWIDTH", "80").arg(dir.join("pitstop-promote.1")));
    let plain: String = page.split('\u{8}').collect();
    assert!(plain.contains("pitstop-promote") && plain.contains("Move the pointer to a release"), "{plain}");
}

/// Text of the tree, below one of its directories.
fn sources(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn whatever_is_part_of_the_program_is_in_the_images_context() {
    let (mut files, context) = (Vec::new(), fs::read_to_string(root(".dockerignore")).unwrap());
    sources(&root("src"), &mut files);
    for (path, text) in files {
        for named in text.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let file = path.parent().unwrap().join(named).canonicalize().unwrap();
            let file = file.strip_prefix(root("").canonicalize().unwrap()).unwrap();
            let inside =
                file.starts_with("src") || context.lines().any(|line| line == format!("!{}", file.display()));
            assert!(inside, "{}: the image cannot be built without {}", path.display(), file.display());
        }
    }
}

/// All scripts of a pipeline, wherever they stand in it.
fn scripts(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::String(script) if ["run", "script"].contains(&key) => found.push(script.clone()),
        Value::Array(all) => all.iter().for_each(|one| scripts(one, key, found)),
        Value::Object(map) => map.iter().for_each(|(key, one)| scripts(one, key, found)),
        _ => {}
    }
}

#[test]
fn the_pipelines_make_a_release_and_push_it_by_scripts_that_there_are() {
    for pipeline in [".github/workflows/release.yml", ".gitlab-ci.yml"] {
        let text = fs::read_to_string(root(pipeline)).unwrap();
        let mut found = Vec::new();
        scripts(&serde_saphyr::from_str(&text).unwrap(), "", &mut found);
        assert!(found.contains(&"make release".to_owned()), "{pipeline}");
        let calls = found.iter().flat_map(|script| script.split_whitespace());
        let own: Vec<_> = calls.filter(|word| word.starts_with(".ci/")).collect();
        assert_eq!(own, [".ci/release-push"], "{pipeline}");
        for script in found.iter().map(String::as_str).chain(own.iter().copied()) {
            said(Command::new("bash").args(["-n", "-c", script]));
        }
        assert!(root(own[0]).is_file());
    }
}

#[test]
fn a_release_is_pushed_without_its_password_on_a_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let (release, programs) = (dir.path().join("release-1.2.3"), dir.path().join("bin"));
    [&release, &programs].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
    // Each says what it was called with, and takes the password from where it should be.
    let program = "#!/bin/sh\necho \"$(basename \"$0\") $*\" >>\"$CALLS\"\n\
        case \"$*\" in *login*) [ \"$(cat)\" = hunter2 ] || exit 1 ;; esac\n\
        case \"$*\" in *--digestfile*) echo sha256:abc >\"$4\" ;; esac\n";
    for name in ["skopeo", "helm"] {
        fs::write(programs.join(name), program).unwrap();
        fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for file in ["pitstop-1.2.3.tgz", "pitstop-1.2.3-image-linux-amd64.tar"] {
        fs::write(release.join(file), file).unwrap();
    }
    said(Command::new("sh").args(["-c", "sha256sum -- * >SHA256SUMS"]).current_dir(&release));
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let calls = dir.path().join("calls");
    let mut push = Command::new(root(".ci/release-push"));
    push.arg(&release).arg("Registry.example/Team").env("PATH", path).env("CALLS", &calls);
    let pushed = said(push.env("REGISTRY_USER", "ci").env("REGISTRY_PASSWORD", "hunter2"));
    assert_eq!(pushed, "image=registry.example/team/pitstop\ndigest=sha256:abc\n");
    let calls = fs::read_to_string(calls).unwrap();
    for call in ["skopeo login registry.example", "docker://registry.example/team/pitstop:1.2.3", "helm push"]
    {
        assert!(calls.contains(call), "{calls}");
    }
    assert!(!calls.contains("hunter2"), "{calls}");
    fs::write(release.join("pitstop-1.2.3.tgz"), "other bytes").unwrap();
    assert!(!push.stderr(Stdio::null()).status().unwrap().success());
}

#[test]
fn the_pipelines_name_actions_by_commit_and_no_secret_on_a_command_line() {
    let workflow = fs::read_to_string(root(".github/workflows/release.yml")).unwrap();
    let used = workflow.lines().filter_map(|line| line.split_once("uses: ")?.1.split_once('@'));
    let used: Vec<_> = used.collect();
    assert!(used.len() > 3);
    for (action, version) in used {
        let commit = version.split(' ').next().unwrap();
        assert!(commit.len() == 40 && version.contains(" # v"), "{action}@{version}");
    }
    let gitlab = fs::read_to_string(root(".gitlab-ci.yml")).unwrap();
    for line in workflow.lines().chain(gitlab.lines()) {
        for secret in ["$REGISTRY_PASSWORD", "$CI_JOB_TOKEN", "secrets."] {
            // `printf` is the shell's own.
            let said = line.split_once(secret).map(|(before, _)| before.trim().trim_start_matches("- "));
            let fine = |before: &str| {
                before.trim_start_matches("run: ").starts_with("printf ") || before.ends_with("${{")
            };
            assert!(said.is_none_or(fine), "{line}");
        }
    }
}

#[test]
fn the_list_of_parts_has_what_is_linked_in_and_nothing_of_the_tests() {
    let list = || {
        let mut command = Command::new(root(".ci/sbom"));
        command.env("SOURCE_DATE_EPOCH", "1700000000").env("CARGO_NET_OFFLINE", "true");
        said(command.arg("pkg:deb/debian/glibc@2.36-9 LGPL-2.1-or-later"))
    };
    let text = list();
    assert_eq!(text, list(), "the same parts make the same list");
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((list["bomFormat"].as_str(), list["specVersion"].as_str()), (Some("CycloneDX"), Some("1.5")));
    assert_eq!(list["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(list["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    let parts = list["components"].as_array().unwrap();
    let scope = |name: &str| parts.iter().find(|part| part["name"] == name).map(|part| part["scope"].clone());
    for linked in ["ring", "rustls", "aws-sdk-s3", "zstd-sys", "glibc"] {
        assert_eq!(scope(linked), Some("required".into()), "{linked}");
    }
    for built_with in ["cc", "syn", "clap_derive"] {
        assert_eq!(scope(built_with), Some("excluded".into()), "{built_with}");
    }
    for only_tested_with in ["proptest", "fantoccini", "clap_mangen", "pitstop-rig"] {
        assert_eq!(scope(only_tested_with), None, "{only_tested_with}");
    }
    let lock = fs::read_to_string(root("Cargo.lock")).unwrap();
    let glibc = parts.iter().find(|part| part["name"] == "glibc").unwrap();
    assert_eq!(glibc["version"], "2.36-9");
    assert_eq!(glibc["licenses"][0]["expression"], "LGPL-2.1-or-later");
    for part in parts.iter().filter(|part| part["name"] != "glibc") {
        let checksum = part["hashes"][0]["content"].as_str().unwrap();
        assert!(lock.contains(checksum) && part["licenses"][0]["expression"].is_string(), "{part}");
    }
}
