//! Files that are too large for the memory: piece by piece, each through one writer.

use std::borrow::Borrow;

use sha2::{Digest, Sha256};

use super::{
    inside::Inside,
    manifest::{Entry, FileEntry},
    tree::{Tree, is_same},
    tree_node::Node,
    unpack_error::UnpackError,
    write_queue::Work,
    writers::{ASIDE, Large},
};

/// A file of a spare tree's size is held in memory up to here, until it is known whether it is the same.
const HELD_BYTES: usize = 8 << 20;

/// A file on its way that is too large for the memory.
pub(super) struct LargeFile {
    path: Inside,
    mode: u32,
    hash: Sha256,
    bytes: u64,
    way: Way,
}

enum Way {
    Nowhere,
    /// It differs from what is there.
    Written(Large),
    /// It may be what is there.
    Held(Vec<u8>),
    /// The same, and too large to be held: written beside the tree.
    Beside(String, Large),
}

impl Tree {
    /// A new file of so many bytes, whose content follows.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub(super) fn begin(&mut self, path: &Inside, mode: u32, bytes: u64) -> Result<LargeFile, UnpackError> {
        self.links.remove(path);
        let place = self.place(path)?;
        let mode = (mode | 0o400) & !self.umask;
        let may_be = |was: &Entry| matches!(was, Entry::File(f) if f.bytes == bytes && f.mode == mode);
        let way = if self.child(&place).is_none()
            && self.before.as_ref().is_some_and(|before| before.has(path.borrow(), may_be))
        {
            Way::Held(Vec::new())
        } else {
            self.clear(&place, path.borrow(), |_| false)?;
            match &self.writers {
                Some(writers) => Way::Written(writers.large(place.dir, &place.name, mode)?),
                None => Way::Nowhere,
            }
        };
        Ok(LargeFile { path: path.clone(), mode, hash: Sha256::new(), bytes, way })
    }

    /// The next piece of a large file.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub(super) fn piece(&mut self, large: &mut LargeFile, piece: Vec<u8>) -> Result<(), UnpackError> {
        large.hash.update(&piece);
        match &mut large.way {
            Way::Nowhere => Ok(()),
            Way::Written(file) | Way::Beside(_, file) => file.push(piece),
            Way::Held(held) if held.len() + piece.len() <= HELD_BYTES => {
                held.extend(piece);
                Ok(())
            }
            Way::Held(held) => {
                let held = std::mem::take(held);
                let name = self.name_aside();
                let Some(writers) = &self.writers else { return Ok(()) };
                let file = writers.large(ASIDE, name.as_bytes(), large.mode)?;
                file.push(held)?;
                let done = file.push(piece);
                large.way = Way::Beside(name, file);
                done
            }
        }
    }

    /// All of a large file is there.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub(super) fn end(&mut self, large: LargeFile) -> Result<(), UnpackError> {
        let LargeFile { path, mode, hash, bytes, way } = large;
        let entry = FileEntry { mode, bytes, sha256: hash.finalize().into(), identity: None };
        let place = self.place(&path)?;
        match way {
            Way::Nowhere => {}
            Way::Written(file) => file.end(),
            Way::Held(content) => {
                if !self.clear(&place, path.borrow(), |was| is_same(was, &entry))?
                    && let Some(writers) = &self.writers
                {
                    let file = writers.large(place.dir, &place.name, mode)?;
                    file.push(content)?;
                    file.end();
                }
            }
            Way::Beside(name, file) => {
                file.end();
                let same = self.clear(&place, path.borrow(), |was| is_same(was, &entry))?;
                if let Some(writers) = &self.writers {
                    if same {
                        writers.submit(ASIDE, name.as_bytes(), Work::Unlink)?;
                    } else {
                        // It has a name by then.
                        self.settle()?;
                        writers.submit(place.dir, &place.name, Work::TakeFrom(name))?;
                    }
                }
            }
        }
        self.insert(place, Node::File { entry, linked: false });
        Ok(())
    }
}
