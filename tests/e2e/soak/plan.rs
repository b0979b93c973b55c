//! What a soak does, decided by its seed alone: the same settings and the same seed give the same steps.

use std::time::Duration;

use pitstop_rig::{App, Dice};

/// How a release gets into Puma.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Beside,
    Phased,
    Hot,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Beside, Self::Phased, Self::Hot];

    pub fn name(self) -> &'static str {
        match self {
            Self::Beside => "beside",
            Self::Phased => "phased",
            Self::Hot => "hot",
        }
    }
}

/// What happens to a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL to the agent, a child of `pitstop exec`.
    Agent,
    /// SIGKILL to the server that boots beside the live one, another child of it.
    Candidate,
    /// SIGKILL to one worker of Puma's.
    Worker,
    /// SIGKILL to Puma's master.
    Master,
    /// SIGKILL to `pitstop exec`, and with it to the whole container.
    Parent,
    /// Each request to S3 is answered with 503.
    StoreErrors,
    /// S3 answers nothing.
    StoreSilent,
    /// S3's answers break off.
    StoreCut,
    /// S3 refuses connections.
    StoreAway,
    /// S3 has the pointer of the deploy before.
    StoreStale,
    /// The volume has no space left.
    DiskFull,
    /// The control group of Puma's container has hardly any memory left.
    Memory,
    /// The preStop hook, the end of the container, and its next start.
    Drain,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::Agent,
        Self::Candidate,
        Self::Worker,
        Self::Master,
        Self::Parent,
        Self::StoreErrors,
        Self::StoreSilent,
        Self::StoreCut,
        Self::StoreAway,
        Self::StoreStale,
        Self::DiskFull,
        Self::Memory,
        Self::Drain,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Candidate => "candidate",
            Self::Worker => "worker",
            Self::Master => "master",
            Self::Parent => "parent",
            Self::StoreErrors => "store-errors",
            Self::StoreSilent => "store-silent",
            Self::StoreCut => "store-cut",
            Self::StoreAway => "store-away",
            Self::StoreStale => "store-stale",
            Self::DiskFull => "disk-full",
            Self::Memory => "memory",
            Self::Drain => "drain",
        }
    }

    /// Whether the servers of this mode can meet it.
    fn fits(self, mode: Mode) -> bool {
        self != Self::Candidate || mode == Mode::Beside
    }

    /// Whether Puma itself, or one of its workers, can end by it: then a good release may not come up.
    pub fn ends_puma(self) -> bool {
        matches!(self, Self::Candidate | Self::Worker | Self::Master | Self::Parent | Self::Memory)
    }
}

/// What is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// It has to run.
    Good,
    /// The next release follows after this time, before or after this one runs.
    Superseded(Duration),
    /// It has to be taken back.
    Bad(App),
}

impl Release {
    /// What the summary calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Superseded(_) => "superseded",
            Self::Bad(App::RaisesOnBoot) => "raises on boot",
            Self::Bad(App::UnhealthyPath) => "unhealthy",
            Self::Bad(App::FailsEverywhere) => "fails everywhere",
            Self::Bad(_) => "bad",
        }
    }
}

/// One deploy and what happens meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// From 1 on.
    pub number: u64,
    pub mode: Mode,
    pub release: Release,
    pub fault: Option<Fault>,
    /// Between the move of the pointer and the fault.
    pub after: Duration,
    /// How long a fault lasts that has an end.
    pub lasts: Duration,
    /// Which of several, a worker for instance.
    pub which: usize,
}

/// What a plan is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub seed: u64,
    pub duration: Duration,
    /// It ends after so many deploys too.
    pub deploys: u64,
    pub modes: Vec<Mode>,
    pub faults: Vec<Fault>,
    /// So many deploys of one mode come one after another.
    pub block: u64,
    /// So many of ten releases are bad or superseded.
    pub odd: u64,
    /// Between an answer and the next request on a kept connection.
    pub pause: Duration,
    /// Requests a second on new connections.
    pub fresh: u32,
}

