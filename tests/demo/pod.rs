//! The pod: Puma, pitstop beside it, and clients; and watching what the agent says.

use std::{
    fmt, fs,
    io::{Error, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pitstop_rig::{AgentRig, App, Load, PumaRig, Setup, load::Plan, pod::rejection, poll};
use serde_json::Value;

use crate::{narrator, report::phase};

/// How long one deploy may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the story cannot be told any further.
pub struct Stopped(pub String);

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

/// A pod that serves. Its parts end in this order.
pub struct Pod {
    /// The sidecar.
    pub agent: AgentRig,
    /// The app's container.
    pub puma: PumaRig,
    /// The clients.
    pub load: Load,
    /// A further line of config/puma.rb in the releases to come.
    pub more_puma_config: &'static str,
}

impl Pod {
    /// Release v1 is published and fetched as an init container would, then both containers start.
    pub fn start() -> Result<Self, Stopped> {
        let mut puma = PumaRig::empty(Setup {
            threads: (3, 3),
            worker_shutdown_timeout: 3,
            boot_seconds: 1.0,
            ..Setup::default()
        });
        let mut agent = AgentRig::prepare(&binary()?, &puma);
        publish(&agent, &agent.build(&puma, App::Good, "v1"), "v1")?;
        run(&agent, &["promote", "v1"])?;
        run(&agent, &["fetch"])?;
        puma.run();
        puma.wait_for_release("v1");
        narrator::say(&format!("Puma 5 serves v1 on port {}, in a cluster of two workers.", puma.port()));
        agent.start();
        narrator::say(&format!("pitstop runs beside it; its endpoints are on port {}.", agent.port()));
        let load = Load::start(Plan::modest(puma.port()), phase::BASELINE);
        Ok(Self { puma, agent, load, more_puma_config: "" })
    }

    /// After the pod's end, another one takes its place on an empty volume, with the same two containers.
    pub fn replace(&mut self) -> Result<(), Stopped> {
        self.agent.kill();
        fs::remove_dir_all(self.puma.deploy_to())?;
        fs::remove_dir_all(self.agent.state_dir())?;
        fs::create_dir(self.puma.deploy_to())?;
        self.agent.env.push(("PITSTOP_POD".into(), "newborn".into()));
        run(&self.agent, &["fetch"])?;
        // What the Puma of the old pod said says nothing about this one.
        fs::remove_file(self.puma.log())?;
        self.puma.run();
        self.agent.start();
        narrator::say("A new pod has started: an empty volume, another Puma, another pitstop.");
        Ok(())
    }

    /// Builds a release and publishes it, as a user's CI would.
    pub fn publish(&self, app: App, id: &str) -> Result<(), Stopped> {
        let dir = self.agent.build(&self.puma, app, id);
        let mut config = fs::File::options().append(true).open(dir.join("config/puma.rb"))?;
        write!(config, "{}", self.more_puma_config)?;
        publish(&self.agent, &dir, id)
    }

    /// Moves the pointer, as a user would.
    pub fn promote(&self, id: &str) -> Result<(), Stopped> {
        run(&self.agent, &["promote", id])
    }

    /// Shows what `pitstop status` says now.
    pub fn show_status(&self) -> Result<(), Stopped> {
        // Its exit code is 1 while the pod is not in sync.
        let output = self.agent.command(&["status"])?;
        narrator::command("status", &String::from_utf8_lossy(&output.stdout));
        Ok(())
    }

    /// Follows /status, telling each new stage, until it is as wanted.
    pub fn watch(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, Stopped> {
        watch(&self.agent, what, wanted)
    }

    /// Until the agent has proved that every worker runs this release.
    pub fn watch_in_sync(&self, id: &str) -> Result<Value, Stopped> {
        self.watch(&format!("{id} in sync"), |status| in_sync(status, id))
    }

    /// Until this release is rejected and every worker runs the other one again.
    pub fn watch_reverted(&self, bad: &str, back_on: &str) -> Result<Value, Stopped> {
        self.watch(&format!("{bad} rejected and {back_on} running"), |status| {
            rejection(status, bad).is_some()
                && status["stage"] == "steady"
                && status["running"] == back_on
                && workers(status).iter().all(|release| release == back_on)
        })
    }

    /// Lets the load go on for a while.
    pub fn pass(&self, seconds: f64) {
        pass(seconds);
    }

    /// A counter of /metrics with all of these labels, summed; 0 when there is none.
    pub fn counter(&self, name: &str, labels: &[&str]) -> f64 {
        let Ok(metrics) = self.agent.get("/metrics") else { return 0.0 };
        let lines = metrics.body.lines().filter(|line| {
            line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// Lets whatever runs go on for a while.
pub fn pass(seconds: f64) {
    poll(Duration::from_secs_f64(seconds), || None::<()>);
}

/// Follows /status, telling each new stage, until it is as wanted.
pub fn watch(agent: &AgentRig, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, Stopped> {
    let (began, mut told) = (Instant::now(), Told::default());
    let mut last = Value::Null;
    let found = poll(PATIENCE, || {
        let status = agent.status()?;
        tell_news(&status, began, &mut told);
        last = status;
        wanted(&last).then_some(())
    });
    match found {
        Some(()) => Ok(last),
        None => Err(Stopped(format!("waited {PATIENCE:?} without success: {what}; /status: {last}"))),
    }
}

/// Whether the status says that this release is desired and proved to run.
pub fn in_sync(status: &Value, id: &str) -> bool {
    status["in_sync"] == true && status["running"] == id
}

fn workers(status: &Value) -> Vec<String> {
    let listed = status["app_server"]["workers"].as_array().cloned().unwrap_or_default();
    listed.iter().map(|worker| worker["release"].as_str().unwrap_or("?").to_owned()).collect()
}

/// Each server, where there may be a second one beside the first.
fn servers(status: &Value) -> Option<String> {
    let slots = status["app_server"]["slots"].as_array().filter(|slots| !slots.is_empty())?;
    let text = |slot: &Value, key: &str| slot[key].as_str().unwrap_or("?").to_owned();
    let told = slots.iter().map(|slot| match slot["role"].as_str() {
        Some("live") => format!("{} serves", text(slot, "release")),
        Some("candidate") => format!("{} boots or is checked, nobody meets it", text(slot, "release")),
        Some("lingering") => format!("{} finishes its requests", text(slot, "release")),
        _ => format!("{} {}", text(slot, "release"), text(slot, "role")),
    });
    Some(told.collect::<Vec<_>>().join("; "))
}

/// What was told last.
#[derive(Default)]
struct Told {
    news: String,
    reason: String,
}

fn tell_news(status: &Value, began: Instant, told: &mut Told) {
    let stage = status["stage"].as_str().unwrap_or("-");
    let serving = servers(status).unwrap_or_else(|| format!("workers: {:<6}", workers(status).join(" ")));
    let reason = status["reason"].as_str().unwrap_or_default();
    let news = format!("{stage:<11} {serving}");
    if news == told.news && reason == told.reason {
        return;
    }
    // The message once, while its reason holds.
    let because = match status["message"].as_str() {
        Some(message) if reason != told.reason && !reason.is_empty() => format!("  {reason}: {message}"),
        _ => String::new(),
    };
    let line = format!("  +{:4.1}s {news}{because}", began.elapsed().as_secs_f64());
    narrator::say(line.trim_end());
    *told = Told { news, reason: reason.to_owned() };
}

/// Publishes what was built, as a user's CI would.
pub fn publish(agent: &AgentRig, dir: &Path, id: &str) -> Result<(), Stopped> {
    let printed = agent.try_to(&["publish", &dir.to_string_lossy(), "--release", id])?;
    narrator::command(&format!("publish build/{id} --release {id}"), &printed);
    Ok(())
}

/// Runs a command of pitstop's, and shows it.
pub fn run(agent: &AgentRig, args: &[&str]) -> Result<(), Stopped> {
    let printed = agent.try_to(args)?;
    narrator::command(&args.join(" "), &printed);
    Ok(())
}

/// The pitstop that was built together with this demo.
pub fn binary() -> Result<PathBuf, Stopped> {
    let demo = std::env::current_exe()?;
    let profile = demo.parent().and_then(|examples| examples.parent());
    let found = profile.map(|dir| dir.join("pitstop")).filter(|path| path.exists());
    found.ok_or_else(|| Stopped("pitstop is not built: run the demo by `make demo`".into()))
}
