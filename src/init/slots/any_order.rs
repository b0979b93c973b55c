//! Whatever is asked and whatever happens, in any order: no connection is left where nobody accepts it.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Start(Slot),
    Steer(u64),
    Share(u64, u32),
    Stop(u64, bool),
    /// The server in this slot takes its sockets.
    Listens(Slot),
    Ends(Slot),
    /// A client connects.
    Connects,
    /// All queues of servers that listen are accepted from.
    Accepts,
    Passes(u64),
    Term,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slot = || prop::sample::select(Slot::ALL.to_vec());
    let step = prop_oneof![
        3 => slot().prop_map(Step::Start),
        4 => (1..8_u64).prop_map(Step::Steer),
        4 => (1..8_u64, prop::sample::select(vec![0, 100, 1000])).prop_map(|(run, permille)| Step::Share(run, permille)),
        3 => (1..8_u64, prop::bool::weighted(0.2)).prop_map(|(run, kill)| Step::Stop(run, kill)),
        4 => slot().prop_map(Step::Listens),
        1 => slot().prop_map(Step::Ends),
        3 => Just(Step::Connects),
        3 => Just(Step::Accepts),
        4 => (0..QUIET_MS * 2).prop_map(Step::Passes),
        1 => Just(Step::Term),
    ];
    prop::collection::vec(step, 1..60)
}

/// The kernel and the processes.
struct World {
    slots: Slots,
    now: Moment,
    pids: i32,
    queues: [u32; 3],
    /// Who is live, and who has which share, as the program was told last.
    program: (Slot, Option<(Slot, u32)>),
    open: bool,
    over: bool,
}

impl World {
    fn new() -> Self {
        let slots = Slots::new();
        let mut world = Self {
            slots,
            now: Moment(1_000),
            pids: 10,
            queues: [0; 3],
            program: (Slot::A, None),
            open: true,
            over: false,
        };
        let orders = world.slots.begin(world.now, vec!["tcp://0.0.0.0:3000".into()]);
        world.perform(On::Begin, orders, false);
        world
    }

    fn perform(&mut self, on: On, orders: Vec<Order>, at_once: bool) {
        for order in orders {
            let point = format!("parent.{}.{}", on.word(), order.word());
            assert!(crate::init::ORDER_POINTS.contains(&&*point), "{point} is missing in the list");
            match order {
                Order::Empty(slot) => self.queues[slot as usize] = 0,
                Order::Steer => self.program = (self.slots.live(), self.slots.candidate()),
                Order::Spawn(slot) => {
                    assert_eq!(
                        self.queues[slot as usize], 0,
                        "a server is started on a queue that was emptied"
                    );
                    self.pids += 1;
                    self.slots.started(slot, self.pids, 0);
                }
                Order::Signal(pid, _) => {
                    let (slot, run) = self.slots.alive().find(|(_, run)| run.pid == pid).unwrap();
                    let waits = self.queues[slot as usize] > 0;
                    assert!(at_once || !waits, "run {} is told to stop while somebody waits", run.number);
                }
                Order::Kill(_) => {}
                Order::Close => self.open = false,
                Order::Over(_) => {
                    assert!(!self.over, "said once");
                    self.over = true;
                }
            }
        }
    }

    fn pid(&self, slot: Slot) -> Option<i32> {
        self.slots.alive().find(|(of, _)| *of == slot).map(|(_, run)| run.pid)
    }

    fn step(&mut self, step: Step) {
        let ask = match step {
            Step::Start(slot) => Some(Request::Start { slot, release: "v".into(), aside: Vec::new() }),
            Step::Steer(run) => Some(Request::Steer { run }),
            Step::Share(run, permille) => Some(Request::Share { run, permille }),
            Step::Stop(run, kill) => Some(Request::Stop { run, kill }),
            _ => None,
        };
        if let Some(request) = ask {
            let orders = self.slots.ask(self.now, &request).unwrap_or_default();
            self.perform(On::asked(&request), orders, false);
        }
        match step {
            Step::Listens(slot) => {
                let number = self.slots.alive().find(|(of, _)| *of == slot).map(|(_, run)| run.number);
                number.into_iter().for_each(|number| assert_eq!(self.slots.inherited(number, true), []));
            }
            Step::Ends(slot) => {
                if let Some(pid) = self.pid(slot) {
                    let orders = self.slots.ended(self.now, pid, Ended::Code(0), false).unwrap();
                    self.perform(On::End, orders, true);
                }
            }
            Step::Connects if self.open => {
                let (live, candidate) = self.program;
                let shared = candidate.filter(|(_, share)| *share > 0);
                let all = shared.is_some_and(|(_, share)| share == 1000);
                shared.into_iter().for_each(|(slot, _)| self.queues[slot as usize] += 1);
                self.queues[live as usize] += u32::from(!all);
            }
            Step::Accepts => {
                let listening: Vec<Slot> = self.slots.alive().map(|(slot, _)| slot).collect();
                listening.into_iter().for_each(|slot| self.queues[slot as usize] = 0);
            }
            Step::Passes(ms) => {
                self.now = self.now.plus(ms);
                let orders = self.slots.look(self.now, self.queues.map(|waiting| waiting > 0));
                self.perform(On::Look, orders, self.slots.over);
            }
            Step::Term => {
                let orders = self.slots.stop_all(Signal::TERM);
                self.perform(On::Term, orders, true);
            }
            _ => {}
        }
    }

    fn check(&self) {
        let alive: Vec<Slot> = self.slots.alive().map(|(slot, _)| slot).collect();
        assert!(self.over || !alive.is_empty(), "no server is left and the container does not end");
        assert!(!self.over || !self.open, "its end leaves no socket open");
        for slot in Slot::ALL {
            let forsaken = self.queues[slot as usize] > 0 && !alive.contains(&slot);
            assert!(
                !forsaken || !self.open || self.slots.orphaned.is_some(),
                "somebody waits where nobody is"
            );
        }
        assert!(
            !self.open || alive.contains(&self.program.0) || self.slots.orphaned.is_some(),
            "connections go nowhere"
        );
        let shared = self.program.1.filter(|(_, share)| self.open && *share > 0);
        assert!(shared.is_none_or(|(slot, _)| alive.contains(&slot)), "a share goes nowhere");
        let weights: u32 = self.slots.list(self.now).slots.iter().map(|slot| slot.weight).sum();
        assert_eq!(weights, 1000, "of all connections each goes somewhere");
        let live = self.slots.alive().filter(|(_, run)| run.role == Role::Live).count();
        assert!(live <= 1, "one is live");
        let candidates = self.slots.alive().filter(|(_, run)| run.role == Role::Candidate).count();
        assert!(candidates <= 1, "one is a candidate");
    }
}

proptest! {
    #[test]
    fn nobody_waits_where_nobody_accepts(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}
