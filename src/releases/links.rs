//! The symbolic links of a tree, before any of them is made: where they lead, through each other as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    ops::Bound,
};

use super::{
    Limits,
    inside::{Inside, names, pop, push},
    unpack_error::UnpackError,
};
use crate::store::CallOff;

/// As many links may be followed one after another as the kernel follows.
const FOLLOWED_MAX: u32 = 40;
/// The kernel takes no longer path.
const PATH_MAX: usize = 4096;

/// Links by their paths.
#[derive(Debug, Default)]
pub struct Links {
    targets: BTreeMap<Inside, Box<[u8]>>,
    bytes: usize,
}

impl Links {
    /// Adds a link, or gives it another target.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when these are more links than a release may have.
    pub fn insert(&mut self, path: Inside, target: &[u8], limits: &Limits) -> Result<(), UnpackError> {
        self.remove(&path);
        self.bytes += size(&path, target);
        if self.targets.len() >= limits.links || self.bytes > limits.link_bytes {
            let (links, bytes) = (limits.links, limits.link_bytes);
            return Err(UnpackError::Refused(format!(
                "it has more than {links} symbolic links, or more than {bytes} bytes of them, from {} on",
                path.show()
            )));
        }
        self.targets.insert(path, target.into());
        Ok(())
    }

    /// Forgets a link that something else takes the place of.
    pub fn remove(&mut self, path: &Inside) {
        if let Some(target) = self.targets.remove(path) {
            self.bytes -= size(path, &target);
        }
    }

    /// What the link says.
    pub fn get(&self, path: &[u8]) -> Option<&[u8]> {
        self.targets.get(path).map(|target| &**target)
    }

    /// In the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&Inside, &[u8])> {
        self.targets.iter().map(|(path, target)| (path, &**target))
    }

    /// Whether the path of a directory leads through a link.
    pub fn are_in(&self, dir: &[u8]) -> bool {
        let ends = dir.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        !self.targets.is_empty() && ends.chain([dir.len()]).any(|end| self.get(&dir[..end]).is_some())
    }

    /// Whether a link is of this name at the top, or in a directory of this name.
    pub fn have(&self, name: &str) -> bool {
        let inside = format!("{name}/").into_bytes();
        let from = (Bound::Included(&inside[..]), Bound::Unbounded);
        let next = self.targets.range::<[u8], _>(from).next();
        self.get(name.as_bytes()).is_some()
            || next.is_some_and(|(path, _)| path.below(OsStr::new(name)).is_some())
    }

    /// The same links, as seen from the directory that all of them are in.
    #[must_use]
    pub fn below(self, dir: &OsStr) -> Self {
        let inside = |(path, to): (Inside, _)| Some((path.below(dir)?, to));
        Self { targets: self.targets.into_iter().filter_map(inside).collect(), ..self }
    }

    /// Refuses links that lead out of the tree, be it through other links. `ends` are the paths that lead
    /// out on purpose: nothing may climb from there.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] naming the first of them; [`UnpackError::Archive`] when it is called off.
    pub fn check(&self, ends: &BTreeSet<Inside>, off: &CallOff) -> Result<(), UnpackError> {
        let mut following = Following { links: self, ends, known: BTreeMap::new(), known_bytes: 0 };
        for (path, target) in &self.targets {
            off.check().map_err(UnpackError::Archive)?;
            let Err(astray) = following.follow(path, target, 0) else { continue };
            let why = match astray {
                Astray::Out => "leads out of the release",
                Astray::Round => "leads through too many links",
                Astray::Far => "leads through links whose paths are too long",
            };
            let target = String::from_utf8_lossy(target);
            return Err(UnpackError::Refused(format!(
                "{} is a link to {target:?}, which {why}",
                path.show()
            )));
        }
        Ok(())
    }
}

fn size(path: &Inside, target: &[u8]) -> usize {
    path.path().as_os_str().len() + target.len()
}

enum Astray {
    Out,
    Round,
    Far,
}

/// Where a link leads in the end.
#[derive(Clone)]
struct End {
    /// `None`: out of the tree, on purpose.
    at: Option<Box<[u8]>>,
    followed: u32,
}

/// Walks links as the kernel would, name by name; each one that others lead through but once.
struct Following<'a> {
    links: &'a Links,
    ends: &'a BTreeSet<Inside>,
    known: BTreeMap<&'a Inside, End>,
    known_bytes: usize,
}

impl<'a> Following<'a> {
    /// `above` links lead to this one.
    fn follow(&mut self, path: &Inside, target: &[u8], above: u32) -> Result<End, Astray> {
        if above >= FOLLOWED_MAX {
            return Err(Astray::Round);
        }
        if target.starts_with(b"/") {
            return Err(Astray::Out);
        }
        let mut at = path.split().map(|(parents, _)| parents.to_vec()).unwrap_or_default();
        let mut followed = 1;
        let mut todo = names(target).filter(|name| *name != b".");
        while let Some(name) = todo.next() {
            if name == b".." {
                if !pop(&mut at) {
                    return Err(Astray::Out);
                }
                continue;
            }
            push(&mut at, name);
            if at.len() > PATH_MAX {
                return Err(Astray::Far);
            }
            let mut ends_here = self.ends.contains(&at[..]);
            if let Some((path, target)) = self.links.targets.get_key_value(&at[..]).filter(|_| !ends_here) {
                let end = self.follow_once(path, target, above + 1)?;
                followed += end.followed;
                match end.at {
                    Some(end) => at = end.into(),
                    None => ends_here = true,
                }
            }
            if followed > FOLLOWED_MAX {
                return Err(Astray::Round);
            }
            if ends_here {
                let climbs = todo.any(|name| name == b"..");
                return if climbs { Err(Astray::Out) } else { Ok(End { at: None, followed }) };
            }
        }
        Ok(End { at: Some(at.into()), followed })
    }

    fn follow_once(&mut self, path: &'a Inside, target: &[u8], above: u32) -> Result<End, Astray> {
        if let Some(end) = self.known.get(path) {
            return Ok(end.clone());
        }
        let end = self.follow(path, target, above)?;
        self.known_bytes += end.at.as_ref().map_or(0, |at| at.len());
        if self.known_bytes > KNOWN_BYTES_MAX {
            return Err(Astray::Far);
        }
        self.known.insert(path, end.clone());
        Ok(end)
    }
}

/// Where the links that others lead through end: so many bytes of it are kept.
const KNOWN_BYTES_MAX: usize = 16 << 20;
