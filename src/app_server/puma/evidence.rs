//! What is known of one setting of Puma, and where it is set. Puma cannot be asked. A running one shows its command
//! line, its environment and its configuration file; in CI there is only the file.

use std::{fmt, path::PathBuf};

/// What is known of a setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Evidence<T> {
    /// It is set to this value, in this place.
    Known(T, Place),
    /// This place computes it or sets it under a condition: to this value, where one can be read.
    Unclear(Option<T>, Place),
    /// It is not set: Puma's default holds.
    #[default]
    Default,
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Puma's command line: `--dir /srv/app/current`.
    CommandLine(String),
    /// This variable of Puma's environment.
    Environment(&'static str),
    /// A statement of the configuration file.
    Line { file: PathBuf, line: usize, statement: String },
    /// The default of Puma's version, as far as that is known.
    Version(Option<u32>),
    /// The running Puma shows it.
    Process,
    /// The configuration file could not be read.
    Unread,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine(argument) => write!(f, "`{argument}` on Puma's command line"),
            Self::Environment(name) => write!(f, "{name} in Puma's environment"),
            Self::Line { file, line, statement } => {
                write!(f, "{}, line {line}, `{statement}`", file.display())
            }
            Self::Version(Some(major)) => write!(f, "the default of Puma {major}"),
            Self::Version(None) => f.write_str("the default of Puma's version"),
            Self::Process => f.write_str("the running Puma"),
            Self::Unread => f.write_str("Puma's configuration could not be read"),
        }
    }
}

impl<T> Evidence<T> {
    /// Set in this place, if it is.
    pub(crate) fn given(value: Option<T>, place: Place) -> Self {
        value.map_or(Self::Default, |value| Self::Known(value, place))
    }

    /// The place that counts first is `self`.
    pub(crate) fn or(self, next: Self) -> Self {
        match self {
            Self::Default => next,
            found => found,
        }
    }

    pub(crate) fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value, _) => Some(value),
            Self::Unclear(..) | Self::Default => None,
        }
    }

    /// What it is set to if every statement counts that can be read.
    pub(crate) fn likely(self) -> Option<T> {
        match self {
            Self::Known(value, _) => Some(value),
            Self::Unclear(value, _) => value,
            Self::Default => None,
        }
    }

    /// For the plan of a restart, which has to decide: what can be read counts as set.
    pub(crate) fn weighed(self) -> Self {
        match self {
            Self::Unclear(value, place) => Self::given(value, place),
            settled => settled,
        }
    }

    /// The value that holds, if that is known.
    pub(crate) fn or_default(&self, default: T) -> Option<T>
    where
        T: Clone,
    {
        match self {
            Self::Known(value, _) => Some(value.clone()),
            Self::Unclear(..) => None,
            Self::Default => Some(default),
        }
    }
}
