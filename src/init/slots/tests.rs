use super::*;

const ADDRESS: &str = "tcp://0.0.0.0:3000";
const TERM: Signal = Signal::TERM;

struct Life {
    slots: Slots,
    now: Moment,
    pids: i32,
}

impl Life {
    fn with(addresses: Vec<String>, unfit: Option<String>) -> Self {
        let mut life = Self { slots: Slots::new(), now: Moment(1_000), pids: 10 };
        unfit.into_iter().for_each(|why| life.slots.unfit(why));
        let orders = life.slots.begin(life.now, addresses);
        assert_eq!(life.spawned(orders), [Order::Empty(Slot::A), Order::Steer, Order::Spawn(Slot::A)]);
        life
    }

    /// Run 1 is live in slot a, as process 11.
    fn serving() -> Self {
        let mut life = Self::with(vec![ADDRESS.into()], None);
        assert_eq!(life.slots.inherited(1, true), []);
        life
    }

    /// And run 2 is a candidate in slot b, as process 12, which has taken its sockets.
    fn beside() -> Self {
        let mut life = Self::serving();
        let orders = life.start(Slot::B).unwrap();
        assert_eq!(orders, [Order::Empty(Slot::B), Order::Steer, Order::Spawn(Slot::B)]);
        life.slots.inherited(2, true);
        life
    }

    /// Run 2 is live, run 1 is lingering.
    fn switched() -> Self {
        let mut life = Self::beside();
        assert_eq!(life.ask(Request::Steer { run: 2 }), Ok(vec![Order::Steer]));
        life
    }

    fn spawned(&mut self, orders: Vec<Order>) -> Vec<Order> {
        for order in &orders {
            if let Order::Spawn(slot) = order {
                self.pids += 1;
                self.slots.started(*slot, self.pids, 7);
            }
        }
        orders
    }

    fn ask(&mut self, request: Request) -> Result<Vec<Order>, String> {
        self.slots.ask(self.now, &request).map(|orders| self.spawned(orders))
    }

    fn start(&mut self, slot: Slot) -> Result<Vec<Order>, String> {
        self.ask(Request::Start { slot, release: "v2".into(), aside: Vec::new() })
    }

    fn stop(&mut self, run: u64) -> Result<Vec<Order>, String> {
        self.ask(Request::Stop { run, kill: false })
    }

    fn after(&mut self, ms: u64, waits: [bool; 3]) -> Vec<Order> {
        self.now = self.now.plus(ms);
        self.slots.look(self.now, waits)
    }

    fn ended(&mut self, pid: i32, code: i32) -> Vec<Order> {
        let orders = self.slots.ended(self.now, pid, Ended::Code(code), false).unwrap();
        self.spawned(orders)
    }

    fn roles(&self) -> Vec<(Slot, Role)> {
        self.slots.alive().map(|(slot, run)| (slot, run.role)).collect()
    }

    fn steered(&self) -> (Slot, Option<Slot>) {
        (self.slots.live(), self.slots.candidate().map(|(slot, _)| slot))
    }
}

#[test]
fn a_candidate_gets_the_probes_then_all_connections_and_the_old_one_lingers() {
    let mut life = Life::beside();
    assert_eq!(life.steered(), (Slot::A, Some(Slot::B)));
    life.ask(Request::Steer { run: 2 }).unwrap();
    assert_eq!(life.steered(), (Slot::B, None));
    assert_eq!(life.roles(), [(Slot::A, Role::Lingering), (Slot::B, Role::Live)]);
    let list = life.slots.list(life.now);
    assert_eq!(list.slots.iter().map(|slot| slot.weight).collect::<Vec<_>>(), [0, 1000, 0]);
}

