//! `pitstop prune --store`: deletes the releases of a store that nobody needs, or says which those are.
//!
//! The digest is what makes an archive a release, so it goes first: from then on nobody can promote it, wherever this
//! is interrupted. Whoever had looked before that gets time to finish; if a pointer names the release then, its digest
//! is put back, and nothing else is gone yet.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde::Serialize;

use super::{
    Console, Exit, Failure,
    publish::{failure, usage},
};
use crate::{
    config::Config,
    revision::ReleaseId,
    store::{
        self, ArchiveKind, Body, Condition, Found, Store, StoreError,
        archive::DIGEST_LIMIT_BYTES,
        inventory::{self, Stored},
    },
};

mod needed;

use needed::Needed;

/// What is kept, and whether anything goes.
#[derive(Debug, Clone, Args)]
pub struct OfStore {
    /// Delete from the store instead of the volume: releases that no pointer, history, pod or rollout needs. Only lists them without --yes.
    #[arg(long, conflicts_with_all = ["dry_run", "keep"])]
    pub(super) store: bool,
    /// Delete what --store lists.
    #[arg(long, requires = "store")]
    yes: bool,
    /// Keep what the last N moves of each pointer named.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "store")]
    moves: u64,
    /// Keep what was published within this time; pods that have not reported for so long (a day at least) need nothing.
    #[arg(long, value_name = "DURATION", default_value = "7d", requires = "store", value_parser = humantime::parse_duration)]
    min_age: Duration,
    /// The time for others to finish a promote that they have started, before an archive is deleted.
    #[arg(long, value_name = "DURATION", default_value = "1m", requires = "store", value_parser = humantime::parse_duration)]
    settle: Duration,
}

/// What was deleted, or would be.
#[derive(Debug, Default, Serialize)]
struct Answer {
    dry_run: bool,
    deleted: Vec<Gone>,
    kept: Vec<Kept>,
    failed: Vec<String>,
    /// Of all that is deleted.
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Gone {
    release: ReleaseId,
    bytes: u64,
    /// When the last of it was written (RFC 3339).
    written_at: String,
    /// It has a digest: else it is what a publish or a deletion left.
    complete: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Kept {
    release: ReleaseId,
    why: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "would delete" } else { "deleted" };
        for Gone { release, bytes, written_at, complete } in &self.deleted {
            let unfinished = if *complete { "" } else { ", unfinished" };
            let day = written_at.get(..10).unwrap_or(written_at);
            writeln!(f, "{verb} {release} ({}, of {day}{unfinished})", megabytes(*bytes))?;
        }
        for Kept { release, why } in &self.kept {
            writeln!(f, "keeps {release}: {why}")?;
        }
        for what in &self.failed {
            writeln!(f, "could not be deleted: {what}")?;
        }
        let (gone, all) = (self.deleted.len(), self.deleted.len() + self.kept.len() + self.failed.len());
        let end = if self.dry_run { "would go" } else { "gone" };
        write!(f, "{gone} of {all} releases {end}, {}", megabytes(self.bytes))?;
        if self.dry_run && gone > 0 {
            f.write_str("; --yes deletes them")?;
        }
        Ok(())
    }
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

/// Looks, and with `--yes` deletes; [`Exit::Failed`] when something could not be deleted.
///
/// # Errors
/// [`Failure`] with the message for the user: nothing was deleted.
pub(crate) async fn run(config: &Config, args: OfStore, console: Console) -> Result<Exit, Failure> {
    if config.pointer.starts_with("file:") {
        return Err(Failure::usage(
            "the pointer is a file, and what files name in other places is not seen: delete releases by hand",
        ));
    }
    let store = store::open(config.source.as_deref(), &config.s3).map_err(usage)?;
    console.pulse("looking at pointers, rollouts, moves and pods …");
    // What is needed is read last: it may name what was just published, and never the other way round.
    let stored = inventory::list(store.as_ref()).await.map_err(failure)?;
    let mut clock = StoreClock::default();
    stored.iter().filter_map(|one| one.written_s).for_each(|written_s| clock.see(written_s));
    let needed = needed::by_anybody(&store, args.moves, args.min_age, &mut clock).await;
    let needed = needed.map_err(nothing_deleted)?;
    let (going, kept) = judge(stored, &needed, args.min_age, clock.now_s());
    let mut answer = Answer { dry_run: !args.yes, kept, ..Answer::default() };
    if args.yes {
        let deletion = Deletion { store: &store, answer: &mut answer, console };
        deletion.of(going, args.settle).await.map_err(nothing_deleted)?;
    } else {
        going.iter().for_each(|stored| answer.gone(stored));
    }
    console.pulse("");
    console.print(&answer);
    Ok(if answer.failed.is_empty() { Exit::Done } else { Exit::Failed })
}

fn nothing_deleted(failure: Failure) -> Failure {
    Failure { message: format!("{}; nothing was deleted", failure.message), ..failure }
}

/// The store's own time, as far as it is known: nobody asks it, so it may be too early and is never too late. Then too
/// much is kept, whatever the clock of this machine says.
#[derive(Debug, Default)]
struct StoreClock {
    newest_s: u64,
}

impl StoreClock {
    /// When an object was written, in seconds since 1970 by the store's clock.
    fn see(&mut self, written_s: u64) {
        self.newest_s = self.newest_s.max(written_s);
    }

