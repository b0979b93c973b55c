//! What the archive of a published release holds.

use super::{
    Releases,
    download::Patience,
    fetch::{Failed, Wanted},
    layout::Layout,
    manifest::Manifest,
    unpack::Destination,
};
use crate::{
    core::{Problem, Reason},
    revision::ReleaseId,
    store::Blocking,
};

impl Releases {
    /// Reads the whole archive and writes nothing. The links that this pod would add are not part of the answer.
    ///
    /// # Errors
    /// As [`Releases::fetch`].
    pub(crate) fn archive_manifest(&self, store: &Blocking, id: &ReleaseId) -> Result<Manifest, Problem> {
        let published = store.require(id)?;
        let plain = Layout { strip_prefix: self.layout.strip_prefix, ..Layout::default() };
        let wanted = Wanted { store, id, published: &published };
        let read = self.clone().laid_out(plain).read_published(
            wanted,
            Destination::Nowhere,
            &mut Patience::default(),
        );
        match read {
            Ok((unpacked, _)) => Ok(unpacked.manifest),
            Err(Failed::Problem(problem)) => Err(problem),
            Err(Failed::Changed(error)) => Err(error.into()),
            Err(Failed::Spare(why)) => Err(Problem::new(Reason::Internal, why)),
        }
    }
}