#[test]
fn a_lingering_server_is_told_to_stop_only_after_its_queue_stayed_empty() {
    let mut life = Life::switched();
    assert_eq!(life.stop(1), Ok(vec![]));
    assert_eq!(life.after(0, [true, false, false]), []);
    assert_eq!(life.after(QUIET_MS, [true, false, false]), []);
    assert_eq!(life.after(1, [false; 3]), []);
    assert_eq!(life.after(QUIET_MS - 1, [false; 3]), []);
    assert_eq!(life.after(1, [true, false, false]), [], "one late connection");
    assert_eq!(life.after(1, [false; 3]), []);
    assert_eq!(life.after(QUIET_MS, [false; 3]), [Order::Signal(11, TERM)]);
    assert_eq!(life.after(QUIET_MS, [false; 3]), [], "once");
    assert_eq!(life.ended(11, 0), [Order::Steer, Order::Empty(Slot::A)], "and the container goes on");
}

#[test]
fn a_silence_from_before_the_switch_does_not_count() {
    let mut life = Life::beside();
    life.after(0, [false; 3]);
    life.after(5_000, [false; 3]);
    life.ask(Request::Steer { run: 2 }).unwrap();
    life.stop(1).unwrap();
    assert_eq!(life.after(10, [false; 3]), []);
    assert_eq!(life.after(QUIET_MS, [false; 3]), [Order::Signal(11, TERM)]);
}

#[test]
fn a_candidate_is_ended_at_once_and_gets_no_more_probes() {
    let mut life = Life::beside();
    assert_eq!(life.stop(2), Ok(vec![Order::Steer, Order::Signal(12, TERM)]));
    assert_eq!(life.steered(), (Slot::A, None));
    assert_eq!(life.ask(Request::Stop { run: 2, kill: true }), Ok(vec![Order::Steer, Order::Kill(12)]));
    assert_eq!(life.ended(12, 1), [Order::Steer, Order::Empty(Slot::B)]);
    assert_eq!(
        life.slots.run(Slot::B).unwrap().ended,
        Some(Ended::Code(1)),
        "told of until the slot is used again"
    );
    life.start(Slot::B).unwrap();
    assert_eq!(life.slots.run(Slot::B).unwrap().number, 3);
}

/// Run 2, a candidate, gets so many of 1000 connections.
fn sharing(permille: u32) -> Life {
    let mut life = Life::beside();
    assert_eq!(life.ask(Request::Share { run: 2, permille }), Ok(vec![Order::Steer]));
    life
}

fn weights(life: &Life) -> Vec<u32> {
    life.slots.list(life.now).slots.iter().map(|slot| slot.weight).collect()
}

#[test]
fn a_candidate_gets_a_share_and_roles_stay() {
    let mut life = sharing(100);
    assert_eq!(life.slots.candidate(), Some((Slot::B, 100)));
    assert_eq!(life.roles(), [(Slot::A, Role::Live), (Slot::B, Role::Candidate)]);
    assert_eq!(weights(&life), [900, 100, 0]);
    assert_eq!(life.ask(Request::Share { run: 2, permille: 1000 }), Ok(vec![Order::Steer]));
    assert_eq!(weights(&life), [0, 1000, 0]);
    assert_eq!(life.ask(Request::Share { run: 2, permille: 0 }), Ok(vec![Order::Steer]));
    assert_eq!(weights(&life), [1000, 0, 0]);
    life.ask(Request::Share { run: 2, permille: 500 }).unwrap();
    life.ask(Request::Steer { run: 2 }).unwrap();
    assert_eq!((weights(&life), life.slots.candidate()), (vec![0, 1000, 0], None));
}

#[test]
fn a_candidate_that_had_a_share_is_told_to_stop_once_nobody_waits_in_its_queue() {
    for taken_back in [false, true] {
        let mut life = sharing(100);
        life.after(0, [false; 3]);
        life.after(5_000, [false; 3]);
        if taken_back {
            life.ask(Request::Share { run: 2, permille: 0 }).unwrap();
        }
        assert_eq!(life.stop(2), Ok(vec![Order::Steer]));
        assert_eq!((weights(&life), life.slots.candidate()), (vec![1000, 0, 0], None));
        assert!(life.ask(Request::Share { run: 2, permille: 1 }).unwrap_err().contains("stopping"));
        assert_eq!(life.after(1, [false, true, false]), []);
        assert_eq!(life.after(1, [false; 3]), []);
        assert_eq!(life.after(QUIET_MS, [false; 3]), [Order::Signal(12, TERM)]);
        assert_eq!(life.ended(12, 0), [Order::Steer, Order::Empty(Slot::B)]);
    }
}

