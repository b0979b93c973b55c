//! What a release needs of the image that it runs in, and whether an image brings it.

use std::{collections::BTreeSet, fmt};

/// One thing that the image must bring.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Requirement {
    /// `ruby=3.3`: this Ruby, as far as the version is given.
    Ruby(String),
    Arch(String),
    /// `libc=musl`, `libc=glibc`, `libc=glibc=2.36`: this C library, at least of this version.
    Libc(String, Option<String>),
    /// `file=/usr/lib/libvips.so.42`: this file or directory.
    File(String),
    /// Something that this version of pitstop does not know: no image is known to bring it.
    Unknown(String),
}

impl Requirement {
    /// Understands `key=value`; anything else is [`Requirement::Unknown`].
    pub(crate) fn parse(text: &str) -> Self {
        let known = text.split_once('=').and_then(|(key, value)| match key {
            "ruby" => is_version(value).then(|| Self::Ruby(value.to_owned())),
            "arch" => architecture(value).map(|arch| Self::Arch(arch.to_owned())),
            "libc" => libc(value),
            "file" => (value.starts_with('/') && value.len() > 1).then(|| Self::File(value.to_owned())),
            _ => None,
        });
        known.unwrap_or_else(|| Self::Unknown(text.to_owned()))
    }

    /// Understands a list, separated by commas or blanks.
    pub(crate) fn parse_list(text: &str) -> Vec<Self> {
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        let distinct: BTreeSet<Self> = words.map(Self::parse).collect();
        distinct.into_iter().collect()
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ruby(version) => write!(f, "ruby={version}"),
            Self::Arch(arch) => write!(f, "arch={arch}"),
            Self::Libc(kind, None) => write!(f, "libc={kind}"),
            Self::Libc(kind, Some(version)) => write!(f, "libc={kind}={version}"),
            Self::File(path) => write!(f, "file={path}"),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}

fn is_version(text: &str) -> bool {
    !text.is_empty() && text.split('.').all(|part| part.parse::<u32>().is_ok())
}

fn architecture(text: &str) -> Option<&'static str> {
    match text {
        "amd64" | "x86_64" => Some("amd64"),
        "arm64" | "aarch64" => Some("arm64"),
        _ => None,
    }
}

fn libc(text: &str) -> Option<Requirement> {
    let (kind, version) = text.split_once('=').map_or((text, None), |(kind, version)| (kind, Some(version)));
    let known = match (kind, version) {
        ("musl", None) | ("glibc", None) => true,
        ("glibc", Some(version)) => is_version(version),
        _ => false,
    };
    known.then(|| Requirement::Libc(kind.to_owned(), version.map(str::to_owned)))
}

/// What was found in an image; a part that could not be told is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Brought {
    pub(crate) ruby: Option<String>,
    pub(crate) arch: Option<String>,
    pub(crate) libc: Option<String>,
    pub(crate) libc_version: Option<String>,
    /// Those of the files asked for that are there.
    pub(crate) files: BTreeSet<String>,
}

impl Brought {
    /// What is lacking, each with what was found instead. What cannot be told is lacking.
    pub(crate) fn lacks(&self, requires: &[Requirement]) -> Vec<String> {
        requires.iter().filter_map(|need| Some(format!("{need} ({})", self.instead_of(need)?))).collect()
    }

    fn instead_of(&self, need: &Requirement) -> Option<String> {
        let found = |what: Option<&str>| match what {
            Some(what) => format!("found {what}"),
            None => "found none that is known".to_owned(),
        };
        let (met, found) = match need {
            Requirement::Ruby(wanted) => {
                (self.ruby.as_ref().is_some_and(|ruby| begins(ruby, wanted)), found(self.ruby.as_deref()))
            }
            Requirement::Arch(wanted) => (self.arch.as_ref() == Some(wanted), found(self.arch.as_deref())),
            Requirement::Libc(kind, least) => {
                (self.has_libc(kind, least.as_deref()), found(self.libc_name().as_deref()))
            }
            Requirement::File(path) => (self.files.contains(path), "not there".to_owned()),
            Requirement::Unknown(_) => {
                (false, "this version of pitstop does not know what that is".to_owned())
            }
        };
        (!met).then_some(found)
    }

    fn has_libc(&self, kind: &str, least: Option<&str>) -> bool {
        let new_enough =
            |least: &str| self.libc_version.as_ref().is_some_and(|v| numbers(v) >= numbers(least));
        self.libc.as_deref() == Some(kind) && least.is_none_or(new_enough)
    }

    fn libc_name(&self) -> Option<String> {
        let kind = self.libc.as_ref()?;
        Some(self.libc_version.as_ref().map_or(kind.clone(), |version| format!("{kind} {version}")))
    }
}

/// `3.3` is the beginning of `3.3.6`, and not of `3.30`.
fn begins(version: &str, wanted: &str) -> bool {
    let (version, wanted) = (numbers(version), numbers(wanted));
    version.starts_with(&wanted)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// What a release says that it needs of the image.
    pub(crate) fn requirements(bytes: &[u8]) {
        for one in Requirement::parse_list(&String::from_utf8_lossy(bytes)) {
            assert_eq!(Requirement::parse(&one.to_string()), one);
            let _ = Brought::default().lacks(&[one]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Brought {
        Brought {
            ruby: Some("3.3.6".into()),
            arch: Some("amd64".into()),
            libc: Some("glibc".into()),
            libc_version: Some("2.36".into()),
            files: BTreeSet::from(["/usr/bin/convert".to_owned()]),
        }
    }

    fn lacking(text: &str) -> Vec<String> {
        image().lacks(&Requirement::parse_list(text))
    }

    #[test]
    fn an_image_that_brings_everything_lacks_nothing() {
        let all = "ruby=3.3,arch=x86_64 libc=glibc, libc=glibc=2.31 libc=glibc=2.36,file=/usr/bin/convert";
        assert_eq!(lacking(all), Vec::<String>::new());
        assert_eq!(lacking("ruby=3 ruby=3.3.6"), Vec::<String>::new());
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(lacking("ruby=3.30"), ["ruby=3.30 (found 3.3.6)"]);
        assert_eq!(lacking("ruby=3.3.60"), ["ruby=3.3.60 (found 3.3.6)"]);
        assert_eq!(lacking("libc=glibc=2.4"), Vec::<String>::new(), "2.36 is newer than 2.4");
        assert_eq!(lacking("libc=glibc=2.41"), ["libc=glibc=2.41 (found glibc 2.36)"]);
    }

    #[test]
    fn what_is_lacking_is_named_with_what_was_found() {
        let lacks = lacking("arch=aarch64,libc=musl,file=/opt/x,gpu=yes");
        assert_eq!(
            lacks,
            [
                "arch=arm64 (found amd64)",
                "libc=musl (found glibc 2.36)",
                "file=/opt/x (not there)",
                "gpu=yes (this version of pitstop does not know what that is)",
            ]
        );
        let nothing = Brought::default().lacks(&[Requirement::parse("ruby=3.3")]);
        assert_eq!(nothing, ["ruby=3.3 (found none that is known)"]);
    }

    #[test]
    fn what_is_no_requirement_is_unknown_and_stays_as_it_was_written() {
        for text in [
            "ruby",
            "ruby=",
            "ruby=three",
            "arch=pdp11",
            "libc=bionic",
            "libc=musl=1",
            "file=x",
            "file=/",
            "Ruby=3",
        ] {
            assert_eq!(Requirement::parse(text), Requirement::Unknown(text.into()), "{text}");
            assert_eq!(Requirement::parse(text).to_string(), text);
        }
    }
}
