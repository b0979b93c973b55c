//! What pods ask of the store, counted at the store, and what that costs at the prices of docs/sizing.md.

use std::{fs, path::Path};

use pitstop_rig::s3::Seen;

/// What one pod asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    pub gets: f64,
    pub puts: f64,
    pub lists: f64,
}

impl Asked {
    /// Of each of so many pods, on average.
    pub fn by(seen: &[Seen], pods: usize) -> Self {
        let count = |of: &dyn Fn(&&Seen) -> bool| seen.iter().filter(of).count() as f64 / pods as f64;
        Self {
            gets: count(&|one| one.method == "GET" && !one.key.starts_with('?')),
            puts: count(&|one| one.method == "PUT"),
            lists: count(&|one| one.method == "GET" && one.key.starts_with('?')),
        }
    }

    /// A list costs as much as a write.
    pub fn dollars(self, prices: Prices) -> f64 {
        self.gets * prices.get + (self.puts + self.lists) * prices.put
    }
}

/// In dollars, of one request.
#[derive(Debug, Clone, Copy)]
pub struct Prices {
    pub get: f64,
    pub put: f64,
}

/// What docs/sizing.md says.
pub struct Documented {
    pub prices: Prices,
    /// Of a pod at rest, in a day.
    pub day: Asked,
    /// Of a pod for a deploy.
    pub deploy: Asked,
}

/// What 1,000 pods may cost in a day with a deploy, in dollars.
pub const BUDGET: f64 = 2.0;

impl Documented {
    pub fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sizing.md");
        let text = fs::read_to_string(path).expect("docs/sizing.md");
        let after = |label: &str| {
            let rest =
                text.split_once(label).unwrap_or_else(|| panic!("docs/sizing.md has no \"{label}\"")).1;
            let number: String =
                rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ',')).collect();
            number.replace(',', "").trim_end_matches('.').parse::<f64>().expect("a number")
        };
        Self {
            prices: Prices { get: after("At $") / 1_000.0, put: after("for 1,000 GET and $") / 1_000.0 },
            day: Asked {
                gets: after("GET, a pod and day: 86,400 / 30 = "),
                puts: after("PUT, a pod and day: 86,400 / 600 = "),
                lists: 0.0,
            },
            deploy: Asked {
                gets: after("A deploy adds at most "),
                puts: after(" GET, "),
                lists: after(" PUT and "),
            },
        }
    }
}
