//! What is said where a parent could start a second server, and where it cannot.

use super::*;
use crate::{
    app_server::{
        memory::Memory,
        puma::{
            checks::{
                of,
                tests::{configured, found, well, with},
            },
            fit::Around,
            setup::RestartDir,
            snapshot::Snapshot,
        },
    },
    core::observation::Served,
    finding::{
        Severity::{Broken, Note},
        findings,
    },
    procs::memory::Container,
    slots::List,
};

/// Under a parent that has started it.
fn under_parent() -> Snapshot {
    let run = r#"{"number":1,"pid":100,"start_time":1,"release":"v1","role":"live","started_ms":1,"inherited":true}"#;
    let slot =
        |name: &str, run: &str| format!(r#"{{"slot":"{name}","weight":0,"queue_empty_ms":0,"run":{run}}}"#);
    let slots = [slot("a", run), slot("b", "null"), slot("c", "null")].join(",");
    let raw = format!(
        r#"{{"pid":1,"version":"1","shares":true,"addresses":["tcp://0.0.0.0:3000"],"slots":[{slots}]}}"#
    );
    let mut snapshot = well("6.6.0");
    snapshot.parent = Some(serde_json::from_str::<List>(&raw).unwrap());
    snapshot.memory.around = Around::given(&["bundle", "exec", "puma"], Memory::default());
    snapshot
}

fn said(snapshot: &Snapshot) -> String {
    let shown = of(snapshot).into_iter().map(|check| match check.outcome {
        Outcome::Found(finding) => {
            format!("{}: {} ({})", finding.code, finding.message, finding.fix)
        }
        Outcome::Fine(text) | Outcome::Unknown(text) => text,
    });
    let about: Vec<String> = shown.filter(|text| text.contains("beside")).collect();
    about.join("\n")
}

#[test]
fn where_a_second_server_is_possible_nothing_else_has_to_be() {
    let mut snapshot = under_parent();
    assert_eq!(found(&snapshot), []);
    assert_eq!(said(&snapshot), "beside: possible");
    configured(&mut snapshot, "preload_app!");
    assert_eq!(found(&snapshot), [], "clients wait for no boot, so phased need not be possible");
    snapshot.memory.next_puma = Some(("5.6.5".into(), "6.6.0".into()));
    let next = findings(&of(&snapshot)).remove(0);
    assert!(next.code == Code::PumaVersionDiffers && !next.message.contains("hot"), "{next:?}");
    snapshot.memory.next_puma = None;
    with(&mut snapshot, |setup| setup.restart_dir = Some(RestartDir::Never("PWD was not set".into())));
    assert_eq!(found(&snapshot), [("RESTART_DIR_PINNED", Note)], "a fresh start follows");
    snapshot.mode = RestartMode::Hot;
    let codes = found(&snapshot);
    assert!(
        codes.contains(&("RESTART_DIR_PINNED", Broken))
            && said(&snapshot).contains("restart.mode is another")
    );
}

#[test]
fn without_a_parent_it_is_offered_and_no_fault() {
    let mut snapshot = well("6.6.0");
    assert_eq!(found(&snapshot), []);
    assert!(said(&snapshot).contains("pitstop exec"), "{}", said(&snapshot));
    snapshot.mode = RestartMode::Beside;
    assert_eq!(found(&snapshot), [("BESIDE_UNAVAILABLE", Broken)]);
    assert!(said(&snapshot).contains("Nothing is deployed (config_invalid)"), "{}", said(&snapshot));
}

#[test]
fn what_speaks_against_it_is_found_with_what_happens_instead() {
    type Change = (&'static str, fn(&mut Snapshot));
    let changes: [Change; 6] = [
        ("this kernel refuses", |snapshot| {
            let list = snapshot.parent.as_mut().unwrap();
            list.unfit = Some("this kernel refuses the program that steers connections".into());
        }),
        ("unix:///run/puma.sock", |snapshot| {
            snapshot.processes.title.as_mut().unwrap().binds = vec!["unix:///run/puma.sock".into()];
        }),
        ("/srv/app/releases/v1/bin/puma", |snapshot| {
            snapshot.memory.around = Around::given(&["/srv/app/releases/v1/bin/puma"], Memory::default());
        }),
        ("control server listens on tcp://", |snapshot| {
            configured(snapshot, "activate_control_app 'tcp://127.0.0.1:9293'");
        }),
        ("configuration could not be read", |snapshot| snapshot.memory.setup = None),
        ("could not be looked into", |snapshot| snapshot.memory.around = Around::default()),
    ];
    for (words, change) in changes {
        let mut snapshot = under_parent();
        change(&mut snapshot);
        assert!(found(&snapshot).contains(&("BESIDE_UNAVAILABLE", Note)), "{words}");
        let text = said(&snapshot);
        assert!(text.contains(words) && text.contains("clients may wait while the app boots"), "{text}");
        snapshot.mode = RestartMode::Beside;
        assert!(found(&snapshot).contains(&("BESIDE_UNAVAILABLE", Broken)), "{words}");
        for mode in [RestartMode::Phased, RestartMode::Hot] {
            snapshot.mode = mode;
            assert!(!found(&snapshot).iter().any(|(code, _)| *code == "BESIDE_UNAVAILABLE"), "{words}");
        }
    }
}

#[test]
fn shares_that_are_judged_by_health_alone_are_said() {
    let mut snapshot = under_parent();
    let served = |errors| Served { requests: 9, errors, p95_ms: None };
    for (shifts, counted, wanted) in [
        (false, None, vec![]),
        (true, None, vec![("ERRORS_NOT_COUNTED", Note)]),
        (true, Some(served(None)), vec![("ERRORS_NOT_COUNTED", Note)]),
        (true, Some(served(Some(0))), vec![]),
    ] {
        (snapshot.shifts, snapshot.memory.counted) =
            (shifts, counted.map(|served| (1, served)).into_iter().collect());
        assert_eq!(found(&snapshot), wanted);
    }
    snapshot.parent.as_mut().unwrap().shares = false;
    assert_eq!(found(&snapshot), [("SHARES_UNAVAILABLE", Note)], "a parent of an earlier version");
    (snapshot.memory.counted, snapshot.mode) = (Default::default(), RestartMode::Hot);
    assert!(!found(&snapshot).iter().any(|(code, _)| *code == "ERRORS_NOT_COUNTED"), "there are no shares");
}

#[test]
fn memory_that_does_not_do_is_found_with_the_limit_that_would() {
    const MIB: u64 = 1 << 20;
    let mut snapshot = under_parent();
    let container = |mib| Some(Container { limit: mib * MIB, taken: Some(300 * MIB) });
    snapshot.memory.around = Around::given(&["puma"], Memory::given(container(512), [(1, 250 * MIB)]));
    assert_eq!(found(&snapshot), [("BESIDE_NO_MEMORY", Note)]);
    assert!(said(&snapshot).contains("to 612Mi"), "{}", said(&snapshot));
    snapshot.memory.around = Around::given(&["puma"], Memory::given(container(612), [(1, 250 * MIB)]));
    assert_eq!(found(&snapshot), []);
    assert!(said(&snapshot).contains("612 MiB"), "{}", said(&snapshot));
}
