//! A real S3 server for tests and benchmarks: it checks signatures and checksums, keeps its objects in a
//! temporary directory, and misbehaves where it is told to.
//!
//! ```no_run
//! use pitstop_rig::s3::{Fault, S3Rig};
//! let s3 = S3Rig::start();
//! let mut pitstop = std::process::Command::new("pitstop");
//! pitstop.args(["releases"]).envs(s3.env());
//! s3.fault(Fault::Answer(503, "SlowDown").of("GET").at("pointers/").times(2));
//! ```

mod bucket;
mod fault;
mod moto;
mod server;
mod tls;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

use tokio::sync::mpsc::UnboundedSender;

use bucket::Bucket;
pub use fault::{Fault, Rule};
pub use moto::Moto;
use server::{Order, Shared};

/// The bucket that there is.
pub const BUCKET: &str = "rig-bucket";
/// What the keys of the store begin with.
pub const PREFIX: &str = "apps/shop";
/// The region that requests are signed for.
pub const REGION: &str = "eu-central-1";

/// One request as it arrived, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// GET, PUT and so on.
    pub method: String,
    /// The key without the prefix of the store; the query for a list.
    pub key: String,
    /// The header `range`.
    pub range: Option<String>,
    /// The headers `if-match` or `if-none-match`.
    pub condition: Option<String>,
    /// Whether it carries a session token.
    pub session: bool,
    /// The status; 0 when the connection was closed instead.
    pub status: u16,
}

impl Seen {
    fn is_list(&self) -> bool {
        self.key.starts_with('?')
    }
}

/// Who may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The access key.
    pub access: String,
    /// Its secret.
    pub secret: String,
}

/// A server with one bucket. Ends when dropped.
pub struct S3Rig {
    dir: tempfile::TempDir,
    address: SocketAddr,
    ca: Option<PathBuf>,
    shared: Arc<Shared>,
    orders: UnboundedSender<Order>,
    thread: Option<thread::JoinHandle<()>>,
}

impl S3Rig {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When that does not work.
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// The same behind TLS, with a certificate of an authority that nobody knows: [`S3Rig::ca`].
    ///
    /// # Panics
    /// When that does not work.
    pub fn start_tls() -> Self {
        Self::start_with(true)
    }

    fn start_with(tls: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the bucket");
        let objects = dir.path().join("objects");
        fs::create_dir_all(objects.join(BUCKET)).expect("the bucket");
        let (ca, acceptor) = tls.then(|| tls::make(dir.path())).unzip();
        let keys = Keys { access: "RIGACCESSKEY".into(), secret: "rig/secret+key".into() };
        let shared = Shared {
            bucket: Bucket::new(&objects),
            rules: Mutex::default(),
            seen: Mutex::default(),
            met: AtomicU32::new(0),
            keys: Mutex::new(keys),
        };
        let shared = Arc::new(shared);
        let (orders, inbox) = tokio::sync::mpsc::unbounded_channel();
        let (tell, address) = mpsc::channel();
        let thread = thread::spawn({
            let shared = shared.clone();
            move || server::run(shared, acceptor, inbox, &tell)
        });
        let address = address.recv().expect("the server listens");
        Self { dir, address, ca, shared, orders, thread: Some(thread) }
    }

    /// The URL of the server: what `s3.endpoint` is.
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.ca.is_some() { "https" } else { "http" }, self.address.port())
    }

    /// What `source` is.
    pub fn source(&self) -> String {
        format!("s3://{BUCKET}/{PREFIX}")
    }

    /// The certificate of its authority, a PEM file, when it speaks TLS.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// Whose requests are answered now.
    ///
    /// # Panics
    /// When a thread of the rig panicked.
    pub fn keys(&self) -> Keys {
        self.shared.keys.lock().expect("the keys").clone()
    }

    /// From now on only these are known.
    ///
    /// # Panics
    /// When a thread of the rig panicked.
    pub fn set_keys(&self, access: &str, secret: &str) {
        *self.shared.keys.lock().expect("the keys") = Keys { access: access.into(), secret: secret.into() };
    }

    /// For child processes: source, endpoint and credentials, and no other place to look for any.
    pub fn env(&self) -> Vec<(String, String)> {
        let keys = self.keys();
        let mut env = self.env_without_credentials();
        env.push(("AWS_ACCESS_KEY_ID".into(), keys.access));
        env.push(("AWS_SECRET_ACCESS_KEY".into(), keys.secret));
        env
    }

    /// The same for processes that find their credentials in another way.
    pub fn env_without_credentials(&self) -> Vec<(String, String)> {
        let pairs = [
            ("PITSTOP_SOURCE", self.source()),
            ("PITSTOP_S3_ENDPOINT", self.endpoint()),
            ("PITSTOP_S3_REGION", REGION.into()),
            ("PITSTOP_S3_PATH_STYLE", "true".into()),
            // Nobody asks this machine's cloud, or uses its user's credentials.
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("AWS_CONFIG_FILE", "/dev/null".into()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".into()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Misbehaves from now on, as the rule says; the newest rule that fits counts.
    ///
    /// # Panics
    /// When a thread of the rig panicked.
    pub fn fault(&self, rule: impl Into<Rule>) {
        self.shared.rules.lock().expect("the rules").push(rule.into());
    }

    /// From now on writes happen whatever their condition says, as some servers of S3's protocol have it.
    pub fn ignore_conditions(&self) {
        self.shared.bucket.ignores_conditions.store(true, Ordering::SeqCst);
    }

    /// Behaves again.
    ///
    /// # Panics
    /// When a thread of the rig panicked.
    pub fn heal(&self) {
        self.shared.rules.lock().expect("the rules").clear();
    }

    /// Closes every connection and refuses new ones, until [`S3Rig::recover`].
    ///
    /// # Panics
    /// When the server is gone.
    pub fn outage(&self) {
        self.order(Order::Outage);
    }

    /// Takes connections again, at the same address.
    ///
    /// # Panics
    /// When the server is gone.
    pub fn recover(&self) {
        self.order(Order::Recover);
    }

    fn order(&self, order: impl FnOnce(mpsc::Sender<()>) -> Order) {
        let (done, wait) = mpsc::channel();
        self.orders.send(order(done)).expect("the server runs");
        wait.recv().expect("the server does it");
    }

    /// All requests so far, in order of their arrival.
    ///
    /// # Panics
    /// When a thread of the rig panicked.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("what was seen").clone()
    }

    /// How many requests have met a fault. What [`Fault::Unanswered`] is asked for is done by then.
    pub fn met(&self) -> u32 {
        self.shared.met.load(Ordering::SeqCst)
    }

    /// The directory with the store's objects, by their keys: as a store in a directory has them.
    pub fn objects(&self) -> PathBuf {
        self.dir.path().join("objects").join(BUCKET).join(PREFIX)
    }

    /// An object of the store's, `releases/v1.tar.zst` for instance.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.objects().join(key)).ok()
    }

    /// Puts an object there without asking the store's rules.
    ///
    /// # Panics
    /// When that does not work.
    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        let bucket = self.shared.bucket.clone();
        let key = format!("{PREFIX}/{key}");
        // A thread of its own: the caller's may belong to a runtime.
        let put = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(bucket.replace(&key, bytes)).expect("the object is written");
        };
        thread::spawn(put).join().expect("the object is written");
    }
}

impl Drop for S3Rig {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
