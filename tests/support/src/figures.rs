use std::{fs, io, path::Path};

use serde::Serialize;

/// One comparison of a benchmark, as `target/bench/<name>.json` holds it.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What is compared.
    pub name: String,
    /// pitstop's figure.
    pub ours: f64,
    /// The other's figure.
    pub peer: f64,
    /// Who or what the other is.
    pub peer_name: String,
    /// Of both figures.
    pub unit: String,
    /// Above 1 means that pitstop is ahead.
    pub ratio: f64,
    /// How it was measured.
    pub how: String,
    /// Requests that pitstop lost, where some could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours_lost: Option<usize>,
    /// Requests that the other lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_lost: Option<usize>,
}

impl Comparison {
    /// Two figures of which the smaller one is better.
    pub fn smaller_is_better(name: &str, (ours, peer): (f64, f64), unit: &str) -> Self {
        Self::new(name, (ours, peer), unit, peer / ours)
    }

    /// Two counts of which the smaller one is better and which may be 0: the ratio is that of the
    /// counts plus one.
    pub fn fewer_is_better(name: &str, (ours, peer): (usize, usize), unit: &str) -> Self {
        let (ours, peer) = (ours as f64, peer as f64);
        Self::new(name, (ours, peer), unit, (peer + 1.0) / (ours + 1.0))
    }

    fn new(name: &str, (ours, peer): (f64, f64), unit: &str, ratio: f64) -> Self {
        let (name, unit, ratio) = (name.to_owned(), unit.to_owned(), (ratio * 1000.0).round() / 1000.0);
        Self {
            name,
            ours,
            peer,
            peer_name: String::new(),
            unit,
            ratio,
            how: String::new(),
            ours_lost: None,
            peer_lost: None,
        }
    }

    /// How many requests pitstop lost, and the other.
    #[must_use]
    pub fn with_lost(self, (ours, peer): (usize, usize)) -> Self {
        Self { ours_lost: Some(ours), peer_lost: Some(peer), ..self }
    }

    /// Names the other one, and how both were measured.
    #[must_use]
    pub fn against(self, peer_name: &str, how: &str) -> Self {
        Self { peer_name: peer_name.to_owned(), how: how.to_owned(), ..self }
    }
}

/// Prints the comparisons and writes them to `target/bench/<name>.json` below `root`.
///
/// # Errors
/// When the file cannot be written.
pub fn publish(root: &Path, name: &str, comparisons: &[Comparison]) -> io::Result<()> {
    println!("{:<44}{:>12}{:>12}{:>9}  unit", name, "pitstop", "peer", "ratio");
    for c in comparisons {
        println!(
            "{:<44}{:>12.2}{:>12.2}{:>9.2}  {} ({})",
            c.name, c.ours, c.peer, c.ratio, c.unit, c.peer_name
        );
    }
    let dir = root.join("target/bench");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{name}.json"));
    fs::write(&path, serde_json::to_string_pretty(comparisons)? + "\n")?;
    println!("written to {}", path.display());
    Ok(())
}
