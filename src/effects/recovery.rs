//! Where the pod stands, by what the volume says when the agent starts.

use super::{Effects, volume_work::on};
use crate::{
    core::{Problem, Recovered, history::Neighbours},
    revision::ReleaseId,
    revisions_log::{self, Log},
};

impl Effects {
    /// Reads the journal and `current`, and names that release in this pod's lease.
    /// Takes as long as the volume does; it waits behind whatever effect is still under way there.
    ///
    /// # Errors
    /// `volume_unavailable` when the volume is not there or does not tell.
    pub async fn recover(&self) -> Result<Recovered, Problem> {
        let current = self.recover_current().await?;
        let (slot, path) = (self.log.clone(), self.tools.journal.clone());
        let (records, rejected_at) = on(&self.lines, move || {
            let (log, records) = Log::open(path)?;
            let rejected_at = log.rejected_at();
            *slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(log);
            Ok::<_, Problem>((records, rejected_at))
        })
        .await??;
        *self.rejected_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = rejected_at.into();
        let (boot_id, neighbours) = (revisions_log::boot_id(), self.recover_neighbours().await?);
        let (holder, known) = (self.holder.clone(), current.clone());
        on(&self.volume, move || holder.begin(known.as_ref())).await?;
        Ok(Recovered { current, records, boot_id, neighbours })
    }

    /// What other pods of the volume have found out, as far as it is still there.
    async fn recover_neighbours(&self) -> Result<Neighbours, Problem> {
        let tools = self.tools.clone();
        on(&self.volume, move || {
            let mut neighbours = revisions_log::neighbours(&tools.journal);
            neighbours.verified.retain(|release| tools.releases.is_complete(release).unwrap_or(false));
            neighbours
        })
        .await
    }

    async fn recover_current(&self) -> Result<Option<ReleaseId>, Problem> {
        let tools = self.tools.clone();
        on(&self.volume, move || {
            tools.releases.check_volume()?;
            let current = tools.releases.current()?;
            if let Some(release) = &current {
                // Before anybody is told to start an app server: this pod's own directories are empty.
                tools.releases.prepare(release)?;
            }
            Ok(current)
        })
        .await?
    }
}
