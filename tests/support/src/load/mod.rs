use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc as answers,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::ports::loopback;

mod client;
mod connection;
#[cfg(test)]
mod counting;
mod records;

pub(crate) use client::{request, request_once};
pub(crate) use connection::Connection;
pub use records::{Latencies, Record, Records, Tally};

/// Who sends what, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The address that the clients have, of this machine.
    pub from: IpAddr,
    /// Where the app listens, on loopback.
    pub port: u16,
    /// What every request of the steady load asks for.
    pub path: String,
    /// Clients that keep their connection, each with one request at a time.
    pub keep_alive: usize,
    /// What such a client waits for between an answer and its next request.
    pub pause: Duration,
    /// Requests per second that come on a connection of their own, also while earlier ones wait.
    pub fresh_per_second: u32,
    /// How many of those may wait for their answers at the same time; beyond that they are delayed.
    pub fresh_at_most: usize,
    /// How long one request may take, its retry included.
    pub patience: Duration,
    /// The load ends by itself after this time.
    pub at_most: Duration,
}

impl Plan {
    /// About 100 requests a second, half of them on kept connections.
    pub fn modest(port: u16) -> Self {
        Self {
            from: loopback(),
            port,
            path: "/".into(),
            keep_alive: 3,
            pause: Duration::from_millis(50),
            fresh_per_second: 40,
            fresh_at_most: 128,
            patience: Duration::from_secs(30),
            at_most: Duration::from_secs(300),
        }
    }
}

/// A load that runs, on a thread of its own.
pub struct Load {
    shared: Arc<Shared>,
    singles: Option<mpsc::UnboundedSender<Single>>,
    thread: Option<JoinHandle<()>>,
}

struct Single {
    path: String,
    reply: answers::Sender<Record>,
}

struct Shared {
    plan: Plan,
    ends_at: Instant,
    stopped: AtomicBool,
    records: Mutex<Records>,
}

impl Shared {
    fn sending(&self) -> bool {
        !self.stopped.load(Ordering::SeqCst) && Instant::now() < self.ends_at
    }

    fn records(&self) -> std::sync::MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Begins to send, in the phase of this name.
    ///
    /// # Panics
    /// When the system has no thread left.
    pub fn start(plan: Plan, phase: &str) -> Self {
        let shared = Arc::new(Shared {
            ends_at: Instant::now() + plan.at_most,
            plan,
            stopped: AtomicBool::new(false),
            records: Mutex::new(Records::default()),
        });
        shared.records().enter(phase);
        let (singles, queue) = mpsc::unbounded_channel();
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || run(&shared, queue)
        });
        Self { shared, singles: Some(singles), thread: Some(thread) }
    }

    /// From now on it is another phase.
    pub fn phase(&self, name: &str) {
        self.shared.records().enter(name);
    }

    /// Sends one request besides the steady load, on a fresh connection. Its record arrives here too.
    pub fn send(&self, path: &str) -> answers::Receiver<Record> {
        let (reply, record) = answers::channel();
        if let Some(singles) = &self.singles {
            let _ = singles.send(Single { path: path.into(), reply });
        }
        record
    }

    /// What was recorded so far.
    pub fn so_far(&self) -> Records {
        self.shared.records().clone()
    }

    /// How many there were so far, and how many failed.
    pub fn tally(&self) -> Tally {
        self.shared.records().tally(&[])
    }

    /// No new requests from now on; those in flight go on.
    pub fn stop_sending(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
    }

    /// Stops, waits for every answer, and says what happened.
    pub fn finish(mut self) -> Records {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        self.stop_sending();
        self.singles = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the load shows as requests that are missing; its message is on stderr.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(shared: &Arc<Shared>, singles: mpsc::UnboundedReceiver<Single>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the system gives us a runtime for the load");
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..shared.plan.keep_alive {
            clients.spawn(keep_alive(shared.clone(), number));
        }
        if shared.plan.fresh_per_second > 0 {
            clients.spawn(fresh(shared.clone()));
        }
        clients.spawn(on_demand(shared.clone(), singles));
        clients.join_all().await;
    });
}

async fn keep_alive(shared: Arc<Shared>, number: usize) {
    let plan = &shared.plan;
    sleep(plan.pause / plan.keep_alive.max(1) as u32 * number as u32).await;
    let mut kept = None;
    while shared.sending() {
        let record = client::request(plan, &plan.path, &mut kept).await;
        shared.records().push(record);
        sleep(plan.pause).await;
    }
}

async fn fresh(shared: Arc<Shared>) {
    let mut due = interval(Duration::from_secs(1) / shared.plan.fresh_per_second);
    // After a delay of our own the load must not come as a burst.
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let room = Arc::new(Semaphore::new(shared.plan.fresh_at_most));
    let mut waiting = JoinSet::new();
    loop {
        due.tick().await;
        let place = room.clone().acquire_owned().await;
        if !shared.sending() {
            break;
        }
        let shared = shared.clone();
        waiting.spawn(async move {
            let record = client::request_once(&shared.plan, &shared.plan.path).await;
            shared.records().push(record);
            drop(place);
        });
        while waiting.try_join_next().is_some() {}
    }
    waiting.join_all().await;
}

async fn on_demand(shared: Arc<Shared>, mut singles: mpsc::UnboundedReceiver<Single>) {
    let mut waiting = JoinSet::new();
    while let Some(Single { path, reply }) = singles.recv().await {
        let shared = shared.clone();
        waiting.spawn(async move {
            let record = Record { steady: false, ..client::request_once(&shared.plan, &path).await };
            shared.records().push(record.clone());
            let _ = reply.send(record);
        });
    }
    waiting.join_all().await;
}
