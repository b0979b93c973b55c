//! The page in a real browser: Debian's Chromium, and axe-core's rules for accessibility.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, Locator, key::Key};
use pitstop_rig::{App, Pod, Setup, http, poll, until};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::new_pod;

const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "4f1c0a7be2d94b6f";

/// A browser with one window.
struct Browser {
    driver: Child,
    client: Client,
    runtime: Runtime,
}

impl Browser {
    /// `prefers`: 0 dark, 1 light.
    fn open(prefers: u8, more: &Value) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap().port();
        let driver = Command::new("chromedriver").arg(format!("--port={port}")).stdout(Stdio::null()).spawn();
        let driver = driver.expect("chromedriver: `.ci/setup browser` installs it");
        let mut options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
            "--window-size=1280,1000", format!("--blink-settings=preferredColorScheme={prefers}"),
        ] });
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connect = || {
            let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
            builder.capabilities(wanted.as_object().unwrap().clone());
            runtime.block_on(builder.connect(&format!("http://127.0.0.1:{port}"))).ok()
        };
        let client = poll(PATIENCE, connect).expect("a browser");
        Self { driver, client, runtime }
    }

    fn go(&self, address: &str) {
        self.runtime.block_on(self.client.goto(address)).unwrap();
    }

    fn run(&self, script: &str) -> Value {
        self.runtime.block_on(self.client.execute(script, Vec::new())).unwrap()
    }

    fn text(&self) -> String {
        let text = async { self.client.find(Locator::Css("main")).await?.text().await };
        self.runtime.block_on(text).unwrap()
    }

    #[track_caller]
    fn wait_for(&self, words: &str) -> String {
        let shown = poll(PATIENCE, || Some(self.text()).filter(|text| text.contains(words)));
        shown.unwrap_or_else(|| panic!("{words} is not shown: {}", self.text()))
    }

    fn press(&self, key: Key) {
        let pressed =
            async { self.client.active_element().await?.send_keys(&char::from(key).to_string()).await };
        self.runtime.block_on(pressed).unwrap();
    }

    /// To `target/page/`, for people.
    fn picture(&self, name: &str) {
        let picture = self.runtime.block_on(self.client.screenshot()).unwrap();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/page");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name).with_extension("png"), picture).unwrap();
    }

    #[track_caller]
    fn assert_accessible(&self) {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe/node_modules/axe-core/axe.min.js");
        let rules = fs::read_to_string(rules).expect("axe-core: `.ci/setup browser` installs it");
        let script =
            format!("{rules}; const done = arguments[0]; axe.run().then((all) => done(all.violations));");
        let found = self.runtime.block_on(self.client.execute_async(&script, Vec::new())).unwrap();
        assert_eq!(found, json!([]));
        let wide = "return document.documentElement.scrollWidth > window.innerWidth";
        assert_eq!(self.run(wide), false, "nothing but tables scrolls sideways");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.client.clone().close());
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn address(pod: &Pod) -> String {
    format!("http://any:{TOKEN}@127.0.0.1:{}/", pod.agent.port())
}

/// The other colours, in a browser of their own.
#[track_caller]
fn assert_accessible_as(prefers: u8, more: &Value, pod: &Pod, picture: &str) {
    let browser = Browser::open(prefers, more);
    browser.go(&address(pod));
    browser.wait_for("rejected rig");
    let dark = browser.run("return matchMedia('(prefers-color-scheme: dark)').matches");
    assert_eq!(dark, prefers == 0);
    browser.assert_accessible();
    browser.picture(picture);
}

/// v1 runs, and v2 was rejected. The agent's endpoints want a token.
fn pod_with_a_story() -> Pod {
    let mut pod = new_pod(Setup::default()).in_sync();
    pod.agent.publish(&pod.puma, App::RaisesOnBoot, "v2");
    let moved = pod.agent.command(&["promote", "v2", "--wait", "--timeout", "60s", "--why", "<b>a test</b>"]);
    assert_eq!(moved.unwrap().status.code(), Some(2));
    pod.agent.kill();
    let token = pod.agent.state_dir().with_file_name("token");
    fs::write(&token, TOKEN).unwrap();
    pod.set("PITSTOP_TOKEN_FILE", token.to_str().unwrap());
    pod.agent.launch();
    until("the agent", || pod.agent.get("/live").ok());
    pod
}

#[test]
fn e2e_the_page_says_what_runs_and_why_and_refreshes_itself_in_a_real_browser() {
    let pod = pod_with_a_story();
    let desk = Browser::open(1, &json!({}));
    desk.go(&address(&pod));
    let text = desk.wait_for("rejected rig");
    for said in ["rig not in sync", "v1", "rejected", "0 of 1 pods", "<b>a test</b>"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    desk.assert_accessible();
    desk.picture("desk-light");
    assert_accessible_as(0, &json!({}), &pod, "desk-dark");
    // By the keyboard alone, to the reason's heading.
    let on_reason = "return document.activeElement.getAttribute('href') === '/help/runbook#rejected'";
    let found = (0..40).any(|_| {
        desk.press(Key::Tab);
        desk.run(on_reason) == true
    });
    assert!(found, "the reason is reached by Tab");
    desk.press(Key::Enter);
    until("the runbook", || (desk.run("return location.hash") == "#rejected").then_some(()));
    assert_eq!(desk.run("return document.getElementById('rejected').textContent"), "rejected");
    desk.assert_accessible();
    desk.go(&address(&pod));
    desk.run("window.before = true");
    pod.deploy(App::Good, "v3");
    desk.wait_for("1 of 1 pods");
    // The drain, live.
    let agent = SocketAddr::from((Ipv4Addr::LOCALHOST, pod.agent.port()));
    let token = format!("Bearer {TOKEN}");
    let drain = || http::get_from(agent, "/prestop", &[("Authorization", token.as_str())], PATIENCE);
    thread::scope(|scope| {
        scope.spawn(drain);
        let text = desk.wait_for("The end of this pod");
        assert!(text.contains("draining") && text.contains("Requests in flight"), "{text}");
        desk.assert_accessible();
        desk.picture("desk-drain");
    });
    assert_eq!(desk.run("return window.before"), true, "all of it on one page, which was never loaded anew");
}

#[test]
fn e2e_the_page_on_a_phone_in_the_dark_and_without_scripts() {
    let pod = pod_with_a_story();
    let narrow =
        json!({ "mobileEmulation": { "deviceMetrics": { "width": 360, "height": 740, "pixelRatio": 2 } } });
    let phone = Browser::open(0, &narrow);
    phone.go(&address(&pod));
    phone.wait_for("rejected rig");
    assert_eq!(phone.run("return matchMedia('(prefers-color-scheme: dark)').matches"), true);
    phone.assert_accessible();
    phone.picture("phone-dark");
    assert_accessible_as(1, &narrow, &pod, "phone-light");
    let plain = json!({ "prefs": { "profile.managed_default_content_settings.javascript": 2 } });
    let plain = Browser::open(1, &plain);
    plain.go(&address(&pod));
    assert!(plain.text().contains("not in sync"), "{}", plain.text());
}