    /// Seconds since 1970. An object of a directory may have a time in the future, so this machine's clock is a bound.
    fn now_s(&self) -> u64 {
        let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.newest_s.min(here.as_secs())
    }
}

fn judge(stored: Vec<Stored>, needed: &Needed, min_age: Duration, now_s: u64) -> (Vec<Stored>, Vec<Kept>) {
    let (mut going, mut kept) = (Vec::new(), Vec::new());
    for one in stored {
        let age = one.written_s.and_then(|at| now_s.checked_sub(at)).map(Duration::from_secs);
        let young = || format!("written within {}", humantime::format_duration(min_age));
        let why = match needed.why(&one.release) {
            Some(why) => Some(why.to_owned()),
            None => age.is_none_or(|age| age < min_age).then(young),
        };
        match why {
            Some(why) => kept.push(Kept { release: one.release, why }),
            None => going.push(one),
        }
    }
    (going, kept)
}

impl Answer {
    fn gone(&mut self, stored: &Stored) {
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(stored.written_s.unwrap_or_default());
        self.bytes += stored.bytes;
        self.deleted.push(Gone {
            release: stored.release.clone(),
            bytes: stored.bytes,
            written_at: humantime::format_rfc3339_seconds(written).to_string(),
            complete: !stored.digests.is_empty(),
        });
    }
}

/// A release whose digests are gone, or may be, with what they said.
struct Withdrawn {
    stored: Stored,
    digests: Vec<(String, Vec<u8>)>,
}

impl Withdrawn {
    /// What stands in the store now, and what makes it a release again.
    fn left(&self) -> String {
        let release = &self.stored.release;
        let digests = self.digests.iter().map(|(key, bytes)| {
            let line = String::from_utf8_lossy(bytes);
            format!("write `{}` into {key}", line.lines().next().unwrap_or_default().trim())
        });
        let digests = digests.collect::<Vec<_>>().join(" and ");
        format!(
            "{release} cannot be promoted now: its archive is in the store, its digest is not. Publish {release} \
             again, or {digests}"
        )
    }
}

struct Deletion<'a> {
    store: &'a Arc<dyn Store>,
    answer: &'a mut Answer,
    console: Console,
}

