//! Somebody who looks at pages: each needs the stylesheet that it names, from whichever worker answers.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use pitstop_rig::http;

/// A page stays open for so many further looks, and asks for its stylesheet once more then.
const STAYS_OPEN: usize = 20;
/// A hot restart holds a client up for a boot, and for 30 s before it where a worker of Puma's hangs in its stop: now and
/// then one does, with nothing in flight.
const STALL: Duration = Duration::from_secs(120);

pub struct Browser {
    closed: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What it got.
#[derive(Debug, Default)]
pub struct Seen {
    pub stylesheets: usize,
    pub missing: Vec<String>,
}

impl Browser {
    pub fn open(port: u16) -> Self {
        let closed = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let closed = closed.clone();
            move || look_around(port, &closed)
        });
        Self { closed, thread }
    }

    pub fn close(self) -> Seen {
        self.closed.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn look_around(port: u16, closed: &AtomicBool) -> Seen {
    let (mut seen, mut open) = (Seen::default(), VecDeque::new());
    while !closed.load(Ordering::SeqCst) {
        let page = http::get_within(port, "/page", STALL).unwrap();
        let link = page.body.split("href=\"").nth(1).and_then(|rest| rest.split('"').next());
        let link = link.unwrap_or_else(|| panic!("no page: {page:?}")).to_owned();
        open.push_back(link.clone());
        let old = (open.len() > STAYS_OPEN).then(|| open.pop_front()).flatten();
        for link in [Some(link), old].into_iter().flatten() {
            let answer = http::get_within(port, &link, STALL).unwrap();
            seen.stylesheets += 1;
            if answer.status != 200 {
                seen.missing.push(format!("{link}: {} of {:?}", answer.status, page.release));
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    seen
}