impl Settings {
    /// From variables of the environment, with the values of the run in CI in the place of those that are not set.
    ///
    /// # Panics
    /// When a value cannot be understood.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let number = |name: &str, default: u64| {
            get(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
        };
        // Who names a number of deploys wants them all.
        let long =
            if get("DEPLOYS").is_some() { Duration::from_secs(1_000_000) } else { Duration::from_secs(40) };
        let duration = get("DURATION").map_or(long, |text| seconds(&text));
        Self {
            seed: number("SEED", 1),
            duration,
            deploys: number("DEPLOYS", u64::MAX),
            modes: named(get("MODES"), &Mode::ALL, Mode::name),
            faults: named(get("FAULTS"), &Fault::ALL, Fault::name),
            block: number("BLOCK", if duration < Duration::from_secs(120) { 2 } else { 5 }),
            odd: number("ODD", 4),
            pause: Duration::from_millis(number("PAUSE", 50)),
            fresh: number("FRESH", 40) as u32,
        }
    }
}

/// `90`, `40s`, `10m`, `1h`.
fn seconds(text: &str) -> Duration {
    let (digits, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_alphabetic()).len());
    let number: u64 = digits.parse().unwrap_or_else(|_| panic!("DURATION={text}"));
    Duration::from_secs(match unit {
        "" | "s" => number,
        "m" => number * 60,
        "h" => number * 3600,
        _ => panic!("DURATION={text}"),
    })
}

/// Those that a list names, `beside,hot`; all where there is no list, none where it says `none`.
fn named<T: Copy>(list: Option<String>, all: &[T], name: fn(T) -> &'static str) -> Vec<T> {
    let Some(list) = list else { return all.to_vec() };
    let find = |word: &str| {
        let found = all.iter().find(|one| name(**one) == word);
        *found.unwrap_or_else(|| {
            panic!("{word} is none of {:?}", all.iter().map(|one| name(*one)).collect::<Vec<_>>())
        })
    };
    list.split(',').map(str::trim).filter(|word| *word != "none").map(find).collect()
}

/// Draws all of a set before it draws one again, so that a short run has tried each as often as the others.
#[derive(Debug, Clone)]
struct Bag<T> {
    all: Vec<T>,
    left: Vec<T>,
}

impl<T: Copy> Bag<T> {
    fn new(all: Vec<T>) -> Self {
        Self { all, left: Vec::new() }
    }

    fn draw(&mut self, dice: &mut Dice) -> Option<T> {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
        }
        let count = self.left.len() as u64;
        (count > 0).then(|| self.left.swap_remove(dice.below(count) as usize))
    }
}

/// All steps of a run, without an end.
#[derive(Debug, Clone)]
pub struct Plan {
    dice: Dice,
    block: u64,
    odd: u64,
    number: u64,
    mode: Mode,
    modes: Bag<Mode>,
    faults: Bag<Option<Fault>>,
    bad: Bag<App>,
}

impl Plan {
    pub fn new(settings: &Settings) -> Self {
        // One deploy in four meets no fault.
        let without = settings.faults.len().div_ceil(3).max(1);
        let faults = settings.faults.iter().copied().map(Some).chain(vec![None; without]).collect();
        Self {
            dice: Dice(settings.seed),
            block: settings.block.max(1),
            odd: settings.odd,
            number: 0,
            mode: Mode::Beside,
            modes: Bag::new(settings.modes.clone()),
            faults: Bag::new(faults),
            bad: Bag::new(vec![App::RaisesOnBoot, App::UnhealthyPath, App::FailsEverywhere]),
        }
    }

