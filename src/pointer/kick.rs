//! When the pointer is looked at again before its poll interval is over.

use std::{sync::Arc, time::Duration};

use notify::{
    EventKind,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use tokio::{sync::Notify, time::Instant};

/// A file that is being written is read after this pause, and two looks that were kicked are at least this far apart.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Makes the watch look now.
#[derive(Debug, Clone, Default)]
pub struct Kick(Arc<News>);

/// Wishes for a look; several of a kind are one.
#[derive(Debug, Default)]
struct News {
    /// There is something to be read.
    now: Notify,
    /// Something is being written.
    soon: Notify,
}

impl Kick {
    /// Looks now, or right after the look that is under way.
    pub fn now(&self) {
        self.0.now.notify_one();
    }

    /// The file system reports this; `None`: it has failed to.
    pub(super) fn hear(&self, event: Option<EventKind>) {
        match event.map_or(Some(Change::UnderWay), Change::of) {
            Some(Change::Complete) => self.0.now.notify_one(),
            Some(Change::UnderWay) => self.0.soon.notify_one(),
            None => {}
        }
    }

    /// Waits until it is time for another look. `last`: when this said so last.
    pub(super) async fn wait(&self, last: Option<Instant>) {
        tokio::select! {
            () = self.0.now.notified() => {}
            () = self.0.soon.notified() => tokio::select! {
                () = self.0.now.notified() => {}
                () = tokio::time::sleep(DEBOUNCE) => {}
            },
        }
        if let Some(last) = last {
            tokio::time::sleep_until(last + DEBOUNCE).await;
        }
    }
}

/// What an event says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// A file was put in its place, or whoever wrote it has closed it.
    Complete,
    /// There may be more to come.
    UnderWay,
}

impl Change {
    /// `None`: every read of the directory, our own included, is an access.
    fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Some(Self::Complete),
            EventKind::Access(_) => None,
            _ => Some(Self::UnderWay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_complete_is_read_at_once_and_what_is_being_written_is_not() {
        use notify::event::{CreateKind, DataChange};
        let renamed = |mode| Change::of(EventKind::Modify(ModifyKind::Name(mode)));
        let accessed = |kind| Change::of(EventKind::Access(kind));
        assert_eq!(renamed(RenameMode::To), Some(Change::Complete));
        assert_eq!(renamed(RenameMode::From), Some(Change::UnderWay), "it may be about to be replaced");
        assert_eq!(accessed(AccessKind::Close(AccessMode::Write)), Some(Change::Complete));
        assert_eq!(accessed(AccessKind::Close(AccessMode::Read)), None, "our own look");
        let created = EventKind::Create(CreateKind::File);
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert_eq!([created, written].map(Change::of), [Some(Change::UnderWay); 2]);
    }
}
