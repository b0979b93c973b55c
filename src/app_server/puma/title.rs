//! What Puma calls its processes.

/// A process that called itself a Puma.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Title {
    /// `puma 5.6.5 (tcp://0.0.0.0:3000) [app]`: a master, or the one process of single mode.
    Master(Master),
    /// `puma: cluster worker 0: 5549 [app]`.
    Worker { master: i32 },
}

/// What a master's title says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Master {
    pub(crate) version: String,
    /// What it listens on, as configured.
    pub(crate) binds: Vec<String>,
}

impl Title {
    /// Understands a title; `None` for any other process, one between exec and title included.
    pub(crate) fn parse(title: &str) -> Option<Self> {
        worker(title).or_else(|| master(title))
    }
}

fn worker(title: &str) -> Option<Title> {
    let (index, rest) = title.strip_prefix("puma: cluster worker ")?.split_once(": ")?;
    let _: u32 = index.parse().ok()?;
    let master = rest.split(' ').next()?.parse().ok()?;
    Some(Title::Worker { master })
}

fn master(title: &str) -> Option<Title> {
    let (version, rest) = title.strip_prefix("puma ")?.split_once(" (")?;
    let numbered = version.starts_with(|c: char| c.is_ascii_digit()) && version.contains('.');
    // The tag is the user's text; the binds end before it.
    let (binds, _) = rest.split_once(") [").or_else(|| rest.split_once(')'))?;
    let binds = binds.split(',').map(str::to_owned).collect();
    numbered.then(|| Title::Master(Master { version: version.to_owned(), binds }))
}

impl Master {
    /// The first number of the version.
    pub(crate) fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }

    /// Whether this version can be told to leave SIGUSR2 alone: from 6.6 on. In doubt it can.
    pub(crate) fn may_skip_hot(&self) -> bool {
        let mut numbers = self.version.split('.').map(|number| number.parse::<u32>().ok());
        let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
        major.zip(minor).is_none_or(|version| version >= (6, 6))
    }

    /// The TCP ports among the binds that name one.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.binds.iter().filter_map(|bind| port(bind)).filter(|port| *port != 0).collect()
    }
}

pub(super) fn port(bind: &str) -> Option<u16> {
    let (scheme, address) = bind.split_once("://")?;
    let address = address.split(['?', '/']).next()?;
    let (_, port) = address.rsplit_once(':').filter(|_| matches!(scheme, "tcp" | "ssl"))?;
    port.parse().ok()
}

/// Whether a command line starts a Puma that has not given itself a title yet.
pub(super) fn is_starting(command_line: &str) -> bool {
    let mut words = command_line.split(' ').map(|word| word.rsplit('/').next().unwrap_or(word));
    if !words.next().is_some_and(|program| program.starts_with("ruby")) {
        return false;
    }
    let words: Vec<&str> = words.collect();
    let serves_rails = words.windows(2).any(|pair| matches!(pair, ["rails", "server" | "s"]));
    // `prune_bundler` starts Puma a second time, without a bundle.
    serves_rails || words.iter().any(|word| matches!(*word, "puma" | "puma-wild"))
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A title is a process of Puma's, or none.
    pub(crate) fn title(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if let Some(Title::Master(master)) = Title::parse(&text) {
            assert!(text.starts_with("puma ") && master.binds.iter().all(|bind| text.contains(bind)));
            let _ = (master.major(), master.may_skip_hot(), master.ports());
        }
        let _ = super::super::binds::of_title(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(title: &str) -> Master {
        match Title::parse(title) {
            Some(Title::Master(master)) => master,
            other => panic!("{title:?}: {other:?}"),
        }
    }

    #[test]
    fn a_master_with_any_tag_and_binds() {
        let plain = parsed("puma 5.6.5 (tcp://127.0.0.1:22062) [v1]");
        assert_eq!((plain.version.as_str(), plain.major(), plain.ports()), ("5.6.5", Some(5), vec![22062]));
        assert_eq!(parsed("puma 8.0.2 (tcp://0.0.0.0:3000)").ports(), [3000]);
        let several = "puma 6.4.3 (unix:///run/p.sock,ssl://[::]:443?key=a&cert=b,tcp://[::1]:80) [a) [b]";
        assert_eq!(parsed(several).ports(), [443, 80]);
        assert_eq!(parsed("puma 5.6.5 (tcp://0.0.0.0:0) [x]").ports(), Vec::<u16>::new());
    }

    #[test]
    fn from_6_6_on_sigusr2_may_be_left_alone() {
        for (version, may) in [("5.6.5", false), ("6.5.0", false), ("6.6.0", true), ("8.0.2", true)] {
            assert_eq!(parsed(&format!("puma {version} (tcp://x:1) [x]")).may_skip_hot(), may, "{version}");
        }
    }

    #[test]
    fn a_worker_names_its_master() {
        for title in ["puma: cluster worker 0: 5549 [v1]", "puma: cluster worker 12: 5549"] {
            assert_eq!(Title::parse(title), Some(Title::Worker { master: 5549 }));
        }
    }

    #[test]
    fn anything_else_is_no_puma() {
        for title in [
            "",
            "puma",
            "puma -C config/puma.rb",
            "puma wrapper (x)",
            "/usr/bin/ruby3.1 -S puma -C config/puma.rb",
            "sh -c puma 5.6.5 (tcp://1)",
            "puma: cluster worker x: 1",
            "puma: cluster worker 0: ",
            "vi puma 5.6.5 (x)",
        ] {
            assert_eq!(Title::parse(title), None, "{title}");
        }
    }

    #[test]
    fn a_starting_puma_is_told_from_its_wrappers_and_tools() {
        for line in [
            "/usr/bin/ruby3.1 -S puma -C x",
            "ruby bin/rails s -p 3000",
            "ruby /usr/bin/bundle exec puma",
            "/usr/bin/ruby3.3 -I /gems/puma-6.6.0/lib /gems/puma-6.6.0/bin/puma-wild -I x -C config/puma.rb",
        ] {
            assert!(is_starting(line), "{line}");
        }
        for line in ["sh -c ruby -S puma", "ruby bin/pumactl stats", "ruby bin/rails console", "vi puma", ""]
        {
            assert!(!is_starting(line), "{line}");
        }
    }
}