#[test]
fn a_candidate_that_dies_has_no_share_from_that_moment_on() {
    let mut life = sharing(100);
    assert_eq!(life.ended(12, 1), [Order::Steer, Order::Empty(Slot::B)]);
    assert_eq!((weights(&life), life.slots.candidate()), (vec![1000, 0, 0], None));
    life.start(Slot::B).unwrap();
    assert_eq!(weights(&life), [1000, 0, 0]);
}

#[test]
fn nobody_gets_a_share_who_could_not_answer() {
    let mut life = Life::beside();
    let share = |run, permille| Request::Share { run, permille };
    assert!(life.ask(share(1, 100)).unwrap_err().contains("no candidate"));
    assert!(life.ask(share(9, 100)).unwrap_err().contains("run 9"));
    assert!(life.ask(share(2, 1001)).unwrap_err().contains("1001"));
    life.stop(2).unwrap();
    assert!(life.ask(share(2, 100)).unwrap_err().contains("stopping"));

    let mut life = Life::serving();
    life.start(Slot::B).unwrap();
    assert!(life.ask(share(2, 100)).unwrap_err().contains("sockets"), "not known yet");
    life.slots.inherited(2, true);
    life.slots.stop_soon();
    assert!(life.ask(share(2, 100)).unwrap_err().contains("stopping"));
    assert_eq!(life.ask(share(2, 0)), Ok(vec![Order::Steer]), "none may be given at any time");
}

#[test]
fn what_would_leave_the_container_without_a_server_is_refused() {
    let mut life = Life::beside();
    assert!(life.stop(1).unwrap_err().contains("live"));
    assert!(life.start(Slot::A).unwrap_err().contains("in use"));
    assert!(life.start(Slot::C).unwrap_err().contains("run 2 is a candidate"));
    assert!(life.ask(Request::Steer { run: 9 }).unwrap_err().contains("run 9"));
    life.stop(2).unwrap();
    assert!(life.ask(Request::Steer { run: 2 }).unwrap_err().contains("stopping"));
    life.ended(12, 0);
    assert!(life.ask(Request::Steer { run: 2 }).unwrap_err().contains("ended"));
    assert!(life.stop(2).unwrap_err().contains("ended"));
}

#[test]
fn nobody_is_steered_to_a_server_that_listens_elsewhere() {
    let mut life = Life::serving();
    life.start(Slot::B).unwrap();
    assert!(life.ask(Request::Steer { run: 2 }).unwrap_err().contains("sockets"), "not known yet");
    assert_eq!(life.slots.inherited(2, false), []);
    assert!(life.ask(Request::Steer { run: 2 }).unwrap_err().contains("sockets"));
    assert_eq!(life.slots.list(life.now).unfit, None, "the live one has taken them");
}

#[test]
fn the_way_back_needs_no_start_and_a_third_slot_takes_the_next() {
    let mut life = Life::switched();
    life.start(Slot::C).unwrap();
    life.slots.inherited(3, true);
    assert_eq!(life.ask(Request::Steer { run: 1 }), Ok(vec![Order::Steer]));
    assert_eq!(life.steered(), (Slot::A, Some(Slot::C)));
    let roles = [(Slot::A, Role::Live), (Slot::B, Role::Lingering), (Slot::C, Role::Candidate)];
    assert_eq!(life.roles(), roles);
    life.stop(2).unwrap();
    assert_eq!(life.ask(Request::Steer { run: 2 }), Ok(vec![Order::Steer]), "not told yet");
    assert_eq!(life.after(0, [false; 3]), []);
    assert_eq!(life.after(QUIET_MS * 2, [false; 3]), [], "what is live is not stopped");
}

#[test]
fn a_live_server_that_ends_alone_ends_the_container_and_nobody_hangs() {
    let mut life = Life::serving();
    let over = Order::Over(Ended::Code(1));
    assert_eq!(life.ended(11, 1), [Order::Steer, Order::Empty(Slot::A), Order::Close, over]);
    assert!(life.start(Slot::B).is_err());
    assert!(life.slots.list(life.now).stopping);
}