    fn release(&mut self) -> Release {
        match self.dice.below(10) {
            odd if odd >= self.odd => Release::Good,
            odd if odd % 2 == 0 => {
                // Without a second server its clients would be answered with its errors: that is no lost request.
                let bad = self.bad.draw(&mut self.dice).unwrap_or(App::UnhealthyPath);
                let all_errors = bad == App::FailsEverywhere && self.mode != Mode::Beside;
                // Hot, a release that raises leaves nobody who answers until it is taken back.
                let nobody = bad == App::RaisesOnBoot && self.mode == Mode::Hot;
                Release::Bad(if all_errors || nobody { App::UnhealthyPath } else { bad })
            }
            _ => Release::Superseded(Duration::from_millis(self.dice.below(3000))),
        }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.number.is_multiple_of(self.block) {
            self.mode = self.modes.draw(&mut self.dice)?;
        }
        self.number += 1;
        let fault = self.faults.draw(&mut self.dice).flatten();
        let release = self.release();
        Some(Step {
            number: self.number,
            mode: self.mode,
            release,
            fault: fault.map(|fault| if fault.fits(self.mode) { fault } else { Fault::Agent }),
            after: Duration::from_millis(self.dice.below(1500)),
            lasts: Duration::from_millis(500 + self.dice.below(3000)),
            which: self.dice.below(8) as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn settings(values: &[(&str, &str)]) -> Settings {
        Settings::read(|name| {
            values.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn steps(settings: &Settings, count: usize) -> Vec<Step> {
        Plan::new(settings).take(count).collect()
    }

    #[test]
    fn soak_plan_of_the_same_seed_is_the_same_and_of_another_seed_another() {
        let of = |seed| steps(&settings(&[("SEED", seed)]), 200);
        assert_eq!(of("7"), of("7"));
        assert_ne!(of("7"), of("8"));
    }

    #[test]
    fn soak_plan_tries_each_fault_in_each_twenty_steps_and_each_mode_in_turn() {
        let settings = settings(&[("SEED", "3"), ("BLOCK", "2")]);
        let plan = steps(&settings, 18);
        let tried: BTreeSet<_> = plan.iter().filter_map(|step| step.fault).collect();
        // A candidate is there in one mode only.
        assert!(
            Fault::ALL.iter().filter(|fault| **fault != Fault::Candidate).all(|fault| tried.contains(fault)),
            "{tried:?}"
        );
        let modes: BTreeSet<_> = plan[..6].iter().map(|step| step.mode).collect();
        assert_eq!(modes.len(), Mode::ALL.len());
        assert!(plan.chunks(2).all(|block| block[0].mode == block[1].mode));
    }

    #[test]
    fn soak_plan_has_nothing_that_puma_cannot_keep_without_its_name() {
        for step in steps(&settings(&[("SEED", "5")]), 2000) {
            assert!(step.fault != Some(Fault::Candidate) || step.mode == Mode::Beside, "{step:?}");
            let errors = step.release == Release::Bad(App::FailsEverywhere);
            let nobody = step.release == Release::Bad(App::RaisesOnBoot) && step.mode == Mode::Hot;
            assert!(!nobody && (!errors || step.mode == Mode::Beside), "{step:?}");
        }
    }

    #[test]
    fn soak_settings_say_how_long_how_often_and_what() {
        let read = settings(&[
            ("DURATION", "1h"),
            ("DEPLOYS", "334"),
            ("MODES", "beside,hot"),
            ("FAULTS", "agent,store-stale"),
            ("ODD", "0"),
        ]);
        assert_eq!((read.duration, read.deploys), (Duration::from_secs(3600), 334));
        assert_eq!(read.modes, [Mode::Beside, Mode::Hot]);
        assert_eq!(read.faults, [Fault::Agent, Fault::StoreStale]);
        assert!(steps(&read, 100).iter().all(|step| step.release == Release::Good));
        assert_eq!(settings(&[("FAULTS", "none")]).faults, []);
        assert_eq!(settings(&[]).duration, Duration::from_secs(40));
        assert_eq!([seconds("90"), seconds("10m")], [90, 600].map(Duration::from_secs));
    }
}