impl Deletion<'_> {
    /// # Errors
    /// [`Failure`] when nothing has been touched yet; afterwards what went wrong is part of the answer.
    async fn of(mut self, going: Vec<Stored>, settle: Duration) -> Result<(), Failure> {
        let mut withdrawn = Vec::new();
        let mut touched = false;
        for stored in going {
            match needed::at_once(self.store).await {
                Ok(needed) if needed.why(&stored.release).is_some() => self.keep(stored.release, &needed),
                Ok(_) => {
                    touched = true;
                    withdrawn.extend(self.withdraw(stored).await);
                }
                Err(failure) if !touched => return Err(failure),
                Err(failure) => self.answer.failed.push(format!("{}: {failure}", stored.release)),
            }
        }
        if withdrawn.iter().any(|one| !one.digests.is_empty()) {
            self.console.pulse(&format!(
                "waiting {} for those who are promoting …",
                humantime::format_duration(settle)
            ));
            tokio::time::sleep(settle).await;
        }
        for one in withdrawn {
            let release = one.stored.release.clone();
            match needed::at_once(self.store).await {
                Ok(needed) => match needed.why(&release) {
                    None => self.delete(one).await,
                    Some(why) => {
                        if self.put_back(one, why).await {
                            self.keep(release, &needed);
                        }
                    }
                },
                Err(failure) => {
                    let why = failure.to_string();
                    if self.put_back(one, &why).await {
                        self.answer.failed.push(format!("{release}: {why}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, release: ReleaseId, needed: &Needed) {
        let why = needed.why(&release).unwrap_or_default().to_owned();
        self.answer.kept.push(Kept { release, why });
    }

    fn fail(&mut self, release: &ReleaseId, error: &StoreError) {
        self.answer.failed.push(format!("{release}: {error}"));
    }

    /// Takes the digests away, and with them the release.
    async fn withdraw(&mut self, stored: Stored) -> Option<Withdrawn> {
        self.console.pulse(&format!("deleting {} …", stored.release));
        let mut one = Withdrawn { digests: Vec::new(), stored };
        for key in one.stored.digests.clone() {
            let taken = match self.store.get(&key, None, DIGEST_LIMIT_BYTES).await {
                Ok(Found::Object { bytes, .. }) => {
                    let deleted = self.store.delete(&key).await;
                    // Whatever else went wrong, it may be gone.
                    if !matches!(deleted, Err(StoreError::Denied(_))) {
                        one.digests.push((key.clone(), bytes));
                    }
                    deleted
                }
                Ok(Found::Absent | Found::NotModified) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                let release = one.stored.release.clone();
                if self.put_back(one, &error.to_string()).await {
                    self.fail(&release, &error);
                }
                return None;
            }
        }
        Some(one)
    }

    /// Whether it is a release again. `why` is what it has to be one for.
    async fn put_back(&mut self, one: Withdrawn, why: &str) -> bool {
        for (key, bytes) in &one.digests {
            match self.store.put(key, Body::Bytes(bytes.clone()), Condition::Absent).await {
                Ok(_) | Err(StoreError::Changed(_)) => {}
                Err(error) => {
                    let (release, left) = (&one.stored.release, one.left());
                    self.answer.failed.push(format!(
                        "{release}: {why}; then its digest could not be put back: {error}. {left}"
                    ));
                    return false;
                }
            }
        }
        true
    }

    /// All the rest, the archive last. What is not known to be withdrawn still stays.
    async fn delete(&mut self, one: Withdrawn) {
        let release = one.stored.release.clone();
        self.console.pulse(&format!("deleting {release} …"));
        match self.is_published(&one.stored).await {
            Ok(false) => {}
            Ok(true) => {
                let why = "it was published again meanwhile".into();
                return self.answer.kept.push(Kept { release, why });
            }
            Err(error) => {
                if self.put_back(one, &error.to_string()).await {
                    self.fail(&release, &error);
                }
                return;
            }
        }
        for key in &one.stored.others {
            if let Err(error) = self.store.delete(key).await {
                return self.answer.failed.push(format!(
                    "{release}: {error}. It cannot be promoted any more: run this again to delete the rest of it"
                ));
            }
        }
        match self.is_published(&one.stored).await {
            Ok(false) => self.answer.gone(&one.stored),
            Ok(true) => self.answer.failed.push(format!(
                "{release} was published again in this very moment: publish it once more, so that it is whole"
            )),
            Err(error) => self.answer.failed.push(format!(
                "{release} is deleted, but whether it was published again in this very moment is unknown: {error}. \
                 If it was, publish it once more"
            )),
        }
    }

    /// Also one that had no digest may have got one.
    async fn is_published(&self, stored: &Stored) -> Result<bool, StoreError> {
        for kind in ArchiveKind::ALL {
            match self.store.get(&kind.digest_key(&stored.release), None, DIGEST_LIMIT_BYTES).await {
                Ok(Found::Object { .. }) | Err(StoreError::TooLarge { .. }) => return Ok(true),
                Ok(Found::Absent | Found::NotModified) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_young_or_of_unknown_age_stays() {
        let stored = |release: &str, written_s| Stored {
            release: release.parse().unwrap(),
            digests: vec![format!("releases/{release}.tar.zst.sha256")],
            others: Vec::new(),
            bytes: 1,
            written_s,
        };
        let all = vec![stored("old", Some(100)), stored("young", Some(151)), stored("undated", None)];
        let (going, kept) = judge(all, &Needed::default(), Duration::from_secs(50), 200);
        assert_eq!(going, [stored("old", Some(100))]);
        assert_eq!(kept.iter().map(|one| one.release.as_str()).collect::<Vec<_>>(), ["young", "undated"]);
        assert_eq!(kept[0].why, "written within 50s");
        // What was written after all that is known deletes nothing.
        let (going, _) = judge(vec![stored("old", Some(300))], &Needed::default(), Duration::ZERO, 200);
        assert!(going.is_empty());
    }

    #[test]
    fn the_stores_time_is_that_of_its_newest_object_and_never_later_than_here() {
        let mut clock = StoreClock::default();
        [100, 200, 150].into_iter().for_each(|written_s| clock.see(written_s));
        assert_eq!(clock.now_s(), 200, "whatever the clock of this machine says");
        clock.see(u64::MAX);
        let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!((200..=here).contains(&clock.now_s()), "an object of the future makes nothing old");
    }
}