#[test]
fn beside_another_one_the_agent_may_steer_to_that_within_a_moment() {
    let mut life = Life::beside();
    assert_eq!(life.ended(11, 1), [Order::Steer, Order::Empty(Slot::A)]);
    assert!(life.slots.watched());
    assert_eq!(life.ask(Request::Steer { run: 2 }), Ok(vec![Order::Steer, Order::Empty(Slot::A)]));
    assert_eq!(life.after(TAKE_OVER_MS * 2, [false; 3]), []);
    assert_eq!(life.roles(), [(Slot::B, Role::Live)]);

    let mut life = Life::beside();
    life.ended(11, 1);
    assert_eq!(life.after(TAKE_OVER_MS - 1, [false; 3]), []);
    let over = Order::Over(Ended::Code(1));
    assert_eq!(life.after(1, [false; 3]), [Order::Close, Order::Signal(12, TERM), over.clone()]);
    assert_eq!(life.ended(12, 0), [Order::Steer, Order::Empty(Slot::B)], "said once");

    let mut life = Life::beside();
    life.ended(11, 1);
    let both = life.ended(12, 9);
    assert!(both.contains(&Order::Close) && both.contains(&over), "{both:?}");
}

#[test]
fn a_candidate_that_does_not_listen_yet_takes_nobodys_place() {
    let mut life = Life::serving();
    life.start(Slot::B).unwrap();
    let orders = life.ended(11, 1);
    assert!(
        orders.contains(&Order::Over(Ended::Code(1))) && orders.contains(&Order::Signal(12, TERM)),
        "{orders:?}"
    );
}

#[test]
fn the_end_goes_to_all_and_takes_their_sockets_in_the_same_moment() {
    let mut life = Life::switched();
    life.slots.stop_soon();
    assert!(life.start(Slot::C).unwrap_err().contains("stopping"));
    assert_eq!(life.slots.stop_all(TERM), [Order::Signal(11, TERM), Order::Signal(12, TERM), Order::Close]);
    assert_eq!(life.ended(12, 0), [Order::Steer, Order::Empty(Slot::B)], "the other one still answers");
    assert_eq!(life.ended(11, 143).last(), Some(&Order::Over(Ended::Code(0))), "the live one's code");
}

#[test]
fn a_live_server_that_ends_while_the_end_is_held_back_ends_the_container() {
    let mut life = Life::serving();
    life.slots.stop_soon();
    assert_eq!(life.ended(11, 5).last(), Some(&Order::Over(Ended::Code(5))));
}

#[test]
fn a_first_server_that_listens_elsewhere_runs_as_it_would_without_slots() {
    let mut life = Life::with(vec![ADDRESS.into()], None);
    assert_eq!(life.slots.inherited(1, false), [Order::Close]);
    let list = life.slots.list(life.now);
    assert!(list.unfit.is_some() && list.addresses.is_empty() && !life.slots.holds());
    assert!(life.start(Slot::B).is_err());
    assert_eq!(life.ended(11, 3).last(), Some(&Order::Over(Ended::Code(3))));
}

#[test]
fn a_first_server_that_our_sockets_keep_from_its_address_is_started_without_them() {
    let mut life = Life::with(vec![ADDRESS.into()], None);
    let orders = life.slots.ended(life.now, 11, Ended::Code(1), true).unwrap();
    let orders = life.spawned(orders);
    assert_eq!(orders, [Order::Close, Order::Empty(Slot::A), Order::Steer, Order::Spawn(Slot::A)]);
    assert_eq!(life.slots.run(Slot::A).unwrap().number, 2);
    assert!(life.start(Slot::B).is_err());
    assert_eq!(life.ended(12, 1).last(), Some(&Order::Over(Ended::Code(1))));
}

#[test]
fn without_addresses_nothing_is_started_beside_and_the_reason_is_given() {
    let mut life = Life::with(Vec::new(), Some("exec.listen is not set".into()));
    assert_eq!(life.start(Slot::B), Err("exec.listen is not set".into()));
    assert_eq!(life.ended(11, 0).last(), Some(&Order::Over(Ended::Code(0))));
}
