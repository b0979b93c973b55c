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
pub(crate) struct Links {
    targets: BTreeMap<Inside, Box<[u8]>>,
    bytes: usize,
    /// A directory that leads through none of them: the next entry is in it, most often.
    free: Option<Box<[u8]>>,
}

impl Links {
    /// Adds a link, or gives it another target.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] when these are more links than a release may have.
    pub(crate) fn insert(&mut self, path: Inside, target: &[u8], limits: &Limits) -> Result<(), UnpackError> {
        self.remove(&path);
        self.bytes += size(&path, target);
        if self.targets.len() >= limits.links || self.bytes > limits.link_bytes {
            let (links, bytes) = (limits.links, limits.link_bytes);
            return Err(UnpackError::Refused(format!(
                "it has more than {links} symbolic links, or more than {bytes} bytes of them, from {} on",
                path.show()
            )));
        }
        self.free.take_if(|dir| path.leads_to(dir));
        self.targets.insert(path, target.into());
        Ok(())
    }

    /// Forgets a link that something else takes the place of.
    pub(crate) fn remove(&mut self, path: &Inside) {
        if let Some(target) = self.targets.remove(path) {
            self.bytes -= size(path, &target);
        }
    }

    /// What the link says.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&[u8]> {
        self.targets.get(path).map(|target| &**target)
    }

    /// In the order of their paths.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Inside, &[u8])> {
        self.targets.iter().map(|(path, target)| (path, &**target))
    }

    /// Whether the path of a directory leads through a link.
    pub(crate) fn are_in(&mut self, dir: &[u8]) -> bool {
        if self.targets.is_empty() || self.free.as_deref() == Some(dir) {
            return false;
        }
        let ends = dir.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let are = ends.chain([dir.len()]).any(|end| self.get(&dir[..end]).is_some());
        self.free = (!are).then(|| dir.into());
        are
    }

    /// Whether a link is of this name at the top, or in a directory of this name.
    pub(crate) fn have(&self, name: &str) -> bool {
        let inside = format!("{name}/").into_bytes();
        let from = (Bound::Included(&inside[..]), Bound::Unbounded);
        let next = self.targets.range::<[u8], _>(from).next();
        self.get(name.as_bytes()).is_some()
            || next.is_some_and(|(path, _)| path.below(OsStr::new(name)).is_some())
    }

    /// The same links, as seen from the directory that all of them are in.
    #[must_use]
    pub(crate) fn below(self, dir: &OsStr) -> Self {
        let inside = |(path, to): (Inside, _)| Some((path.below(dir)?, to));
        Self { targets: self.targets.into_iter().filter_map(inside).collect(), free: None, ..self }
    }

    /// Refuses links that lead out of the tree, be it through other links. `ends` are the paths that lead
    /// out on purpose: nothing may climb from there.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] naming the first of them; [`UnpackError::Archive`] when it is called off.
    pub(crate) fn check(&self, ends: &BTreeSet<Inside>, off: &CallOff) -> Result<(), UnpackError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn links(all: &[(&str, &str)]) -> Links {
        let mut links = Links::default();
        for (path, target) in all {
            links.insert(Inside::of(path.as_ref()), target.as_bytes(), &Limits::default()).unwrap();
        }
        links
    }

    fn refused(all: &[(&str, &str)], ends: &[&str]) -> Option<String> {
        let ends = ends.iter().map(|end| Inside::of(end.as_ref())).collect();
        links(all).check(&ends, &CallOff::default()).err().map(|e| e.to_string())
    }

    #[test]
    fn forty_links_are_followed_and_no_more() {
        let chain = |long: usize| -> Vec<(String, String)> {
            (0..long).map(|n| (format!("{n}"), format!("{}", n + 1))).collect()
        };
        for (long, ok) in [(40, true), (41, false)] {
            let chain = chain(long);
            let chain: Vec<_> = chain.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            assert_eq!(refused(&chain, &[]).is_none(), ok, "{long}");
        }
        let both = [("a", "x/../x/../x"), ("x", "y"), ("y", "z"), ("z", "d")];
        assert_eq!(refused(&both, &[]), None, "each time they count, but they may");
    }

    #[test]
    fn nothing_climbs_from_where_a_link_leads_out_on_purpose() {
        let out = Some(
            "the archive is refused: \"a\" is a link to \"log/../..\", which leads out of the release".into(),
        );
        assert_eq!(refused(&[("a", "log/../..")], &["log"]), out);
        assert_eq!(refused(&[("a", "log/x")], &["log"]), None);
        assert!(refused(&[("a", "b/.."), ("b", "log")], &["log"]).is_some());
        assert_eq!(refused(&[("a", "b/x"), ("b", "log")], &["log"]), None);
    }

    #[test]
    fn checking_is_called_off() {
        let off = CallOff::default();
        off.now();
        assert!(matches!(links(&[("a", "b")]).check(&BTreeSet::new(), &off), Err(UnpackError::Archive(_))));
    }

    #[test]
    fn a_directory_that_became_a_link_is_one() {
        let mut links = links(&[("x", "y")]);
        assert!(!links.are_in(b"a/b/c") && !links.are_in(b"a/b/c"));
        links.insert(Inside::of("a/b".as_ref()), b"c", &Limits::default()).unwrap();
        assert!(
            links.are_in(b"a/b/c") && links.are_in(b"a/b") && !links.are_in(b"a") && !links.are_in(b"a/bc")
        );
        links.remove(&Inside::of("a/b".as_ref()));
        assert!(!links.are_in(b"a/b/c"));
    }
}
